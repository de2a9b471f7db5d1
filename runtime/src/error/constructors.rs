//! Short constructors of errors.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use super::{Cause, Error, Result};

impl Error {
    /// The error for a missing pod, container or exec.
    pub fn not_found(what: &'static str, id: impl Into<String>) -> Self {
        Self::NotFound {
            what,
            id: id.into(),
        }
    }

    /// The error for an invalid value of a field.
    pub fn invalid(
        field: impl Into<Cow<'static, str>>,
        value: impl ToString,
        expected: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::InvalidValue {
            field: field.into(),
            value: value.to_string(),
            expected: expected.into(),
        }
    }

    /// The error for a path that cannot be used, for `map_err`.
    pub fn invalid_path<E: Into<io::Error>>(
        what: impl Into<Cow<'static, str>>,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        move |error| Self::InvalidPath {
            what: what.into(),
            path: path.into(),
            source: error.into(),
        }
    }

    /// The error for an option or object without another one that it needs.
    pub fn requires(
        what: impl Into<Cow<'static, str>>,
        needs: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::Requires {
            what: what.into(),
            needs: needs.into(),
        }
    }

    /// The error for an unreadable document in the request, for `map_err`.
    pub fn decode<E: Into<Cause>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Decode {
            what,
            source: error.into(),
        }
    }

    /// The error for a document that cannot be encoded, for `map_err`.
    pub fn encode<E: Into<Cause>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Encode {
            what,
            source: error.into(),
        }
    }

    /// The error for a task that ended before its work was done, for `map_err`.
    pub fn task<E: Into<Cause>>(task: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::TaskFailed {
            task,
            source: error.into(),
        }
    }

    /// The same error with the remedy for a bad file, if it has none yet.
    #[must_use]
    pub(crate) fn or_cure(mut self, remedy: impl FnOnce() -> String) -> Self {
        if let Self::BadFile { cure, .. } = &mut self {
            cure.get_or_insert_with(remedy);
        }
        self
    }

    /// The error for a bad file.
    pub fn bad_file(path: impl Into<PathBuf>, problem: impl ToString) -> Self {
        Self::BadFile {
            path: path.into(),
            problem: problem.to_string(),
            cure: None,
        }
    }
}

/// A trait that gives a system error its verb and path.
pub trait Context<T> {
    /// `cannot {action} {path}: {error}`.
    ///
    /// # Errors
    /// [`Error::Io`].
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
