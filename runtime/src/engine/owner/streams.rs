//! The streams of a process between its VM and their readers: its log, and the clients that are
//! attached to it.
//!
//! ```text
//! process ── pump ── reader ─┬─ log
//!                            └─ each attached client, in turn
//! ```
//!
//! A stream is a task and some memory, without a thread or a pipe: a pod may have hundreds. A
//! client that does not read blocks the process, as a terminal does; while it is attached,
//! nothing is dropped.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{mpsc, watch};

use super::log::{LogWriter, Stream};
use crate::stdio::{Endpoint, ProcessIo};
use crate::sync::lock;

/// How many pieces of output may wait for one client.
const QUEUE: usize = 16;

/// The size of the largest piece.
const PIECE: usize = 32 << 10;

/// A piece of output.
pub type Piece = (Stream, Bytes);

/// The streams of one process.
#[derive(Debug)]
pub struct ProcessStreams {
    stdin: tokio::sync::Mutex<Option<DuplexStream>>,
    clients: Arc<Mutex<Option<Vec<mpsc::Sender<Piece>>>>>,
    open: watch::Receiver<usize>,
}

impl ProcessStreams {
    /// Makes the streams of a process: the endpoints for it, and their other ends.
    pub(crate) fn new(
        terminal: bool,
        stdin: bool,
        log: Option<LogWriter>,
    ) -> (ProcessIo, Arc<Self>) {
        let (open, opened) = watch::channel(0);
        let open = Arc::new(open);
        let log = log.map(|log| Arc::new(Mutex::new(log)));
        let clients = Arc::new(Mutex::new(Some(Vec::new())));
        let mut io = ProcessIo {
            terminal,
            ..ProcessIo::default()
        };
        let mut ours = None;
        if stdin {
            let (theirs, sender) = duplex(PIECE);
            io.stdin = Endpoint::Stream(theirs);
            ours = Some(sender);
        }
        let listen = |stream| {
            let (reader, theirs) = duplex(PIECE);
            open.send_modify(|open| *open += 1);
            let (log, clients, open) = (log.clone(), clients.clone(), open.clone());
            tokio::spawn(async move {
                read_all(reader, stream, log, &clients).await;
                let mut last = false;
                open.send_modify(|open| {
                    *open -= 1;
                    last = *open == 0;
                });
                if last {
                    // Tells the clients that there is no more output.
                    lock(&clients).take();
                }
            });
            Endpoint::Stream(theirs)
        };
        io.stdout = listen(Stream::Stdout);
        if !terminal {
            io.stderr = listen(Stream::Stderr);
        }
        let streams = Self {
            stdin: tokio::sync::Mutex::new(ours),
            clients,
            open: opened,
        };
        (io, Arc::new(streams))
    }

    /// All output from now on; the receiver ends after the last piece.
    pub fn listen(&self) -> mpsc::Receiver<Piece> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        if let Some(clients) = lock(&self.clients).as_mut() {
            clients.push(sender);
        }
        receiver
    }

    /// Writes to the process's input. If the process has ended, the rest is dropped.
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
async fn read_all(
    mut reader: DuplexStream,
    stream: Stream,
    log: Option<Arc<Mutex<LogWriter>>>,
    clients: &Mutex<Option<Vec<mpsc::Sender<Piece>>>>,
) {
    let mut buffer = vec![0; PIECE];
    loop {
        let piece = match reader.read(&mut buffer).await {
            Ok(0) => return,
            Ok(n) => Bytes::copy_from_slice(&buffer[..n]),
            Err(e) => {
                log::warn!("The output of a process cannot be read: {e}");
                return;
            }
        };
        if let Some(log) = &log {
            keep(log.clone(), stream, piece.clone()).await;
        }
        let listening = lock(clients).clone().unwrap_or_default();
        if listening.is_empty() {
            continue;
        }
        for client in &listening {
            let _ = client.send((stream, piece.clone())).await;
        }
        if let Some(clients) = lock(clients).as_mut() {
            clients.retain(|client| !client.is_closed());
        }
    }
}

/// Writes a piece to the log, in a thread of its own.
async fn keep(log: Arc<Mutex<LogWriter>>, stream: Stream, piece: Bytes) {
    let now = SystemTime::now();
    let write = move || lock(&log).write(stream, &piece, now);
    let written = tokio::task::spawn_blocking(write).await;
    if let Err(e) = written.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
        log::warn!("Output is missing from a container's log: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(endpoint: &mut Endpoint) -> DuplexStream {
        match std::mem::take(endpoint) {
            Endpoint::Stream(stream) => stream,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_client_hears_all_and_then_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = LogWriter::open(&path, 8 << 20).unwrap();
        let (mut io, streams) = ProcessStreams::new(false, false, Some(log));
        let mut clients = [streams.listen(), streams.listen()];
        let (mut out, err) = (end(&mut io.stdout), end(&mut io.stderr));
        drop(err);
        let writer = tokio::spawn(async move {
            for _ in 0..100 {
                out.write_all(&[b'x'; 10_000]).await.unwrap();
            }
        });
        for client in &mut clients {
            // A client that detaches early does not block the others.
            client.recv().await.unwrap();
        }
        let [mut stays, leaves] = clients;
        drop(leaves);
        let mut heard = 0;
        while let Some((stream, piece)) = stays.recv().await {
            assert_eq!(stream, Stream::Stdout);
            heard += piece.len();
        }
        writer.await.unwrap();
        streams.drained().await;
        assert!((900_000..1_000_000).contains(&heard), "{heard}");
        assert!(std::fs::metadata(&path).unwrap().len() > 1_000_000);
        // A client that attaches late gets the end at once.
        assert!(streams.listen().recv().await.is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn input_arrives_and_ends() {
        let (mut io, streams) = ProcessStreams::new(true, true, None);
        let mut stdin = end(&mut io.stdin);
        let reader = tokio::spawn(async move {
            let mut text = String::new();
            stdin.read_to_string(&mut text).await.unwrap();
            text
        });
        streams.write(b"hello ").await;
        streams.write(b"there").await;
        streams.end_input().await;
        assert_eq!(reader.await.unwrap(), "hello there");
        // Input for an ended process is dropped.
        streams.write(b"x").await;
    }

    /// The 500 processes have 1,000 streams, more than tokio has blocking threads (512 by
    /// default).
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_thousand_streams_that_say_nothing_hold_nobody_up() {
        let silent: Vec<_> = (0..500)
            .map(|_| ProcessStreams::new(false, true, None))
            .collect();
        let waits = async {
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            let dir = tempfile::tempdir().unwrap();
            let log = LogWriter::open(&dir.path().join("log"), 8 << 20).unwrap();
            let (mut io, streams) = ProcessStreams::new(true, false, Some(log));
            let mut client = streams.listen();
            end(&mut io.stdout).write_all(b"heard").await.unwrap();
            client.recv().await.unwrap()
        };
        let deadline = std::time::Duration::from_secs(10);
        let (_, piece) = tokio::time::timeout(deadline, waits).await.unwrap();
        assert_eq!(&piece[..], b"heard");
        drop(silent);
    }
}
