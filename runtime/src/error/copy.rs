//! Errors of files that are copied into containers and out of them.

use std::path::PathBuf;

/// Why nothing was copied.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct CopyError {
    /// The path, as the caller gave it.
    pub path: PathBuf,
    /// The problem.
    pub problem: CopyProblem,
}

/// What is wrong with a path that is to be copied from or to. All are the request's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CopyProblem {
    /// There is nothing.
    #[error("no such file or directory")]
    NotFound,
    /// There is no directory, or not the one above it.
    #[error("no such directory")]
    NoDirectory,
    /// There is something else.
    #[error("not a directory")]
    NotADirectory,
    /// A directory would take the place of a file.
    #[error("a directory cannot replace a file")]
    ReplacesFile,
    /// Its symbolic links do not come to an end.
    #[error("too many symbolic links")]
    Links,
    /// It is a socket.
    #[error("a socket cannot be copied")]
    Socket,
    /// A device node would be made on the host.
    #[error("a device node of a container is not made on the host")]
    Device,
    /// It lies in a mount of the guest's own.
    #[error(
        "{} is a file system of the virtual machine, which the host does not see; let a process of the \
         container copy it (container exec)",
        mount.display()
    )]
    InGuest {
        /// The place of the mount.
        mount: PathBuf,
    },
    /// The archive's entry, or what is there, does not allow it.
    #[error("{0}")]
    Refused(&'static str),
}
