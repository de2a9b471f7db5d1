//! A process's stdin, stdout, stderr and further descriptors: one vsock stream
//! each, carried to and from what the client gave (FIFOs of containerd, files,
//! descriptors; sockets for the further ones).
//!
//! ```text
//! client ── FIFO ── pump ── Unix socket ── rust-kata-vmm ══ vsock ══ agent ── pipe ── process
//! ```
//! The agent dials each stream and opens it with the token that the host made
//! up for it; [`Streams`] hands the connection to whoever asked for the token.
//! There is no message per chunk, and back-pressure runs through all of it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protos::agent::WaitProcessResponse;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};

use crate::descriptor::{self, Descriptor, DescriptorPumps};
use crate::error::{Error, Result};
use crate::pump::{InputPump, OutputPump, Progress, Sink, Source};

/// One end that the client gave for a stream.
#[derive(Debug, Default)]
pub enum Endpoint {
    /// Not connected: the process gets `/dev/null`.
    #[default]
    None,
    /// A FIFO, a file or a device, opened here. `file:///path` is a file that
    /// is appended to.
    Path(PathBuf),
    /// An open descriptor.
    Fd(OwnedFd),
}

/// How a process is connected.
#[derive(Debug, Default)]
pub struct ProcessIo {
    /// What the process reads.
    pub stdin: Endpoint,
    /// What it writes.
    pub stdout: Endpoint,
    /// What it complains about. Unused with a terminal.
    pub stderr: Endpoint,
    /// The process gets a pty.
    pub terminal: bool,
    /// What it has open beside these.
    pub descriptors: Vec<Descriptor>,
}

impl Endpoint {
    /// The path, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Endpoint::Path(path) => Some(path),
            _ => None,
        }
    }

    fn is_some(&self) -> bool {
        !matches!(self, Endpoint::None)
    }
}

/// How long the agent has to send the token of a stream that it dialled, and
/// the host to find a stream that the agent says it dialled.
const TOKEN_DEADLINE: Duration = Duration::from_secs(5);

/// Streams that were dialled and have not sent their token yet. The guest may
/// dial as often as it likes; it costs no more than this.
const MAX_UNNAMED: usize = 64;

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<UnixStream>>>>;

/// Takes in the streams that the agent dials.
#[derive(Debug)]
pub struct Streams {
    waiting: Waiting,
    accept: tokio::task::JoinHandle<()>,
}

impl Streams {
    /// Serves the listening socket of the stdio port.
    pub fn serve(listener: UnixListener) -> Self {
        let waiting = Waiting::default();
        let accept = tokio::spawn(accept(listener, waiting.clone()));
        Self { waiting, accept }
    }

    /// A token that the agent cannot have seen, and its stream to come.
    fn expect(&self) -> Result<(u64, oneshot::Receiver<UnixStream>)> {
        let token = random_token()?;
        let (sender, stream) = oneshot::channel();
        lock(&self.waiting).insert(token, sender);
        Ok((token, stream))
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random_token() -> Result<u64> {
    let mut bytes = [0u8; 8];
    loop {
        // SAFETY: the buffer is ours and of the length given.
        let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match u64::from_le_bytes(bytes) {
            token if n == 8 && token != 0 => return Ok(token),
            _ if n < 0 => {
                let error = std::io::Error::last_os_error();
                if error.kind() != std::io::ErrorKind::Interrupted {
                    return Err(Error::Internal(format!("getrandom: {error}")));
                }
            }
            _ => {}
        }
    }
}

async fn accept(listener: UnixListener, waiting: Waiting) {
    let unnamed = Arc::new(Semaphore::new(MAX_UNNAMED));
    while let Ok(permit) = unnamed.clone().acquire_owned().await {
        let mut stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of descriptors, at the worst: the streams that end free some.
                log::warn!("Cannot accept a stdio stream: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let waiting = waiting.clone();
        tokio::spawn(async move {
            let _permit = permit;
            match tokio::time::timeout(TOKEN_DEADLINE, stream.read_u64_le()).await {
                Ok(Ok(token)) => match lock(&waiting).remove(&token) {
                    Some(taker) => drop(taker.send(stream)),
                    None => log::warn!("The guest opened a stdio stream that nobody expects"),
                },
                Ok(Err(e)) => log::warn!("A stdio stream ended before its token: {e}"),
                Err(_) => log::warn!("A stdio stream sent no token"),
            }
        });
    }
}

/// The streams of a process whose creation is under way.
#[derive(Debug)]
pub struct Pending {
    waiting: Waiting,
    tokens: [u64; 3],
    streams: [Option<oneshot::Receiver<UnixStream>>; 3],
    /// Those of the further descriptors, in their order.
    further: Vec<u64>,
    further_streams: Vec<oneshot::Receiver<UnixStream>>,
    io: ProcessIo,
}

impl Streams {
    /// Prepares the streams for `io`. The tokens go to the agent.
    ///
    /// # Errors
    /// [`Error::Internal`] if the system has no random numbers;
    /// [`Error::Invalid`] for descriptors that cannot be.
    pub fn prepare(&self, io: ProcessIo) -> Result<Pending> {
        descriptor::check(io.descriptors.iter().map(|one| one.number))?;
        let mut pending = Pending {
            waiting: self.waiting.clone(),
            tokens: [0; 3],
            streams: [None, None, None],
            further: Vec::new(),
            further_streams: Vec::new(),
            io,
        };
        let wanted = [
            pending.io.stdin.is_some(),
            pending.io.stdout.is_some(),
            pending.io.stderr.is_some() && !pending.io.terminal,
        ];
        for (n, wanted) in wanted.into_iter().enumerate() {
            if wanted {
                let (token, stream) = self.expect()?;
                pending.tokens[n] = token;
                pending.streams[n] = Some(stream);
            }
        }
        for _ in 0..pending.io.descriptors.len() {
            let (token, stream) = self.expect()?;
            pending.further.push(token);
            pending.further_streams.push(stream);
        }
        Ok(pending)
    }
}

impl Pending {
    /// What the agent is told.
    pub fn request(&self) -> protos::agent::Stdio {
        let [stdin, stdout, stderr] = self.tokens;
        let descriptors = self.io.descriptors.iter().zip(&self.further);
        let descriptors = descriptors.map(|(descriptor, token)| descriptor.request(*token));
        protos::agent::Stdio {
            stdin,
            stdout,
            stderr,
            terminal: self.io.terminal,
            descriptors: descriptors.collect(),
            ..Default::default()
        }
    }

    /// Starts the pumps, once the agent says that it has dialled.
    ///
    /// # Errors
    /// [`Error::BadFile`] if the client's end cannot be opened,
    /// [`Error::Internal`] if the agent did not dial after all.
    pub async fn connect(mut self) -> Result<Stdio> {
        let mut io = std::mem::take(&mut self.io);
        let [stdin, stdout, stderr] = std::mem::take(&mut self.streams);
        let mut connected = Stdio {
            stdin: None,
            outputs: [None, None],
            descriptors: Vec::new(),
        };
        let further = std::mem::take(&mut self.further_streams);
        for (descriptor, stream) in io.descriptors.drain(..).zip(further) {
            let pumps = descriptor.connect(dialled(stream).await?)?;
            connected.descriptors.push(pumps);
        }
        if let Some(stream) = stdin {
            let source = Source::open(std::mem::take(&mut io.stdin))?;
            connected.stdin = Some(InputPump::new(source, dialled(stream).await?));
        }
        if let Some(stream) = stdout {
            let sink = Sink::open(std::mem::take(&mut io.stdout))?;
            connected.outputs[0] = Some(OutputPump::start(dialled(stream).await?, sink));
        }
        if let Some(stream) = stderr {
            let sink = Sink::open(std::mem::take(&mut io.stderr))?;
            connected.outputs[1] = Some(OutputPump::start(dialled(stream).await?, sink));
        }
        Ok(connected)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting);
        for token in self.tokens.iter().chain(&self.further) {
            waiting.remove(token);
        }
    }
}

async fn dialled(stream: oneshot::Receiver<UnixStream>) -> Result<UnixStream> {
    match tokio::time::timeout(TOKEN_DEADLINE, stream).await {
        Ok(Ok(stream)) => Ok(stream),
        _ => Err(Error::Internal(
            "The agent did not open a stdio stream that it was asked for".into(),
        )),
    }
}

/// The running streams of a process. Dropped, they end; but what came in on
/// further descriptors is still given to their client.
#[derive(Debug)]
pub struct Stdio {
    stdin: Option<InputPump>,
    outputs: [Option<OutputPump>; 2],
    descriptors: Vec<DescriptorPumps>,
}

impl Stdio {
    /// The process starts: its input is taken from now on.
    pub fn start_input(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            stdin.start();
        }
        self.descriptors
            .iter_mut()
            .for_each(DescriptorPumps::start_input);
    }

    /// Lets stdin end when the client's end does (containerd's `CloseIO`).
    pub fn close_stdin(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            stdin.close();
        }
    }

    /// Stops feeding a process that has ended.
    pub fn stop_input(&mut self) {
        self.stdin = None;
        self.descriptors
            .iter_mut()
            .for_each(DescriptorPumps::stop_input);
    }

    /// The progress of all outputs, to be awaited without holding on to this,
    /// with the bytes that the agent says the process has written to each.
    pub fn written(&self, answer: &WaitProcessResponse) -> Vec<(Progress, u64)> {
        let totals = [answer.stdout_bytes, answer.stderr_bytes];
        let stdio = self.outputs.iter().map(Option::as_ref).zip(totals);
        // A number that is missing is that of an agent that does not know any.
        let totals = answer.descriptor_bytes.iter().copied();
        let descriptors = self.descriptors.iter().map(DescriptorPumps::output);
        let descriptors = descriptors.zip(totals.chain(std::iter::repeat(0)));
        stdio
            .chain(descriptors)
            .filter_map(|(output, total)| Some((output?.progress(), total)))
            .collect()
    }

    /// The progress of stdout and stderr.
    pub fn outputs(&self) -> Vec<Progress> {
        let outputs = self.outputs.iter().flatten();
        outputs.map(OutputPump::progress).collect()
    }
}
