//! One thread that serves the chains of one queue, one after the other.
//!
//! It suits devices whose requests are short or must keep their order: the answer to
//! a chain is there when its handler returns.

use std::io;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

use crate::event::EventFd;
use crate::jail::ThreadKind;

use super::ring::Chain;
use super::{Ring, Worker, worker};

/// Serves the chains of a queue.
pub(crate) trait Handler: Send + 'static {
    /// The kind of the thread.
    const KIND: ThreadKind = ThreadKind::Simple;

    /// Serves one chain and returns how many bytes were written to it, from its first
    /// device-writable byte on without a gap.
    fn handle(&mut self, mem: &GuestMemoryMmap, chain: Chain<'_>) -> u32;
}

/// Chains served before the thread checks whether it must stop: a driver that is faster than
/// the device must not prevent that.
const BATCH: usize = 64;

const KICK: u64 = 0;
const STOP: u64 = 1;

/// A queue with the thread that serves it. Dropping it stops the thread.
pub(crate) struct SerialQueue<H>(Worker<(Ring, H)>);

impl<H: Handler> SerialQueue<H> {
    /// Starts the thread.
    pub fn start(name: &str, ring: Ring, handler: H) -> io::Result<SerialQueue<H>> {
        let mut server = QueueThread { ring, handler };
        let worker = Worker::spawn(H::KIND, name, move |stop| {
            if let Err(err) = server.run(stop) {
                log::error!("The thread of a queue stopped: {err}");
            }
            (server.ring, server.handler)
        })?;
        Ok(SerialQueue(worker))
    }

    /// Ends the thread when it has returned what it took.
    pub fn stop(self) -> Option<(Queue, H)> {
        let (ring, handler) = self.0.stop()?;
        Some((ring.into_queue(), handler))
    }
}

struct QueueThread<H> {
    ring: Ring,
    handler: H,
}

impl<H: Handler> QueueThread<H> {
    fn run(&mut self, stop: &EventFd) -> io::Result<()> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        // Edge-triggered: each kick is one event, and the counter need not be read.
        let kick = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&**self.ring.kick(), EpollEvent::new(kick, KICK))?;
        let mut events = [EpollEvent::empty(); 2];
        loop {
            let timeout = match serve_batch(&mut self.ring, &mut self.handler) {
                true => EpollTimeout::ZERO,
                false => EpollTimeout::NONE,
            };
            let events = worker::wait(&epoll, &mut events, timeout)?;
            if events.iter().any(|event| event.data() == STOP) {
                return Ok(());
            }
        }
    }
}

/// Serves the present chains, up to a batch. True if there may be more, for which no kick
/// comes.
pub(crate) fn serve_batch<H: Handler>(ring: &mut Ring, handler: &mut H) -> bool {
    let mem = ring.memory();
    ring.disable_kicks();
    for _ in 0..BATCH {
        let Some(chain) = ring.pop(&mem) else {
            ring.notify();
            return ring.enable_kicks();
        };
        let head = chain.head_index();
        let len = handler.handle(&mem, chain);
        ring.complete(&mem, head, len);
    }
    ring.notify();
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{DriverQueue, SIZE, WRITE, memory};

    /// Answers each chain with the number of those before it, and offers it again while
    /// `again` is set.
    struct Count {
        seen: u32,
        again: Option<DriverQueue>,
    }

    impl Handler for Count {
        fn handle(&mut self, _: &GuestMemoryMmap, chain: Chain<'_>) -> u32 {
            if let Some(driver) = &mut self.again {
                driver.offer(chain.head_index());
            }
            self.seen += 1;
            self.seen - 1
        }
    }

    fn start(
        mem: &crate::virtio::Memory,
        driver: &DriverQueue,
        queue: Queue,
        handler: Count,
    ) -> SerialQueue<Count> {
        let (kick, calls) = (driver.kick_event(), driver.calls.clone());
        let ring = Ring::new(0, queue, mem.clone(), kick, calls).unwrap();
        SerialQueue::start("serial-test", ring, handler).unwrap()
    }

    #[test]
    fn chains_come_back_in_order_across_a_pause() {
        let mem = memory();
        let mut driver = DriverQueue::new(&mem, 0);
        let mut queue = driver.queue();
        let mut handler = Count {
            seen: 0,
            again: None,
        };

        for round in 0..4u32 {
            // Without a kick: chains that are present at the start are served.
            for head in 0..SIZE {
                driver.descriptor(head, (1 << 20, 64, WRITE, 0));
                driver.offer(head);
            }
            let server = start(&mem, &driver, queue, handler);
            for head in 0..u32::from(SIZE) {
                let number = 2 * round * u32::from(SIZE) + head;
                assert_eq!(driver.wait_used(), (head, number));
            }
            for head in 0..SIZE {
                driver.offer(head);
                driver.kick();
                let number = (2 * round + 1) * u32::from(SIZE) + u32::from(head);
                assert_eq!(driver.wait_used(), (head.into(), number));
            }
            (queue, handler) = server.stop().unwrap();
        }
    }

    #[test]
    fn endless_supply_does_not_delay_the_stop() {
        let mem = memory();
        let mut driver = DriverQueue::new(&mem, 0);
        let mut again = DriverQueue::new(&mem, 0);
        again.descriptor(0, (1 << 20, 64, WRITE, 0));
        again.offer(0);
        let handler = Count {
            seen: 0,
            again: Some(again),
        };

        let server = start(&mem, &driver, driver.queue(), handler);
        driver.wait_used();
        let (_, handler) = server.stop().unwrap();

        assert!(handler.seen >= BATCH as u32);
    }

    #[test]
    fn broken_ring_is_reported_and_stops_cleanly() {
        let mem = memory();
        let driver = DriverQueue::new(&mem, 0);
        let handler = Count {
            seen: 0,
            again: None,
        };
        driver.set_avail_index(SIZE + 1);

        let server = start(&mem, &driver, driver.queue(), handler);
        let (_, handler) = server.stop().unwrap();

        assert_eq!(handler.seen, 0);
        let failures = &driver.calls.failures;
        assert_eq!(failures.load(std::sync::atomic::Ordering::SeqCst), 1);
    }
}
