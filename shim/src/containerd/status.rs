//! The runtime's errors as gRPC codes.

use runtime::engine::wire::errors::code_of;
use ttrpc::Code;
use ttrpc::error::get_rpc_status;

/// The answer to a failed call.
pub fn of(error: runtime::Error) -> ttrpc::Error {
    get_rpc_status(code_of(error.kind()), error)
}

/// The answer to an invalid request.
pub fn invalid(problem: impl ToString) -> ttrpc::Error {
    get_rpc_status(Code::INVALID_ARGUMENT, problem)
}

/// Whether a server's error is "not found".
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
