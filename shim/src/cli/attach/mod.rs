//! Connects our stdin, stdout and stderr to a process in a pod.

mod detach_keys;
mod forward;

use std::io::{IsTerminal, Read, Write, stderr, stdin, stdout};

use runtime::engine::PodHandle;
use runtime::engine::handle::attach::{
    AttachRequest, Attached, AttachedInput, ClientStreams, ProcessOutput,
};
use runtime::engine::records::exec::ExecRequest;
use tokio::sync::{mpsc, oneshot};

use self::detach_keys::{Detacher, parse_keys};
use self::forward::{Forwarding, Receiver};
use super::arguments::DETACH_KEYS;
use super::error::CliResult;
use super::preserve::Preserved;
use super::select::Container;
use crate::error::Context as _;
use crate::signals::{Signals, code_of_signal};
use crate::terminal::{self, Raw};

/// What of ours the process is connected to.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
    pub(crate) detach_keys: String,
    /// Our descriptors to pass to the process.
    pub(crate) preserved: Vec<Preserved>,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
            detach_keys: DETACH_KEYS.into(),
            preserved: Vec::new(),
        }
    }
}

impl Client {
    fn streams(&self) -> ClientStreams {
        ClientStreams {
            stdin: self.stdin,
            stdout: self.stdout,
            stderr: self.stderr,
            size: terminal::size().filter(|_| self.tty),
        }
    }
}

/// How an attachment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// The process has ended, or a signal ended the client: the exit code.
    Ended(u8),
    /// The detach keys were pressed.
    Detached,
    /// A signal ended the client before the process was started: the exit code.
    NotStarted(u8),
}

impl Left {
    /// The exit code of the client.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Ended(code) | Self::NotStarted(code) => code,
            Self::Detached => 0,
        }
    }
}

/// Attaches to the init of a container, which is started if `start`, until it ends, or until
/// the detach keys are pressed. Signals are passed on to it; one that comes before it runs ends
/// the client, and the container is not started.
pub(crate) async fn attach(
    pod: &PodHandle,
    container: &str,
    start: bool,
    client: Client,
) -> CliResult<Left> {
    let request = AttachRequest {
        streams: client.streams(),
        start,
        preserve_fds: client.preserved.iter().map(Preserved::request).collect(),
    };
    let attaching = pod.attach(container, &request);
    let to = Receiver::Init(pod, container);
    relay(attaching, to, request.streams, client).await
}

/// Runs a process in a container, attached as with [`attach`]. Signals are passed on to it; if
/// it goes on, the second one ends the client.
pub(crate) async fn exec(
    container: &Container,
    request: &ExecRequest,
    client: Client,
) -> CliResult<u8> {
    let streams = client.streams();
    let to = Receiver::Exec(container);
    let left = match container {
        Container::Managed(pod, name) => {
            relay(pod.exec(name, request, streams), to, streams, client).await
        }
        Container::Foreign(foreign) => {
            relay(foreign.exec(request, streams), to, streams, client).await
        }
    };
    left.map(Left::code)
}

/// Relays the streams of a process that is being attached to until it ends.
async fn relay(
    attaching: impl Future<Output = runtime::Result<Attached>>,
    to: Receiver<'_>,
    streams: ClientStreams,
    client: Client,
) -> CliResult<Left> {
    let keys = parse_keys(&client.detach_keys)?;
    let mut signals = Signals::watch()?;
    let mut forwarded = Forwarding::new(to);
    tokio::pin!(attaching);
    let attached = loop {
        tokio::select! {
            attached = &mut attaching => break attached?,
            number = signals.next() => match (number, to) {
                // Its size is compared once we are attached.
                (libc::SIGWINCH, _) => {}
                // There is no process to get it.
                (libc::SIGUSR1 | libc::SIGUSR2, Receiver::Init(..)) => {}
                (_, Receiver::Init(..)) | (libc::SIGHUP, _) => {
                    return Ok(Left::NotStarted(code_of_signal(number)));
                }
                // The process may run already.
                _ => if let Some(code) = forwarded.take(number) {
                    return Ok(Left::Ended(code));
                },
            },
        }
    };
    let Attached {
        exec,
        input,
        mut output,
        descriptors,
    } = attached;
    let exec = exec.unwrap_or_default();
    let mut raw = None;
    if client.tty && client.stdin && stdin().is_terminal() {
        raw = Raw::enter()?;
    }
    let served = client.preserved.into_iter().zip(descriptors);
    let served = served.map(|(preserved, near)| preserved.serve(near));
    let written = served.collect::<CliResult<Vec<_>>>()?;
    let now = terminal::size().filter(|_| client.tty);
    if let Some(size) = now.filter(|now| Some(*now) != streams.size) {
        resize(&input, size);
    }
    let (left, mut leaving) = mpsc::channel(1);
    // In a task of its own: a process that blocks on its output reads no input.
    if client.stdin {
        let detacher = Detacher::new(if client.tty { keys } else { Vec::new() });
        tokio::spawn(send_stdin(detacher, input.clone(), left.clone()));
    }
    loop {
        tokio::select! {
            piece = output.next() => match piece? {
                ProcessOutput::Stdout(data) => write(stdout(), &data)?,
                ProcessOutput::Stderr(data) => write(stderr(), &data)?,
                ProcessOutput::Exited(code) => {
                    drop(raw);
                    let code = u8::try_from(code).unwrap_or(u8::MAX);
                    let drained = drain_preserved(written, &mut signals).await;
                    return Ok(Left::Ended(drained.unwrap_or(code)));
                }
            },
            Some(()) = leaving.recv() => return Ok(Left::Detached),
            Some(code) = forwarded.next(&exec) => return Ok(Left::Ended(code)),
            number = signals.next() => match (number, terminal::size()) {
                (libc::SIGWINCH, Some(size)) if client.tty => resize(&input, size),
                (libc::SIGWINCH, _) => {}
                // The terminal has gone: the process goes on.
                (libc::SIGHUP, _) => return Ok(Left::Ended(code_of_signal(number))),
                _ => if let Some(code) = forwarded.take(number) {
                    return Ok(Left::Ended(code));
                },
            },
        }
    }
}

/// In a task: input that the process does not read may be on its way.
fn resize(input: &AttachedInput, (width, height): (u32, u32)) {
    let input = input.clone();
    tokio::spawn(async move { input.resize(width, height).await });
}

/// Waits until all output of the process to preserved descriptors is written, or
/// for a signal, and then returns the exit code of the signal.
async fn drain_preserved(written: Vec<oneshot::Receiver<()>>, signals: &mut Signals) -> Option<u8> {
    let all = async {
        for one in written {
            let _ = one.await;
        }
    };
    tokio::pin!(all);
    loop {
        tokio::select! {
            _ = &mut all => return None,
            number = signals.next() => if number != libc::SIGWINCH {
                return Some(code_of_signal(number));
            },
        }
    }
}

/// Sends our stdin up to its end, or until the detach keys are pressed.
async fn send_stdin(mut detacher: Detacher, to: AttachedInput, left: mpsc::Sender<()>) {
    let mut pieces = read_stdin();
    while let Some(piece) = pieces.recv().await {
        let (pass, detached) = detacher.filter(&piece);
        if to.write(pass).await.is_err() {
            return;
        }
        if detached {
            let _ = left.send(()).await;
            return;
        }
    }
    let _ = to.end().await;
}

/// Our stdin, piece by piece, read in a thread: a read of a terminal cannot be
/// cancelled.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 32 << 10];
        loop {
            match stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(n) if sender.blocking_send(buffer[..n].to_vec()).is_err() => return,
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

fn write(mut to: impl Write, data: &[u8]) -> CliResult<()> {
    match to.write_all(data).and_then(|()| to.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.doing("write the container's output"),
    }
}
