//! A fake guest: this process plays the VM, its agent, and the far ends of streams.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use hypervisor::{ExitStatus, Extra, Role, Vm, VmExit, VmProcess};
use protos::agent as api;
use protos::agent_ttrpc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use ttrpc::Code;
use ttrpc::r#async::{Server, TtrpcContext};

use super::PATIENCE;
use crate::sync::lock;

/// The answer to a call that is not executed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refusal {
    /// This error.
    Error(Code),
    /// The error for a command that cannot be run, with the shell's exit code for it.
    Command(u8),
    /// No answer.
    Silence,
}

/// The container id and the exec id of a process; a container's init has no exec id.
type ProcessId = (String, String);

pub(crate) struct Guest {
    /// All calls and changes of the VM, in order.
    log: Mutex<Vec<String>>,
    refusals: Mutex<BTreeMap<&'static str, Refusal>>,
    processes: Mutex<BTreeMap<ProcessId, watch::Sender<Option<api::WaitProcessResponse>>>>,
    /// Streams by token, until a process takes them.
    arrived: watch::Sender<BTreeMap<u64, Arc<Mutex<Option<UnixStream>>>>>,
    /// Streams of processes, by `container/exec/stream`.
    streams: Mutex<BTreeMap<String, UnixStream>>,
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<api::Event>>,
    event: mpsc::UnboundedSender<api::Event>,
    /// The plugged memory that the guest reports; `None` is the requested amount.
    pub(crate) plugs: Mutex<Option<u32>>,
    /// The spec of the last container.
    pub(crate) spec: Mutex<Option<oci_spec::runtime::Spec>>,
    gone: watch::Sender<Option<VmExit>>,
    server: OnceLock<tokio::sync::Mutex<Server>>,
}

/// The VM of a fake guest.
pub(crate) struct GuestsVm(Arc<Guest>);

impl Guest {
    /// Starts the guest; returns it with the connection to its agent.
    pub(crate) async fn start(vsock: &Path) -> (Arc<Self>, UnixStream) {
        let (event, events) = mpsc::unbounded_channel();
        let guest = Arc::new(Self {
            log: Mutex::default(),
            refusals: Mutex::default(),
            processes: Mutex::default(),
            arrived: watch::Sender::default(),
            streams: Mutex::default(),
            events: tokio::sync::Mutex::new(events),
            event,
            plugs: Mutex::default(),
            spec: Mutex::default(),
            gone: watch::Sender::new(None),
            server: OnceLock::new(),
        });
        let agent = format!("{}_1024", vsock.display());
        let mut server = Server::new()
            .bind(&format!("unix://{agent}"))
            .unwrap()
            .register_service(agent_ttrpc::create_agent(guest.clone()));
        server.start().await.unwrap();
        assert!(guest.server.set(tokio::sync::Mutex::new(server)).is_ok());
        let listener = UnixListener::bind(vsock).unwrap();
        let streams = guest.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                streams.take_stream(stream).await;
            }
        });
        (guest, UnixStream::connect(agent).await.unwrap())
    }

    pub(crate) fn vm(self: &Arc<Self>) -> GuestsVm {
        GuestsVm(self.clone())
    }

    async fn take_stream(&self, stream: UnixStream) {
        let mut reader = BufReader::new(stream);
        let mut hello = String::new();
        reader.read_line(&mut hello).await.unwrap();
        assert_eq!(hello, "CONNECT 1025\n");
        let token = reader.read_u64_le().await.unwrap();
        let mut stream = reader.into_inner();
        stream.write_all(b"OK 1\n").await.unwrap();
        self.arrived.send_modify(|arrived| {
            arrived.insert(token, Arc::new(Mutex::new(Some(stream))));
        });
    }

    /// Waits for the streams of a process, as the agent does.
    async fn connect(&self, container: &str, exec: &str, stdio: &api::Stdio) {
        for (name, token) in [
            ("stdin", stdio.stdin),
            ("stdout", stdio.stdout),
            ("stderr", stdio.stderr),
        ] {
            if token == 0 {
                continue;
            }
            let mut arrived = self.arrived.subscribe();
            let found = arrived.wait_for(|arrived| arrived.contains_key(&token));
            let stream = found.await.unwrap()[&token].clone();
            let stream = lock(&stream).take().expect("a token is used once");
            let name = format!("{container}/{exec}/{name}");
            lock(&self.streams).insert(name, stream);
        }
    }

    /// Records a call. Returns the refusal, if there is one for the call.
    async fn hear(&self, call: &'static str, about: &str) -> ttrpc::Result<()> {
        self.write_down(format!("{call} {about}"));
        let refusal = lock(&self.refusals).get(call).copied();
        let status = match refusal {
            None => return Ok(()),
            Some(Refusal::Silence) => std::future::pending().await,
            Some(Refusal::Error(code)) => ttrpc::get_status(code, format!("{call} is refused")),
            Some(Refusal::Command(exit_code)) => {
                let mut status = ttrpc::get_status(Code::INVALID_ARGUMENT, "no such command");
                status.details.push(ttrpc::proto::Any {
                    type_url: protos::COMMAND_FAILURE.into(),
                    value: vec![exit_code],
                    ..Default::default()
                });
                status
            }
        };
        Err(ttrpc::Error::RpcStatus(status))
    }

    fn write_down(&self, line: String) {
        lock(&self.log).push(line.trim_end().to_owned());
    }

    fn add(&self, container: &str, exec: &str) {
        let id = (container.to_owned(), exec.to_owned());
        lock(&self.processes).insert(id, watch::Sender::new(None));
    }

    /// The calls since the last request, without those that only wait.
    pub(crate) fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.log))
    }

    /// The same without the SIGKILL that follows the end of a pid proxy: it is sent shortly
    /// before the end of its process is published.
    pub(crate) fn asked(&self) -> Vec<String> {
        let mut heard = self.heard();
        heard.retain(|call| !call.starts_with("signal_process") || !call.ends_with("signal: 9"));
        heard
    }

    /// Waits until a line is recorded.
    pub(crate) async fn has_heard(&self, line: &str) {
        let heard = async {
            while !lock(&self.log).iter().any(|heard| heard == line) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let heard = timeout(PATIENCE, heard).await;
        heard.unwrap_or_else(|_| panic!("{line}: {:?}", self.heard()));
    }

    /// Refuses a call from now on.
    pub(crate) fn refuse(&self, call: &'static str, refusal: Refusal) {
        lock(&self.refusals).insert(call, refusal);
    }

    pub(crate) fn accept(&self, call: &'static str) {
        lock(&self.refusals).remove(call);
    }

    /// Ends a process.
    pub(crate) fn end(&self, container: &str, exec: &str, exit_status: u32) {
        let answer = api::WaitProcessResponse {
            exit_status,
            ..Default::default()
        };
        self.end_with(container, exec, answer);
    }

    pub(crate) fn end_with(&self, container: &str, exec: &str, answer: api::WaitProcessResponse) {
        let processes = lock(&self.processes);
        let Some(process) = processes.get(&(container.to_owned(), exec.to_owned())) else {
            return;
        };
        // Its ends of its streams go with it.
        let own = format!("{container}/{exec}/");
        lock(&self.streams).retain(|name, _| !name.starts_with(&own));
        process.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert(answer);
            first
        });
    }

    /// Takes a stream of a process.
    pub(crate) fn stream(&self, name: &str) -> UnixStream {
        lock(&self.streams).remove(name).expect("it is connected")
    }

    pub(crate) fn has_stream(&self, name: &str) -> bool {
        lock(&self.streams).contains_key(name)
    }

    pub(crate) fn send_event(&self, event: api::Event) {
        self.event.send(event).unwrap();
    }

    /// Ends the VM, as a crash does.
    pub(crate) fn crash(&self, reason: &str) {
        lock(&self.streams).clear();
        self.gone.send_replace(Some(VmExit {
            process: Role::Vmm,
            status: ExitStatus::Code(159),
            reason: reason.into(),
        }));
    }

    /// Closes the agent's connection.
    pub(crate) async fn hang_up(&self) {
        let mut server = self.server.get().unwrap().lock().await;
        server.shutdown().await.unwrap();
    }
}

/// Implements the agent: calls that are only recorded, and calls with their own code.
macro_rules! agent {
    ({ $($call:ident($request:ident) -> $answer:ident;)* } $($own:tt)*) => {
        #[async_trait]
        impl agent_ttrpc::Agent for Guest {
            $(async fn $call(
                &self,
                _: &TtrpcContext,
                request: api::$request,
            ) -> ttrpc::Result<api::$answer> {
                self.hear(stringify!($call), &about(&request)).await?;
                Ok(api::$answer::default())
            })*
            $($own)*
        }
    };
}

/// The fields of a request, as one line of text.
fn about(request: &impl protobuf::MessageFull) -> String {
    protobuf::text_format::print_to_string(request)
}

agent! {
    {
        destroy_pod(Empty) -> Empty;
        start_container(ContainerRequest) -> Empty;
        remove_container(ContainerRequest) -> Empty;
        pause_container(ContainerRequest) -> Empty;
        resume_container(ContainerRequest) -> Empty;
        stats(ContainerRequest) -> StatsResponse;
        remove_process(ProcessRequest) -> Empty;
        resize_pty(ResizePtyRequest) -> Empty;
        online_cpu_mem(OnlineCpuMemRequest) -> Empty;
        detach_device(DeviceRequest) -> Empty;
        forget_files(Empty) -> Empty;
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: api::CreateContainerRequest,
    ) -> ttrpc::Result<api::CreateContainerResponse> {
        let id = &request.container_id;
        self.hear("create_container", id).await?;
        *lock(&self.spec) = Some(serde_json::from_slice(&request.spec).unwrap());
        self.connect(id, "", &request.stdio).await;
        self.add(id, "");
        Ok(api::CreateContainerResponse {
            pid: 42,
            ..Default::default()
        })
    }

    async fn exec_process(
        &self,
        _: &TtrpcContext,
        request: api::ExecProcessRequest,
    ) -> ttrpc::Result<api::Empty> {
        let (id, exec) = (&request.container_id, &request.exec_id);
        let process: oci_spec::runtime::Process = serde_json::from_slice(&request.process).unwrap();
        let size = process.console_size();
        let size = size.map(|size| format!(" {}x{}", size.width(), size.height()));
        let heard = format!("{id}/{exec}{}", size.unwrap_or_default());
        self.hear("exec_process", &heard).await?;
        self.connect(id, exec, &request.stdio).await;
        self.add(id, exec);
        Ok(api::Empty::default())
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: api::SignalProcessRequest,
    ) -> ttrpc::Result<api::Empty> {
        self.hear("signal_process", &about(&request)).await?;
        if request.signal == libc::SIGKILL as u32 {
            self.end(&request.container_id, &request.exec_id, 137);
        }
        Ok(api::Empty::default())
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        request: api::ProcessRequest,
    ) -> ttrpc::Result<api::WaitProcessResponse> {
        let id = (request.container_id, request.exec_id);
        let process = lock(&self.processes)
            .get(&id)
            .map(|process| process.subscribe());
        let Some(mut process) = process else {
            let status = ttrpc::get_status(Code::NOT_FOUND, "no such process");
            return Err(ttrpc::Error::RpcStatus(status));
        };
        let end = process.wait_for(Option::is_some).await.unwrap();
        Ok(end.clone().unwrap())
    }

    async fn update_container(
        &self,
        _: &TtrpcContext,
        request: api::UpdateContainerRequest,
    ) -> ttrpc::Result<api::Empty> {
        let resources = String::from_utf8(request.resources).unwrap();
        self.hear("update_container", &resources).await?;
        Ok(api::Empty::default())
    }

    async fn list_processes(
        &self,
        _: &TtrpcContext,
        request: api::ContainerRequest,
    ) -> ttrpc::Result<api::ListProcessesResponse> {
        self.hear("list_processes", &request.container_id).await?;
        let process = api::Process {
            pid: 7,
            command: "sh\u{1b}[2J\n-c".into(),
            ..Default::default()
        };
        Ok(api::ListProcessesResponse {
            processes: vec![process],
            ..Default::default()
        })
    }

    async fn attach_device(
        &self,
        _: &TtrpcContext,
        request: api::DeviceRequest,
    ) -> ttrpc::Result<api::AttachDeviceResponse> {
        self.hear("attach_device", &about(&request)).await?;
        Ok(api::AttachDeviceResponse {
            name: "vda".into(),
            major: 254,
            minor: 0,
            ..Default::default()
        })
    }

    async fn next_event(&self, _: &TtrpcContext, _: api::Empty) -> ttrpc::Result<api::Event> {
        match self.events.lock().await.recv().await {
            Some(event) => Ok(event),
            None => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Vm for GuestsVm {
    fn processes(&self) -> Vec<VmProcess> {
        Vec::new()
    }

    async fn boot(&self) -> Result<(), hypervisor::Error> {
        Ok(())
    }

    async fn pause(&self) -> Result<(), hypervisor::Error> {
        Ok(())
    }

    async fn resume(&self) -> Result<(), hypervisor::Error> {
        Ok(())
    }

    async fn plug_memory(&self, mib: u32) -> Result<u32, hypervisor::Error> {
        self.0.write_down(format!("plug_memory {mib}"));
        Ok(lock(&self.0.plugs).unwrap_or(mib))
    }

    async fn attach(&self, _: Extra) -> Result<u32, hypervisor::Error> {
        self.0.write_down("attach".into());
        Ok(5)
    }

    async fn detach(&self, slot: u32) -> Result<(), hypervisor::Error> {
        self.0.write_down(format!("detach {slot}"));
        Ok(())
    }

    async fn boot_mark(&self) -> Result<Option<Duration>, hypervisor::Error> {
        Ok(None)
    }

    async fn kill(&self) {
        let guest = &self.0;
        lock(&guest.streams).clear();
        let first = guest.gone.send_if_modified(|gone| {
            let first = gone.is_none();
            gone.get_or_insert(VmExit {
                process: Role::Vmm,
                status: ExitStatus::Signal(libc::SIGKILL),
                reason: String::new(),
            });
            first
        });
        if first {
            guest.write_down("kill the VM".into());
        }
    }

    async fn wait(&self) -> VmExit {
        let mut gone = self.0.gone.subscribe();
        let gone = gone.wait_for(Option::is_some).await.unwrap();
        gone.clone().unwrap()
    }
}
