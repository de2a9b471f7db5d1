//! The services of `management.proto`: calls to the owner of a pod.
//!
//! | file | content |
//! |---|---|
//! | `service` | the service `Management`, for the owner of any pod |
//! | `owner` | the service `Engine`, for the owner of a pod of the engine |
//! | `foreign` | the sockets of a pod outside the engine, and the refusal of `Engine` |
//! | `attach` | the streams of a process, for both |
//! | `server` | the sockets |
//! | `own` | `rust-kata own`: the process that owns a pod of the engine |

mod attach;
pub(crate) mod foreign;
#[cfg(feature = "cli")]
pub(crate) mod own;
#[cfg(feature = "cli")]
pub(crate) mod owner;
pub(crate) mod server;
mod service;

use runtime::Error;
use runtime::engine::wire::errors::code_of_error;

pub(crate) use crate::manage::foreign::serve_foreign;

/// Converts an error to a status.
fn status(error: Error) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(rpc_status(&error))
}

fn rpc_status(error: &Error) -> ttrpc::Status {
    let mut status = ttrpc::get_status(code_of_error(error), error);
    if let Error::Command { exit_code, .. } = error {
        let detail = ttrpc::proto::Any {
            type_url: protos::COMMAND_FAILURE.to_owned(),
            value: vec![*exit_code],
            ..Default::default()
        };
        status.details.push(detail);
    }
    status
}

#[cfg(test)]
mod tests;
