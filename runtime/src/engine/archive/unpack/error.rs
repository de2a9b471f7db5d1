//! Why an archive was not unpacked.

use std::io;
use std::path::Path;

use crate::error::Error;

/// Why the archive of a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum UnpackError {
    /// It is no archive.
    #[error("no sound tar archive: {0}")]
    Archive(io::Error),
    /// An entry was not made.
    #[error("entry {entry:?}: {failure}")]
    Entry {
        /// Its name.
        entry: String,
        /// Why.
        failure: Failure,
    },
}

/// Why an entry was not made.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum Failure {
    /// It is not to be made.
    #[error("it is refused: {0}")]
    Refused(&'static str),
    /// The kernel did not make it.
    #[error("cannot {0} it: {1}")]
    Io(&'static str, io::Error),
}

impl Failure {
    pub(super) fn io(action: &'static str, error: impl Into<io::Error>) -> Self {
        Self::Io(action, error.into())
    }

    /// As an error about a file that is in no layer.
    pub(in crate::engine) fn on(self, path: &Path) -> Error {
        match self {
            Self::Refused(problem) => Error::Invalid(format!("{}: {problem}", path.display())),
            Self::Io(action, source) => Error::Io {
                action,
                path: path.to_owned(),
                source,
            },
        }
    }

    /// As an error about `entry` of an archive.
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
