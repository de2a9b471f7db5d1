//! Errors of copying files into containers and out of them.

use std::path::PathBuf;

/// The reason why nothing was copied.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct CopyError {
    /// The path, as the caller gave it.
    pub path: PathBuf,
    /// The problem.
    pub problem: CopyProblem,
}

/// The problem with a path to copy from or to. All are faults of the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CopyProblem {
    /// It does not exist.
    #[error("no such file or directory")]
    NotFound,
    /// It or its parent directory does not exist.
    #[error("no such directory")]
    NoDirectory,
    /// It is not a directory.
    #[error("not a directory")]
    NotADirectory,
    /// A directory would replace a file.
    #[error("a directory cannot replace a file")]
    ReplacesFile,
    /// It has too many symbolic links.
    #[error("too many symbolic links")]
    Links,
    /// It is a socket.
    #[error("a socket cannot be copied")]
    Socket,
    /// A device node would be made on the host.
    #[error("a device node of a container is not made on the host")]
    Device,
    /// It is in a mount that exists only in the guest.
    #[error(
        "{} is a file system of the virtual machine, which the host does not see; let a process of the \
         container copy it (container exec)",
        mount.display()
    )]
    InGuest {
        /// The mount point.
        mount: PathBuf,
    },
    /// The archive's entry, or the existing file, does not allow it.
    #[error("{0}")]
    Refused(&'static str),
}
