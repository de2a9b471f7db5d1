//! The streams of a process between its VM and whoever listens: its log, and
//! the clients that are attached to it.
//!
//! ```text
//! process ── pump ── pipe ── reader ─┬─ log
//!                                    └─ each attached client, in turn
//! ```
//! A client that does not read holds the process back, as a terminal does, and
//! nothing is dropped while it is there.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};

use super::log::{LogWriter, Stream};
use crate::error::{Context, Result};
use crate::stdio::{Endpoint, ProcessIo};

/// Pieces of output that wait for one client.
const QUEUE: usize = 16;

/// The largest piece.
const PIECE: usize = 32 << 10;

/// A piece of output.
pub type Piece = (Stream, Bytes);

/// The streams of one process.
#[derive(Debug)]
pub struct ProcessStreams {
    stdin: tokio::sync::Mutex<Option<pipe::Sender>>,
    clients: Arc<Mutex<Option<Vec<mpsc::Sender<Piece>>>>>,
    open: watch::Receiver<usize>,
}

impl ProcessStreams {
    /// Makes the streams of a process: the ends that it gets, and what is read
    /// and written here.
    pub(crate) fn new(
        terminal: bool,
        stdin: bool,
        log: Option<LogWriter>,
    ) -> Result<(ProcessIo, Arc<Self>)> {
        let (open, opened) = watch::channel(0);
        let open = Arc::new(open);
        let log = Arc::new(Mutex::new(log));
        let clients = Arc::new(Mutex::new(Some(Vec::new())));
        let mut io = ProcessIo {
            terminal,
            ..ProcessIo::default()
        };
        let mut ours = None;
        if stdin {
            let (theirs, sender) = new_pipe()?;
            io.stdin = Endpoint::Fd(theirs);
            ours = Some(pipe::Sender::from_owned_fd(nonblocking(sender)?).on("use", "a pipe")?);
        }
        let listen = |stream| -> Result<Endpoint> {
            let (reader, theirs) = new_pipe()?;
            open.send_modify(|open| *open += 1);
            let (log, clients, open) = (log.clone(), clients.clone(), open.clone());
            let handle = tokio::runtime::Handle::current();
            // A thread of the pool: the log's file is written in it, too.
            handle.clone().spawn_blocking(move || {
                read_all(reader.into(), stream, &log, &clients, &handle);
                let mut last = false;
                open.send_modify(|open| {
                    *open -= 1;
                    last = *open == 0;
                });
                if last {
                    // Those that listen hear that there is no more.
                    lock(&clients).take();
                }
            });
            Ok(Endpoint::Fd(theirs))
        };
        io.stdout = listen(Stream::Stdout)?;
        if !terminal {
            io.stderr = listen(Stream::Stderr)?;
        }
        let streams = Self {
            stdin: tokio::sync::Mutex::new(ours),
            clients,
            open: opened,
        };
        Ok((io, Arc::new(streams)))
    }

    /// All output from now on; ends after the last piece.
    pub fn listen(&self) -> mpsc::Receiver<Piece> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        if let Some(clients) = lock(&self.clients).as_mut() {
            clients.push(sender);
        }
        receiver
    }

    /// Gives the process input. What it does not take for it has ended is
    /// dropped.
    pub async fn write(&self, data: &[u8]) {
        let mut stdin = self.stdin.lock().await;
        if let Some(pipe) = stdin.as_mut()
            && pipe.write_all(data).await.is_err()
        {
            stdin.take();
        }
    }

    /// Ends the process's input.
    pub async fn end_input(&self) {
        self.stdin.lock().await.take();
    }

    /// Waits until all output has been read.
    pub async fn drained(&self) {
        let mut open = self.open.clone();
        let _ = open.wait_for(|open| *open == 0).await;
    }
}

/// Reads one stream to its end.
fn read_all(
    mut reader: File,
    stream: Stream,
    log: &Mutex<Option<LogWriter>>,
    clients: &Mutex<Option<Vec<mpsc::Sender<Piece>>>>,
    handle: &tokio::runtime::Handle,
) {
    let mut buffer = vec![0; PIECE];
    loop {
        let piece = match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => &buffer[..n],
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => {
                log::warn!("The output of a process cannot be read: {e}");
                return;
            }
        };
        if let Some(writer) = lock(log).as_mut()
            && let Err(e) = writer.write(stream, piece, SystemTime::now())
        {
            log::warn!("Output is missing from a container's log: {e}");
        }
        let listening = lock(clients).clone().unwrap_or_default();
        if listening.is_empty() {
            continue;
        }
        let piece = Bytes::copy_from_slice(piece);
        for client in &listening {
            let _ = handle.block_on(client.send((stream, piece.clone())));
        }
        if let Some(clients) = lock(clients).as_mut() {
            clients.retain(|client| !client.is_closed());
        }
    }
}

fn new_pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).on("make", "a pipe")
}

fn nonblocking(fd: OwnedFd) -> Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&fd, true).on("set the mode of", "a pipe")?;
    Ok(fd)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn end(endpoint: &mut Endpoint) -> File {
        match std::mem::take(endpoint) {
            Endpoint::Fd(fd) => fd.into(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_client_hears_all_and_then_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = LogWriter::open(&path, 8 << 20).unwrap();
        let (mut io, streams) = ProcessStreams::new(false, false, Some(log)).unwrap();
        let mut clients = [streams.listen(), streams.listen()];
        let (mut out, err) = (end(&mut io.stdout), end(&mut io.stderr));
        drop(err);
        let writer = std::thread::spawn(move || {
            for _ in 0..100 {
                out.write_all(&[b'x'; 10_000]).unwrap();
            }
        });
        for client in &mut clients {
            // One goes early and holds nobody up.
            client.recv().await.unwrap();
        }
        let [mut stays, leaves] = clients;
        drop(leaves);
        let mut heard = 0;
        while let Some((stream, piece)) = stays.recv().await {
            assert_eq!(stream, Stream::Stdout);
            heard += piece.len();
        }
        writer.join().unwrap();
        streams.drained().await;
        assert!((900_000..1_000_000).contains(&heard), "{heard}");
        assert!(std::fs::metadata(&path).unwrap().len() > 1_000_000);
        // Who comes late hears the end at once.
        assert!(streams.listen().recv().await.is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn input_arrives_and_ends() {
        let (mut io, streams) = ProcessStreams::new(true, true, None).unwrap();
        let mut stdin = end(&mut io.stdin);
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            stdin.read_to_string(&mut text).unwrap();
            text
        });
        streams.write(b"hello ").await;
        streams.write(b"there").await;
        streams.end_input().await;
        assert_eq!(reader.join().unwrap(), "hello there");
        // To nobody, without harm.
        streams.write(b"x").await;
    }
}
