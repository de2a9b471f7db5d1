//! A few threads that serve the chains of one queue in parallel.
//!
//! It suits devices whose requests may wait for the host's storage and need no order: a
//! slow request holds up no other. All threads are alike and wait for the same kick, of
//! which the kernel wakes one. A thread that takes a chain wakes another one if there
//! are more: no chain is passed from thread to thread, and a single request is served
//! by the thread that it woke.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

use super::ring::Chain;
use super::{Ring, Worker, worker};
use crate::event::EventFd;
use crate::jail::ThreadKind;
use crate::sync::{lock, recover};

const KICK: u64 = 0;
const STOP: u64 = 1;

/// A queue with the threads that serve it. Dropping it stops them.
pub(crate) struct SharedQueue {
    workers: Vec<Worker<()>>,
    ring: Arc<SharedRing>,
}

impl SharedQueue {
    /// Starts the threads. `work` serves what there is, and is called again after a kick.
    /// Each thread has an `S` of its own.
    pub fn start<S: Default>(
        kind: ThreadKind,
        name: &str,
        threads: usize,
        ring: Ring,
        work: impl Fn(&SharedRing, &mut S) + Clone + Send + 'static,
    ) -> io::Result<SharedQueue> {
        let mut queue = SharedQueue {
            workers: Vec::with_capacity(threads),
            ring: Arc::new(SharedRing {
                kick: Arc::clone(ring.kick()),
                ring: Mutex::new(ring),
                stopping: AtomicBool::new(false),
            }),
        };
        for number in 0..threads {
            let ring = Arc::clone(&queue.ring);
            let work = work.clone();
            let worker = Worker::spawn(kind, &format!("{name}-{number}"), move |stop| {
                let mut state = S::default();
                if let Err(err) = ring.serve(stop, || work(&ring, &mut state)) {
                    log::error!("A thread of a queue stopped: {err}");
                }
            })?;
            queue.workers.push(worker);
        }
        Ok(queue)
    }

    /// Ends the threads when they have returned what they took; `None` if one panicked,
    /// whose chain is lost.
    pub fn stop(mut self) -> Option<Queue> {
        let lost = self.end();
        let ring = Arc::clone(&self.ring);
        drop(self);
        let ring = Arc::into_inner(ring).filter(|_| lost == 0)?.ring;
        let ring = recover(ring.into_inner());
        Some(ring.into_queue())
    }

    /// Ends the threads; returns how many panicked.
    fn end(&mut self) -> usize {
        self.ring.stopping.store(true, Ordering::Relaxed);
        let ended = self.workers.drain(..).map(Worker::stop);
        ended.filter(Option::is_none).count()
    }
}

impl Drop for SharedQueue {
    fn drop(&mut self) {
        self.end();
    }
}

/// A ring that several threads take chains from.
pub(crate) struct SharedRing {
    ring: Mutex<Ring>,
    kick: Arc<EventFd>,
    /// A guest that always asks for more must not keep a thread from stopping.
    stopping: AtomicBool,
}

impl SharedRing {
    /// The ring itself.
    pub fn lock(&self) -> MutexGuard<'_, Ring> {
        lock(&self.ring)
    }

    /// Whether no more chains shall be taken.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Takes the next chain. If more are there, another thread is woken for them.
    pub fn take<'m>(&self, mem: &'m GuestMemoryMmap) -> Option<Chain<'m>> {
        let mut ring = self.lock();
        while !self.stopping() {
            let chain = ring.pop(mem);
            let more = ring.enable_kicks();
            match chain {
                Some(_) if more => self.wake(),
                None if more => continue,
                _ => {}
            }
            return chain;
        }
        None
    }

    /// Returns a chain and signals the driver.
    pub fn complete(&self, mem: &GuestMemoryMmap, head: u16, len: u32) {
        let mut ring = self.lock();
        ring.complete(mem, head, len);
        ring.notify();
    }

    /// Wakes another thread, as a kick would.
    pub fn wake(&self) {
        // A counter that is full wakes as well.
        let _ = self.kick.write(1);
    }

    fn serve(&self, stop: &EventFd, mut work: impl FnMut()) -> io::Result<()> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        // Edge-triggered: each kick is one event, and the counter need not be read.
        let kick = EpollFlags::EPOLLIN | EpollFlags::EPOLLET | EpollFlags::EPOLLEXCLUSIVE;
        epoll.add(&*self.kick, EpollEvent::new(kick, KICK))?;
        let mut events = [EpollEvent::empty(); 2];
        loop {
            work();
            let events = worker::wait(&epoll, &mut events, EpollTimeout::NONE)?;
            if events.iter().any(|event| event.data() == STOP) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{DriverQueue, SIZE, WRITE, memory};

    fn start(
        mem: &crate::virtio::Memory,
        driver: &DriverQueue,
        queue: Queue,
        serve: impl Fn(&SharedRing, &GuestMemoryMmap, u16) + Send + Sync + 'static,
    ) -> SharedQueue {
        let (kick, calls) = (driver.kick_event(), driver.calls.clone());
        let ring = Ring::new(0, queue, mem.clone(), kick, calls).unwrap();
        let serve = Arc::new(serve);
        let work = move |ring: &SharedRing, _: &mut ()| {
            let mem = ring.lock().memory();
            while let Some(chain) = ring.take(&mem) {
                serve(ring, &mem, chain.head_index());
            }
        };
        SharedQueue::start(ThreadKind::Fs, "shared-test", 3, ring, work).unwrap()
    }

    #[test]
    fn all_chains_come_back_across_a_pause() {
        let mem = memory();
        let mut driver = DriverQueue::new(&mem, 0);
        let mut queue = driver.queue();
        for _ in 0..4 {
            for head in 0..SIZE {
                driver.descriptor(head, (1 << 20, 64, WRITE, 0));
                driver.offer(head);
            }
            let server = start(&mem, &driver, queue, |ring, mem, head| {
                ring.complete(mem, head, head.into());
            });
            driver.kick();
            let mut heads: Vec<_> = (0..SIZE).map(|_| driver.wait_used()).collect();
            heads.sort_unstable();
            let expected = (0..u32::from(SIZE)).map(|head| (head, head));
            assert!(heads.into_iter().eq(expected));
            queue = server.stop().unwrap();
        }
    }

    /// Each of two chains waits until the other is being served as well.
    #[test]
    fn a_chain_does_not_wait_for_another() {
        let mem = memory();
        let mut driver = DriverQueue::new(&mem, 0);
        let barrier = std::sync::Barrier::new(2);
        for head in [0, 1] {
            driver.descriptor(head, (1 << 20, 64, WRITE, 0));
            driver.offer(head);
        }

        let server = start(&mem, &driver, driver.queue(), move |ring, mem, head| {
            barrier.wait();
            ring.complete(mem, head, 0);
        });
        driver.kick();

        driver.wait_used();
        driver.wait_used();
        assert!(server.stop().is_some());
    }

    #[test]
    fn endless_supply_does_not_delay_the_stop() {
        let mem = memory();
        let mut driver = DriverQueue::new(&mem, 0);
        driver.descriptor(0, (1 << 20, 64, WRITE, 0));
        driver.offer(0);
        let again = Mutex::new(DriverQueue::new(&mem, 0));
        again.lock().unwrap().offer(0);

        let server = start(&mem, &driver, driver.queue(), move |ring, mem, head| {
            again.lock().unwrap().offer(head);
            ring.complete(mem, head, 0);
        });
        driver.kick();
        driver.wait_used();

        assert!(server.stop().is_some());
    }

    #[test]
    fn lost_thread_is_reported() {
        let mem = memory();
        let mut driver = DriverQueue::new(&mem, 0);
        driver.descriptor(0, (1 << 20, 64, WRITE, 0));
        driver.offer(0);

        let (sender, taken) = std::sync::mpsc::channel();
        let server = start(&mem, &driver, driver.queue(), move |_, _, _| {
            sender.send(()).unwrap();
            panic!("as a test wants it");
        });
        taken.recv().unwrap();

        assert!(server.stop().is_none());
    }
}
