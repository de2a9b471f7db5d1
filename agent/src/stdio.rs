//! What connects a process to its streams.
//!
//! ```text
//! host ──vsock──▶ input pump  ──▶ pipe ──▶ stdin          no terminal
//! host ◀──vsock── output pump ◀── pipe ◀── stdout, stderr
//!
//! host ──vsock──▶ input pump  ──▶ pty master              terminal
//! host ◀──vsock── output pump ◀── pty master
//! ```
//! A pump reads only what the other side has taken: back-pressure goes all the
//! way. The container never holds a vsock socket, so that a process that
//! outlives its container's init keeps nothing of the agent's open.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use nix::pty::Winsize;
use protos::agent;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::error::{Context, Result};
use crate::stream::{Stream, duplicate, pipe};

const BUFFER: usize = 128 << 10;

/// More than a pty can hold (its flip buffers are limited to 64 KiB).
const PTY_HOLDS: usize = 128 << 10;

/// The connected vsock streams of a process that does not run yet.
#[derive(Default)]
pub struct Connections {
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
}

impl Connections {
    /// Dials every stream that the request asks for.
    pub async fn dial(wanted: &agent::Stdio) -> Result<Connections> {
        let dial = async |token: u64| match token {
            0 => Ok(None),
            token => Stream::dial(token).await.map(Some),
        };
        let (stdin, stdout, stderr) =
            futures::try_join!(dial(wanted.stdin), dial(wanted.stdout), dial(wanted.stderr))?;
        Ok(Connections {
            stdin,
            stdout,
            stderr,
        })
    }

    /// Makes the pipes: the ends of the process, and what will pump once it
    /// runs. `None` stands for /dev/null.
    pub fn pipes(self) -> Result<([Option<OwnedFd>; 3], Stdio)> {
        let mut stdio = Stdio::default();
        let mut ends = [None, None, None];
        if let Some(stream) = self.stdin {
            let (read, write) = pipe().what("stdin pipe")?;
            stdio.stdin = Mutex::new(Some(Input::start(stream, write, true)?));
            ends[0] = Some(read);
        }
        let outputs = [(self.stdout, 1), (self.stderr, 2)];
        for (stream, i) in outputs {
            let Some(stream) = stream else { continue };
            let (read, write) = pipe().what("output pipe")?;
            let output = Output::start(read, Some(stream), Source::Pipe)?;
            ends[i] = Some(write);
            match i {
                1 => stdio.stdout = Some(output),
                _ => stdio.stderr = Some(output),
            }
        }
        Ok((ends, stdio))
    }

    /// Connects the streams to the two directions of a pty.
    pub fn terminal(self, master: OwnedFd) -> Result<Stdio> {
        let mut stdio = Stdio::default();
        if let Some(stream) = self.stdin {
            let write = duplicate(&master).what("pty master")?;
            stdio.stdin = Mutex::new(Some(Input::start(stream, write, false)?));
        }
        // Read even when nobody listens, or the process would block.
        let read = duplicate(&master).what("pty master")?;
        stdio.stdout = Some(Output::start(read, self.stdout, Source::Pty)?);
        stdio.master = Some(master);
        Ok(stdio)
    }
}

/// The pumps of a running process; they stop when this is dropped.
#[derive(Default)]
pub struct Stdio {
    stdin: Mutex<Option<Input>>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    master: Option<OwnedFd>,
}

impl Stdio {
    /// Ends the input: a process on a pipe reads EOF.
    pub fn close_stdin(&self) {
        self.stdin.lock().unwrap_or_else(|e| e.into_inner()).take();
    }

    pub fn is_terminal(&self) -> bool {
        self.master.is_some()
    }

    /// Stops all pumps; a drain that waits for one returns.
    pub fn stop(&self) {
        self.close_stdin();
        for output in self.stdout.iter().chain(&self.stderr) {
            output.task.abort();
        }
    }

    /// The bytes that the process has written up to now to each stream, all of
    /// which are on their way: the host need not read them first, except from
    /// a terminal.
    pub async fn drain(&self) -> (u64, u64) {
        futures::join!(drain(&self.stdout), drain(&self.stderr))
    }

    /// Sets the size of the terminal; false if there is none.
    pub fn resize(&self, width: u16, height: u16) -> io::Result<bool> {
        match &self.master {
            Some(master) => resize(master, width, height).map(|()| true),
            None => Ok(false),
        }
    }
}

fn resize(tty: &impl AsRawFd, width: u16, height: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: height,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the terminal is open and the size lives through the call.
    match unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

async fn drain(output: &Option<Output>) -> u64 {
    match output {
        Some(output) => output.drain().await,
        None => 0,
    }
}

/// The pump of stdin; closes both its ends when it ends or is dropped.
struct Input(JoinHandle<()>);

impl Input {
    fn start(from: Stream, to: OwnedFd, close_at_eof: bool) -> Result<Input> {
        let to = Stream::new(to).what("stdin")?;
        Ok(Input(tokio::spawn(async move {
            let copied = tokio::select! {
                copied = copy_input(&from, &to) => copied,
                gone = to.peer_closed() => gone,
            };
            if let Err(e) = copied {
                log::debug!("stdin: {e}");
            }
            if !close_at_eof {
                // The end of a terminal's input is not the end of the
                // terminal: wait for the process to go.
                drop(from);
                std::future::pending::<()>().await;
            }
        })))
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Pipe,
    Pty,
}

/// The pump of stdout or stderr.
struct Output {
    drains: mpsc::UnboundedSender<oneshot::Sender<()>>,
    source: Source,
    /// Open as long as the pump reads from it: the process is to notice when
    /// nobody does.
    from: Weak<Stream>,
    /// What was read so far; held while more is.
    read: Arc<Mutex<u64>>,
    written: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Output {
    fn start(from: OwnedFd, to: Option<Stream>, source: Source) -> Result<Output> {
        let (drains, requests) = mpsc::unbounded_channel();
        let from = Arc::new(Stream::new(from).what("output")?);
        let read = Arc::new(Mutex::new(0));
        let written = Arc::new(AtomicU64::new(0));
        let weak = Arc::downgrade(&from);
        let pump = OutputPump {
            from,
            to,
            source,
            read: read.clone(),
            written: written.clone(),
            buffer: Vec::new(),
        };
        Ok(Output {
            drains,
            source,
            from: weak,
            read,
            written,
            task: tokio::spawn(pump.run(requests)),
        })
    }

    async fn drain(&self) -> u64 {
        if let (Source::Pipe, Some(from)) = (self.source, self.from.upgrade()) {
            // The pipe tells what is in it: the pump need not get that far,
            // which it may not before somebody reads.
            let read = self.read.lock().unwrap_or_else(|e| e.into_inner());
            return *read + from.pending().unwrap_or(0) as u64;
        }
        let (done, drained) = oneshot::channel();
        // An ended pump has put everything on the stream that it ever will.
        if self.drains.send(done).is_ok() {
            let _ = drained.await;
        }
        self.written.load(Ordering::Relaxed)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether a source has more to come.
#[derive(PartialEq, Eq)]
enum Step {
    Copied(usize),
    Empty,
    End,
}

struct OutputPump {
    from: Arc<Stream>,
    /// `None`: nobody listens, what comes is thrown away.
    to: Option<Stream>,
    source: Source,
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
        if let Some(to) = &self.to {
            let _ = to.shutdown_write();
        }
    }

    /// Copies what a terminal holds now, and not what comes meanwhile: a
    /// background process may go on writing for ever. Part of it may still be
    /// on its way through the line discipline; a read that finds nothing has
    /// waited for that.
    async fn drain(&mut self) -> Step {
        let mut left = PTY_HOLDS;
        loop {
            match self.step().await {
                Step::Copied(n) if n < left => left -= n,
                other => return other,
            }
        }
    }

    /// One read, booked.
    fn take(&mut self) -> io::Result<usize> {
        let mut read = self.read.lock().unwrap_or_else(|e| e.into_inner());
        let n = self.from.try_read(&mut self.buffer)?;
        *read += n as u64;
        Ok(n)
    }

    /// One read, written out in full.
    async fn step(&mut self) -> Step {
        self.buffer.resize(BUFFER, 0);
        let n = match self.take() {
            Ok(0) => return Step::End,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Step::Empty,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Step::Copied(0),
            // A pty without a process on it says EIO.
            Err(_) => return Step::End,
        };
        if let Some(to) = &self.to {
            if to.write_all(&self.buffer[..n]).await.is_ok() {
                self.written.fetch_add(n as u64, Ordering::Relaxed);
            } else if self.source == Source::Pipe {
                // As with any pipe, the writer gets SIGPIPE.
                self.to = None;
                return Step::End;
            } else {
                self.to = None;
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

    /// A stream as the pumps have it, and the host's end.
    fn connection() -> (Stream, UnixStream) {
        let (guest, host) = UnixStream::pair().unwrap();
        (Stream::new(guest.into()).unwrap(), host)
    }

    fn output() -> (Output, std::fs::File, UnixStream) {
        let (stream, host) = connection();
        let (read, write) = pipe().unwrap();
        let output = Output::start(read, Some(stream), Source::Pipe).unwrap();
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
        // Still open, and still served.
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn input_ends_when_told_whatever_the_stream_holds() {
        let (stream, mut host) = connection();
        let connections = Connections {
            stdin: Some(stream),
            ..Default::default()
        };
        let (ends, stdio) = connections.pipes().unwrap();
        let mut process = std::fs::File::from(ends.into_iter().next().flatten().unwrap());
        host.write_all(b"line\n").unwrap();
        let mut buffer = [0; 5];
        let (mut process, line) = tokio::task::spawn_blocking(move || {
            process.read_exact(&mut buffer).unwrap();
            (process, buffer)
        })
        .await
        .unwrap();
        assert_eq!(&line, b"line\n");
        stdio.close_stdin();
        let rest = tokio::task::spawn_blocking(move || process.read(&mut [0; 8]));
        assert_eq!(rest.await.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn a_terminal_is_drained_without_an_end() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let (stream, mut host) = connection();
        let connections = Connections {
            stdout: Some(stream),
            ..Default::default()
        };
        let stdio = connections.terminal(pty.master).unwrap();
        let mut slave = std::fs::File::from(pty.slave);
        slave.write_all(b"prompt").unwrap();
        assert_eq!(stdio.drain().await.0, 6);
        let mut text = [0; 6];
        host.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"prompt");
        assert!(stdio.resize(80, 25).unwrap());
    }
}
