//! Frames from the tap to the guest.
//!
//! A frame is read directly into the guest's buffers. Its length is only known then, so buffers
//! for the longest frame are prepared, and unused ones are kept for the next frame. A buffer of
//! the device follows them: if the guest's buffers are too few, the frame waits there until the
//! guest has given enough. Meanwhile the tap's queue fills up, and then drops frames.

use std::io;

use vm_memory::{GuestMemoryLoadGuard, GuestMemoryMmap};

use super::super::Ring;
use super::super::buffers::{MAX_PIECES, Span, push};
use super::super::ring::Chain;
use super::tap::Tap;
use super::{HEADER_LEN, MAX_FRAME};

/// The most frames that are received before the other direction gets a turn.
const BATCH: usize = 64;
/// The most bytes that are received before the guest is signalled.
const BATCH_BYTES: usize = 256 << 10;
/// The position of the number of buffers in the header (virtio 1.2 §5.1.6).
const NUM_BUFFERS: usize = 10;

/// The reason why no frames are received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiving {
    /// None; there may be more frames, without a further event.
    Ready,
    /// The tap has no frame.
    Empty,
    /// The guest gives no buffers, or too few for the current frame.
    Starved,
}

/// The state that is kept between calls.
pub(super) struct Backlog {
    /// The buffer for frames that do not fit into the guest's buffers.
    spill: Vec<u8>,
    /// The length of a frame in `spill` that waits for buffers.
    waiting: Option<usize>,
}

impl Backlog {
    pub fn new() -> Backlog {
        Backlog {
            spill: vec![0; MAX_FRAME],
            waiting: None,
        }
    }

    /// Drops a waiting frame.
    pub fn clear(&mut self) {
        self.waiting = None;
    }
}

/// The driver's settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// The longest expected frame, with its header.
    pub longest: usize,
    /// Frames may take more than one buffer.
    pub mergeable: bool,
}

/// Buffers taken from the guest, in order. Linux needs 40 for a frame of 64 KiB, too many to
/// take and return for each ACK. They are [returned](Taken::undo) at the end.
#[derive(Default)]
pub(super) struct Taken {
    /// The memory of the buffers.
    mem: Option<GuestMemoryLoadGuard<GuestMemoryMmap>>,
    chains: Vec<TakenChain>,
    pieces: Vec<libc::iovec>,
    /// Bytes in all of them.
    len: usize,
    /// Chains to return, and the used length of each.
    done: Vec<(u16, u32)>,
}

struct TakenChain {
    head: u16,
    len: usize,
    pieces: usize,
}

/// The reason why no more buffers were taken.
enum Fill {
    /// There are enough.
    Enough,
    /// The guest has given no more.
    NoMore,
    /// The limit is reached.
    Full,
    /// A chain is not a valid buffer. All taken buffers were returned.
    Bad,
}

impl Taken {
    /// Takes buffers until there are `wanted` bytes, or one buffer for a frame that must be in
    /// one piece.
    fn fill(
        &mut self,
        ring: &mut Ring,
        mem: &GuestMemoryMmap,
        wanted: usize,
        mergeable: bool,
    ) -> Fill {
        while self.len < wanted && (mergeable || self.chains.is_empty()) {
            if self.chains.len() == ring.size() || self.pieces.len() == MAX_PIECES {
                return Fill::Full;
            }
            let Some(chain) = ring.pop(mem) else {
                return Fill::NoMore;
            };
            let head = chain.head_index();
            let before = self.pieces.len();
            match self.lay_out(mem, chain) {
                Some(len) => {
                    self.len += len;
                    self.chains.push(TakenChain {
                        head,
                        len,
                        pieces: self.pieces.len() - before,
                    });
                }
                None if before > 0 && self.pieces.len() == MAX_PIECES => {
                    self.pieces.truncate(before);
                    ring.undo_pop();
                    return Fill::Full;
                }
                // The earlier chains have to be returned first.
                None => {
                    let chains = self.chains.drain(..).map(|chain| chain.head);
                    for head in chains.chain([head]) {
                        ring.complete(mem, head, 0);
                    }
                    self.pieces.clear();
                    self.len = 0;
                    return Fill::Bad;
                }
            }
        }
        Fill::Enough
    }

    /// Adds a chain's pieces; returns its length if the chain is usable.
    fn lay_out(&mut self, mem: &GuestMemoryMmap, chain: Chain<'_>) -> Option<usize> {
        let before = self.pieces.len();
        let mut ended = false;
        for desc in chain {
            ended = !desc.has_next();
            if !desc.is_write_only() || !push(mem, desc, &mut self.pieces, MAX_PIECES) {
                return None;
            }
        }
        let len = self.pieces[before..]
            .iter()
            .map(|piece| piece.iov_len)
            .sum();
        // The header has to be in one buffer (§5.1.6.3.1).
        (ended && len >= HEADER_LEN).then_some(len)
    }

    /// Returns the buffers with a frame of `len` bytes, and writes their number into the frame.
    /// They must have room for it.
    fn finish(&mut self, ring: &mut Ring, mem: &GuestMemoryMmap, len: usize) {
        let (mut left, mut pieces) = (len, 0);
        self.done.clear();
        for chain in &self.chains {
            let part = left.min(chain.len);
            self.done.push((chain.head, part as u32));
            self.len -= chain.len;
            left -= part;
            pieces += chain.pieces;
            if left == 0 {
                break;
            }
        }
        let number = self.done.len() as u16;
        // SAFETY: these are the pieces of the chains, and no others.
        let mut header = unsafe { Span::over(mem, &mut self.pieces[..pieces]) };
        header.advance(NUM_BUFFERS);
        header.copy_from(&number.to_le_bytes());
        self.chains.drain(..self.done.len());
        self.pieces.drain(..pieces);
        ring.complete_all(mem, &self.done);
    }

    /// Returns buffers that are in other memory than this.
    fn renew(&mut self, ring: &mut Ring, mem: &GuestMemoryLoadGuard<GuestMemoryMmap>) {
        // The region is still the same.
        let same = |held: &GuestMemoryLoadGuard<_>| std::ptr::eq(&**held, &**mem);
        if !self.mem.as_ref().is_some_and(same) {
            self.undo(ring);
            self.mem = Some(mem.clone());
        }
    }

    /// Returns the remaining buffers.
    pub fn undo(&mut self, ring: &mut Ring) {
        for _ in self.chains.drain(..) {
            ring.undo_pop();
        }
        self.pieces.clear();
        self.len = 0;
    }
}

/// Receives a batch of frames.
pub(super) fn receive(
    ring: &mut Ring,
    tap: &Tap,
    taken: &mut Taken,
    backlog: &mut Backlog,
    shape: Shape,
) -> Receiving {
    let mem = ring.memory();
    taken.renew(ring, &mem);
    ring.disable_kicks();
    let mut state = Receiving::Ready;
    let mut bytes = 0;
    for _ in 0..BATCH {
        let result = match backlog.waiting {
            Some(len) => deliver(ring, &mem, taken, backlog, len, shape),
            None => read(ring, &mem, tap, taken, backlog, shape),
        };
        match result {
            Ok(count) => bytes += count,
            Err(stop) => {
                state = stop;
                break;
            }
        }
        if bytes >= BATCH_BYTES {
            break;
        }
    }
    if state == Receiving::Starved && ring.enable_kicks() {
        state = Receiving::Ready;
    }
    ring.notify();
    state
}

/// Reads a frame from the tap; returns its length.
fn read(
    ring: &mut Ring,
    mem: &GuestMemoryMmap,
    tap: &Tap,
    taken: &mut Taken,
    backlog: &mut Backlog,
    shape: Shape,
) -> Result<usize, Receiving> {
    match taken.fill(ring, mem, shape.longest, shape.mergeable) {
        Fill::Bad => return Ok(0),
        _ if taken.len == 0 => return Err(Receiving::Starved),
        _ => {}
    }
    // The part that does not fit goes to its position in the whole frame.
    let room = taken.len;
    let rest = backlog.spill.get_mut(room..).unwrap_or_default();
    taken.pieces.push(libc::iovec {
        iov_base: rest.as_mut_ptr().cast(),
        iov_len: rest.len(),
    });
    // SAFETY: the vectors point into guest memory, which `taken` keeps, and the last one into
    // the spill buffer, which is not used otherwise.
    let result = unsafe { tap.read(&taken.pieces) };
    taken.pieces.pop();
    match result {
        Ok(len) if len <= room && len >= HEADER_LEN => {
            taken.finish(ring, mem, len);
            Ok(len)
        }
        Ok(len) if len > room => {
            // SAFETY: these are the pieces of the chains, and no others.
            unsafe { Span::over(mem, &mut taken.pieces) }.copy_to(&mut backlog.spill[..room]);
            taken.undo(ring);
            backlog.waiting = Some(len);
            Ok(0)
        }
        Ok(_) => Ok(0),
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => Err(Receiving::Empty),
        Err(err) if err.kind() == io::ErrorKind::Interrupted => Ok(0),
        // The interface has been removed, or its queue detached; after a new attachment, the
        // tap becomes readable.
        Err(err) => {
            log::debug!("Cannot read from a tap: {err}");
            Err(Receiving::Empty)
        }
    }
}

/// Gives a waiting frame to the guest; returns its length.
fn deliver(
    ring: &mut Ring,
    mem: &GuestMemoryMmap,
    taken: &mut Taken,
    backlog: &mut Backlog,
    len: usize,
    shape: Shape,
) -> Result<usize, Receiving> {
    let fill = taken.fill(ring, mem, len, shape.mergeable);
    if taken.len >= len {
        // SAFETY: these are the pieces of the chains, and no others.
        unsafe { Span::over(mem, &mut taken.pieces) }.copy_from(&backlog.spill[..len]);
        taken.finish(ring, mem, len);
        backlog.waiting = None;
        return Ok(len);
    }
    match fill {
        Fill::Bad => Ok(0),
        Fill::NoMore => Err(Receiving::Starved),
        // All buffers that the guest can give are too small.
        Fill::Enough | Fill::Full => {
            backlog.waiting = None;
            Ok(0)
        }
    }
}
