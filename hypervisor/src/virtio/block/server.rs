//! The threads that serve a queue of requests.
//!
//! All threads of a queue are alike and wait for the same kick, which wakes one of them. It
//! takes requests, serves those that need no waiting (data in the page cache, with
//! `RWF_NOWAIT`) one after the other, and signals the driver once for many. Before the last
//! thread that checks the queue waits for the storage, it wakes another one for the remaining
//! and later requests. So no request is passed between threads, a single request is served by
//! the thread that it woke, and a slow one does not delay others.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::jail::ThreadKind;

use super::super::buffers::IovecScratch;
use super::super::{Ring, SharedQueue, SharedRing};
use super::disk::Wait;
use super::request::{BlockRequest, Target};

/// The bytes that are transferred before the driver is signalled, even with requests left.
const MAX_UNSIGNALLED: usize = 256 << 10;

/// Serves `ring` with this many threads. With `durable`, the driver does not flush, so each
/// write must reach the storage (virtio 1.2 §5.2.6.2).
pub(super) fn start(
    threads: usize,
    ring: Ring,
    target: &Arc<Target>,
    durable: bool,
) -> io::Result<SharedQueue> {
    let server = Arc::new(BlockServer {
        target: Arc::clone(target),
        durable,
        looking: AtomicUsize::new(0),
    });
    let work = move |ring: &SharedRing, scratch: &mut IovecScratch| server.drain(ring, scratch);
    SharedQueue::start(ThreadKind::Block, "block", threads, ring, work)
}

struct BlockServer {
    target: Arc<Target>,
    durable: bool,
    /// The number of threads that will check the queue again, or enable kicks, before they
    /// wait. It changes with the ring locked, so that an uncounted thread has left the kicks
    /// enabled.
    looking: AtomicUsize,
}

impl BlockServer {
    /// Serves requests until the queue is empty.
    fn drain(&self, queue: &SharedRing, scratch: &mut IovecScratch) {
        let mut unsignalled = 0;
        let mut ring = queue.lock();
        self.looking.fetch_add(1, Ordering::SeqCst);
        ring.disable_kicks();
        loop {
            let mem = ring.memory();
            let chain = match ring.pop(&mem) {
                Some(chain) if !queue.stopping() => chain,
                stopped => {
                    if stopped.is_some() {
                        ring.undo_pop();
                    }
                    ring.notify();
                    if stopped.is_none() && ring.enable_kicks() {
                        continue;
                    }
                    self.looking.fetch_sub(1, Ordering::SeqCst);
                    return;
                }
            };
            drop(ring);

            let head = chain.head_index();
            let request = scratch
                .gather(&mem, chain)
                .and_then(|buffers| BlockRequest::parse(&self.target, buffers));
            let (mut len, mut waited) = (0, false);
            if let Some(mut request) = request {
                unsignalled += request.size;
                let mut status = request.serve(&self.target, self.durable, Wait::No);
                if status.is_none() {
                    waited = true;
                    self.make_way(queue);
                    status = request.serve(&self.target, self.durable, Wait::Yes);
                }
                // Only a request that must not wait is left unfinished.
                len = status.map_or(0, |status| request.finish(status));
            }

            ring = queue.lock();
            if waited {
                self.looking.fetch_add(1, Ordering::SeqCst);
                ring.disable_kicks();
            }
            ring.complete(&mem, head, len);
            if unsignalled >= MAX_UNSIGNALLED {
                unsignalled = 0;
                ring.notify();
            }
        }
    }

    /// Makes sure that other requests are served, since the calling thread will wait.
    fn make_way(&self, queue: &SharedRing) {
        if self.looking.fetch_sub(1, Ordering::SeqCst) == 1 {
            let mut ring = queue.lock();
            ring.notify();
            if ring.enable_kicks() {
                queue.wake();
            }
        }
    }
}
