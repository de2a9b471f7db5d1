//! The errors of RPCs and their ttrpc statuses.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use protos::AGENT_PORT;
use serde::{Deserialize, Serialize};
use ttrpc::Code;

use crate::text::truncate;

/// The statuses of `agent.proto`. A helper process reports its failure as a serialised kind and
/// message, so that no code parses a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    /// The command does not exist.
    NoSuchCommand,
    /// The command exists, but cannot be executed.
    NotExecutable,
    Unimplemented,
    DeadlineExceeded,
    Internal,
}

impl From<Kind> for Code {
    fn from(kind: Kind) -> Code {
        match kind {
            Kind::NotFound => Code::NOT_FOUND,
            Kind::AlreadyExists => Code::ALREADY_EXISTS,
            Kind::FailedPrecondition => Code::FAILED_PRECONDITION,
            Kind::InvalidArgument | Kind::NoSuchCommand | Kind::NotExecutable => {
                Code::INVALID_ARGUMENT
            }
            Kind::Unimplemented => Code::UNIMPLEMENTED,
            Kind::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
            Kind::Internal => Code::INTERNAL,
        }
    }
}

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no such container: {0}")]
    NoContainer(String),
    #[error("no such process: {exec} in container {container}")]
    NoProcess { container: String, exec: String },
    #[error("process already finished: {process} of container {container}")]
    Finished { container: String, process: String },
    #[error("container {0} already exists")]
    ContainerExists(String),
    #[error("exec {exec} already exists in container {container}")]
    ExecExists { container: String, exec: String },
    #[error("{what} is {state}, must be {wanted}")]
    State {
        what: String,
        state: &'static str,
        wanted: &'static str,
    },
    /// A value is not valid for its field of the request or the OCI document.
    #[error("invalid {field} {value:?}: expected {expected}")]
    InvalidValue {
        field: Cow<'static, str>,
        value: String,
        expected: Cow<'static, str>,
    },
    /// A required field is missing.
    #[error("{0} is missing or empty")]
    Missing(&'static str),
    /// An option or object is given without another one that it needs.
    #[error("{what} requires {needs}")]
    Requires {
        what: Cow<'static, str>,
        needs: &'static str,
    },
    /// The host names a path that does not exist in the guest.
    #[error("{what} {path} does not exist in the guest")]
    NotInGuest {
        what: Cow<'static, str>,
        path: PathBuf,
    },
    /// A document of the request is unreadable or not valid.
    #[error("invalid {what}: {source}")]
    Document {
        what: Cow<'static, str>,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A container's memory limit killed it before its start.
    #[error("container init was OOM-killed (memory limit too low?): {0}")]
    OomKilled(Box<Error>),
    #[error("not supported in the guest: {0}")]
    Unsupported(String),
    /// A helper process, or its child, reported its failure.
    #[error("{message}")]
    Fault { kind: Kind, message: String },
    /// A helper process ended without an answer.
    #[error("the {0} helper died before it could answer; the console may show why")]
    HelperDied(&'static str),
    #[error("the helper has sent no terminal")]
    NoTerminal,
    /// A thread of the agent panicked.
    #[error("internal error: {0} panicked")]
    Panicked(&'static str),
    #[error("{what} did not happen within {seconds} s")]
    Deadline { what: String, seconds: u64 },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("cannot reach the host on vsock port {AGENT_PORT}: {0}")]
    Dial(io::Error),
    #[error("ttrpc: {0}")]
    Rpc(ttrpc::Error),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The error for an invalid value of a field.
    pub fn invalid(
        field: impl Into<Cow<'static, str>>,
        value: impl ToString,
        expected: impl Into<Cow<'static, str>>,
    ) -> Error {
        Error::InvalidValue {
            field: field.into(),
            value: value.to_string(),
            expected: expected.into(),
        }
    }

    /// The error for an unreadable or invalid document, for `map_err`.
    pub fn document<E>(what: impl Into<Cow<'static, str>>) -> impl FnOnce(E) -> Error
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |error| Error::Document {
            what: what.into(),
            source: error.into(),
        }
    }

    /// The status that the host receives.
    pub fn kind(&self) -> Kind {
        match self {
            Error::NoContainer(_) | Error::NoProcess { .. } | Error::Finished { .. } => {
                Kind::NotFound
            }
            Error::ContainerExists(_) | Error::ExecExists { .. } => Kind::AlreadyExists,
            Error::State { .. } => Kind::FailedPrecondition,
            Error::InvalidValue { .. }
            | Error::Missing(_)
            | Error::Requires { .. }
            | Error::NotInGuest { .. }
            | Error::Document { .. }
            | Error::OomKilled(_) => Kind::InvalidArgument,
            Error::Unsupported(_) => Kind::Unimplemented,
            Error::Fault { kind, .. } => *kind,
            Error::Deadline { .. } => Kind::DeadlineExceeded,
            // The kernel refused a value of the request.
            Error::File { source, .. } | Error::Io { source, .. }
                if matches!(
                    source.raw_os_error(),
                    Some(libc::EINVAL | libc::ERANGE | libc::EDOM)
                ) =>
            {
                Kind::InvalidArgument
            }
            Error::HelperDied(_)
            | Error::NoTerminal
            | Error::Panicked(_)
            | Error::Io { .. }
            | Error::File { .. }
            | Error::Dial(_)
            | Error::Rpc(_) => Kind::Internal,
        }
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> ttrpc::Error {
        let kind = error.kind();
        let mut text = error.to_string();
        truncate(&mut text, protos::MAX_ERROR);
        let mut status = ttrpc::get_status(kind.into(), text);
        let command = match kind {
            Kind::NoSuchCommand => Some(protos::COMMAND_NOT_FOUND),
            Kind::NotExecutable => Some(protos::COMMAND_NOT_EXECUTABLE),
            _ => None,
        };
        status.details.extend(command.map(|code| ttrpc::proto::Any {
            type_url: protos::COMMAND_FAILURE.into(),
            value: vec![code],
            ..Default::default()
        }));
        ttrpc::Error::RpcStatus(status)
    }
}

/// A trait that adds the attempted operation to an I/O error.
pub trait Context<T> {
    fn what(self, what: impl Into<String>) -> Result<T>;
    fn path(self, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn what(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|e| Error::Io {
            what: what.into(),
            source: e.into(),
        })
    }

    fn path(self, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|e| Error::File {
            path: path.into(),
            source: e.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_no_more_than_the_host_takes() {
        let long = Error::Unsupported("ü".repeat(1 << 20));
        let ttrpc::Error::RpcStatus(status) = long.into() else {
            panic!("no status");
        };
        assert_eq!(status.message.len(), protos::MAX_ERROR + "...".len());
    }

    #[test]
    fn a_value_refused_by_the_kernel_is_the_callers_fault() {
        let refused: Result<()> =
            Err(io::Error::from_raw_os_error(libc::ERANGE)).path("/sys/fs/cgroup/x/cpuset.cpus");
        assert_eq!(refused.unwrap_err().kind(), Kind::InvalidArgument);
        let broken: Result<()> = Err(io::Error::from_raw_os_error(libc::EIO)).what("read");
        assert_eq!(broken.unwrap_err().kind(), Kind::Internal);
    }

    fn file(code: i32) -> Error {
        Err::<(), _>(io::Error::from_raw_os_error(code))
            .path("/x")
            .unwrap_err()
    }

    #[test]
    fn each_error_has_its_status() {
        use Code::*;
        let fault = |kind| Error::Fault {
            kind,
            message: "x".into(),
        };
        let source = || io::Error::from(io::ErrorKind::Other);
        for (error, code) in [
            (Error::NoContainer("c".into()), NOT_FOUND),
            (Error::ContainerExists("c".into()), ALREADY_EXISTS),
            (Error::invalid("field", 7, "8"), INVALID_ARGUMENT),
            (Error::Missing("args"), INVALID_ARGUMENT),
            (
                Error::OomKilled(Box::new(Error::NoTerminal)),
                INVALID_ARGUMENT,
            ),
            (Error::Unsupported("x".into()), UNIMPLEMENTED),
            (fault(Kind::FailedPrecondition), FAILED_PRECONDITION),
            (fault(Kind::NoSuchCommand), INVALID_ARGUMENT),
            (fault(Kind::NotExecutable), INVALID_ARGUMENT),
            (fault(Kind::DeadlineExceeded), DEADLINE_EXCEEDED),
            (Error::HelperDied("exec"), INTERNAL),
            (Error::NoTerminal, INTERNAL),
            (Error::Panicked("x"), INTERNAL),
            (Error::Dial(source()), INTERNAL),
            (file(libc::EINVAL), INVALID_ARGUMENT),
            (file(libc::ERANGE), INVALID_ARGUMENT),
            (file(libc::EDOM), INVALID_ARGUMENT),
            (file(libc::ENOENT), INTERNAL),
        ] {
            let text = error.to_string();
            let ttrpc::Error::RpcStatus(status) = error.into() else {
                panic!("no status");
            };
            assert_eq!(status.code.enum_value(), Ok(code), "{text}");
            assert_eq!(status.message, text);
        }
    }

    #[test]
    fn a_command_that_cannot_run_has_its_code_in_the_details() {
        for (kind, details) in [
            (Kind::NoSuchCommand, Some(127)),
            (Kind::NotExecutable, Some(126)),
            (Kind::InvalidArgument, None),
        ] {
            let message = "x".into();
            let ttrpc::Error::RpcStatus(status) = Error::Fault { kind, message }.into() else {
                panic!("no status");
            };
            let found = status
                .details
                .iter()
                .map(|any| (any.type_url.as_str(), &any.value[..]));
            let expected = details.map(|code| vec![code]);
            let expected = expected
                .iter()
                .map(|code| (protos::COMMAND_FAILURE, &code[..]));
            assert!(found.eq(expected), "{kind:?}");
        }
    }
}
