//! A shim started by hand, and a client for its task API, as in containerd.
//!
//! The bed's containerd only receives the events, so their order can be read from
//! [`crate::events`] here, too.

mod bundle;
mod stdio;

use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::api::{
    CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest,
    StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest,
    WaitRequest, WaitResponse,
};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use serde_json::Value;
pub use ttrpc::Code;
use ttrpc::proto::Request;

use crate::bed::Bed;
use crate::dist;
pub use bundle::{Bundle, binary};
pub use stdio::{Stdio, fifo};

/// The service of containerd 1.6.
const SERVICE: &str = "containerd.task.v2.Task";

/// Type of an exec's spec (containerd's typeurl registration).
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// Type of an update's resources.
const RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// A call that the shim refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The gRPC code.
    pub code: Code,
    /// The message.
    pub message: String,
}

/// The result of a call.
pub type Answer<T> = Result<T, Refused>;

/// A connection to a shim.
pub struct Shim {
    client: ttrpc::Client,
    /// The address that the shim printed.
    pub address: String,
}

impl Shim {
    /// Connects to a shim by the address that its `start` printed.
    #[track_caller]
    pub fn connect(address: &str) -> Self {
        let client = ttrpc::Client::connect(address)
            .unwrap_or_else(|error| panic!("no connection to the shim at {address:?}: {error}"));
        Self {
            client,
            address: address.to_owned(),
        }
    }

    /// Starts a shim for `bundle` and connects to it.
    #[track_caller]
    pub fn start(bed: &Bed, runtime: &str, bundle: &Bundle) -> Self {
        let output = bundle.start(bed, runtime).ok();
        Self::connect(output.out().trim())
    }

    /// Makes a call by its name, with a deadline of its own.
    pub fn call_within<T: Message>(
        &self,
        method: &str,
        request: &impl Message,
        limit: Duration,
    ) -> Answer<T> {
        let message = Request {
            service: SERVICE.to_owned(),
            method: method.to_owned(),
            timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
            payload: request.write_to_bytes().expect("a message"),
            ..Default::default()
        };
        let response = self.client.request(message).map_err(|error| match error {
            ttrpc::Error::RpcStatus(status) => Refused {
                code: status.code.enum_value_or_default(),
                message: status.message,
            },
            other => Refused {
                code: Code::UNAVAILABLE,
                message: other.to_string(),
            },
        })?;
        Ok(T::parse_from_bytes(&response.payload).expect("the answer's type"))
    }

    /// Makes a call by its name.
    pub fn call<T: Message>(&self, method: &str, request: &impl Message) -> Answer<T> {
        self.call_within(method, request, dist::patience(90.0))
    }

    /// Create. `rootfs` stays empty: the bundle's spec names its root.
    pub fn create(
        &self,
        bundle: &Bundle,
        stdio: Option<&Stdio>,
        terminal: bool,
    ) -> Answer<CreateTaskResponse> {
        let [stdin, stdout, mut stderr] = paths(stdio);
        if terminal {
            stderr.clear();
        }
        self.call(
            "Create",
            &CreateTaskRequest {
                id: bundle.id.clone(),
                bundle: bundle.path.display().to_string(),
                terminal,
                stdin,
                stdout,
                stderr,
                ..Default::default()
            },
        )
    }

    /// Start of a container (`exec` empty) or an exec.
    pub fn start_process(&self, id: &str, exec: &str) -> Answer<StartResponse> {
        self.call(
            "Start",
            &StartRequest {
                id: id.into(),
                exec_id: exec.into(),
                ..Default::default()
            },
        )
    }

    /// State.
    pub fn state(&self, id: &str, exec: &str) -> Answer<StateResponse> {
        self.call(
            "State",
            &StateRequest {
                id: id.into(),
                exec_id: exec.into(),
                ..Default::default()
            },
        )
    }

    /// Delete.
    pub fn delete(&self, id: &str, exec: &str) -> Answer<DeleteResponse> {
        self.call(
            "Delete",
            &DeleteRequest {
                id: id.into(),
                exec_id: exec.into(),
                ..Default::default()
            },
        )
    }

    /// Wait.
    pub fn wait(&self, id: &str, exec: &str) -> Answer<WaitResponse> {
        self.call(
            "Wait",
            &WaitRequest {
                id: id.into(),
                exec_id: exec.into(),
                ..Default::default()
            },
        )
    }

    /// Kill.
    pub fn kill(&self, id: &str, exec: &str, signal: u32, all: bool) -> Answer<Empty> {
        self.call(
            "Kill",
            &KillRequest {
                id: id.into(),
                exec_id: exec.into(),
                signal,
                all,
                ..Default::default()
            },
        )
    }

    /// Exec of a process spec.
    pub fn exec(
        &self,
        id: &str,
        exec: &str,
        process: &Value,
        stdio: Option<&Stdio>,
        terminal: bool,
    ) -> Answer<Empty> {
        self.exec_any(
            id,
            exec,
            Some(any(PROCESS, process.to_string())),
            stdio,
            terminal,
        )
    }

    /// Exec with any spec.
    pub fn exec_any(
        &self,
        id: &str,
        exec: &str,
        spec: Option<Any>,
        stdio: Option<&Stdio>,
        terminal: bool,
    ) -> Answer<Empty> {
        let [stdin, stdout, mut stderr] = paths(stdio);
        if terminal {
            stderr.clear();
        }
        self.call(
            "Exec",
            &ExecProcessRequest {
                id: id.into(),
                exec_id: exec.into(),
                terminal,
                stdin,
                stdout,
                stderr,
                spec: MessageField(spec.map(Box::new)),
                ..Default::default()
            },
        )
    }

    /// ResizePty.
    pub fn resize(&self, id: &str, exec: &str, width: u32, height: u32) -> Answer<Empty> {
        self.call(
            "ResizePty",
            &ResizePtyRequest {
                id: id.into(),
                exec_id: exec.into(),
                width,
                height,
                ..Default::default()
            },
        )
    }

    /// CloseIO of stdin.
    pub fn close_stdin(&self, id: &str, exec: &str) -> Answer<Empty> {
        let request = CloseIORequest {
            id: id.into(),
            exec_id: exec.into(),
            stdin: true,
            ..Default::default()
        };
        self.call("CloseIO", &request)
    }

    /// Pids.
    pub fn pids(&self, id: &str) -> Answer<PidsResponse> {
        self.call(
            "Pids",
            &PidsRequest {
                id: id.into(),
                ..Default::default()
            },
        )
    }

    /// Pause.
    pub fn pause(&self, id: &str) -> Answer<Empty> {
        self.call(
            "Pause",
            &PauseRequest {
                id: id.into(),
                ..Default::default()
            },
        )
    }

    /// Resume.
    pub fn resume(&self, id: &str) -> Answer<Empty> {
        self.call(
            "Resume",
            &ResumeRequest {
                id: id.into(),
                ..Default::default()
            },
        )
    }

    /// Update with JSON resources.
    pub fn update(&self, id: &str, resources: &str) -> Answer<Empty> {
        let resources = MessageField::some(any(RESOURCES, resources.to_owned()));
        self.call(
            "Update",
            &UpdateTaskRequest {
                id: id.into(),
                resources,
                ..Default::default()
            },
        )
    }

    /// Stats.
    pub fn stats(&self, id: &str) -> Answer<StatsResponse> {
        self.call(
            "Stats",
            &StatsRequest {
                id: id.into(),
                ..Default::default()
            },
        )
    }

    /// Connect.
    pub fn connect_task(&self, id: &str) -> Answer<ConnectResponse> {
        self.call(
            "Connect",
            &ConnectRequest {
                id: id.into(),
                ..Default::default()
            },
        )
    }

    /// Shutdown.
    pub fn shutdown(&self, id: &str) -> Answer<Empty> {
        self.call(
            "Shutdown",
            &ShutdownRequest {
                id: id.into(),
                ..Default::default()
            },
        )
    }
}

/// An `Any` of JSON, as with containerd's typeurl.
pub fn any(kind: &str, json: String) -> Any {
    Any {
        type_url: kind.to_owned(),
        value: json.into_bytes(),
        ..Default::default()
    }
}

fn paths(stdio: Option<&Stdio>) -> [String; 3] {
    let name = |path: &Path| path.display().to_string();
    stdio.map_or_else(Default::default, |io| {
        [name(&io.stdin), name(&io.stdout), name(&io.stderr)]
    })
}
