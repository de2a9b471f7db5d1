//! The handling of each queue's chains.

use std::io::Read;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::super::Handler;
use super::super::discard::discard;
use super::super::ring::Chain;

/// §5.5.6: pages have 4096 bytes, independent of the guest's page size.
const PAGE_SHIFT: u32 = 12;
/// The most pages of a request that are taken. Linux passes 256.
const MAX_PAGES: usize = 4096;

/// The function of a queue.
#[derive(Debug, Clone, Copy)]
pub(super) enum BalloonQueue {
    /// Numbers of pages that the guest gives.
    Inflate,
    /// Numbers of pages that it takes back.
    Deflate,
    /// Free ranges.
    Report,
}

impl BalloonQueue {
    /// The function of queue `index` (§5.5.2).
    ///
    /// The reporting queue is number 4, but Linux counts only queues with a negotiated feature,
    /// and uses number 2. No other queue has number 2 or 3, since their features are not
    /// offered.
    pub fn of(index: usize) -> BalloonQueue {
        match index {
            0 => BalloonQueue::Inflate,
            1 => BalloonQueue::Deflate,
            _ => BalloonQueue::Report,
        }
    }

    /// The name of the thread.
    pub fn thread(self) -> &'static str {
        match self {
            BalloonQueue::Inflate => "balloon-inflate",
            BalloonQueue::Deflate => "balloon-deflate",
            BalloonQueue::Report => "balloon-report",
        }
    }
}

impl Handler for BalloonQueue {
    fn handle(&mut self, mem: &GuestMemoryMmap, chain: Chain<'_>) -> u32 {
        match self {
            BalloonQueue::Inflate => inflate(mem, chain),
            // The guest gets the pages back when it accesses them.
            BalloonQueue::Deflate => {}
            BalloonQueue::Report => report(mem, chain),
        }
        0
    }
}

/// Discards the pages of a list; adjacent pages in one step.
fn inflate(mem: &GuestMemoryMmap, chain: Chain<'_>) {
    let mut pages = page_numbers(mem, chain);
    pages.sort_unstable();
    pages.dedup();
    for run in pages.chunk_by(|page, next| next - page == 1) {
        let start = u64::from(run[0]) << PAGE_SHIFT;
        discard_range(mem, start, (run.len() as u64) << PAGE_SHIFT);
    }
}

/// Reads a list of page numbers, in any descriptors. Empty if it is not readable.
fn page_numbers(mem: &GuestMemoryMmap, chain: Chain<'_>) -> Vec<u32> {
    let Ok(mut list) = chain.reader(mem) else {
        return Vec::new();
    };
    let count = (list.available_bytes() / 4).min(MAX_PAGES);
    let mut bytes = vec![0; count * 4];
    if list.read_exact(&mut bytes).is_err() {
        return Vec::new();
    }
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|bytes| u32::from_le_bytes(*bytes))
        .collect()
}

/// Discards reported ranges: the buffers themselves (§5.5.6.7), which are device-writable.
fn report(mem: &GuestMemoryMmap, chain: Chain<'_>) {
    for range in chain.writable() {
        discard_range(mem, range.addr().0, range.len().into());
    }
}

fn discard_range(mem: &GuestMemoryMmap, start: u64, len: u64) {
    if let Err(err) = discard(mem, GuestAddress(start), len) {
        log::debug!("Cannot give {len} bytes of guest memory at {start:#x} back: {err}");
    }
}
