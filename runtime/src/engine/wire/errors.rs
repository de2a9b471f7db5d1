//! Errors and outcomes as messages: gRPC codes and their meanings.

use protos::management as api;
use ttrpc::Code;

use crate::engine::status::Outcome;
use crate::error::{Error, ErrorKind, OwnerError};

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
    let method = method.to_owned();
    OwnerError::EarlierBuild { method }.into()
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
    // The words are the guest's, which may have none.
    let failed = result.code != 0 || !result.error.is_empty();
    failed.then(|| of_code(result.code, exit_code, result.error))
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

    /// gRPC, `doc/statuscodes.md`.
    const CODES: [(ErrorKind, i32); 8] = [
        (ErrorKind::InvalidArgument, 3),
        (ErrorKind::DeadlineExceeded, 4),
        (ErrorKind::NotFound, 5),
        (ErrorKind::AlreadyExists, 6),
        (ErrorKind::FailedPrecondition, 9),
        (ErrorKind::Unimplemented, 12),
        (ErrorKind::Internal, 13),
        (ErrorKind::Unavailable, 14),
    ];

    fn error(kind: ErrorKind, message: &str) -> Error {
        Error::Remote {
            kind,
            message: message.into(),
        }
    }

    #[test]
    fn each_kind_has_its_code_in_both_directions() {
        assert!(
            ErrorKind::ALL
                .iter()
                .all(|kind| CODES.iter().any(|(of, _)| of == kind))
        );
        for (kind, code) in CODES {
            assert_eq!(code_of(kind) as i32, code, "{kind:?}");
            assert_eq!(code_of_error(&error(kind, "x")) as i32, code, "{kind:?}");
            let back = of_code(code, 0, "x".into());
            assert!(matches!(back, Error::Remote { .. }), "{back:?}");
            assert_eq!((back.kind(), &*back.to_string()), (kind, "x"));
        }
        // Other codes have no special meaning here.
        for code in [-1, 0, 1, 2, 7, 8, 11, 15, 16, 17, i32::MAX] {
            assert_eq!(
                of_code(code, 0, "x".into()).kind(),
                ErrorKind::Internal,
                "{code}"
            );
        }
        assert_eq!(code_of_error(&Error::OwnerLeaving) as i32, 10);
        assert!(matches!(of_code(10, 0, String::new()), Error::OwnerLeaving));
    }

    #[test]
    fn errors_are_of_the_kind_that_their_cause_is_of() {
        use ErrorKind::*;
        let io = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let id = || "x".to_owned();
        let path = || std::path::PathBuf::from("/x");
        for (error, kind) in [
            (Error::not_found("pod", "x"), NotFound),
            (
                Error::AlreadyExists {
                    what: "pod",
                    id: id(),
                },
                AlreadyExists,
            ),
            (
                Error::WrongState {
                    what: "pod",
                    id: id(),
                    operation: "stop",
                    state: id(),
                },
                FailedPrecondition,
            ),
            (Error::Busy { path: path() }, FailedPrecondition),
            (Error::Propagates { path: path() }, FailedPrecondition),
            (Error::bad_file("/x", "bad"), InvalidArgument),
            (
                Error::Command {
                    exit_code: 127,
                    message: id(),
                },
                InvalidArgument,
            ),
            (Error::Unsupported(id()), Unimplemented),
            (
                Error::Agent {
                    kind: NotFound,
                    message: id(),
                },
                NotFound,
            ),
            (
                Error::Remote {
                    kind: Unavailable,
                    message: id(),
                },
                Unavailable,
            ),
            (
                Error::Image {
                    kind: AlreadyExists,
                    source: Box::new(io()),
                },
                AlreadyExists,
            ),
            (
                Error::AgentTimeout {
                    call: "Exec",
                    seconds: 1,
                },
                DeadlineExceeded,
            ),
            (
                Error::NotEnded {
                    what: id(),
                    seconds: 1,
                },
                DeadlineExceeded,
            ),
            (
                Error::VmGone {
                    pod: id(),
                    reason: id(),
                },
                Unavailable,
            ),
            (Error::OwnerGone(id()), Unavailable),
            (Error::OwnerLeaving, Unavailable),
            // A system error, even "not found", does not mean that the pod was not found.
            (
                Error::Io {
                    action: "open",
                    path: path(),
                    source: io(),
                },
                Internal,
            ),
        ] {
            assert_eq!(error.kind(), kind, "{error:?}");
        }
    }

    #[test]
    fn what_cannot_be_run_keeps_a_shells_code_whatever_the_other_code() {
        for exit_code in 0..=u8::MAX {
            let error = of_code(5, exit_code, "x".into());
            match error {
                Error::Command {
                    exit_code: kept,
                    message,
                } => {
                    assert_eq!((kept, &*message), (exit_code, "x"));
                    assert!(matches!(exit_code, 126 | 127), "{exit_code}");
                }
                other => {
                    assert!(!matches!(exit_code, 126 | 127), "{exit_code}");
                    assert_eq!(other.kind(), ErrorKind::NotFound);
                }
            }
        }
    }

    fn answer(code: Code, message: &str) -> ttrpc::Status {
        ttrpc::get_status(code, message)
    }

    #[test]
    fn an_owners_answer_is_its_error_and_any_other_means_that_it_has_gone() {
        for (_, code) in CODES {
            let status = ttrpc::Status {
                code: protobuf::EnumOrUnknown::from_i32(code),
                message: "words".into(),
                ..Default::default()
            };
            let error = remote(ttrpc::Error::RpcStatus(status));
            assert_eq!(code_of(error.kind()) as i32, code);
            assert_eq!(error.to_string(), "words");
        }
        let mut status = answer(Code::INVALID_ARGUMENT, "no such command");
        for (type_url, value, exit_code) in [
            ("other", vec![127], None),
            (protos::COMMAND_FAILURE, vec![], None),
            (protos::COMMAND_FAILURE, vec![126], Some(126)),
        ] {
            status.details = vec![ttrpc::proto::Any {
                type_url: type_url.into(),
                value,
                ..Default::default()
            }];
            let error = remote(ttrpc::Error::RpcStatus(status.clone()));
            let code = match error {
                Error::Command { exit_code, .. } => Some(exit_code),
                _ => None,
            };
            assert_eq!(code, exit_code, "{type_url}");
        }
        for lost in [
            ttrpc::Error::RemoteClosed,
            ttrpc::Error::Socket("reset".into()),
        ] {
            assert!(matches!(remote(lost), Error::OwnerGone(_)));
        }
        let leaving = remote(ttrpc::Error::RpcStatus(answer(Code::ABORTED, "")));
        assert!(matches!(leaving, Error::OwnerLeaving));
    }

    #[test]
    fn a_call_that_the_owner_does_not_know_is_named() {
        let said = |code, message: &str| {
            let error = remote(ttrpc::Error::RpcStatus(answer(code, message)));
            (error.kind(), error.to_string())
        };
        let (kind, text) = said(Code::UNIMPLEMENTED, "/Management/Update method");
        assert_eq!(kind, ErrorKind::Unimplemented);
        assert!(text.contains("/Management/Update:"), "{text}");
        // Its own refusals are as it says them.
        for (code, message) in [
            (Code::UNIMPLEMENTED, "this is containerd's"),
            (Code::NOT_FOUND, "no such method"),
        ] {
            assert_eq!(said(code, message).1, message);
        }
    }

    #[test]
    fn a_failure_without_words_is_still_one() {
        for (kind, _) in CODES {
            let result = to_result("c".into(), Some(&error(kind, "")), false);
            assert_eq!(error_of(result).map(|e| e.kind()), Some(kind));
        }
        let outcome = to_outcome(api::Results {
            results: vec![to_result(
                "c".into(),
                Some(&error(ErrorKind::Internal, "")),
                false,
            )],
            ..Default::default()
        });
        assert!(outcome.done.is_empty() && outcome.errors.contains_key("c"));
        // An owner of an earlier build, or none: words alone are one, too.
        let words = api::Result {
            error: "words".into(),
            exit_code: 1 << 8,
            ..Default::default()
        };
        assert_eq!(error_of(words).map(|e| e.kind()), Some(ErrorKind::Internal));
        assert!(error_of(to_result("c".into(), None, false)).is_none());
        let leaving = to_result("c".into(), Some(&Error::OwnerLeaving), false);
        assert!(matches!(error_of(leaving), Some(Error::OwnerLeaving)));
    }
}
