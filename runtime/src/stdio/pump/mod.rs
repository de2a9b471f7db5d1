//! The pumps between a vsock stream and the client's end of it.

#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{self, Poll};

use bytes::BytesMut;
use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, pipe};
use tokio::sync::oneshot;

pub(crate) use super::output::{OutputProgress, OutputPump};
use crate::error::{Error, Result};
use crate::stdio::Endpoint;

/// The size of a chunk, and of what is held back for a slow client.
pub(super) const CHUNK: usize = 256 << 10;

/// The pipe size asked for; the kernel's limit for unprivileged users.
const PIPE_SIZE: libc::c_int = 1 << 20;

/// The destination of a process's output.
#[derive(Debug)]
pub(crate) enum Sink {
    /// A FIFO.
    Pipe(pipe::Sender),
    /// One direction of a socket, which is shut down on drop.
    Socket(OwnedWriteHalf),
    /// A stream within this process.
    Stream(DuplexStream),
    /// A file that the kernel cannot poll, or a descriptor that is shared with other programs.
    File(tokio::fs::File),
}

impl Sink {
    pub(crate) fn open(end: Endpoint) -> Result<Self> {
        match end {
            Endpoint::None => Self::open_path(Path::new("/dev/null"), false),
            Endpoint::Fd(fd) => Ok(Sink::File(file(fd))),
            Endpoint::Stream(stream) => Ok(Sink::Stream(stream)),
            Endpoint::Path(path) => match path.to_str() {
                Some(uri) if uri.starts_with("file://") => {
                    Self::open_path(Path::new(&uri["file://".len()..]), true)
                }
                Some(uri) if uri.contains("://") => {
                    Err(Error::Unsupported(format!("stdio address {uri:?}")))
                }
                _ => Self::open_path(&path, false),
            },
        }
    }

    fn open_path(path: &Path, create: bool) -> Result<Self> {
        if is_fifo(path) {
            // Opened for reading as well: opening then does not wait for a reader, and a reader
            // that comes back (containerd was restarted) continues where it was.
            let sender = pipe::OpenOptions::new()
                .read_write(true)
                .open_sender(path)
                .map_err(|e| bad_end(path, e))?;
            enlarge(&sender);
            return Ok(Sink::Pipe(sender));
        }
        let file = OpenOptions::new()
            .append(true)
            .create(create)
            .mode(0o600)
            .open(path)
            .map_err(|e| bad_end(path, e))?;
        Ok(Sink::File(async_file(file)))
    }
}

impl AsyncWrite for Sink {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Sink::Pipe(p) => Pin::new(p).poll_write(cx, data),
            Sink::Socket(s) => Pin::new(s).poll_write(cx, data),
            Sink::Stream(s) => Pin::new(s).poll_write(cx, data),
            Sink::File(f) => Pin::new(f).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Sink::Pipe(p) => Pin::new(p).poll_flush(cx),
            Sink::Socket(s) => Pin::new(s).poll_flush(cx),
            Sink::Stream(s) => Pin::new(s).poll_flush(cx),
            Sink::File(f) => Pin::new(f).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// The source of a process's input.
#[derive(Debug)]
pub(crate) enum InputSource {
    /// A FIFO that is opened when the process starts. A client may write and finish as soon as
    /// the FIFO has a reader; if that is before it knows of the process (`ctr`), it cannot call
    /// `CloseIO` any more.
    Fifo(PathBuf),
    /// A FIFO, and this process's write end of it: while that is open there is no EOF, so that
    /// clients may come and go until `CloseIO`.
    Pipe(pipe::Receiver, Option<OwnedFd>),
    /// One direction of a socket.
    Socket(OwnedReadHalf),
    /// A stream within this process.
    Stream(DuplexStream),
    /// A file that the kernel cannot poll, or a descriptor that is shared with other programs.
    File(tokio::fs::File),
}

impl InputSource {
    pub(crate) fn open(end: Endpoint) -> Result<Self> {
        let path = match end {
            Endpoint::Fd(fd) => return Ok(InputSource::File(file(fd))),
            Endpoint::Stream(stream) => return Ok(InputSource::Stream(stream)),
            Endpoint::None => Path::new("/dev/null").to_owned(),
            Endpoint::Path(path) => path,
        };
        if is_fifo(&path) {
            return Ok(InputSource::Fifo(path));
        }
        let file = std::fs::File::open(&path).map_err(|e| bad_end(&path, e))?;
        Ok(InputSource::File(async_file(file)))
    }

    fn reach(self) -> io::Result<Self> {
        let InputSource::Fifo(path) = self else {
            return Ok(self);
        };
        let receiver = pipe::OpenOptions::new().open_receiver(&path)?;
        let writer = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)?;
        enlarge(&receiver);
        Ok(InputSource::Pipe(receiver, Some(writer.into())))
    }
}

impl AsyncRead for InputSource {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            InputSource::Fifo(_) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            InputSource::Pipe(p, _) => Pin::new(p).poll_read(cx, buf),
            InputSource::Socket(s) => Pin::new(s).poll_read(cx, buf),
            InputSource::Stream(s) => Pin::new(s).poll_read(cx, buf),
            InputSource::File(f) => Pin::new(f).poll_read(cx, buf),
        }
    }
}

fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.file_type().is_fifo())
}

fn bad_end(path: &Path, e: io::Error) -> Error {
    Error::bad_file(path, format!("cannot open it for a process's stdio: {e}"))
}

fn file(fd: OwnedFd) -> tokio::fs::File {
    async_file(std::fs::File::from(fd))
}

fn async_file(file: std::fs::File) -> tokio::fs::File {
    let mut file = tokio::fs::File::from_std(file);
    file.set_max_buf_size(CHUNK);
    file
}

/// Enlarges a pipe, if possible, to save context switches.
fn enlarge(pipe: &impl std::os::fd::AsRawFd) {
    // SAFETY: a plain system call on a descriptor that is open during the call.
    unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_SIZE) };
}

/// The process's side of an input.
#[derive(Debug)]
struct Wire {
    to: OwnedWriteHalf,
    /// The other direction, in which the agent sends no data: a read returns at the end of the
    /// stream. `None` if the other direction is an output.
    hangup: Option<OwnedReadHalf>,
}

impl Wire {
    async fn hung_up(&mut self) {
        match &mut self.hangup {
            Some(hangup) => drop(hangup.read(&mut [0; 1]).await),
            None => std::future::pending().await,
        }
    }
}

/// A pump from the client to the process.
#[derive(Debug)]
pub(crate) struct InputPump {
    waiting: Option<(InputSource, Wire, oneshot::Receiver<()>)>,
    task: Option<tokio::task::JoinHandle<()>>,
    close: Option<oneshot::Sender<()>>,
}

impl InputPump {
    pub(crate) fn new(source: InputSource, stream: UnixStream) -> Self {
        let (hangup, to) = stream.into_split();
        let hangup = Some(hangup);
        Self::on(source, Wire { to, hangup })
    }

    /// Pumps the input direction of a stream that also has an output.
    pub(crate) fn of_socket(client: OwnedReadHalf, to: OwnedWriteHalf) -> Self {
        Self::on(InputSource::Socket(client), Wire { to, hangup: None })
    }

    fn on(source: InputSource, wire: Wire) -> Self {
        let (close, closed) = oneshot::channel();
        Self {
            waiting: Some((source, wire, closed)),
            task: None,
            close: Some(close),
        }
    }

    /// Accepts input from now on, since the process starts.
    pub(crate) fn start(&mut self) {
        if let Some((source, wire, closed)) = self.waiting.take() {
            self.task = Some(tokio::spawn(async move {
                match source.reach() {
                    Ok(source) => feed(source, wire, closed).await,
                    Err(e) => log::warn!("Cannot open a process's stdin: {e}"),
                }
            }));
        }
    }

    /// Ends the input after the data in the FIFO.
    pub(crate) fn close(&mut self) {
        if let Some(close) = self.close.take() {
            let _ = close.send(());
        }
    }
}

impl Drop for InputPump {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn feed(mut source: InputSource, mut wire: Wire, mut closed: oneshot::Receiver<()>) {
    let mut open = true;
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        buffer.clear();
        tokio::select! {
            biased;
            _ = wire.hung_up() => return,
            _ = &mut closed, if open => {
                open = false;
                if let InputSource::Pipe(_, writer) = &mut source {
                    *writer = None;
                }
            }
            read = source.read_buf(&mut buffer) => match read {
                Ok(n) if n > 0 => {
                    // The stream closed during a write: the process accepts no more input.
                    if wire.to.write_all(&buffer).await.is_err() {
                        if let InputSource::Socket(client) = &source {
                            let _ = rustix::net::shutdown(client.as_ref(), Shutdown::Read);
                        }
                        return;
                    }
                }
                Ok(_) => break,
                Err(e) => {
                    log::warn!("Cannot read a process's input: {e}");
                    break;
                }
            }
        }
    }
    let _ = wire.to.shutdown().await;
    // Keep the stream open until the agent has received everything.
    wire.hung_up().await;
}
