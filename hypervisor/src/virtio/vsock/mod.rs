//! The socket device (virtio 1.2 §5.10), in user space.
//!
//! ```text
//!  guest programs                      one thread                     host programs
//!   AF_VSOCK ── tx queue ──▶ Engine ──▶ Muxer ──▶ Connection ──▶ AF_UNIX <uds>_<port>
//!            ◀── rx queue ──         ◀──       ◀──            ◀── AF_UNIX <uds>
//! ```
//!
//! The engine takes packets off the queues, the muxer knows the
//! connections and the host's sockets, a connection is one
//! stream with its credit and its two ends.

mod buffer;
mod connection;
mod credit;
mod engine;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod handshake;
pub(crate) mod header;
mod host;
mod muxer;
pub(crate) mod rx_buffers;
mod slices;

use std::io;
use std::path::Path;
use std::sync::Arc;

use virtio_queue::Queue;

use crate::event::EventFd;
use crate::jail::{self, ThreadKind};

use super::config::read_bytes;
use super::{Device, DeviceError, DeviceKind, Interrupt, Memory, RING_FEATURES, Restartable, Ring};
use engine::{EVENT, Engine, QUEUES, RX, TX};
use host::HostSockets;
use muxer::Muxer;

/// Linux keeps the receive queue full of 4 KiB buffers, so a longer one costs the guest.
const QUEUE_SIZE: u16 = 128;

/// A vsock device.
pub struct Vsock {
    cid: u64,
    engine: Restartable<Box<Engine>>,
}

impl Vsock {
    /// A device for the guest with this context id, reached by host programs at the
    /// Unix socket `uds`, which is bound now.
    pub fn new(cid: u64, uds: &Path) -> io::Result<Vsock> {
        let uds = uds.to_owned();
        let muxer = jail::run(ThreadKind::Vsock, "vsock-listen", move || {
            Muxer::new(cid, HostSockets::listen(&uds)?)
        })?;
        let engine = Engine {
            rings: [const { None }; QUEUES],
            muxer,
        };
        Ok(Vsock {
            cid,
            engine: Restartable::Idle(Box::new(engine)),
        })
    }

    /// Runs the engine, once both data queues are started.
    fn run(&mut self, engine: Box<Engine>) -> io::Result<()> {
        if engine.rings[RX].is_none() || engine.rings[TX].is_none() {
            self.engine = Restartable::Idle(engine);
            return Ok(());
        }
        let work = |engine: &mut Box<Engine>, stop: &EventFd| engine.run(stop);
        self.engine.start(ThreadKind::Vsock, "vsock", engine, work)
    }
}

impl Device for Vsock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Vsock
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }

    /// virtio 1.2 §5.10.4: the guest's context id.
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_bytes(&self.cid.to_le_bytes(), offset, data);
    }

    fn start_queue(
        &mut self,
        index: usize,
        queue: Queue,
        mem: Memory,
        kick: EventFd,
        call: Arc<dyn Interrupt>,
    ) -> Result<(), DeviceError> {
        if index > EVENT {
            return Err(DeviceError::NoQueue(index));
        }
        let io = |source| DeviceError::Io {
            what: "start the vsock thread",
            source,
        };
        let ring = Ring::new(index, queue, mem, kick, call)?;
        let Some(mut engine) = self.engine.stop() else {
            return Err(io(io::ErrorKind::BrokenPipe.into()));
        };
        let mut result = Ok(());
        if engine.rings[index].is_some() {
            result = Err(DeviceError::Started(index));
        } else {
            engine.rings[index] = Some(ring);
        }
        self.run(engine).map_err(io)?;
        result
    }

    fn stop_queue(&mut self, index: usize) -> Option<Queue> {
        let mut engine = self.engine.stop()?;
        let ring = engine.rings.get_mut(index).and_then(Option::take);
        if let Err(err) = self.run(engine) {
            log::error!("Cannot start the vsock thread: {err}");
        }
        ring.map(Ring::into_queue)
    }

    fn reset(&mut self) {
        if let Some(mut engine) = self.engine.stop() {
            engine.muxer.reset();
            if let Err(err) = self.run(engine) {
                log::error!("Cannot start the vsock thread: {err}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{DriverQueue, WRITE, memory};
    use header::{HEADER_LEN, Header, op};

    const BUFFERS: u64 = 4 << 20;

    struct Driver {
        _dir: tempfile::TempDir,
        device: Vsock,
        mem: Memory,
        queues: [DriverQueue; QUEUES],
    }

    impl Driver {
        fn new() -> Driver {
            let dir = tempfile::tempdir().unwrap();
            let mem = memory();
            let device = Vsock::new(3, &dir.path().join("vsock")).unwrap();
            let queues = [0, 1, 2].map(|slot| DriverQueue::new(&mem, slot));
            let mut driver = Driver {
                _dir: dir,
                device,
                mem,
                queues,
            };
            for index in 0..QUEUES {
                let queue = driver.queues[index].queue();
                driver.start(index, queue).unwrap();
            }
            driver
        }

        fn start(&mut self, index: usize, queue: Queue) -> Result<(), DeviceError> {
            let driver = &self.queues[index];
            let (kick, calls) = (driver.kick_event(), driver.calls.clone());
            self.device
                .start_queue(index, queue, self.mem.clone(), kick, calls)
        }

        /// Asks for a connection to a port without a listener; the threads must answer.
        fn is_refused(&mut self) {
            let header = Header {
                src_cid: 3,
                dst_cid: 2,
                kind: 1,
                op: op::REQUEST,
                ..Header::default()
            };
            let [rx, tx, _] = &mut self.queues;
            rx.descriptor(0, (BUFFERS, 4096, WRITE, 0));
            rx.offer(0);
            tx.write(BUFFERS + 4096, &header.encode());
            tx.descriptor(0, (BUFFERS + 4096, HEADER_LEN as u32, 0, 0));
            tx.offer(0);
            tx.kick();
            assert_eq!(tx.wait_used(), (0, 0));
            assert_eq!(rx.wait_used(), (0, HEADER_LEN as u32));
            let answer = rx.read(BUFFERS, HEADER_LEN);
            assert_eq!(Header::decode(&answer.try_into().unwrap()).op, op::RST);
        }
    }

    #[test]
    fn thread_answers_across_a_pause() {
        let mut driver = Driver::new();
        driver.is_refused();

        let queues: Vec<_> = (0..QUEUES)
            .map(|index| driver.device.stop_queue(index).unwrap())
            .collect();
        assert!(driver.device.stop_queue(RX).is_none());
        for (index, queue) in queues.into_iter().enumerate() {
            driver.start(index, queue).unwrap();
        }

        driver.is_refused();
        driver.device.reset();
        driver.is_refused();
    }

    #[test]
    fn queues_are_checked() {
        let mut driver = Driver::new();

        let again = driver.start(TX, driver.queues[TX].queue());
        assert!(matches!(again, Err(DeviceError::Started(TX))));
        let (kick, calls) = (
            driver.queues[0].kick_event(),
            driver.queues[0].calls.clone(),
        );
        let queue = driver.queues[0].queue();
        let unknown = driver
            .device
            .start_queue(3, queue, driver.mem.clone(), kick, calls);
        assert!(matches!(unknown, Err(DeviceError::NoQueue(3))));
        driver.is_refused();
    }

    #[test]
    fn config_is_the_guests_id() {
        let driver = Driver::new();
        let mut config = [0xff; 10];

        driver.device.read_config(0, &mut config);

        assert_eq!(config, [3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        driver.device.read_config(usize::MAX, &mut config);
        assert_eq!(config, [0; 10]);
    }
}
