//! The streams of a process, from and to one client.
//!
//! The client's first message names the process, and says whether to start it once the streams
//! are connected, so that no output is missed. The server's last message is the exit code,
//! after all output.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as UnixEnd;
use std::sync::Arc;
use std::time::Duration;

use protos::management as api;
use protos::management::{attach_input, attach_output};
use runtime::engine::owner::exec::{self, Connected, Starter};
use runtime::engine::owner::log::Stream;
use runtime::engine::owner::service::{InitAttach, PodService};
use runtime::engine::owner::streams::ProcessStreams;
use runtime::engine::wire;
use runtime::{Error, Result};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

type Sender = OwnedWriteHalf;
type Receiver = OwnedReadHalf;

/// The other ends of a client's descriptors, and a copy of its connection.
type Client = (Vec<UnixEnd>, Option<OwnedFd>);

/// Serves attachments, each in a task of its own; `open` counts them.
pub(super) async fn listen<P: PodService>(
    pod: Arc<P>,
    listener: UnixListener,
    open: Arc<watch::Sender<usize>>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (pod, open) = (pod.clone(), open.clone());
                open.send_modify(|open| *open += 1);
                tokio::spawn(async move {
                    attend(&pod, stream).await;
                    open.send_modify(|open| *open -= 1);
                });
            }
            Err(e) => {
                // Most likely there are no free descriptors: other attachments will free some.
                log::warn!("A client cannot be accepted: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one attachment; errors are reported to the client.
async fn attend<P: PodService>(pod: &Arc<P>, mut stream: UnixStream) {
    let first = first(&mut stream).await;
    let client = stream.as_fd().try_clone_to_owned().ok();
    let (receiver, mut sender) = stream.into_split();
    let served = match first {
        Ok(Some((kind, ends))) => serve(pod, kind, (ends, client), receiver, &mut sender).await,
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

/// Reads the first message and its descriptors.
async fn first(stream: &mut UnixStream) -> Result<Option<(attach_input::Kind, Vec<UnixEnd>)>> {
    match wire::attach::receive_first::<api::AttachInput>(stream).await {
        Ok(Some((input, fds))) => {
            // A client of a later build may start with an unknown message.
            let unknown = || Error::Unsupported("this first message of an attachment".into());
            let kind = input.kind.ok_or_else(unknown)?;
            Ok(Some((kind, fds.into_iter().map(UnixEnd::from).collect())))
        }
        _ => Ok(None),
    }
}

/// A process with an attached client, and the streams of the client.
struct Attachment {
    container: String,
    /// `None` for the container's init.
    exec: Option<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

/// The size of a terminal, if it has one.
fn size(width: u32, height: u32) -> Option<(u32, u32)> {
    (width > 0 && height > 0).then_some((width, height))
}

/// Connects to the process of the first message.
async fn connect<P: PodService>(
    pod: &Arc<P>,
    first: attach_input::Kind,
    (ends, client): Client,
) -> Result<(Attachment, Connected)> {
    let given = |id: String| Some(id).filter(|id| !id.is_empty());
    match first {
        attach_input::Kind::Exec(request) => {
            let starter = Starter {
                stdin: request.stdin,
                ends,
                size: size(request.size.width, request.size.height),
                client,
            };
            let process = request.process.into_option().unwrap_or_default();
            let (container, process) = wire::exec::of_create(process);
            let (exec, connected) = exec::run(pod, &container, process, starter).await?;
            let attachment = Attachment {
                container,
                exec: Some(exec),
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
            };
            Ok((attachment, connected))
        }
        attach_input::Kind::Request(request) => {
            let starter = Starter {
                stdin: request.stdin,
                ends,
                size: size(request.width, request.height),
                client,
            };
            let attachment = Attachment {
                exec: given(request.exec),
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                container: request.container,
            };
            let container = &attachment.container;
            let connected = match (&attachment.exec, request.start) {
                (Some(exec), true) => exec::start(pod, container, exec, starter).await?,
                (Some(exec), false) => {
                    return Err(Error::Unsupported(format!(
                        "attaching to exec {exec}, which runs already"
                    )));
                }
                (None, start) => {
                    let preserve_fds = wire::exec::of_preserved(&request.preserve_fds);
                    let how = InitAttach {
                        start,
                        preserve_fds,
                    };
                    pod.attach(container, how, starter).await?
                }
            };
            Ok((attachment, connected))
        }
        _ => Err(Error::requires(
            "an attachment",
            "a request as its first message",
        )),
    }
}

async fn serve<P: PodService>(
    pod: &Arc<P>,
    first: attach_input::Kind,
    client: Client,
    receiver: Receiver,
    sender: &mut Sender,
) -> Result<()> {
    let (attachment, connected) = connect(pod, first, client).await?;
    let Connected {
        streams,
        mut output,
        exit,
    } = connected;
    let attached = api::Attached {
        exec: attachment.exec.clone().unwrap_or_default(),
        ..Default::default()
    };
    send(sender, attach_output::Kind::Attached(attached)).await?;

    let input = read_input(&**pod, &attachment, &streams, receiver);
    tokio::pin!(input);
    let mut client_reads = true;
    loop {
        tokio::select! {
            piece = output.recv() => match piece {
                None => break,
                Some((Stream::Stdout, data)) if attachment.stdout => {
                    send(sender, attach_output::Kind::Stdout(data.to_vec())).await?;
                }
                Some((Stream::Stderr, data)) if attachment.stderr => {
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

/// Handles the client's input; returns true if the client has gone.
async fn read_input<P: PodService>(
    pod: &P,
    attachment: &Attachment,
    streams: &ProcessStreams,
    mut receiver: Receiver,
) -> bool {
    loop {
        let input = wire::attach::receive::<api::AttachInput>(&mut receiver).await;
        let Ok(Some(input)) = input else {
            return true;
        };
        match input.kind {
            Some(attach_input::Kind::Stdin(data)) if attachment.stdin => streams.write(&data).await,
            Some(attach_input::Kind::StdinEnd(_)) if attachment.stdin => streams.end_input().await,
            Some(attach_input::Kind::Resize(size)) => {
                let resized = resize(pod, attachment, size.width, size.height).await;
                resized.unwrap_or_else(|e| log::debug!("A resize went wrong: {e}"));
            }
            _ => {}
        }
    }
}

async fn resize<P: PodService>(
    pod: &P,
    attachment: &Attachment,
    width: u32,
    height: u32,
) -> Result<()> {
    let vm = pod.vm("resize the terminal of")?;
    let exec = attachment.exec.as_deref();
    vm.resize_pty(&attachment.container, exec, width, height)
        .await
}

async fn send(sender: &mut Sender, kind: attach_output::Kind) -> Result<()> {
    let message = api::AttachOutput {
        kind: Some(kind),
        ..Default::default()
    };
    let gone = |source| Error::System {
        action: "write to the attached client",
        source,
    };
    wire::attach::send(sender, &message).await.map_err(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_without_a_side_has_no_size() {
        let sizes = [(80, 24), (0, 24), (80, 0), (0, 0), (1, 1)].map(|(w, h)| size(w, h));
        assert_eq!(sizes, [Some((80, 24)), None, None, None, Some((1, 1))]);
    }
}
