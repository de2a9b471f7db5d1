//! `management.proto`, served: what the owner of a pod does for others.
//!
//! | file | |
//! |---|---|
//! | `owner` | by the owner of a pod of the engine: all calls |
//! | `attach` | the streams of a process, for either |
//! | `foreign` | by the shim for a pod of containerd: reading and exec, but no changes |
//! | `server` | the sockets |
//! | `own` | `rust-kata own`: the process that owns a pod of the engine |

mod attach;
pub(crate) mod foreign;
#[cfg(feature = "cli")]
pub(crate) mod own;
#[cfg(feature = "cli")]
pub(crate) mod owner;
mod server;

use std::future::Future;

use runtime::engine::owner::ExecRequest;
use runtime::engine::records::record::PreservedFd;
use runtime::engine::wire::errors::code_of_error;
use runtime::{Error, Result};

pub(crate) use crate::manage::foreign::serve_foreign;

/// Does what a client asks for, to its end even if the client goes away.
async fn answer<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> ttrpc::Result<T> {
    let done = tokio::spawn(work).await;
    let done = done.unwrap_or_else(|e| Err(Error::task("an operation on a pod")(e)));
    done.map_err(status)
}

/// An error as it travels.
fn status(error: Error) -> ttrpc::Error {
    let mut status = ttrpc::get_status(code_of_error(&error), &error);
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

fn preserved(fd: &protos::management::PreservedFd) -> PreservedFd {
    PreservedFd {
        number: fd.number,
        direction: fd.direction.enum_value_or_default().into(),
    }
}

/// A further process, as it is asked for.
fn exec_request(req: protos::management::CreateExecRequest) -> ExecRequest {
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    ExecRequest {
        id: req.exec,
        command: req.command,
        env: req.env,
        cwd: given(req.cwd),
        user: given(req.user),
        terminal: req.terminal,
        privileged: req.privileged,
        preserve_fds: req.preserve_fds.iter().map(preserved).collect(),
    }
}
