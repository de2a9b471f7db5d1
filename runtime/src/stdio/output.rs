//! From the process to the client.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustix::net::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use crate::stdio::pump::{CHUNK, Sink};

/// What is held for a slow client once the process has ended, so that its VM
/// can go: all that can be on the way between its last write and here, with
/// much to spare. A guest that claims to have sent more is not waited for.
const MAX_HELD: usize = 16 << 20;

/// How far an output has come.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    received: u64,
    written: u64,
    ended: bool,
}

/// What is taken in of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intake {
    /// As much as the client reads.
    Flowing,
    /// All that comes, whether or not it reads.
    Held,
    /// Nothing more.
    Over,
}

/// From the process to the client.
#[derive(Debug)]
pub(crate) struct OutputPump {
    task: Option<tokio::task::JoinHandle<()>>,
    count: watch::Receiver<Count>,
    intake: Arc<watch::Sender<Intake>>,
}

/// A look at an output, and a word with it.
#[derive(Debug)]
pub struct OutputProgress {
    count: watch::Receiver<Count>,
    intake: Arc<watch::Sender<Intake>>,
}

impl OutputPump {
    pub(crate) fn start(stream: UnixStream, sink: Sink) -> Self {
        let (from, hold) = stream.into_split();
        Self::on(from, Some(hold), sink)
    }

    /// Of a stream whose other direction is an input.
    pub(crate) fn of_socket(from: OwnedReadHalf, client: OwnedWriteHalf) -> Self {
        Self::on(from, None, Sink::Socket(client))
    }

    /// `hold`: the other direction is not used, and stays open meanwhile.
    fn on(mut from: OwnedReadHalf, hold: Option<OwnedWriteHalf>, sink: Sink) -> Self {
        let (counter, count) = watch::channel(Count::default());
        let (intake, taken) = watch::channel(Intake::Flowing);
        let task = tokio::spawn(async move {
            if let Err(e) = drain(&mut from, sink, &counter, taken).await {
                log::warn!("A process's output is lost: {e}");
                if hold.is_none() {
                    // A peer that takes nothing is gone for the other way, too.
                    let _ = rustix::net::shutdown(from.as_ref(), Shutdown::Both);
                }
            }
            counter.send_modify(|c| c.ended = true);
            drop(hold);
        });
        Self {
            task: Some(task),
            count,
            intake: Arc::new(intake),
        }
    }

    pub(crate) fn progress(&self) -> OutputProgress {
        OutputProgress {
            count: self.count.clone(),
            intake: self.intake.clone(),
        }
    }

    /// Takes nothing more in, gives the client what there is, and ends.
    pub(crate) fn finish(mut self) {
        self.intake.send_replace(Intake::Over);
        self.task = None;
    }
}

impl Drop for OutputPump {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl OutputProgress {
    /// Takes in all that the process had written when it ended, `total` bytes,
    /// whether or not the client reads it. `false` if it did not come in time.
    pub async fn received(&mut self, total: u64, deadline: Duration) -> bool {
        self.intake.send_if_modified(|intake| {
            let flowing = *intake == Intake::Flowing;
            *intake = if flowing { Intake::Held } else { *intake };
            flowing
        });
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
    stream: &mut OwnedReadHalf,
    mut sink: Sink,
    count: &watch::Sender<Count>,
    mut intake: watch::Receiver<Intake>,
) -> io::Result<()> {
    let mut incoming = BytesMut::with_capacity(CHUNK);
    let mut outgoing = BytesMut::with_capacity(CHUNK);
    let mut eof = false;
    loop {
        let limit = match *intake.borrow_and_update() {
            Intake::Flowing => CHUNK,
            Intake::Held => MAX_HELD,
            Intake::Over => 0,
        };
        eof |= limit == 0;
        if eof && outgoing.is_empty() {
            return Ok(());
        }
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
            changed = intake.changed(), if !eof => {
                // Nobody is left to say anything else.
                eof |= changed.is_err();
            }
        }
    }
}
