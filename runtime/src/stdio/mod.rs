//! A process's stdin, stdout, stderr and further descriptors: one vsock stream each, connected
//! to the client's endpoints (FIFOs of containerd, files, descriptors; sockets for the further
//! descriptors).
//!
//! ```text
//! client ── FIFO ── pump ── Unix socket ── rust-kata-vmm ══ vsock ══ agent ── pipe ── process
//! ```
//!
//! The host opens each stream with a random token, and passes the tokens to the agent in the
//! call that makes the process. The host does not listen for streams, so only the agent in the
//! guest can take part. There is no message per chunk, and back-pressure works end to end.

pub(crate) mod descriptor;
pub(crate) mod output;
pub(crate) mod pump;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protos::agent::WaitProcessResponse;
use protos::{STDIO_PORT, STREAM_DEADLINE};
use rustix::fs::{FileType, Mode, OFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use crate::error::{Context, Error, GuestError, Result};
use crate::stdio::descriptor::{Descriptor, DescriptorPumps};
use crate::stdio::pump::{InputPump, InputSource, OutputProgress, OutputPump, Sink};

/// The client's end of a stream.
#[derive(Debug, Default)]
pub enum Endpoint {
    /// Not connected: the process gets `/dev/null`.
    #[default]
    None,
    /// A FIFO, a file or a device, opened by the runtime. `file:///path` is a file that is
    /// appended to.
    Path(PathBuf),
    /// An open descriptor.
    Fd(OwnedFd),
    /// A stream within this process.
    Stream(DuplexStream),
}

/// The endpoints of a process.
#[derive(Debug, Default)]
pub struct ProcessIo {
    /// Its stdin.
    pub stdin: Endpoint,
    /// Its stdout.
    pub stdout: Endpoint,
    /// Its stderr. Unused with a terminal.
    pub stderr: Endpoint,
    /// Whether the process gets a pty.
    pub terminal: bool,
    /// Its further descriptors.
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

/// How many streams are opened at a time.
const MAX_OPENING: usize = 64;

/// The longest answer to a `CONNECT`: `OK`, a number and the end of the line.
const MAX_ANSWER: usize = 16;

/// Opens streams to the agent of one VM.
#[derive(Debug, Clone)]
pub struct Streams {
    /// The socket to the guest, by descriptor: a VMM that was taken over could put a link to
    /// another socket in its place.
    vsock: Arc<OwnedFd>,
    opening: Arc<Semaphore>,
}

impl Streams {
    /// Opens the socket to the VM's guest. Must be called before untrusted programs run in the
    /// guest.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::BadFile`] if there is no socket.
    pub fn new(vsock: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::open(vsock, flags, Mode::empty()).on("open", vsock)?;
        let stat = rustix::fs::fstat(&found).on("look at", vsock)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(Error::bad_file(vsock, "not a socket"));
        }
        Ok(Self {
            vsock: Arc::new(found),
            opening: Arc::new(Semaphore::new(MAX_OPENING)),
        })
    }
}

fn random_token() -> Result<u64> {
    let mut bytes = [0u8; 8];
    loop {
        // SAFETY: the buffer is valid for the given length.
        let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match u64::from_le_bytes(bytes) {
            token if n == 8 && token != 0 => return Ok(token),
            _ if n < 0 => {
                let error = std::io::Error::last_os_error();
                if error.kind() != std::io::ErrorKind::Interrupted {
                    return Err(Error::System {
                        action: "get random bytes",
                        source: error,
                    });
                }
            }
            _ => {}
        }
    }
}

impl Streams {
    /// Opens the stream for `token`.
    async fn open(&self, token: u64) -> Result<UnixStream> {
        // This cannot fail: the semaphore is never closed.
        let _permit = self.opening.acquire().await;
        let deadline = Duration::from_secs(STREAM_DEADLINE);
        match tokio::time::timeout(deadline, self.dial(token)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(e)) => Err(GuestError::Stream(e).into()),
            Err(_) => Err(Error::AgentTimeout {
                call: "the opening of a stdio stream",
                seconds: STREAM_DEADLINE,
            }),
        }
    }

    /// The protocol of Firecracker's vsock: `CONNECT <port>`, answered by `OK <number>` once
    /// the guest has accepted. The token follows at once.
    async fn dial(&self, token: u64) -> io::Result<UnixStream> {
        let path = format!("/proc/self/fd/{}", self.vsock.as_raw_fd());
        let mut stream = UnixStream::connect(path).await?;
        let mut hello = format!("CONNECT {STDIO_PORT}\n").into_bytes();
        hello.extend(token.to_le_bytes());
        stream.write_all(&hello).await?;
        let mut answer = Vec::new();
        while answer.last() != Some(&b'\n') {
            if answer.len() == MAX_ANSWER {
                return Err(io::ErrorKind::InvalidData.into());
            }
            // Read byte by byte: the process's output may follow.
            answer.push(stream.read_u8().await?);
        }
        match answer.starts_with(b"OK ") {
            true => Ok(stream),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// The streams of a process that is being created.
#[derive(Debug)]
pub struct Pending {
    door: Streams,
    terminal: bool,
    stdin: Option<(u64, InputSource)>,
    /// Stdout and stderr.
    outputs: [Option<(u64, Sink)>; 2],
    descriptors: Vec<(u64, Descriptor)>,
}

impl Streams {
    /// Opens what the streams lead to, and gives each the token that the agent is told.
    ///
    /// # Errors
    /// [`Error::BadFile`] if the client's end cannot be opened;
    /// [`Error::System`] if the system has no random numbers;
    /// [`Error::Descriptor`] for invalid descriptors.
    pub fn prepare(&self, io: ProcessIo) -> Result<Pending> {
        descriptor::check(io.descriptors.iter().map(|one| one.number))?;
        let sink = |end: Endpoint| -> Result<_> {
            match end.is_some() {
                true => Ok(Some((random_token()?, Sink::open(end)?))),
                false => Ok(None),
            }
        };
        let stdin = match io.stdin.is_some() {
            true => Some((random_token()?, InputSource::open(io.stdin)?)),
            false => None,
        };
        let stderr = if io.terminal {
            Endpoint::None
        } else {
            io.stderr
        };
        let descriptors = io.descriptors.into_iter();
        let descriptors = descriptors.map(|one| Ok((random_token()?, one)));
        Ok(Pending {
            door: self.clone(),
            terminal: io.terminal,
            stdin,
            outputs: [sink(io.stdout)?, sink(stderr)?],
            descriptors: descriptors.collect::<Result<_>>()?,
        })
    }
}

impl Pending {
    /// The streams, as a message for the agent.
    pub fn request(&self) -> protos::agent::Stdio {
        let token = |output: &Option<(u64, Sink)>| output.as_ref().map_or(0, |(token, _)| *token);
        let [stdout, stderr] = &self.outputs;
        let descriptors = self.descriptors.iter();
        let descriptors = descriptors.map(|(token, one)| one.request(*token));
        protos::agent::Stdio {
            stdin: self.stdin.as_ref().map_or(0, |(token, _)| *token),
            stdout: token(stdout),
            stderr: token(stderr),
            terminal: self.terminal,
            descriptors: descriptors.collect(),
            ..Default::default()
        }
    }

    /// Opens the streams and starts the pumps. Runs at the same time as the agent's call, which
    /// returns only when the streams are open.
    ///
    /// # Errors
    /// [`Error::AgentTimeout`] and [`Error::Guest`] if the guest does not accept them.
    pub async fn connect(self) -> Result<Stdio> {
        let door = &self.door;
        let output = async |output: Option<(u64, Sink)>| match output {
            Some((token, sink)) => Ok(Some(OutputPump::start(door.open(token).await?, sink))),
            None => Ok(None),
        };
        let stdin = async {
            match self.stdin {
                Some((token, source)) => Ok(Some(InputPump::new(source, door.open(token).await?))),
                None => Ok(None),
            }
        };
        let descriptors = self.descriptors.into_iter();
        let descriptors =
            descriptors.map(async |(token, one)| one.connect(door.open(token).await?));
        let [stdout, stderr] = self.outputs;
        let (stdin, stdout, stderr, descriptors) = futures::try_join!(
            stdin,
            output(stdout),
            output(stderr),
            futures::future::try_join_all(descriptors),
        )?;
        Ok(Stdio {
            stdin,
            outputs: [stdout, stderr],
            descriptors,
        })
    }
}

/// The running streams of a process. After a drop they end; what has arrived on further
/// descriptors is still delivered to their client.
#[derive(Debug)]
pub struct Stdio {
    stdin: Option<InputPump>,
    outputs: [Option<OutputPump>; 2],
    descriptors: Vec<DescriptorPumps>,
}

impl Stdio {
    /// Accepts input from now on, since the process starts.
    pub fn start_input(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            stdin.start();
        }
        self.descriptors
            .iter_mut()
            .for_each(DescriptorPumps::start_input);
    }

    /// Ends stdin when the client's end does (containerd's `CloseIO`).
    pub fn close_stdin(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            stdin.close();
        }
    }

    /// Stops input for a process that has ended.
    pub fn stop_input(&mut self) {
        self.stdin = None;
        self.descriptors
            .iter_mut()
            .for_each(DescriptorPumps::stop_input);
    }

    /// The progress of all outputs, to be awaited without borrowing this, each with the number
    /// of bytes that the agent says the process has written to it.
    pub fn written(&self, answer: &WaitProcessResponse) -> Vec<(OutputProgress, u64)> {
        let totals = [answer.stdout_bytes, answer.stderr_bytes];
        let stdio = self.outputs.iter().map(Option::as_ref).zip(totals);
        // A missing number comes from an agent that does not send them.
        let totals = answer.descriptor_bytes.iter().copied();
        let descriptors = self.descriptors.iter().map(DescriptorPumps::output);
        let descriptors = descriptors.zip(totals.chain(std::iter::repeat(0)));
        stdio
            .chain(descriptors)
            .filter_map(|(output, total)| Some((output?.progress(), total)))
            .collect()
    }

    /// The progress of stdout and stderr.
    pub fn outputs(&self) -> Vec<OutputProgress> {
        let outputs = self.outputs.iter().flatten();
        outputs.map(OutputPump::progress).collect()
    }
}
