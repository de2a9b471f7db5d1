//! Errors of the pod runtime, and their classes.
//!
//! The errors of all modules are here, at the lowest layer: they use no types of other modules,
//! so that each module may return any of them.

mod config;
mod constructors;
mod copy;
mod descriptor;
mod kind;
mod mount;
mod owner;
mod pod;
mod spec;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;

pub use config::ConfigError;
pub use constructors::Context;
pub use copy::{CopyError, CopyProblem};
pub use descriptor::DescriptorError;
pub use kind::ErrorKind;
pub use mount::MountError;
pub use owner::OwnerError;
pub use pod::{
    DependencyError, DeviceError, DeviceProblem, GuestError, StateDirError, StateDirProblem,
    UserError,
};
pub use spec::{HookError, HookFailure, SpecError};

/// The result of the runtime's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause of an error.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An error of the pod runtime.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A pod, container or process of this id does not exist.
    #[error("{what} {id:?} not found")]
    NotFound {
        /// "pod", "container" or "exec".
        what: &'static str,
        /// The id asked for.
        id: String,
    },
    /// The object was removed, and another one has its name.
    #[error("{what} {name:?} was removed (id {id}); there is another one of this name")]
    Removed {
        /// "pod".
        what: &'static str,
        /// The name.
        name: String,
        /// The id of the removed one.
        id: String,
    },
    /// The id is in use.
    #[error("{what} {id:?} already exists")]
    AlreadyExists {
        /// "pod", "container" or "exec".
        what: &'static str,
        /// The id asked for.
        id: String,
    },
    /// The state does not allow the operation.
    #[error("cannot {operation} {what} {id:?}: it is {state}")]
    WrongState {
        /// "pod", "container" or "exec".
        what: &'static str,
        /// Its id.
        id: String,
        /// The operation that was tried, as a verb.
        operation: &'static str,
        /// Its state.
        state: String,
    },
    /// A name or the beginning of an id matches several objects.
    #[error("{what} {id:?} is ambiguous: give one of {}", matches.join(", "))]
    Ambiguous {
        /// "pod", "container" or "image".
        what: &'static str,
        /// The name or id as it was given.
        id: String,
        /// The matching objects.
        matches: Vec<String>,
    },
    /// A value is not valid for its field.
    #[error("invalid {field} {value:?}: expected {expected}")]
    InvalidValue {
        /// The field or option.
        field: Cow<'static, str>,
        /// Its value.
        value: String,
        /// The valid values.
        expected: Cow<'static, str>,
    },
    /// A given path of the host cannot be used.
    #[error("invalid {what} {}: {source}", path.display())]
    InvalidPath {
        /// "mount source", "root file system".
        what: Cow<'static, str>,
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// An option or object was given without another one that it needs.
    #[error("{what} requires {needs}")]
    Requires {
        /// The option or object.
        what: Cow<'static, str>,
        /// What is missing.
        needs: Cow<'static, str>,
    },
    /// Two options exclude each other.
    #[error("{option} cannot be combined with {with}")]
    Conflict {
        /// The option.
        option: &'static str,
        /// The other one.
        with: &'static str,
    },
    /// The command is empty.
    #[error("{what} {id:?} has no command")]
    NoCommand {
        /// "container" or "exec".
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// A message or document of the request cannot be read.
    #[error("invalid {what}: {source}")]
    Decode {
        /// The kind of document.
        what: &'static str,
        /// The cause.
        source: Cause,
    },
    /// A file of the bundle, the configuration or the state cannot be used.
    #[error("{}: {problem}{}", path.display(), Remedy(cure))]
    BadFile {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
        /// The remedy, if there is one.
        cure: Option<String>,
    },
    /// The operation is not supported.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// A system call on a path failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The verb, in the infinitive: "open", "mount".
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A system call without a path failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried, in the infinitive.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A directory cannot hold state.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// A mount on the host failed.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A container's OCI spec is not supported.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// Containers depend on unknown containers, or on each other.
    #[error(transparent)]
    Dependency(#[from] DependencyError),
    /// A container's user is unknown.
    #[error(transparent)]
    User(#[from] UserError),
    /// A descriptor cannot be passed to a process.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// A block device cannot be attached for a container.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Files cannot be copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The host has no cgroup controller for a limit.
    #[error(
        "no cgroup controller on this host for a pod's {limit}: mount it, or leave out the limit"
    )]
    NoController {
        /// "CPU quota", "memory".
        limit: &'static str,
    },
    /// A mount is in use on the host.
    #[error(
        "{} is in use: a process has a file or its working directory in it; end it, or use --force",
        path.display()
    )]
    Busy {
        /// The mount point.
        path: PathBuf,
    },
    /// A mount belongs to a peer group with mounts outside the tree that is to be unmounted.
    #[error(
        "{} shares its mounts with others of the host, so that nothing below it can be unmounted without them; \
         unmount what covers it, or make it private (mount --make-private)",
        path.display()
    )]
    Propagates {
        /// The mount point.
        path: PathBuf,
    },
    /// An error about an image.
    #[error("{source}")]
    Image {
        /// The class of the error.
        kind: ErrorKind,
        /// An [`ImageError`](crate::engine::image::ImageError).
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The hypervisor layer failed.
    #[error(transparent)]
    Hypervisor(#[from] hypervisor::Error),
    /// The VM description is wrong.
    #[error(transparent)]
    VmSpec(#[from] hypervisor::SpecError),
    /// The agent answered with an error.
    #[error("{message}")]
    Agent {
        /// The class of the answer.
        kind: ErrorKind,
        /// The agent's message.
        message: String,
    },
    /// The owner of a pod answered with an error, or does not answer.
    #[error("{message}")]
    Remote {
        /// The class of the answer.
        kind: ErrorKind,
        /// The owner's message.
        message: String,
    },
    /// The owner of a pod ended before it answered.
    #[error("the owner of the pod has gone: {0}")]
    OwnerGone(String),
    /// The owner of a pod is ending and has not executed the request.
    #[error("the owner of the pod is about to exit: it has nothing left to own")]
    OwnerLeaving,
    /// The owner of a pod does not work as it should.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// A process of a dead pod cannot be killed.
    #[error("pod {pod}: {source}")]
    Kill {
        /// The pod.
        pod: String,
        /// The process and the cause.
        source: hypervisor::KillRecordedError,
    },
    /// The command of a process cannot be run.
    #[error("{message}")]
    Command {
        /// The exit code as a shell's: 127 for a command that does not exist, 126 for one that
        /// is not executable.
        exit_code: u8,
        /// The agent's message.
        message: String,
    },
    /// The agent did not answer in time.
    #[error("the agent did not answer {call} within {seconds} s")]
    AgentTimeout {
        /// The agent call.
        call: &'static str,
        /// The deadline.
        seconds: u64,
    },
    /// A killed process has not ended.
    #[error(
        "{what} was killed and has not ended within {seconds} s: the guest may be stuck; remove the pod to end it"
    )]
    NotEnded {
        /// The process.
        what: String,
        /// The time waited, in seconds.
        seconds: u64,
    },
    /// The guest does not do what the runtime asked for.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The VM ended (or never came up).
    #[error("the VM of pod {pod:?} is gone: {reason}")]
    VmGone {
        /// The pod.
        pod: String,
        /// The reason of its end, as far as it is known.
        reason: String,
    },
    /// Every generated name is taken.
    #[error("no free name for the {what} found")]
    NoFreeName {
        /// "pod" or "container".
        what: &'static str,
    },
    /// A message or document cannot be encoded.
    #[error("cannot encode {what}: {source}")]
    Encode {
        /// The kind of document.
        what: &'static str,
        /// The cause.
        source: Cause,
    },
    /// A background task or thread of the runtime ended unexpectedly.
    #[error("internal error: {task} failed: {source}")]
    TaskFailed {
        /// The task's work: "removing a pod".
        task: &'static str,
        /// The panic or the cancellation.
        source: Cause,
    },
}

/// A remedy at the end of a text.
struct Remedy<'a>(&'a Option<String>);

impl fmt::Display for Remedy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|cure| write!(f, "; {cure}"))
    }
}

impl Error {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::Removed { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Self::WrongState { .. } | Self::Busy { .. } | Self::Propagates { .. } => {
                ErrorKind::FailedPrecondition
            }
            Self::Ambiguous { .. }
            | Self::InvalidValue { .. }
            | Self::InvalidPath { .. }
            | Self::Requires { .. }
            | Self::Conflict { .. }
            | Self::NoCommand { .. }
            | Self::NoController { .. }
            | Self::Decode { .. }
            | Self::BadFile { .. }
            | Self::StateDir(_)
            | Self::Mount(_)
            | Self::Spec(_)
            | Self::Hook(_)
            | Self::Dependency(_)
            | Self::User(_)
            | Self::Device(_)
            | Self::Copy(_)
            | Self::VmSpec(_)
            | Self::Command { .. } => ErrorKind::InvalidArgument,
            Self::Config(error) => error.kind(),
            Self::Descriptor(error) => error.kind(),
            Self::Owner(error) => error.kind(),
            Self::Unsupported(_) => ErrorKind::Unimplemented,
            Self::Agent { kind, .. } | Self::Remote { kind, .. } | Self::Image { kind, .. } => {
                *kind
            }
            Self::AgentTimeout { .. } | Self::NotEnded { .. } => ErrorKind::DeadlineExceeded,
            Self::VmGone { .. } | Self::OwnerGone(_) | Self::OwnerLeaving => ErrorKind::Unavailable,
            Self::Io { .. }
            | Self::System { .. }
            | Self::Kill { .. }
            | Self::Guest(_)
            | Self::NoFreeName { .. }
            | Self::Encode { .. }
            | Self::TaskFailed { .. }
            | Self::Hypervisor(_) => ErrorKind::Internal,
        }
    }
}
