//! How the chains of each queue are served.

use std::io::Read;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::super::Handler;
use super::super::discard::discard;
use super::super::ring::Chain;

/// §5.5.6: pages have 4096 bytes, independent of the guest's page size.
const PAGE_SHIFT: u32 = 12;
/// Pages taken from a request; the rest stays with the guest. Linux hands over 256.
const MAX_PAGES: usize = 4096;

/// What a queue is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum BalloonQueue {
    /// Page numbers that the guest gives.
    Inflate,
    /// Page numbers that it takes back.
    Deflate,
    /// Ranges that are free.
    Report,
}

impl BalloonQueue {
    /// The role of queue `index` (§5.5.2).
    ///
    /// The reporting queue is number 4, but Linux counts only queues whose feature was
    /// negotiated, and looks for it at 2. Nothing else is at 2 and 3, where queues of
    /// features would be that are not offered.
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
            // The pages are there again when they are touched.
            BalloonQueue::Deflate => {}
            BalloonQueue::Report => report(mem, chain),
        }
        0
    }
}

/// Gives the pages of a list back, neighbours at once.
fn inflate(mem: &GuestMemoryMmap, chain: Chain<'_>) {
    let mut pages = page_numbers(mem, chain);
    pages.sort_unstable();
    pages.dedup();
    for run in pages.chunk_by(|page, next| next - page == 1) {
        let start = u64::from(run[0]) << PAGE_SHIFT;
        discard_range(mem, start, (run.len() as u64) << PAGE_SHIFT);
    }
}

/// Reads a list of page numbers, which the driver may scatter as it likes. Empty if it
/// is not readable.
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

/// Gives reported ranges back: the buffers themselves (§5.5.6.7), which are for the
/// device to write.
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
