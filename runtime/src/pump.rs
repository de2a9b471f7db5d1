//! The pumps between a vsock stream and the client's end of it.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};

use crate::error::{Error, Result};
use crate::stdio::Endpoint;

/// What a pump moves at a time, and holds back for a slow client.
const CHUNK: usize = 256 << 10;

/// What is held for a slow client once the process has ended, so that its VM
/// can go: all that can be on the way between its last write and here, with
/// much to spare. A guest that claims to have sent more is not waited for.
const MAX_HELD: usize = 16 << 20;

/// The pipe size asked for; the kernel's limit for unprivileged users.
const PIPE_SIZE: libc::c_int = 1 << 20;

/// Where the output of a process goes.
#[derive(Debug)]
pub(crate) enum Sink {
    /// A FIFO.
    Pipe(pipe::Sender),
    /// Anything that the kernel cannot poll, and the descriptors of others.
    File(tokio::fs::File),
}

impl Sink {
    pub(crate) fn open(end: Endpoint) -> Result<Self> {
        match end {
            Endpoint::None => Self::open_path(Path::new("/dev/null"), false),
            Endpoint::Fd(fd) => Ok(Sink::File(file(fd))),
            Endpoint::Path(path) => match path.to_str() {
                Some(uri) if uri.starts_with("file://") => {
                    Self::open_path(Path::new(&uri["file://".len()..]), true)
                }
                Some(uri) if uri.contains("://") => {
                    Err(Error::Unsupported(format!("The stdio address {uri:?}")))
                }
                _ => Self::open_path(&path, false),
            },
        }
    }

    fn open_path(path: &Path, create: bool) -> Result<Self> {
        if is_fifo(path) {
            // For reading as well: opening then waits for nobody, and a reader
            // that comes back (containerd was restarted) goes on where it was.
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
            Sink::File(f) => Pin::new(f).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Sink::Pipe(p) => Pin::new(p).poll_flush(cx),
            Sink::File(f) => Pin::new(f).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// Where the input of a process comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A FIFO that is opened when the process starts. The client writes, and
    /// comes to its end, as soon as somebody reads; one that does so before it
    /// knows the process (`ctr`) cannot say `CloseIO` any more.
    Fifo(PathBuf),
    /// A FIFO, and our own write end of it: while that is open there is no EOF,
    /// so that a client may come and go until `CloseIO`.
    Pipe(pipe::Receiver, Option<OwnedFd>),
    /// Anything that the kernel cannot poll, and the descriptors of others.
    File(tokio::fs::File),
}

impl Source {
    pub(crate) fn open(end: Endpoint) -> Result<Self> {
        let path = match end {
            Endpoint::Fd(fd) => return Ok(Source::File(file(fd))),
            Endpoint::None => Path::new("/dev/null").to_owned(),
            Endpoint::Path(path) => path,
        };
        if is_fifo(&path) {
            return Ok(Source::Fifo(path));
        }
        let file = std::fs::File::open(&path).map_err(|e| bad_end(&path, e))?;
        Ok(Source::File(async_file(file)))
    }

    fn reach(self) -> io::Result<Self> {
        let Source::Fifo(path) = self else {
            return Ok(self);
        };
        let receiver = pipe::OpenOptions::new().open_receiver(&path)?;
        let writer = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)?;
        enlarge(&receiver);
        Ok(Source::Pipe(receiver, Some(writer.into())))
    }
}

impl AsyncRead for Source {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Source::Fifo(_) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            Source::Pipe(p, _) => Pin::new(p).poll_read(cx, buf),
            Source::File(f) => Pin::new(f).poll_read(cx, buf),
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

/// Best effort: a larger pipe means fewer switches, no more.
fn enlarge(pipe: &impl std::os::fd::AsRawFd) {
    // SAFETY: a plain system call on a descriptor that is open for the call.
    unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_SIZE) };
}

/// From the client to the process.
#[derive(Debug)]
pub(crate) struct StdinPump {
    waiting: Option<(Source, UnixStream, oneshot::Receiver<()>)>,
    task: Option<tokio::task::JoinHandle<()>>,
    close: Option<oneshot::Sender<()>>,
}

impl StdinPump {
    pub(crate) fn new(source: Source, stream: UnixStream) -> Self {
        let (close, closed) = oneshot::channel();
        Self {
            waiting: Some((source, stream, closed)),
            task: None,
            close: Some(close),
        }
    }

    /// The process starts: from now on its input is taken.
    pub(crate) fn start(&mut self) {
        if let Some((source, stream, closed)) = self.waiting.take() {
            self.task = Some(tokio::spawn(async move {
                match source.reach() {
                    Ok(source) => feed(source, stream, closed).await,
                    Err(e) => log::warn!("Cannot open a process's stdin: {e}"),
                }
            }));
        }
    }

    /// The client will send no more than what is in the FIFO.
    pub(crate) fn close(&mut self) {
        if let Some(close) = self.close.take() {
            let _ = close.send(());
        }
    }
}

impl Drop for StdinPump {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn feed(mut source: Source, stream: UnixStream, mut closed: oneshot::Receiver<()>) {
    let (mut hangup, mut stream) = stream.into_split();
    let mut open = true;
    let mut buffer = BytesMut::with_capacity(CHUNK);
    let mut nothing = [0u8; 1];
    loop {
        buffer.clear();
        tokio::select! {
            biased;
            // The agent sends nothing on this stream: what comes is its end.
            _ = hangup.read(&mut nothing) => return,
            _ = &mut closed, if open => {
                open = false;
                if let Source::Pipe(_, writer) = &mut source {
                    *writer = None;
                }
            }
            read = source.read_buf(&mut buffer) => match read {
                Ok(n) if n > 0 => {
                    // Gone while we write: the process wants no more input.
                    if stream.write_all(&buffer).await.is_err() {
                        return;
                    }
                }
                Ok(_) => break,
                Err(e) => {
                    log::warn!("Cannot read a process's stdin: {e}");
                    break;
                }
            }
        }
    }
    let _ = stream.shutdown().await;
    // Hold the stream until the agent has taken what is on the way.
    let _ = hangup.read(&mut nothing).await;
}

/// How far an output has come.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    received: u64,
    written: u64,
    ended: bool,
}

/// From the process to the client.
#[derive(Debug)]
pub(crate) struct OutputPump {
    task: tokio::task::JoinHandle<()>,
    count: watch::Receiver<Count>,
    hold: std::sync::Arc<watch::Sender<bool>>,
}

/// A look at an output, and a word with it.
#[derive(Debug)]
pub struct Progress {
    count: watch::Receiver<Count>,
    hold: std::sync::Arc<watch::Sender<bool>>,
}

impl OutputPump {
    pub(crate) fn start(stream: UnixStream, sink: Sink) -> Self {
        let (counter, count) = watch::channel(Count::default());
        let (hold, held) = watch::channel(false);
        let task = tokio::spawn(async move {
            if let Err(e) = drain(stream, sink, &counter, held).await {
                log::warn!("A process's output is lost: {e}");
            }
            counter.send_modify(|c| c.ended = true);
        });
        Self {
            task,
            count,
            hold: std::sync::Arc::new(hold),
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            count: self.count.clone(),
            hold: self.hold.clone(),
        }
    }
}

impl Drop for OutputPump {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Progress {
    /// Takes in all that the process had written when it ended, `total` bytes,
    /// whether or not the client reads it. `false` if it did not come in time.
    pub async fn received(&mut self, total: u64, deadline: Duration) -> bool {
        self.hold.send_replace(true);
        let done = self.count.wait_for(|c| c.ended || c.received >= total);
        tokio::time::timeout(deadline, done).await.is_ok()
    }

    /// Waits until the client has been given what was taken in. `false` if it
    /// does not read it in time; it may still.
    pub async fn written(&mut self, deadline: Duration) -> bool {
        let done = self.count.wait_for(|c| c.ended || c.written >= c.received);
        tokio::time::timeout(deadline, done).await.is_ok()
    }
}

async fn drain(
    stream: UnixStream,
    mut sink: Sink,
    count: &watch::Sender<Count>,
    mut hold: watch::Receiver<bool>,
) -> io::Result<()> {
    let (mut stream, _write) = stream.into_split();
    let mut incoming = BytesMut::with_capacity(CHUNK);
    let mut outgoing = BytesMut::with_capacity(CHUNK);
    let mut eof = false;
    while !(eof && outgoing.is_empty()) {
        let limit = if *hold.borrow() { MAX_HELD } else { CHUNK };
        let room = outgoing.len() < limit;
        tokio::select! {
            read = stream.read_buf(&mut incoming), if room && !eof => {
                let n = match read {
                    Ok(n) => n,
                    // The VM went: an end like any other.
                    Err(e) if e.kind() == io::ErrorKind::ConnectionReset => 0,
                    Err(e) => return Err(e),
                };
                eof = n == 0;
                if outgoing.is_empty() {
                    std::mem::swap(&mut incoming, &mut outgoing);
                } else {
                    outgoing.extend_from_slice(&incoming);
                }
                incoming.clear();
                incoming.reserve(CHUNK);
                count.send_modify(|c| c.received += n as u64);
            }
            written = sink.write_buf(&mut outgoing), if !outgoing.is_empty() => {
                let n = written?;
                if n == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                if matches!(sink, Sink::File(_)) {
                    sink.flush().await?;
                }
                count.send_modify(|c| c.written += n as u64);
            }
            changed = hold.changed(), if !room => {
                if changed.is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const SOON: Duration = Duration::from_secs(10);

    fn fifo(dir: &Path, name: &str) -> std::path::PathBuf {
        let path = dir.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    }

    #[tokio::test]
    async fn output_is_taken_in_though_nobody_reads_and_handed_over_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path(), "out");
        let (mut guest, host) = UnixStream::pair().unwrap();
        let pump = OutputPump::start(host, Sink::open(Endpoint::Path(path.clone())).unwrap());
        // Kept open, as a reader that does not read.
        let mut reader = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .unwrap();
        let data: Vec<u8> = (0..6 << 20).map(|n: u32| n as u8).collect();
        let total = data.len() as u64;

        let sent = data.clone();
        let writer = tokio::spawn(async move { guest.write_all(&sent).await.map(|()| guest) });
        let mut progress = pump.progress();
        assert!(progress.received(total, SOON).await);
        assert!(!progress.written(Duration::from_millis(20)).await);
        drop(writer.await.unwrap().unwrap());

        let got = tokio::task::spawn_blocking(move || {
            let mut got = Vec::new();
            let mut chunk = vec![0; 1 << 16];
            while got.len() < total as usize {
                match reader.read(&mut chunk) {
                    Ok(n) => got.extend_from_slice(&chunk[..n]),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                    Err(e) => panic!("{e}"),
                }
            }
            got
        });
        assert!(got.await.unwrap() == data);
        assert!(progress.written(SOON).await);
    }

    #[tokio::test]
    async fn a_claim_of_more_than_was_sent_ends_with_the_stream() {
        let (guest, host) = UnixStream::pair().unwrap();
        let pump = OutputPump::start(host, Sink::open(Endpoint::None).unwrap());
        let mut progress = pump.progress();
        assert!(!progress.received(u64::MAX, Duration::from_millis(20)).await);
        drop(guest);
        assert!(progress.received(u64::MAX, SOON).await);
    }

    #[tokio::test]
    async fn stdin_stays_open_for_further_clients_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path(), "in");
        let (mut guest, host) = UnixStream::pair().unwrap();
        let source = Source::open(Endpoint::Path(path.clone())).unwrap();
        let mut pump = StdinPump::new(source, host);
        // Not read yet: a client that comes early waits.
        let early = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path);
        assert_eq!(early.unwrap_err().raw_os_error(), Some(libc::ENXIO));
        pump.start();
        for word in ["one", "two"] {
            tokio::fs::write(&path, word).await.unwrap();
            let mut got = [0; 3];
            guest.read_exact(&mut got).await.unwrap();
            assert_eq!(got, word.as_bytes());
        }
        pump.close();
        let mut rest = Vec::new();
        guest.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    }

    #[test]
    fn an_address_that_is_not_a_file_is_refused_by_name() {
        let end = Endpoint::Path("binary:///bin/logger".into());
        let error = Sink::open(end).unwrap_err().to_string();
        assert!(error.contains("binary:///bin/logger"), "{error}");
    }
}
