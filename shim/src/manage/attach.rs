//! The streams of a process, from and to one client.
//!
//! The first message of the client says which process, and whether it is to be
//! started once the streams are connected, so that nothing it says is missed.
//! The last one of ours is the exit code, after the last of the output.

use std::future::Future;
use std::os::unix::net::UnixStream as UnixEnd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use protos::management as api;
use protos::management::{attach_input, attach_output};
use runtime::engine::foreign::exec::Execs;
use runtime::engine::owner::log::Stream;
use runtime::engine::owner::streams::{Piece, ProcessStreams};
use runtime::engine::owner::{Owner, Starter};
use runtime::engine::wire;
use runtime::error::DescriptorError;
use runtime::{Error, Exit, Result};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

use super::preserved;

type Sender = OwnedWriteHalf;
type Receiver = OwnedReadHalf;

/// Whose processes clients attach to.
#[async_trait]
pub(super) trait Processes: Send + Sync + 'static {
    /// Connects to a process, which is started if it is to be, with these ends of
    /// its preserved descriptors.
    async fn connect(
        self: Arc<Self>,
        to: &api::AttachRequest,
        ends: Vec<UnixEnd>,
    ) -> Result<Connected>;

    /// Sets the size of a process's pty.
    async fn resize(&self, to: &api::AttachRequest, size: (u32, u32)) -> Result<()>;
}

/// A process that a client is attached to.
pub(super) struct Connected {
    streams: Arc<ProcessStreams>,
    /// From now on, or from the first word.
    output: mpsc::Receiver<Piece>,
    /// How it ends.
    exit: Pin<Box<dyn Future<Output = Result<Exit>> + Send>>,
}

fn exec_of(request: &api::AttachRequest) -> Option<&str> {
    Some(request.exec.as_str()).filter(|exec| !exec.is_empty())
}

/// Of the client's terminal, if it has one.
fn size_of(request: &api::AttachRequest) -> Option<(u32, u32)> {
    Some((request.width, request.height)).filter(|(width, height)| *width > 0 && *height > 0)
}

fn starter(request: &api::AttachRequest, ends: Vec<UnixEnd>) -> Starter {
    Starter {
        stdin: request.stdin,
        ends,
        size: size_of(request),
    }
}

/// Gives a process's terminal the size of the client's.
async fn fit(processes: &impl Processes, to: &api::AttachRequest) {
    if let Some(size) = size_of(to)
        && let Err(e) = processes.resize(to, size).await
    {
        log::debug!("The terminal of {} keeps its size: {e}", to.container);
    }
}

#[async_trait]
impl Processes for Owner {
    async fn connect(
        self: Arc<Self>,
        to: &api::AttachRequest,
        ends: Vec<UnixEnd>,
    ) -> Result<Connected> {
        let name = to.container.clone();
        if to.exec.is_empty() {
            self.attached(&name);
        }
        let (streams, output, exit) = match (exec_of(to), to.start) {
            (Some(exec), true) => {
                let (streams, output) = self.start_exec(&name, exec, starter(to, ends)).await?;
                (streams, output, self.watch_end(&name, Some(exec))?)
            }
            (None, true) => {
                let container = [name.clone()];
                let preserved: Vec<_> = to.preserve_fds.iter().map(preserved).collect();
                if !(preserved.is_empty() && ends.is_empty()) {
                    self.pass_fds(&name, &preserved, ends)?;
                }
                let built = self.init(&container).await.and_then(one);
                if let Err(e) = built {
                    let _ = self.pass_fds(&name, &[], Vec::new());
                    return Err(e);
                }
                // Its terminal is there, and it has not begun.
                fit(&*self, to).await;
                let streams = self.streams(&name, None)?;
                let output = streams.listen();
                // It may have ended and removed itself before all its output is read.
                let exit = self.watch_end(&name, None)?;
                one(self.start(&container, false).await?)?;
                (streams, output, exit)
            }
            (_, false) if !ends.is_empty() => {
                return Err(DescriptorError::Running { process: name }.into());
            }
            (exec, false) => {
                fit(&*self, to).await;
                let streams = self.streams(&name, exec)?;
                let output = streams.listen();
                (streams, output, self.watch_end(&name, exec)?)
            }
        };
        Ok(Connected {
            streams,
            output,
            exit: Box::pin(exit),
        })
    }

    async fn resize(&self, to: &api::AttachRequest, size: (u32, u32)) -> Result<()> {
        Owner::resize(self, &to.container, exec_of(to), size).await
    }
}

#[async_trait]
impl Processes for Execs {
    async fn connect(
        self: Arc<Self>,
        to: &api::AttachRequest,
        ends: Vec<UnixEnd>,
    ) -> Result<Connected> {
        let (Some(exec), true) = (exec_of(to), to.start) else {
            return Err(self.refusal(Some(&to.container)));
        };
        let exit = self.end_of(exec)?;
        let (streams, output) = self.start_exec(exec, starter(to, ends)).await?;
        Ok(Connected {
            streams,
            output,
            exit: Box::pin(async { Ok(exit.await) }),
        })
    }

    async fn resize(&self, to: &api::AttachRequest, (width, height): (u32, u32)) -> Result<()> {
        let (container, exec) = (&to.container, exec_of(to));
        self.pod().resize_pty(container, exec, width, height).await
    }
}

/// Serves attachments, each in a task of its own; `open` tells how many.
pub(super) async fn listen<P: Processes>(
    owner: Arc<P>,
    listener: UnixListener,
    open: Arc<watch::Sender<usize>>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (owner, open) = (owner.clone(), open.clone());
                open.send_modify(|open| *open += 1);
                tokio::spawn(async move {
                    attend(owner, stream).await;
                    open.send_modify(|open| *open -= 1);
                });
            }
            Err(e) => {
                // Out of descriptors, at the worst: those that end free some.
                log::warn!("A client cannot be accepted: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one attachment; what goes wrong is told to the client.
async fn attend<P: Processes>(owner: Arc<P>, mut stream: UnixStream) {
    let first = first(&mut stream).await;
    let (receiver, mut sender) = stream.into_split();
    let served = match first {
        Ok(Some((request, ends))) => serve(&owner, &request, ends, receiver, &mut sender).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        let failed = wire::errors::to_result(String::new(), Some(&error), false);
        if let Err(gone) = send(&mut sender, attach_output::Kind::Failed(failed)).await {
            log::debug!("{error}; {gone}");
        }
    }
}

async fn serve<P: Processes>(
    owner: &Arc<P>,
    request: &api::AttachRequest,
    ends: Vec<UnixEnd>,
    receiver: Receiver,
    sender: &mut Sender,
) -> Result<()> {
    let Connected {
        streams,
        mut output,
        exit,
    } = owner.clone().connect(request, ends).await?;
    send(sender, attach_output::Kind::Attached(api::Empty::new())).await?;

    let input = read_input(owner.as_ref(), request, &streams, receiver);
    tokio::pin!(input);
    let mut client_reads = true;
    loop {
        tokio::select! {
            piece = output.recv() => match piece {
                None => break,
                Some((Stream::Stdout, data)) if request.stdout => {
                    send(sender, attach_output::Kind::Stdout(data.to_vec())).await?;
                }
                Some((Stream::Stderr, data)) if request.stderr => {
                    send(sender, attach_output::Kind::Stderr(data.to_vec())).await?;
                }
                Some(_) => {}
            },
            gone = &mut input, if client_reads => {
                if gone {
                    return Ok(());
                }
                client_reads = false;
            }
        }
    }
    let exit = exit.await?;
    send(sender, attach_output::Kind::ExitCode(exit.status)).await
}

async fn first(stream: &mut UnixStream) -> Result<Option<(api::AttachRequest, Vec<UnixEnd>)>> {
    let first = wire::attach::receive_first::<api::AttachInput>(stream).await;
    match first {
        Ok(Some((input, fds))) => match input.kind {
            Some(attach_input::Kind::Request(request)) => Ok(Some((
                request,
                fds.into_iter().map(UnixEnd::from).collect(),
            ))),
            _ => Err(Error::decode("attachment")(
                "its first message is not a request",
            )),
        },
        _ => Ok(None),
    }
}

/// Takes the client's input; true if the client has gone.
async fn read_input<P: Processes>(
    owner: &P,
    request: &api::AttachRequest,
    streams: &ProcessStreams,
    mut receiver: Receiver,
) -> bool {
    loop {
        let input = wire::attach::receive::<api::AttachInput>(&mut receiver).await;
        let Ok(Some(input)) = input else {
            return true;
        };
        match input.kind {
            Some(attach_input::Kind::Stdin(data)) if request.stdin => streams.write(&data).await,
            Some(attach_input::Kind::StdinEnd(_)) if request.stdin => streams.end_input().await,
            Some(attach_input::Kind::Resize(size)) => {
                let size = (size.width, size.height);
                let resized = owner.resize(request, size).await;
                resized.unwrap_or_else(|e| log::debug!("A resize went wrong: {e}"));
            }
            _ => {}
        }
    }
}

async fn send(sender: &mut Sender, kind: attach_output::Kind) -> Result<()> {
    let message = api::AttachOutput {
        kind: Some(kind),
        ..Default::default()
    };
    let gone = |source: std::io::Error| Error::System {
        action: "send to the attached client",
        source,
    };
    wire::attach::send(sender, &message).await.map_err(gone)
}

/// The error of an operation on one container.
fn one(outcome: runtime::engine::status::Outcome) -> Result<()> {
    outcome.errors.into_values().next().map_or(Ok(()), Err)
}
