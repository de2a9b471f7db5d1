//! A client for the agent in the guest: each call has a deadline, and an error in an answer
//! keeps its class. Answers are limited in size (`frames`), and their text is made safe to
//! display here.

mod frames;
#[cfg(test)]
mod tests;

use std::time::Duration;

use hypervisor::text::one_line;
use protos::agent as api;
use protos::agent_ttrpc::AgentClient;
use protos::{COMMAND_NOT_EXECUTABLE, COMMAND_NOT_FOUND, MAX_ERROR};
use tokio::net::UnixStream;
use ttrpc::Code;
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::context::{self, Context};

use crate::config::Timeouts;
use crate::error::{Error, ErrorKind, Result};

pub use protos::agent::{
    CpuStats, IoStats, MemoryStats, PidsStats, StatsResponse, WaitProcessResponse,
};

/// A connected agent. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Agent {
    client: AgentClient,
    timeouts: Timeouts,
}

/// Defines one method per call: name, request, response, deadline.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ident) -> $response:ident within $deadline:ident;)*) => {
        impl Agent {
            $($(#[$doc])*
            pub(crate) async fn $name(&self, request: api::$request) -> Result<api::$response> {
                let (call, deadline) = (stringify!($name), self.timeouts.$deadline);
                // ttrpc's own deadline gives the same error as a lost connection, so the timer
                // here ends first.
                let answer = self.client.$name(within(deadline), &request);
                match tokio::time::timeout(deadline, answer).await {
                    Ok(answer) => answer.map_err(|e| error(call, deadline, e)),
                    Err(_) => Err(Error::AgentTimeout { call, seconds: deadline.as_secs() }),
                }
            })*
        }
    };
}

calls! {
    create_pod(CreatePodRequest) -> CreatePodResponse within create;
    destroy_pod(Empty) -> Empty within call;
    create_container(CreateContainerRequest) -> CreateContainerResponse within create;
    start_container(ContainerRequest) -> Empty within create;
    remove_container(ContainerRequest) -> Empty within call;
    update_container(UpdateContainerRequest) -> Empty within call;
    pause_container(ContainerRequest) -> Empty within call;
    resume_container(ContainerRequest) -> Empty within call;
    stats(ContainerRequest) -> StatsResponse within call;
    list_processes(ContainerRequest) -> ListProcessesResponse within call;
    exec_process(ExecProcessRequest) -> Empty within create;
    remove_process(ProcessRequest) -> Empty within call;
    signal_process(SignalProcessRequest) -> Empty within call;
    resize_pty(ResizePtyRequest) -> Empty within call;
    attach_device(DeviceRequest) -> AttachDeviceResponse within call;
    detach_device(DeviceRequest) -> Empty within call;
    forget_files(Empty) -> Empty within call;
    online_cpu_mem(OnlineCpuMemRequest) -> Empty within call;
}

impl Agent {
    pub(crate) fn new(stream: UnixStream, timeouts: Timeouts) -> Self {
        let checked = Socket::new(frames::Checked::new(stream));
        let client = AgentClient::new(Client::new(checked));
        Self { client, timeouts }
    }

    /// Waits for a process to end, without a deadline.
    pub(crate) async fn wait_process(
        &self,
        request: api::ProcessRequest,
    ) -> Result<WaitProcessResponse> {
        let answer = self
            .client
            .wait_process(context::with_timeout(0), &request)
            .await;
        answer.map_err(|e| error("wait_process", Duration::MAX, e))
    }

    /// Waits for the next event, without a deadline.
    pub(crate) async fn next_event(&self) -> Result<api::Event> {
        let answer = self
            .client
            .next_event(context::with_timeout(0), &api::Empty::new())
            .await;
        answer.map_err(|e| error("next_event", Duration::MAX, e))
    }
}

/// Sends the deadline to the agent, a moment later than the host's own.
fn within(deadline: Duration) -> Context {
    context::with_duration(deadline + Duration::from_secs(1))
}

fn error(call: &'static str, deadline: Duration, e: ttrpc::Error) -> Error {
    let ttrpc::Error::RpcStatus(status) = e else {
        return Error::Agent {
            kind: ErrorKind::Unavailable,
            message: one_line(&format!("agent call {call}: {e}"), MAX_ERROR),
        };
    };
    let message = one_line(&status.message, MAX_ERROR);
    let failure = status
        .details
        .iter()
        .find(|d| d.type_url == protos::COMMAND_FAILURE);
    // Other codes are not accepted from a guest, least of all 0.
    if let Some(&[exit_code @ (COMMAND_NOT_FOUND | COMMAND_NOT_EXECUTABLE)]) =
        failure.map(|d| d.value.as_slice())
    {
        return Error::Command { exit_code, message };
    }
    let kind = match status.code() {
        Code::NOT_FOUND => ErrorKind::NotFound,
        Code::ALREADY_EXISTS => ErrorKind::AlreadyExists,
        Code::FAILED_PRECONDITION => ErrorKind::FailedPrecondition,
        Code::INVALID_ARGUMENT => ErrorKind::InvalidArgument,
        Code::UNIMPLEMENTED => ErrorKind::Unimplemented,
        Code::UNAVAILABLE => ErrorKind::Unavailable,
        Code::DEADLINE_EXCEEDED => {
            return Error::AgentTimeout {
                call,
                seconds: deadline.as_secs(),
            };
        }
        _ => ErrorKind::Internal,
    };
    Error::Agent { kind, message }
}

/// Addresses a process of the guest.
pub(crate) fn process(container: &str, exec: Option<&str>) -> api::ProcessRequest {
    api::ProcessRequest {
        container_id: container.to_owned(),
        exec_id: exec.unwrap_or_default().to_owned(),
        ..Default::default()
    }
}

/// Addresses a container of the guest.
pub(crate) fn container(id: &str) -> api::ContainerRequest {
    api::ContainerRequest {
        container_id: id.to_owned(),
        ..Default::default()
    }
}
