//! The pumps between a process's end of a stream and the host's stream.
//!
//! A pump reads no more data than the other side accepts, so a slow reader slows the writer
//! down.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use nix::sys::socket::Shutdown;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::stdio::stream::Stream;
use crate::sync::lock;

const BUFFER: usize = 128 << 10;

/// More than a pty can hold (its flip buffers are limited to 64 KiB).
const PTY_HOLDS: usize = 128 << 10;

/// The process's end of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Pipe,
    Pty,
    /// A socket of a pair; each direction ends separately.
    Socket,
}

/// The pump of a process's input; closes both of its ends when it ends or is dropped.
pub struct Input(JoinHandle<()>);

impl Input {
    pub fn start(from: Arc<Stream>, to: Arc<Stream>, end: End) -> Input {
        Input(tokio::spawn(async move {
            let copied = tokio::select! {
                copied = copy_input(&from, &to) => copied,
                gone = to.peer_closed() => gone.and(Err(io::ErrorKind::BrokenPipe.into())),
            };
            if let Err(e) = &copied {
                log::debug!("input of a process: {e}");
            }
            match end {
                End::Pipe => {}
                // The end of a terminal's input does not end the terminal: wait for the end of
                // the process.
                End::Pty => {
                    drop(from);
                    std::future::pending::<()>().await;
                }
                // The other direction continues.
                End::Socket => {
                    let _ = match copied {
                        Ok(()) => to.shutdown(Shutdown::Write),
                        Err(_) => from.shutdown(Shutdown::Read),
                    };
                }
            }
        }))
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn copy_input(from: &Stream, to: &Stream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n]).await?,
        }
    }
}

/// The pump of a process's output.
pub struct Output {
    drains: mpsc::UnboundedSender<oneshot::Sender<()>>,
    end: End,
    /// Open while the pump reads from it: the process then notices when its input is no longer
    /// read.
    from: Weak<Stream>,
    /// The number of bytes read so far; locked during a read.
    read: Arc<Mutex<u64>>,
    written: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Output {
    /// Without `to` the output is discarded.
    pub fn start(from: Arc<Stream>, to: Option<Arc<Stream>>, end: End) -> Output {
        let (drains, requests) = mpsc::unbounded_channel();
        let read = Arc::new(Mutex::new(0));
        let written = Arc::new(AtomicU64::new(0));
        let weak = Arc::downgrade(&from);
        let pump = OutputPump {
            from,
            to,
            end,
            read: read.clone(),
            written: written.clone(),
            buffer: Vec::new(),
        };
        Output {
            drains,
            end,
            from: weak,
            read,
            written,
            task: tokio::spawn(pump.run(requests)),
        }
    }

    /// The number of bytes that the process has written so far. All of them have been sent: the
    /// host need not read them first, except from a terminal.
    pub async fn drain(&self) -> u64 {
        if let (End::Pipe | End::Socket, Some(from)) = (self.end, self.from.upgrade()) {
            // The pipe reports how much is in it: the pump need not have copied that,
            // which may have to wait for a reader.
            let read = lock(&self.read);
            return *read + from.pending().unwrap_or(0) as u64;
        }
        let (done, drained) = oneshot::channel();
        // An ended pump has put everything on the stream that it ever will.
        if self.drains.send(done).is_ok() {
            let _ = drained.await;
        }
        self.written.load(Ordering::Relaxed)
    }

    /// Stops the pump; a `drain` that waits returns.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether a source may deliver more.
#[derive(PartialEq, Eq)]
enum Step {
    Copied(usize),
    Empty,
    End,
}

struct OutputPump {
    from: Arc<Stream>,
    /// `None` discards the output.
    to: Option<Arc<Stream>>,
    end: End,
    read: Arc<Mutex<u64>>,
    written: Arc<AtomicU64>,
    buffer: Vec<u8>,
}

impl OutputPump {
    async fn run(mut self, mut requests: mpsc::UnboundedReceiver<oneshot::Sender<()>>) {
        loop {
            let step = tokio::select! {
                biased;
                Some(done) = requests.recv() => {
                    let step = self.drain().await;
                    let _ = done.send(());
                    step
                }
                ready = self.from.readable() => match ready {
                    Ok(()) => self.step().await,
                    Err(_) => Step::End,
                },
            };
            if step == Step::End {
                break;
            }
        }
        let _ = match &self.to {
            Some(to) => to.shutdown(Shutdown::Write),
            // As a socket behaves when its peer has ended. A pipe closes itself.
            None if self.end == End::Socket => self.from.shutdown(Shutdown::Both),
            None => Ok(()),
        };
    }

    /// Copies the terminal's current output, but not further output: a background process may
    /// write forever. Some output may still be in the line discipline; a read without data has
    /// waited for it.
    async fn drain(&mut self) -> Step {
        let mut left = PTY_HOLDS;
        loop {
            match self.step().await {
                Step::Copied(n) if n < left => left -= n,
                other => return other,
            }
        }
    }

    /// Reads once, and counts the bytes.
    fn take(&mut self) -> io::Result<usize> {
        let mut read = lock(&self.read);
        let n = self.from.try_read(&mut self.buffer)?;
        *read += n as u64;
        Ok(n)
    }

    /// Writes the data of one read completely.
    async fn step(&mut self) -> Step {
        self.buffer.resize(BUFFER, 0);
        let n = match self.take() {
            Ok(0) => return Step::End,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Step::Empty,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Step::Copied(0),
            // A pty without processes fails with EIO.
            Err(_) => return Step::End,
        };
        if let Some(to) = &self.to {
            if to.write_all(&self.buffer[..n]).await.is_ok() {
                self.written.fetch_add(n as u64, Ordering::Relaxed);
            } else {
                self.to = None;
                if self.end != End::Pty {
                    // The writer gets SIGPIPE, as with any pipe.
                    return Step::End;
                }
            }
        }
        Step::Copied(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::stdio::stream::{connection, pipe};

    fn output() -> (Output, std::fs::File, UnixStream) {
        let (stream, host) = connection();
        let (read, write) = pipe().unwrap();
        let (read, stream) = (Stream::new(read).unwrap(), Arc::new(stream));
        let output = Output::start(Arc::new(read), Some(stream), End::Pipe);
        (output, write.into(), host)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn output_ends_with_the_last_writer() {
        let (output, mut process, mut host) = output();
        process.write_all(b"hello").unwrap();
        drop(process);
        let text = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            host.read_to_string(&mut text).map(|_| text)
        });
        assert_eq!(text.await.unwrap().unwrap(), "hello");
        assert_eq!(output.drain().await, 5);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_background_writer_does_not_hold_the_drain_back() {
        let (output, mut process, mut host) = output();
        process.write_all(b"before").unwrap();
        assert_eq!(output.drain().await, 6);
        // The stream is still open and served.
        process.write_all(b" after").unwrap();
        drop(process);
        let mut text = String::new();
        tokio::task::spawn_blocking(move || host.read_to_string(&mut text).map(|_| text))
            .await
            .unwrap()
            .map(|text| assert_eq!(text, "before after"))
            .unwrap();
    }

    #[tokio::test]
    async fn a_listener_that_does_not_read_does_not_hold_the_drain_back() {
        let (output, mut process, mut host) = output();
        let total = 600 << 10;
        let written = tokio::task::spawn_blocking(move || process.write_all(&vec![7; total]));
        written.await.unwrap().unwrap();
        assert_eq!(output.drain().await, total as u64);
        let mut got = Vec::new();
        let all = tokio::task::spawn_blocking(move || host.read_to_end(&mut got));
        assert_eq!(all.await.unwrap().unwrap(), total);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_closed_listener_closes_the_pipe() {
        let (output, mut process, host) = output();
        drop(host);
        let error = tokio::task::spawn_blocking(move || {
            loop {
                if let Err(e) = process.write_all(&[0; 4096]) {
                    return e;
                }
            }
        });
        assert_eq!(
            error.await.unwrap().kind(),
            io::ErrorKind::BrokenPipe,
            "the process must hear of it"
        );
        assert_eq!(output.drain().await, output.written.load(Ordering::Relaxed));
    }
}
