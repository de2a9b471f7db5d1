//! Connects our stdin, stdout and stderr to a process in a pod.

mod detach_keys;

use std::io::{self, IsTerminal, Read, Write, stderr, stdin, stdout};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as Pair;
use std::sync::Arc;

use protos::management as api;
use protos::management::{attach_input, attach_output};
use runtime::engine::PodHandle;
use runtime::engine::wire;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc, oneshot};

use self::detach_keys::{Detacher, parse_keys};
use super::arguments::DETACH_KEYS;
use super::error::CliResult;
use super::foreign::ForeignContainer;
use super::preserve::Preserved;
use crate::error::Context as _;
use crate::signals::Signals;
use crate::terminal::{self, Raw};

/// How many owners may end while we connect, before we give up.
const TRIES: usize = 20;

/// What to attach to, and how.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) container: String,
    /// An exec process; empty: the init.
    pub(crate) exec: String,
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
    pub(crate) start: bool,
    pub(crate) detach_keys: String,
    /// Our descriptors to pass to the process.
    pub(crate) preserved: Vec<Preserved>,
}

impl Default for Attachment {
    fn default() -> Self {
        Self {
            container: String::new(),
            exec: String::new(),
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
            start: false,
            detach_keys: DETACH_KEYS.into(),
            preserved: Vec::new(),
        }
    }
}

/// Attaches until the process ends, and returns its exit code, or until the detach keys
/// are pressed, and returns 0.
pub(crate) async fn attach(pod: &PodHandle, mut how: Attachment) -> CliResult<u8> {
    for _ in 0..TRIES {
        let Some(stream) = pod.attachment(how.start).await? else {
            return Err(not_running(&how).into());
        };
        if let Some(code) = relay(stream, Some(pod), &mut how).await? {
            return Ok(code);
        }
        // The owner was about to end, or was killed, and its pod ends with it.
        pod.owner_ended().await?;
    }
    Err(gone(&how).into())
}

/// As [`attach`], for a process in a foreign pod.
pub(crate) async fn attach_foreign(
    container: &ForeignContainer,
    mut how: Attachment,
) -> CliResult<u8> {
    let ended = relay(container.attachment().await?, None, &mut how).await?;
    Ok(ended.ok_or_else(|| gone(&how))?)
}

/// Relays the streams until the process ends; `None` if the owner ends before it has
/// answered.
async fn relay(
    mut stream: UnixStream,
    pod: Option<&PodHandle>,
    how: &mut Attachment,
) -> CliResult<Option<u8>> {
    let keys = parse_keys(&how.detach_keys)?;
    let (width, height) = terminal::size().filter(|_| how.tty).unwrap_or_default();
    let request = api::AttachRequest {
        preserve_fds: how.preserved.iter().map(Preserved::request).collect(),
        container: how.container.clone(),
        exec: how.exec.clone(),
        stdin: how.stdin,
        stdout: how.stdout,
        stderr: how.stderr,
        start: how.start,
        width,
        height,
        ..Default::default()
    };
    let request = input(attach_input::Kind::Request(request));
    let pairs = how.preserved.iter().map(|_| Pair::pair());
    let pairs: io::Result<Vec<_>> = pairs.collect();
    let (near, far): (Vec<_>, Vec<_>) = pairs.doing("make a socket")?.into_iter().unzip();
    let fds: Vec<_> = far.iter().map(Pair::as_fd).collect();
    let sent = wire::attach::send_first(&mut stream, &request, &fds).await;
    if sent.is_err() {
        return Ok(None);
    }
    drop(far);
    let mut near = near.into_iter();
    let mut written = Vec::new();
    let (receiver, sender) = stream.into_split();
    let sender = Arc::new(Mutex::new(sender));
    let mut output = outputs(receiver);
    let (left, mut leaving) = mpsc::channel(1);
    let mut detacher = Some(Detacher::new(if how.tty { keys } else { Vec::new() }));
    let mut signals = Signals::watch()?;
    let mut raw = None;
    let mut attached = false;
    loop {
        tokio::select! {
            answer = output.recv() => match answer.and_then(|answer| answer.kind) {
                None if !attached => return Ok(None),
                Some(attach_output::Kind::Attached(_)) => {
                    attached = true;
                    if how.tty && how.stdin && stdin().is_terminal() {
                        raw = Raw::enter()?;
                    }
                    for (preserved, near) in how.preserved.drain(..).zip(&mut near) {
                        written.push(preserved.serve(near)?);
                    }
                    // In a task of its own: a process that blocks on its output reads no
                    // input.
                    if let Some(detacher) = detacher.take().filter(|_| how.stdin) {
                        tokio::spawn(send_stdin(detacher, sender.clone(), left.clone()));
                    }
                }
                Some(attach_output::Kind::Stdout(data)) => write(stdout(), &data)?,
                Some(attach_output::Kind::Stderr(data)) => write(stderr(), &data)?,
                Some(attach_output::Kind::ExitCode(code)) => {
                    drop(raw);
                    let code = u8::try_from(code).unwrap_or(u8::MAX);
                    let code = drain_preserved(written, &mut signals).await.unwrap_or(code);
                    return Ok(Some(code));
                }
                Some(attach_output::Kind::Failed(failed)) => match wire::errors::error_of(failed) {
                    Some(runtime::Error::OwnerLeaving) if !attached => return Ok(None),
                    error => return Err(error.unwrap_or_else(|| gone(how)).into()),
                },
                _ => return Err(gone(how).into()),
            },
            Some(()) = leaving.recv() => return Ok(Some(0)),
            number = signals.next() => match (number, terminal::size()) {
                (libc::SIGWINCH, Some((width, height))) if how.tty => {
                    let size = api::ResizeRequest { width, height, ..Default::default() };
                    let resize = input(attach_input::Kind::Resize(size));
                    let sender = sender.clone();
                    tokio::spawn(async move { wire::attach::send(&mut *sender.lock().await, &resize).await });
                }
                (libc::SIGWINCH, _) => {}
                // The terminal has gone: the process keeps running.
                (libc::SIGHUP, _) => return Ok(Some(128 + number as u8)),
                _ => if let Some(pod) = pod.filter(|_| how.exec.is_empty()) {
                    let names = [how.container.clone()];
                    let sent = pod.kill(&names, number as u32, false).await;
                    if let Err(error) = sent {
                        log::warn!("Signal {number} was not passed on: {error}");
                    }
                }
            },
        }
    }
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
                return Some(128 + number as u8);
            },
        }
    }
}

fn input(kind: attach_input::Kind) -> api::AttachInput {
    api::AttachInput {
        kind: Some(kind),
        ..Default::default()
    }
}

fn not_running(how: &Attachment) -> runtime::Error {
    runtime::Error::WrongState {
        what: "container",
        id: how.container.clone(),
        operation: "attach to",
        state: "not running".into(),
    }
}

fn gone(how: &Attachment) -> runtime::Error {
    runtime::Error::OwnerGone(format!("container {}", how.container))
}

/// The owner's messages, received in a task: receiving one is not cancel-safe.
fn outputs(mut receiver: OwnedReadHalf) -> mpsc::Receiver<api::AttachOutput> {
    let (sender, messages) = mpsc::channel(4);
    tokio::spawn(async move {
        while let Ok(Some(message)) = wire::attach::receive(&mut receiver).await {
            if sender.send(message).await.is_err() {
                return;
            }
        }
    });
    messages
}

/// Sends our stdin up to its end, or until the detach keys are pressed.
async fn send_stdin(
    mut detacher: Detacher,
    to: Arc<Mutex<OwnedWriteHalf>>,
    left: mpsc::Sender<()>,
) {
    let mut pieces = read_stdin();
    while let Some(piece) = pieces.recv().await {
        let (pass, detached) = detacher.filter(&piece);
        let piece = input(attach_input::Kind::Stdin(pass));
        if wire::attach::send(&mut *to.lock().await, &piece)
            .await
            .is_err()
        {
            return;
        }
        if detached {
            let _ = left.send(()).await;
            return;
        }
    }
    let end = input(attach_input::Kind::StdinEnd(api::Empty::new()));
    let _ = wire::attach::send(&mut *to.lock().await, &end).await;
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
