//! The output pump: from the process to the client.

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

/// The most bytes held for a slow client after the process has ended, so that its VM can end:
/// more than can be in transit at that time. If a guest claims to have sent more, the rest is
/// not waited for.
const MAX_HELD: usize = 16 << 20;

/// The bytes of an output so far.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    received: u64,
    written: u64,
    ended: bool,
}

/// How much of an output is received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intake {
    /// As much as the client reads.
    Flowing,
    /// Everything, even if the client does not read.
    Held,
    /// Nothing more.
    Over,
}

/// A pump from the process to the client.
#[derive(Debug)]
pub(crate) struct OutputPump {
    task: Option<tokio::task::JoinHandle<()>>,
    count: watch::Receiver<Count>,
    intake: Arc<watch::Sender<Intake>>,
}

/// Observes an output and controls its pump.
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

    /// Pumps the output direction of a stream that also has an input.
    pub(crate) fn of_socket(from: OwnedReadHalf, client: OwnedWriteHalf) -> Self {
        Self::on(from, None, Sink::Socket(client))
    }

    /// `hold` keeps the unused other direction open.
    fn on(mut from: OwnedReadHalf, hold: Option<OwnedWriteHalf>, sink: Sink) -> Self {
        let (counter, count) = watch::channel(Count::default());
        let (intake, taken) = watch::channel(Intake::Flowing);
        let task = tokio::spawn(async move {
            if let Err(e) = drain(&mut from, sink, &counter, taken).await {
                log::warn!("A process's output is lost: {e}");
                if hold.is_none() {
                    // The client accepts no more data: end the other direction, too.
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

    /// Receives no more, delivers what has arrived, and ends.
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
    /// Receives everything that the process had written when it ended, `total` bytes, even if
    /// the client does not read. Returns `false` if it did not arrive in time.
    pub async fn received(&mut self, total: u64, deadline: Duration) -> bool {
        self.intake.send_if_modified(|intake| {
            let flowing = *intake == Intake::Flowing;
            *intake = if flowing { Intake::Held } else { *intake };
            flowing
        });
        let done = self.count.wait_for(|c| c.ended || c.received >= total);
        tokio::time::timeout(deadline, done).await.is_ok()
    }

    /// Waits until what was received is delivered to the client. Returns `false` if the client
    /// does not read it in time; it still may later.
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
                    // The VM has ended: this counts as the end of the output.
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
                // The controlling side is gone.
                eof |= changed.is_err();
            }
        }
    }
}
