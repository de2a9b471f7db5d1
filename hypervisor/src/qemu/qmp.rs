//! QEMU's machine protocol, on a socket that QEMU inherits.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qapi::futures::{QapiService, QmpStreamTokio};
use qapi::qmp::{self, Event, QmpCommand};
use tokio::io::WriteHalf;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::Error;
use crate::sync::lock;

/// The deadline for QEMU's start; under load on an emulated host it takes seconds.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The deadline of a command.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

type QmpService = QapiService<QmpStreamTokio<WriteHalf<UnixStream>>>;

/// The owner's end before QEMU's greeting.
pub(super) struct Connecting {
    socket: UnixStream,
}

impl Connecting {
    /// Makes a connection: the end of this process, and the end that QEMU inherits.
    pub fn pair() -> std::io::Result<(Connecting, OwnedFd)> {
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let socket = UnixStream::from_std(ours)?;
        Ok((Connecting { socket }, theirs.into()))
    }

    /// Waits for QEMU's greeting, which it sends when its machine is complete.
    pub async fn ready(self) -> Result<Qmp, Error> {
        let failed = |err: std::io::Error| Error::Qmp {
            command: "qmp_capabilities",
            reason: err.to_string(),
        };
        let opening = async {
            let (read, write) = tokio::io::split(self.socket);
            let stream = QmpStreamTokio::open_split(read, write).await?;
            stream.negotiate().await
        };
        let stream = timeout(START_LIMIT, opening)
            .await
            .map_err(|_| Error::Timeout {
                what: "QEMU's start",
                limit: START_LIMIT,
            })?
            .map_err(failed)?;

        let (service, events) = stream.into_parts();
        let shutdown = Arc::<Mutex<Option<String>>>::default();
        let seen = Arc::clone(&shutdown);
        tokio::spawn(async move {
            use futures::StreamExt;

            let mut events = events;
            while let Some(Ok(event)) = events.next().await {
                if let Event::SHUTDOWN { data, .. } = event {
                    let mut seen = lock(&seen);
                    *seen = Some(format!("{:?}", data.reason));
                }
            }
        });
        Ok(Qmp {
            service,
            shutdown,
            hung: AtomicBool::new(false),
        })
    }
}

/// A connection that accepts commands.
pub(super) struct Qmp {
    service: QmpService,
    shutdown: Arc<Mutex<Option<String>>>,
    hung: AtomicBool,
}

impl Qmp {
    /// Lets the vCPUs run.
    pub async fn cont(&self) -> Result<(), Error> {
        self.execute("cont", qmp::cont {}).await
    }

    /// Stops the vCPUs.
    pub async fn stop(&self) -> Result<(), Error> {
        self.execute("stop", qmp::stop {}).await
    }

    /// The reason that QEMU gave for its end, if any.
    pub fn shutdown(&self) -> Arc<Mutex<Option<String>>> {
        Arc::clone(&self.shutdown)
    }

    async fn execute<C: QmpCommand>(&self, name: &'static str, command: C) -> Result<(), Error> {
        let limit = Error::Timeout {
            what: name,
            limit: COMMAND_LIMIT,
        };
        // The late answer to an abandoned command could be taken for the answer to another one.
        if self.hung.load(Ordering::Acquire) {
            return Err(limit);
        }
        match timeout(COMMAND_LIMIT, self.service.execute(command)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(err)) => Err(Error::Qmp {
                command: name,
                reason: err.to_string(),
            }),
            Err(_) => {
                self.hung.store(true, Ordering::Release);
                Err(limit)
            }
        }
    }
}
