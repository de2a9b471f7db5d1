//! Errors of the pod runtime, and their classes.

use std::path::{Path, PathBuf};

/// The result of the runtime's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The class of an error, named as the gRPC status codes; the shim uses the same code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The pod, container or process does not exist.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// The object's state does not allow the operation.
    FailedPrecondition,
    /// The request, the bundle or the configuration is wrong.
    InvalidArgument,
    /// The operation is not supported.
    Unimplemented,
    /// The agent or the VM did not answer in time.
    DeadlineExceeded,
    /// The VM or the agent is gone.
    Unavailable,
    /// Any other error.
    Internal,
}

impl ErrorKind {
    /// Every class.
    pub const ALL: [Self; 8] = [
        Self::NotFound,
        Self::AlreadyExists,
        Self::FailedPrecondition,
        Self::InvalidArgument,
        Self::Unimplemented,
        Self::DeadlineExceeded,
        Self::Unavailable,
        Self::Internal,
    ];
}

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
    /// The request, bundle, spec or configuration is wrong; the text names the field and the
    /// remedy.
    #[error("{0}")]
    Invalid(String),
    /// A file of the bundle, the configuration or the state cannot be used.
    #[error("{}: {problem}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// The problem and the remedy.
        problem: String,
    },
    /// The operation is not supported.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// A system call on a path failed.
    #[error("Cannot {action} {}: {source}", path.display())]
    Io {
        /// The verb, in the infinitive: "open", "mount".
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
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
    #[error("The owner of the pod has gone: {0}")]
    OwnerGone(String),
    /// The owner of a pod is ending and has not executed the request.
    #[error("The owner of the pod is about to go: nothing is left to own")]
    OwnerLeaving,
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
    #[error("The agent did not answer {call} within {seconds} s")]
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
    /// The VM ended (or never came up).
    #[error("The VM of pod {pod:?} is gone: {reason}")]
    VmGone {
        /// The pod.
        pod: String,
        /// The reason of its end, as far as it is known.
        reason: String,
    },
    /// A background task of the runtime ended unexpectedly.
    #[error("Internal error: {0}")]
    Internal(String),
}

impl Error {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Self::WrongState { .. } | Self::Busy { .. } | Self::Propagates { .. } => {
                ErrorKind::FailedPrecondition
            }
            Self::Invalid(_) | Self::BadFile { .. } | Self::VmSpec(_) | Self::Command { .. } => {
                ErrorKind::InvalidArgument
            }
            Self::Unsupported(_) => ErrorKind::Unimplemented,
            Self::Agent { kind, .. } | Self::Remote { kind, .. } | Self::Image { kind, .. } => {
                *kind
            }
            Self::AgentTimeout { .. } | Self::NotEnded { .. } => ErrorKind::DeadlineExceeded,
            Self::VmGone { .. } | Self::OwnerGone(_) | Self::OwnerLeaving => ErrorKind::Unavailable,
            Self::Io { .. } | Self::Hypervisor(_) | Self::Internal(_) => ErrorKind::Internal,
        }
    }

    /// The error for a missing pod, container or exec.
    pub fn not_found(what: &'static str, id: impl Into<String>) -> Self {
        Self::NotFound {
            what,
            id: id.into(),
        }
    }

    /// The error for a bad file, with the remedy.
    pub fn bad_file(path: impl Into<PathBuf>, problem: impl ToString) -> Self {
        Self::BadFile {
            path: path.into(),
            problem: problem.to_string(),
        }
    }
}

/// A trait that gives a system error its verb and path.
pub(crate) trait Context<T> {
    /// `Cannot {action} {path}: {error}`.
    fn on(self, action: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn on(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|e| Error::Io {
            action,
            path: path.as_ref().to_owned(),
            source: e.into(),
        })
    }
}
