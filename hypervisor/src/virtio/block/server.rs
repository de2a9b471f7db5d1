//! The threads that serve a queue of requests.
//!
//! All threads of a queue are alike and wait for the same kick, of which the kernel
//! wakes one. It takes requests and serves what needs no waiting (data in the page
//! cache, with `RWF_NOWAIT`) one after the other, signalling the driver once for many.
//! Before the last thread that looks at the queue waits for the storage it has another
//! one woken for what is left or comes in: so nothing is handed from thread to thread,
//! a lone request is served by the thread that it woke, and a slow one holds up no
//! other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::jail::ThreadKind;

use super::super::buffers::IovecScratch;
use super::super::{Ring, SharedQueue, SharedRing};
use super::disk::Wait;
use super::request::{BlockRequest, Target};

/// Bytes moved before the driver is signalled, even if more requests can be served.
const MAX_UNSIGNALLED: usize = 256 << 10;

/// Serves `ring` with this many threads. If `durable`, the driver knows no flush, so each
/// write has to last (virtio 1.2 §5.2.6.2).
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
    /// Threads that will look at the queue again, or ask for a kick, before they wait.
    /// The count changes with the ring locked, so that a thread that is not counted has
    /// left the kicks enabled.
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
                // Only a request that may not wait is left undone.
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

    /// Sees to it that other requests are served, since the calling thread will wait.
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
