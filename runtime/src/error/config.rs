//! Errors of the configuration.

use std::io;
use std::path::PathBuf;

use super::ErrorKind;

/// The reason why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{}: cannot read the configuration: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is not TOML, or a value is not of its key's type or range.
    #[error("{}: {problem}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line and the parser's message.
        problem: String,
    },
    /// A file has a key that does not exist.
    #[error(
        "{}: unknown key `{key}`: {}",
        path.display(),
        near.as_ref().map_or_else(
            || "`rust-kata config default` shows all keys".to_owned(),
            |near| format!("did you mean `{near}`?"),
        )
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key, with its table: `timeouts.bot`.
        key: String,
        /// The most similar key.
        near: Option<String>,
    },
    /// A directory is relative.
    #[error("{}: {key} must be an absolute path, not {}", path.display(), value.display())]
    Relative {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: PathBuf,
    },
    /// The merged values of several files are not valid.
    #[error("cannot merge the configuration files: {0}")]
    Merge(#[source] toml::de::Error),
    /// The running program's own path is unknown.
    #[error("cannot find the running binary: {0}")]
    NoBinary(#[source] io::Error),
    /// A program of the installation is missing.
    #[error(
        "{} not found: install it beside {}, or set rust_kata in the configuration",
        program.display(),
        beside.display()
    )]
    NotInstalled {
        /// The program.
        program: PathBuf,
        /// The program that needs it.
        beside: PathBuf,
    },
}

impl ConfigError {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Merge(_) | Self::NoBinary(_) => ErrorKind::Internal,
            Self::Read { .. }
            | Self::Parse { .. }
            | Self::UnknownKey { .. }
            | Self::Relative { .. }
            | Self::NotInstalled { .. } => ErrorKind::InvalidArgument,
        }
    }
}
