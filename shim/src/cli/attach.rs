//! A process's streams on ours.

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

use super::error::CliResult;
use super::foreign::Theirs;
use super::preserve::Preserved;
use crate::error::Context as _;
use crate::signals::Signals;
use crate::terminal::{self, Raw};

/// The keys that leave the process alone: Ctrl-P, Ctrl-Q.
pub(super) const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// So many owners may go just when we come.
const TRIES: usize = 20;

/// What to attach to, and how.
#[derive(Debug)]
pub(super) struct Attach {
    pub(super) container: String,
    /// A further process; empty: the init.
    pub(super) exec: String,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
    pub(super) start: bool,
    pub(super) detach_keys: String,
    /// Descriptors of ours that it is to have.
    pub(super) preserved: Vec<Preserved>,
}

impl Default for Attach {
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

/// Attaches until the process ends, whose code is answered, or the detach keys
/// are pressed (0).
pub(super) async fn attach(pod: &PodHandle, mut how: Attach) -> CliResult<u8> {
    for _ in 0..TRIES {
        let Some(stream) = pod.attachment(how.start).await? else {
            return Err(not_running(&how).into());
        };
        if let Some(code) = talk(stream, Some(pod), &mut how).await? {
            return Ok(code);
        }
        // An owner was about to go when we came, or was killed: what it has
        // begun ends with it.
        pod.owner_ended().await?;
    }
    Err(gone(&how).into())
}

/// As [`attach`], to a process in a pod of another front door.
pub(super) async fn visit(theirs: &Theirs, mut how: Attach) -> CliResult<u8> {
    let ended = talk(theirs.attachment().await?, None, &mut how).await?;
    Ok(ended.ok_or_else(|| gone(&how))?)
}

/// Passes streams on until the process ends; none if who serves it goes before
/// it has said anything.
async fn talk(
    mut stream: UnixStream,
    pod: Option<&PodHandle>,
    how: &mut Attach,
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
    let (ours, theirs): (Vec<_>, Vec<_>) = pairs.doing("make a socket")?.into_iter().unzip();
    let fds: Vec<_> = theirs.iter().map(Pair::as_fd).collect();
    let sent = wire::attach::send_first(&mut stream, &request, &fds).await;
    if sent.is_err() {
        return Ok(None);
    }
    drop(theirs);
    let mut ours = ours.into_iter();
    let mut written = Vec::new();
    let (receiver, sender) = stream.into_split();
    let sender = Arc::new(Mutex::new(sender));
    let mut output = outputs(receiver);
    let (left, mut leaving) = mpsc::channel(1);
    let mut detacher = Some(Detacher::new(if how.tty { keys } else { Vec::new() }));
    let mut signals = Signals::watch()?;
    let mut raw = None;
    let mut heard = false;
    loop {
        tokio::select! {
            answer = output.recv() => match answer.and_then(|answer| answer.kind) {
                None if !heard => return Ok(None),
                Some(attach_output::Kind::Attached(_)) => {
                    heard = true;
                    if how.tty && how.stdin && stdin().is_terminal() {
                        raw = Raw::enter()?;
                    }
                    for (preserved, ours) in how.preserved.drain(..).zip(&mut ours) {
                        written.push(preserved.serve(ours)?);
                    }
                    // Apart from what is read: a process that waits for its
                    // output to be read takes no input.
                    if let Some(detacher) = detacher.take().filter(|_| how.stdin) {
                        tokio::spawn(pass_on(detacher, sender.clone(), left.clone()));
                    }
                }
                Some(attach_output::Kind::Stdout(data)) => write(stdout(), &data)?,
                Some(attach_output::Kind::Stderr(data)) => write(stderr(), &data)?,
                Some(attach_output::Kind::ExitCode(code)) => {
                    drop(raw);
                    let code = u8::try_from(code).unwrap_or(u8::MAX);
                    let code = last_words(written, &mut signals).await.unwrap_or(code);
                    return Ok(Some(code));
                }
                Some(attach_output::Kind::Failed(failed)) => match wire::errors::error_of(failed) {
                    Some(runtime::Error::OwnerLeaving) if !heard => return Ok(None),
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
                // The terminal is gone: the process stays.
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

/// Waits until all that the process has written to preserved descriptors is
/// where it belongs, or for a signal, whose code is answered.
async fn last_words(written: Vec<oneshot::Receiver<()>>, signals: &mut Signals) -> Option<u8> {
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

fn not_running(how: &Attach) -> runtime::Error {
    runtime::Error::WrongState {
        what: "container",
        id: how.container.clone(),
        operation: "attach to",
        state: "not running".into(),
    }
}

fn gone(how: &Attach) -> runtime::Error {
    runtime::Error::Remote {
        kind: runtime::ErrorKind::Unavailable,
        message: format!("The owner of container {} has gone", how.container),
    }
}

/// The owner's messages, from a task: to receive one must not be broken off.
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

/// Passes our stdin on to its end, or until the detach keys are pressed.
async fn pass_on(mut detacher: Detacher, to: Arc<Mutex<OwnedWriteHalf>>, left: mpsc::Sender<()>) {
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

/// Our stdin, piece by piece, from a thread: a read of a terminal cannot be
/// called back.
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

/// Keys as podman names them: `ctrl-X` and plain characters, joined by commas.
pub(super) fn parse_keys(text: &str) -> CliResult<Vec<u8>> {
    let key = |word: &str| {
        let bytes = word.as_bytes();
        match word.strip_prefix("ctrl-").map(str::as_bytes) {
            // ASCII: Ctrl takes the upper three bits of a letter away.
            Some([c @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]) => Ok(c & 0x1f),
            None if bytes.len() == 1 => Ok(bytes[0]),
            _ => Err(runtime::Error::Invalid(format!(
                "Detach key {word:?}: a character, or ctrl- and one of a-z @ [ \\ ] ^ _"
            ))),
        }
    };
    let words = text.split(',').filter(|word| !word.is_empty());
    Ok(words.map(key).collect::<Result<_, _>>()?)
}

/// Looks for the detach keys in what is typed.
struct Detacher {
    keys: Vec<u8>,
    matched: usize,
}

impl Detacher {
    fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// What to pass on of this, and whether the keys were pressed. The first
    /// keys of the sequence are held back until it is clear what they are.
    fn filter(&mut self, data: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (data.to_vec(), false);
        }
        let mut pass = Vec::with_capacity(data.len());
        for byte in data {
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (pass, true);
                }
                continue;
            }
            pass.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(*byte == self.keys[0]);
            if self.matched == 0 {
                pass.push(*byte);
            } else if self.keys.len() == 1 {
                return (pass, true);
            }
        }
        (pass, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_podman_has_them() {
        assert_eq!(parse_keys("ctrl-p,ctrl-q").unwrap(), [16, 17]);
        assert_eq!(parse_keys("a,b").unwrap(), *b"ab");
        assert!(parse_keys("").unwrap().is_empty());
        assert!(parse_keys("ctrl-").is_err() && parse_keys("alt-x").is_err());
    }

    #[test]
    fn the_sequence_is_found_across_pieces_and_nothing_else_is_lost() {
        let mut detacher = Detacher::new(vec![16, 17]);
        assert_eq!(detacher.filter(b"ls\x10"), (b"ls".to_vec(), false));
        assert_eq!(detacher.filter(b"x"), (b"\x10x".to_vec(), false));
        assert_eq!(detacher.filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(detacher.filter(b"\x11y"), (Vec::new(), true));
    }
}
