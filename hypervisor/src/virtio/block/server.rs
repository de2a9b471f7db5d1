//! The threads that serve a queue of requests.
//!
//! All threads of a queue are alike and wait for the same kick, of which the kernel
//! wakes one. It takes requests and serves what needs no waiting (data in the page
//! cache, with `RWF_NOWAIT`) one after the other, telling the driver once for many.
//! Before it waits for the storage it sees to it that somebody else takes what is left
//! or comes in: so nothing is handed from thread to thread, a lone request is served by
//! the thread that it woke, and a slow one holds up no other.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use virtio_queue::Queue;

use crate::jail::ThreadKind;

use super::super::buffers::Room;
use super::super::{Ring, Worker};
use super::disk::Wait;
use super::request::{Request, Target};

const KICK: u64 = 0;
const STOP: u64 = 1;

/// Bytes moved before the driver is told of what is done, though more can be done.
const UNTOLD: usize = 256 << 10;

/// The threads of one queue.
pub(super) struct QueueServer {
    workers: Vec<Worker<()>>,
    shared: Arc<Shared>,
}

struct Shared {
    ring: Mutex<Ring>,
    kick: Arc<EventFd>,
    target: Arc<Target>,
    /// The driver knows no flush, so each write has to last (virtio 1.2 §5.2.6.2).
    durable: bool,
    /// A guest that always asks for more must not keep a thread from stopping.
    stopping: AtomicBool,
}

impl QueueServer {
    /// Serves `ring` with this many threads.
    pub fn start(
        threads: usize,
        ring: Ring,
        target: &Arc<Target>,
        durable: bool,
    ) -> io::Result<QueueServer> {
        let shared = Arc::new(Shared {
            kick: Arc::clone(ring.kick()),
            ring: Mutex::new(ring),
            target: Arc::clone(target),
            durable,
            stopping: AtomicBool::new(false),
        });
        let workers = (0..threads)
            .map(|number| {
                let shared = Arc::clone(&shared);
                Worker::spawn(ThreadKind::Block, &format!("block-{number}"), move |stop| {
                    if let Err(err) = shared.serve(stop) {
                        log::error!("A block thread stopped: {err}");
                    }
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(QueueServer { workers, shared })
    }

    /// Ends the threads when they have served what they took.
    pub fn stop(mut self) -> Option<Queue> {
        self.end();
        let shared = Arc::clone(&self.shared);
        drop(self);
        let ring = Arc::into_inner(shared)?.ring;
        let ring = ring.into_inner().unwrap_or_else(PoisonError::into_inner);
        Some(ring.into_queue())
    }

    fn end(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.workers.clear();
    }
}

impl Drop for QueueServer {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn serve(&self, stop: &EventFd) -> io::Result<()> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        // Edge-triggered: each kick is one event, and nobody needs to read the counter.
        let kick = EpollFlags::EPOLLIN | EpollFlags::EPOLLET | EpollFlags::EPOLLEXCLUSIVE;
        epoll.add(&*self.kick, EpollEvent::new(kick, KICK))?;
        let mut room = Room::default();
        let mut events = [EpollEvent::empty(); 2];
        loop {
            self.drain(&mut room);
            let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(err) => return Err(err.into()),
            };
            if events[..count].iter().any(|event| event.data() == STOP) {
                return Ok(());
            }
        }
    }

    /// Serves requests until there are none.
    fn drain(&self, room: &mut Room) {
        let mut untold = 0;
        let mut ring = self.lock();
        ring.disable_kicks();
        loop {
            let mem = ring.memory();
            let chain = match ring.pop(&mem) {
                Some(chain) if !self.stopping.load(Ordering::Relaxed) => chain,
                stopped => {
                    if stopped.is_some() {
                        ring.undo_pop();
                    }
                    ring.notify();
                    if stopped.is_none() && ring.enable_kicks() {
                        continue;
                    }
                    return;
                }
            };
            drop(ring);

            let head = chain.head_index();
            let request = room
                .gather(&mem, chain)
                .and_then(|buffers| Request::parse(&self.target, buffers));
            let mut len = 0;
            if let Some(mut request) = request {
                untold += request.size;
                let status = request
                    .serve(&self.target, self.durable, Wait::No)
                    .or_else(|| {
                        self.make_way();
                        request.serve(&self.target, self.durable, Wait::Yes)
                    });
                // Only a request that may not wait is left undone.
                len = status.map_or(0, |status| request.finish(status));
            }

            ring = self.lock();
            ring.complete(&mem, head, len);
            if untold >= UNTOLD {
                untold = 0;
                ring.notify();
            }
        }
    }

    /// Sees to it that other threads go on, since this one will wait.
    fn make_way(&self) {
        let mut ring = self.lock();
        ring.notify();
        if ring.enable_kicks() {
            // A counter that is full wakes as well.
            let _ = self.kick.write(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
