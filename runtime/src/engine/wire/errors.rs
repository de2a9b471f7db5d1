//! Errors and outcomes as messages: gRPC codes and their meanings.

use protos::management as api;
use ttrpc::Code;

use crate::engine::status::Outcome;
use crate::error::{Error, ErrorKind};

/// The error in an owner's answer.
pub fn remote(error: ttrpc::Error) -> Error {
    let ttrpc::Error::RpcStatus(status) = error else {
        return Error::OwnerGone(error.to_string());
    };
    let code = status.code.value();
    if code == Code::UNIMPLEMENTED as i32
        && let Some(method) = status.message.strip_suffix(UNKNOWN_METHOD)
    {
        return earlier_build(method);
    }
    // The exit code that a shell gives if a command cannot be run.
    let exit_code = status.details.iter().find_map(|detail| {
        (detail.type_url == protos::COMMAND_FAILURE).then(|| detail.value.first().copied())?
    });
    of_code(code, exit_code.unwrap_or(0), status.message)
}

/// The end of ttrpc's error for an unknown method, which follows the method's name.
const UNKNOWN_METHOD: &str = " method";

/// The error of a call that an owner of an earlier build does not have.
fn earlier_build(method: &str) -> Error {
    Error::Remote {
        kind: ErrorKind::Unimplemented,
        message: format!(
            "The pod's owner is of an earlier build, which does not know {method}: stop the pod and start it again for that"
        ),
    }
}

/// Makes an error from its gRPC code, a shell's exit code if it has one, and its text.
pub fn of_code(code: i32, exit_code: u8, message: String) -> Error {
    if let protos::COMMAND_NOT_FOUND | protos::COMMAND_NOT_EXECUTABLE = exit_code {
        return Error::Command { exit_code, message };
    }
    if code == Code::ABORTED as i32 {
        return Error::OwnerLeaving;
    }
    let kind = ErrorKind::ALL
        .into_iter()
        .find(|kind| code_of(*kind) as i32 == code)
        .unwrap_or(ErrorKind::Internal);
    Error::Remote { kind, message }
}

/// The gRPC code of an error. An owner that is ending answers ABORTED: by that code's
/// definition, the caller tries again.
pub fn code_of_error(error: &Error) -> Code {
    match error {
        Error::OwnerLeaving => Code::ABORTED,
        error => code_of(error.kind()),
    }
}

/// The gRPC code of an error's class.
pub fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NOT_FOUND,
        ErrorKind::AlreadyExists => Code::ALREADY_EXISTS,
        ErrorKind::FailedPrecondition => Code::FAILED_PRECONDITION,
        ErrorKind::InvalidArgument => Code::INVALID_ARGUMENT,
        ErrorKind::Unimplemented => Code::UNIMPLEMENTED,
        ErrorKind::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
        ErrorKind::Unavailable => Code::UNAVAILABLE,
        ErrorKind::Internal => Code::INTERNAL,
    }
}

/// The message for the result of one container.
pub fn to_result(container: String, error: Option<&Error>, ignored: bool) -> api::Result {
    api::Result {
        container,
        code: error.map_or(0, |e| code_of_error(e) as i32),
        exit_code: match error {
            Some(Error::Command { exit_code, .. }) => u32::from(*exit_code),
            _ => 0,
        },
        error: error.map(ToString::to_string).unwrap_or_default(),
        ignored,
        ..Default::default()
    }
}

/// The error in [`to_result`]; `None` for a success.
pub fn error_of(result: api::Result) -> Option<Error> {
    let exit_code = u8::try_from(result.exit_code).unwrap_or(0);
    (!result.error.is_empty()).then(|| of_code(result.code, exit_code, result.error))
}

/// The message for the outcome of an operation.
pub fn to_results(outcome: Outcome) -> api::Results {
    let done = outcome
        .done
        .into_iter()
        .map(|name| to_result(name, None, false));
    let ignored = outcome
        .ignored
        .into_iter()
        .map(|name| to_result(name, None, true));
    let errors = outcome.errors.into_iter();
    let errors = errors.map(|(name, e)| to_result(name, Some(&e), false));
    api::Results {
        results: done.chain(ignored).chain(errors).collect(),
        ..Default::default()
    }
}

/// The inverse of [`to_results`].
pub fn to_outcome(results: api::Results) -> Outcome {
    let mut outcome = Outcome::default();
    for result in results.results {
        if result.ignored {
            outcome.ignored.push(result.container);
            continue;
        }
        let container = result.container.clone();
        match error_of(result) {
            None => outcome.done.push(container),
            Some(error) => {
                outcome.errors.insert(container, error);
            }
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_travel() {
        let mut outcome = Outcome {
            done: vec!["a".into()],
            ignored: vec!["b".into()],
            ..Outcome::default()
        };
        outcome
            .errors
            .insert("c".into(), Error::not_found("container", "c"));
        let command = Error::Command {
            exit_code: 127,
            message: "no such command".into(),
        };
        outcome.errors.insert("d".into(), command);
        let back = to_outcome(to_results(outcome));
        assert_eq!(
            (back.done, back.ignored),
            (vec!["a".into()], vec!["b".into()])
        );
        assert_eq!(back.errors["c"].kind(), ErrorKind::NotFound);
        assert!(back.errors["c"].to_string().contains("\"c\" not found"));
        assert!(matches!(
            back.errors["d"],
            Error::Command { exit_code: 127, .. }
        ));
    }
}
