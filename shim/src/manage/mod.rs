//! `management.proto`, served: what the owner of a pod does for others.
//!
//! | file | |
//! |---|---|
//! | `engine` | by the owner of a pod that `rust-kata` made: all of it |
//! | `attach` | the streams of a process, for either |
//! | `own` | `rust-kata own`: the process that owns a pod of the engine |

mod attach;
mod engine;
pub(crate) mod own;

use std::future::Future;

use runtime::engine::client::code_of;
use runtime::{Error, Result};

/// Does what a client asks for, to its end even if the client goes away.
async fn answer<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> ttrpc::Result<T> {
    let done = tokio::spawn(work).await;
    let done = done.unwrap_or_else(|e| Err(Error::Internal(format!("It broke off: {e}"))));
    done.map_err(status)
}

/// An error as it travels.
fn status(error: Error) -> ttrpc::Error {
    let mut status = ttrpc::get_status(code_of(error.kind()), &error);
    if let Error::Command { exit_code, .. } = error {
        let detail = ttrpc::proto::Any {
            type_url: protos::COMMAND_FAILURE.to_owned(),
            value: vec![exit_code],
            ..Default::default()
        };
        status.details.push(detail);
    }
    ttrpc::Error::RpcStatus(status)
}
