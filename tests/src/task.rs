//! A shim started by hand, and a client for its task API, as in containerd.
//!
//! The bed's containerd only receives the events, so their order can be read from
//! [`crate::events`] here, too.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use containerd_shim_protos::api::{
    CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest,
    StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest,
    WaitRequest, WaitResponse,
};
use nix::sys::stat::Mode;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use serde_json::Value;
pub use ttrpc::Code;
use ttrpc::proto::Request;

use crate::bed::Bed;
use crate::capture::Capture;
use crate::dist;
use crate::run::{Input, Output, run};
use crate::spec::Spec;

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

/// The shim binary of a runtime, by containerd's rule for runtime names.
pub fn binary(runtime: &str) -> PathBuf {
    let mut parts = runtime.rsplit('.');
    let (version, name) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let file = format!("containerd-shim-{name}-{version}");
    let ours = dist::binary(&file);
    if ours.exists() { ours } else { file.into() }
}

/// A bundle folder as containerd lays it out.
pub struct Bundle {
    /// The container's id.
    pub id: String,
    /// Its path.
    pub path: PathBuf,
    /// The log of its shim.
    pub log: Capture,
}

impl Bundle {
    /// Makes a bundle. `config` is the content of its `config.json`, if it has one.
    pub fn new(bed: &Bed, id: &str, config: Option<&str>) -> Self {
        bed.note(id);
        // As with containerd, its folder has the id as its name.
        let path = bed.fresh("bundles").join(id);
        fs::create_dir_all(&path).expect("the bed is ours");
        let log = fifo(&path, "log");
        // The shim waits for a reader of its log.
        let log = Capture::of(
            File::options()
                .read(true)
                .write(true)
                .open(log)
                .expect("our fifo"),
        );
        if let Some(config) = config {
            fs::write(path.join("config.json"), config).expect("the bed is ours");
        }
        Self {
            id: id.to_owned(),
            path,
            log,
        }
    }

    /// A bundle with a spec, in the cgroup that the bed checks.
    pub fn of(bed: &Bed, id: &str, spec: &Spec) -> Self {
        let group = format!("/{}/{id}", bed.namespace());
        let spec = spec
            .clone()
            .set("/linux/cgroupsPath", serde_json::json!(group));
        Self::new(bed, id, Some(&spec.0.to_string()))
    }

    /// The shim's command line for this bundle, without its action.
    pub fn shim(&self, bed: &Bed, runtime: &str) -> Command {
        let mut command = Command::new(binary(runtime));
        command
            .current_dir(&self.path)
            .envs(bed.environment())
            .env("TTRPC_ADDRESS", bed.dir().join("containerd.sock.ttrpc"))
            .args(["-namespace", bed.namespace(), "-address"])
            .arg(bed.socket())
            .args(["-publish-binary", "/usr/bin/containerd", "-id", &self.id]);
        command
    }

    /// `shim … start`.
    #[track_caller]
    pub fn start(&self, bed: &Bed, runtime: &str) -> Output {
        let mut command = self.shim(bed, runtime);
        command.arg("start");
        run(command, Input::Null, dist::patience(20.0))
    }

    /// `shim … delete`.
    #[track_caller]
    pub fn delete(&self, bed: &Bed, runtime: &str) -> Output {
        let mut command = self.shim(bed, runtime);
        command.arg("-bundle").arg(&self.path).arg("delete");
        run(command, Input::Null, dist::patience(20.0))
    }
}

/// Makes a FIFO.
pub fn fifo(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("mkfifo");
    path
}

/// The reading end of a FIFO. The first read opens it, which waits for a writer.
struct Late(PathBuf, Option<File>);

impl Read for Late {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1.is_none() {
            self.1 = Some(File::open(&self.0)?);
        }
        self.1.as_mut().map_or(Ok(0), |file| file.read(buffer))
    }
}

/// The stdio of a process: one FIFO per stream.
pub struct Stdio {
    /// The FIFO of its input.
    pub stdin: PathBuf,
    /// The FIFO of its output.
    pub stdout: PathBuf,
    /// The FIFO of its errors.
    pub stderr: PathBuf,
    /// Its output so far.
    pub out: Capture,
    /// Its errors so far.
    pub err: Capture,
}

impl Stdio {
    /// Makes the FIFOs.
    pub fn new(bed: &Bed) -> Self {
        let folder = bed.fresh("stdio");
        fs::create_dir(&folder).expect("the bed is ours");
        let [stdin, stdout, stderr] = ["in", "out", "err"].map(|name| fifo(&folder, name));
        let out = Capture::of(Late(stdout.clone(), None));
        let err = Capture::of(Late(stderr.clone(), None));
        Self {
            stdin,
            stdout,
            stderr,
            out,
            err,
        }
    }

    /// The writing end of its input. The other end may not be open yet.
    pub fn writer(&self) -> File {
        let options = &mut File::options();
        let file = options.read(true).write(true).open(&self.stdin);
        file.expect("our fifo")
    }
}

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
