//! A client's attachment to a process in a pod: the process's input, output and end.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as Pair;
use std::path::Path;
use std::sync::Arc;

use protos::management as api;
use protos::management::{attach_input, attach_output};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc};

use super::PodHandle;
use super::access::TRIES;
use super::client::OwnerClient;
use crate::engine::records::exec::{ExecRequest, PreservedFd};
use crate::engine::wire::exec::{to_create, to_preserved};
use crate::engine::wire::{attach, errors};
use crate::error::{Context, DescriptorError, Error, ErrorKind, Result};

/// The most messages of an owner that wait for their reader.
const QUEUE: usize = 4;

/// The answer of builds up to 79015a4 to an unknown first message.
const EARLIER_BUILD: &str = "An attachment begins with its request";

/// The streams that a client has for a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientStreams {
    /// Whether it sends input.
    pub stdin: bool,
    /// Whether it receives the output.
    pub stdout: bool,
    /// Whether it receives the error output.
    pub stderr: bool,
    /// Width and height of its terminal; for a process with a terminal.
    pub size: Option<(u32, u32)>,
}

impl ClientStreams {
    /// All streams, without a terminal.
    pub const ALL: Self = Self {
        stdin: true,
        stdout: true,
        stderr: true,
        size: None,
    };
}

/// A request to attach to the init of a container.
#[derive(Debug, Clone, Default)]
pub struct AttachRequest {
    /// The streams that the client has for it.
    pub streams: ClientStreams,
    /// Whether to start the container once they are connected.
    pub start: bool,
    /// The client's descriptors for the start.
    pub preserve_fds: Vec<PreservedFd>,
}

/// An attachment to a process. On drop, the process continues.
#[derive(Debug)]
pub struct Attached {
    /// Its exec id; `None` for the init of a container.
    pub exec: Option<String>,
    /// The input of the process.
    pub input: AttachedInput,
    /// The output of the process.
    pub output: AttachedOutput,
    /// For each preserved descriptor, in order, the socket that carries its bytes.
    pub descriptors: Vec<Pair>,
}

/// The input of a process.
#[derive(Debug, Clone)]
pub struct AttachedInput(Arc<Mutex<OwnedWriteHalf>>);

/// The output of a process.
#[derive(Debug)]
pub struct AttachedOutput {
    messages: mpsc::Receiver<api::AttachOutput>,
    container: String,
}

/// A message of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessOutput {
    /// A piece of its output.
    Stdout(Vec<u8>),
    /// A piece of its error output.
    Stderr(Vec<u8>),
    /// Its exit code, after all of its output.
    Exited(u32),
}

impl AttachedInput {
    /// Sends input to the process. Waits while the process does not read.
    ///
    /// # Errors
    /// [`Error::Io`] if the owner is gone.
    pub async fn write(&self, data: Vec<u8>) -> Result<()> {
        self.send(attach_input::Kind::Stdin(data)).await
    }

    /// Ends the input of the process.
    ///
    /// # Errors
    /// [`Error::Io`] if the owner is gone.
    pub async fn end(&self) -> Result<()> {
        self.send(attach_input::Kind::StdinEnd(api::Empty::new()))
            .await
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// [`Error::Io`] if the owner is gone.
    pub async fn resize(&self, width: u32, height: u32) -> Result<()> {
        self.send(attach_input::Kind::Resize(to_size((width, height))))
            .await
    }

    async fn send(&self, kind: attach_input::Kind) -> Result<()> {
        let message = input(kind);
        let sent = attach::send(&mut *self.0.lock().await, &message).await;
        sent.on("write to", "an attachment")
    }
}

impl AttachedOutput {
    /// Waits for the next message. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Remote`] if the owner is gone; or the owner's error.
    pub async fn next(&mut self) -> Result<ProcessOutput> {
        let message = self.messages.recv().await;
        match message.and_then(|message| message.kind) {
            Some(attach_output::Kind::Stdout(data)) => Ok(ProcessOutput::Stdout(data)),
            Some(attach_output::Kind::Stderr(data)) => Ok(ProcessOutput::Stderr(data)),
            Some(attach_output::Kind::ExitCode(code)) => Ok(ProcessOutput::Exited(code)),
            Some(attach_output::Kind::Failed(failed)) => {
                Err(errors::error_of(failed).unwrap_or_else(|| gone(&self.container)))
            }
            _ => Err(gone(&self.container)),
        }
    }
}

impl PodHandle {
    /// Attaches to the init of a container.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it does not run and the request does not start it; or the error
    /// of the start.
    pub async fn attach(&self, container: &str, how: &AttachRequest) -> Result<Attached> {
        for _ in 0..TRIES {
            let Some(stream) = self.attachment(how.start).await? else {
                return Err(not_running(container, "attach to"));
            };
            let (width, height) = how.streams.size.unwrap_or_default();
            let request = api::AttachRequest {
                container: container.to_owned(),
                stdin: how.streams.stdin,
                stdout: how.streams.stdout,
                stderr: how.streams.stderr,
                start: how.start,
                width,
                height,
                preserve_fds: to_preserved(&how.preserve_fds),
                ..Default::default()
            };
            let request = attach_input::Kind::Request(request);
            match open(stream, request, how.preserve_fds.len(), container).await {
                Ok(Some(attached)) => return Ok(attached),
                // The owner is about to end, or was killed, and its pod ends with it.
                Ok(None) | Err(Error::OwnerLeaving) => self.owner_ended().await?,
                Err(error) => return Err(error),
            }
        }
        Err(self.owner_keeps_exiting())
    }

    /// Runs a further process in a running container, and attaches to it.
    ///
    /// # Errors
    /// [`Error::WrongState`] unless the container runs; [`Error::Command`] for a command that
    /// cannot be run; [`Error::Remote`] for an unknown user, or if the owner is gone.
    pub async fn exec(
        &self,
        container: &str,
        request: &ExecRequest,
        streams: ClientStreams,
    ) -> Result<Attached> {
        let connect = || async {
            let stream = self.attachment(false).await?;
            stream.ok_or_else(|| not_running(container, "run a process in"))
        };
        let address = self.engine.owner_address(&self.paths);
        exec(connect, &address, container, request, streams).await
    }

    /// Runs a further process in a running container, detached. Returns its id.
    ///
    /// # Errors
    /// As [`PodHandle::exec`].
    pub async fn exec_detached(&self, container: &str, request: &ExecRequest) -> Result<String> {
        check_detached(container, request)?;
        let attached = self.exec(container, request, ClientStreams::default());
        Ok(attached.await?.exec.unwrap_or_default())
    }

    /// Sends a signal to a further process.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] unless it runs.
    pub async fn signal_exec(&self, container: &str, exec: &str, signal: u32) -> Result<()> {
        let missing = || Error::not_found("exec", exec);
        let owner = self.owner().await?.ok_or_else(missing)?;
        let request = signal_request(container, exec, signal);
        owner.signal_exec(request).await.map(drop)
    }

    /// Removes a further process that has ended; with `force` also kills a running one.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the owner's error for a running process.
    pub async fn remove_exec(&self, container: &str, exec: &str, force: bool) -> Result<()> {
        // Only a container in a running VM can have exec sessions.
        let missing = || Error::not_found("exec", exec);
        let owner = self.owner().await?.ok_or_else(missing)?;
        let request = api::RemoveExecRequest {
            container: container.to_owned(),
            exec: exec.to_owned(),
            force,
            ..Default::default()
        };
        owner.remove_exec(request).await.map(drop)
    }
}

/// Runs a process by the owner at `address`; `connect` opens its attachments.
pub(in crate::engine) async fn exec<F: Future<Output = Result<UnixStream>>>(
    connect: impl Fn() -> F,
    address: &Path,
    container: &str,
    request: &ExecRequest,
    streams: ClientStreams,
) -> Result<Attached> {
    let create = to_create(container, request);
    let ends = request.preserve_fds.len();
    let first = api::ExecRequest {
        process: Some(create.clone()).into(),
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        size: streams.size.map(to_size).into(),
        ..Default::default()
    };
    let first = attach_input::Kind::Exec(first);
    let gone = || gone(container);
    match open(connect().await?, first, ends, container).await {
        Err(Error::Remote { message, .. }) if message == EARLIER_BUILD => {}
        other => return other?.ok_or_else(gone),
    }
    let owner = OwnerClient::connect(address).await.ok_or_else(gone)?;
    let created = owner.create_exec(create).await?;
    let (width, height) = streams.size.unwrap_or_default();
    let request = api::AttachRequest {
        container: container.to_owned(),
        exec: created.exec.clone(),
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        start: true,
        width,
        height,
        preserve_fds: to_preserved(&request.preserve_fds),
        ..Default::default()
    };
    let request = attach_input::Kind::Request(request);
    let attached = open(connect().await?, request, ends, container).await?;
    let mut attached = attached.ok_or_else(gone)?;
    attached.exec = Some(created.exec);
    Ok(attached)
}

/// The request for a signal to a further process.
pub(in crate::engine) fn signal_request(
    container: &str,
    exec: &str,
    signal: u32,
) -> api::SignalExecRequest {
    api::SignalExecRequest {
        container: container.to_owned(),
        exec: exec.to_owned(),
        signal,
        ..Default::default()
    }
}

/// Refuses descriptors for a detached process.
///
/// # Errors
/// [`DescriptorError::NotGiven`].
pub(in crate::engine) fn check_detached(container: &str, request: &ExecRequest) -> Result<()> {
    if request.preserve_fds.is_empty() {
        return Ok(());
    }
    let not_given = DescriptorError::NotGiven {
        process: format!("the process in {container}"),
        wanted: request.preserve_fds.iter().map(|fd| fd.number).collect(),
        given: 0,
    };
    Err(not_given.into())
}

/// Sends the first message of an attachment, and waits for its answer; `None` if the owner
/// ends before it has answered.
async fn open(
    mut stream: UnixStream,
    first: attach_input::Kind,
    descriptors: usize,
    container: &str,
) -> Result<Option<Attached>> {
    let pairs = (0..descriptors).map(|_| Pair::pair());
    let pairs: io::Result<Vec<_>> = pairs.collect();
    let (near, far): (Vec<_>, Vec<_>) = pairs.on("make", "a socket")?.into_iter().unzip();
    let fds: Vec<_> = far.iter().map(Pair::as_fd).collect();
    if attach::send_first(&mut stream, &input(first), &fds)
        .await
        .is_err()
    {
        return Ok(None);
    }
    drop(far);
    let (receiver, sender) = stream.into_split();
    let mut messages = receive(receiver);
    let answer = messages.recv().await.and_then(|answer| answer.kind);
    let attached = match answer {
        None => return Ok(None),
        Some(attach_output::Kind::Attached(attached)) => attached,
        Some(attach_output::Kind::Failed(failed)) => {
            return Err(errors::error_of(failed).unwrap_or_else(|| gone(container)));
        }
        Some(_) => return Err(gone(container)),
    };
    Ok(Some(Attached {
        exec: Some(attached.exec).filter(|exec| !exec.is_empty()),
        input: AttachedInput(Arc::new(Mutex::new(sender))),
        output: AttachedOutput {
            messages,
            container: container.to_owned(),
        },
        descriptors: near,
    }))
}

/// The owner's messages, received in a task: receiving one is not cancel-safe.
fn receive(mut receiver: OwnedReadHalf) -> mpsc::Receiver<api::AttachOutput> {
    let (sender, messages) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        while let Ok(Some(message)) = attach::receive(&mut receiver).await {
            if sender.send(message).await.is_err() {
                return;
            }
        }
    });
    messages
}

fn input(kind: attach_input::Kind) -> api::AttachInput {
    api::AttachInput {
        kind: Some(kind),
        ..Default::default()
    }
}

fn to_size((width, height): (u32, u32)) -> api::Size {
    api::Size {
        width,
        height,
        ..Default::default()
    }
}

fn not_running(container: &str, operation: &'static str) -> Error {
    Error::WrongState {
        what: "container",
        id: container.to_owned(),
        operation,
        state: "not running".into(),
    }
}

fn gone(container: &str) -> Error {
    Error::Remote {
        kind: ErrorKind::Unavailable,
        message: format!("the owner of container {container} has gone"),
    }
}
