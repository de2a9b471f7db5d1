//! The runtime's error classes as gRPC codes.

use runtime::engine::wire::errors::code_of;
use ttrpc::Code;
use ttrpc::error::get_rpc_status;

/// The answer to a call that failed.
pub fn of(error: runtime::Error) -> ttrpc::Error {
    get_rpc_status(code_of(error.kind()), error)
}

/// The answer to a request that is wrong in itself.
pub fn invalid(problem: impl ToString) -> ttrpc::Error {
    get_rpc_status(Code::INVALID_ARGUMENT, problem)
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
