//! The runtime's error classes as gRPC codes.

use runtime::ErrorKind;
use ttrpc::Code;
use ttrpc::error::get_rpc_status;

/// The answer to a call that failed.
pub fn of(error: runtime::Error) -> ttrpc::Error {
    get_rpc_status(code(error.kind()), error)
}

/// The answer to a request that is wrong in itself.
pub fn invalid(problem: impl ToString) -> ttrpc::Error {
    get_rpc_status(Code::INVALID_ARGUMENT, problem)
}

fn code(kind: ErrorKind) -> Code {
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

/// Is this a running server's "there is no such thing"?
pub fn is_not_found(error: &ttrpc::Error) -> bool {
    matches!(error, ttrpc::Error::RpcStatus(status) if status.code() == Code::NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_and_the_text_arrive() {
        let error = of(runtime::Error::NotFound {
            what: "container",
            id: "x".into(),
        });
        assert!(is_not_found(&error));
        let ttrpc::Error::RpcStatus(status) = error else {
            panic!("not a status");
        };
        assert_eq!(status.message(), "container \"x\" not found");
    }
}
