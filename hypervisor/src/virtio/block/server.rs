//! The threads that serve a queue of requests.
//!
//! All threads of a queue are alike and wait for the same kick, of which the kernel
//! wakes one. It takes requests and serves what needs no waiting (data in the page
//! cache, with `RWF_NOWAIT`) one after the other, telling the driver once for many.
//! Before it waits for the storage it sees to it that somebody else takes what is left
//! or comes in: so nothing is handed from thread to thread, a lone request is served by
//! the thread that it woke, and a slow one holds up no other.

use std::io;
use std::sync::Arc;

use crate::jail::ThreadKind;

use super::super::buffers::Room;
use super::super::{Ring, SharedQueue, SharedRing};
use super::disk::Wait;
use super::request::{Request, Target};

/// Bytes moved before the driver is told of what is done, though more can be done.
const UNTOLD: usize = 256 << 10;

/// Serves `ring` with this many threads. If `durable`, the driver knows no flush, so each
/// write has to last (virtio 1.2 §5.2.6.2).
pub(super) fn start(
    threads: usize,
    ring: Ring,
    target: &Arc<Target>,
    durable: bool,
) -> io::Result<SharedQueue> {
    let target = Arc::clone(target);
    let work = move |ring: &SharedRing, room: &mut Room| drain(ring, &target, durable, room);
    SharedQueue::start(ThreadKind::Block, "block", threads, ring, work)
}

/// Serves requests until there are none.
fn drain(queue: &SharedRing, target: &Target, durable: bool, room: &mut Room) {
    let mut untold = 0;
    let mut ring = queue.lock();
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
                return;
            }
        };
        drop(ring);

        let head = chain.head_index();
        let request = room
            .gather(&mem, chain)
            .and_then(|buffers| Request::parse(target, buffers));
        let mut len = 0;
        if let Some(mut request) = request {
            untold += request.size;
            let status = request.serve(target, durable, Wait::No).or_else(|| {
                make_way(queue);
                request.serve(target, durable, Wait::Yes)
            });
            // Only a request that may not wait is left undone.
            len = status.map_or(0, |status| request.finish(status));
        }

        ring = queue.lock();
        ring.complete(&mem, head, len);
        if untold >= UNTOLD {
            untold = 0;
            ring.notify();
        }
    }
}

/// Sees to it that other threads go on, since this one will wait.
fn make_way(queue: &SharedRing) {
    let mut ring = queue.lock();
    ring.notify();
    if ring.enable_kicks() {
        queue.wake();
    }
}
