//! A fake guest: this process plays the VM (`vm`), its agent (`agent`), and the far ends of
//! streams.

mod agent;
mod vm;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use hypervisor::{ExitStatus, Role, VmExit};
use protos::agent as api;
use protos::agent_ttrpc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use ttrpc::Code;
use ttrpc::r#async::Server;

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
