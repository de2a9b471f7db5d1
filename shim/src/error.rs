//! Errors of the shim itself; the runtime has its own.

use std::io;
use std::path::{Path, PathBuf};

/// The result of the shim's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the shim.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is wrong.
    #[error(transparent)]
    Flags(#[from] crate::containerd::flags::FlagError),
    /// containerd (or a user) left out a flag.
    #[error("{action} requires the flag -{flag}")]
    MissingFlag {
        /// The action asked for.
        action: &'static str,
        /// The flag's name.
        flag: &'static str,
    },
    /// The runtime refused or failed.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The verb, in the infinitive.
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
    /// The socket of this container already has a server.
    #[error("a shim for container {id:?} is already running at {address}; delete that task first")]
    Running {
        /// The container.
        id: String,
        /// Where its shim listens.
        address: String,
    },
    /// The shim of a container's pod has ended.
    #[error(
        "the shim of pod sandbox {sandbox:?} is not running (no answer at {address}): create the pod again"
    )]
    NoSandbox {
        /// The pod's sandbox.
        sandbox: String,
        /// Where its shim would listen.
        address: String,
    },
    /// An operation failed for a container.
    #[cfg(feature = "cli")]
    #[error("{container}: {source}")]
    Container {
        /// The container.
        container: String,
        /// The cause.
        source: Box<runtime::Error>,
    },
    /// Errors that were printed as they came.
    #[cfg(feature = "cli")]
    #[error("some of it failed")]
    Reported {
        /// The exit code for them.
        code: u8,
    },
    /// A line of a batch is not a change.
    #[cfg(feature = "cli")]
    #[error("invalid change {line:?}: {source}")]
    Change {
        /// The line.
        line: String,
        /// The cause.
        source: runtime::error::Cause,
    },
    /// An archive would be written to a terminal.
    #[cfg(feature = "cli")]
    #[error("cannot write an archive to a terminal: redirect stdout or name a file")]
    Terminal,
    /// containerd names a relative directory for the socket: it would differ from process to
    /// process.
    #[error("invalid socket directory {}: expected an absolute path", .0.display())]
    SocketDir(PathBuf),
    /// The runtime options are not a protobuf message.
    #[error("cannot read the runtime options on stdin: {0}")]
    Options(protobuf::Error),
    /// An answer to containerd cannot be encoded.
    #[error("cannot encode the answer: {0}")]
    Answer(protobuf::Error),
    /// The process was not started by `start`.
    #[error(
        "no listening socket was passed in: this command is started by containerd; `run --bundle DIR` needs none (see --help)"
    )]
    NoListener,
    /// A running shim answered with an error.
    #[error("the shim answered {call} with an error: {source}")]
    Call {
        /// The task call.
        call: &'static str,
        /// Its answer.
        source: ttrpc::Error,
    },
    /// The socket of a running shim does not accept connections.
    #[error("no answer at {0}")]
    NoAnswer(crate::containerd::address::Address),
    /// An operation took longer than its deadline.
    #[error("{what} took more than {seconds:.1} s")]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// The deadline.
        seconds: f32,
    },
}

/// A trait that gives a system error its verb and path.
pub trait Context<T> {
    /// `cannot {action} {path}: {error}`.
    fn on(self, action: &'static str, path: impl AsRef<Path>) -> Result<T>;
    /// `cannot {action}: {error}`.
    fn doing(self, action: &'static str) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn on(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|e| Error::Io {
            action,
            path: path.as_ref().to_owned(),
            source: e.into(),
        })
    }

    fn doing(self, action: &'static str) -> Result<T> {
        self.map_err(|e| Error::System {
            action,
            source: e.into(),
        })
    }
}
