//! Errors of unpacking an archive.

use std::io;
use std::path::Path;

use crate::error::{CopyError, CopyProblem, Error};

/// The reason why the archive of a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum UnpackError {
    /// The archive is malformed.
    #[error("not a valid tar archive: {0}")]
    Archive(io::Error),
    /// An entry could not be made.
    #[error("entry {entry:?}: {failure}")]
    Entry {
        /// The entry's name.
        entry: String,
        /// The cause.
        failure: Failure,
    },
}

/// The reason why an entry was not made.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum Failure {
    /// It is not allowed.
    #[error("it is refused: {0}")]
    Refused(&'static str),
    /// The kernel refused it.
    #[error("cannot {0} it: {1}")]
    Io(&'static str, io::Error),
}

impl Failure {
    pub(super) fn io(action: &'static str, error: impl Into<io::Error>) -> Self {
        Self::Io(action, error.into())
    }

    /// Converts it to an error about a file outside layers.
    pub(in crate::engine) fn on(self, path: &Path) -> Error {
        match self {
            Self::Refused(problem) => CopyError {
                path: path.to_owned(),
                problem: CopyProblem::Refused(problem),
            }
            .into(),
            Self::Io(action, source) => Error::Io {
                action,
                path: path.to_owned(),
                source,
            },
        }
    }

    /// Converts it to an error about `entry` of an archive.
    pub(super) fn at(self, entry: &str) -> io::Error {
        match self {
            Self::Refused(problem) => {
                io::Error::new(io::ErrorKind::InvalidInput, format!("{entry}: {problem}"))
            }
            Self::Io(action, source) => {
                io::Error::new(source.kind(), format!("cannot {action} {entry}: {source}"))
            }
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        failure.at("the directory")
    }
}
