//! The bytes of a descriptor chain as I/O vectors over guest memory, so that the kernel
//! transfers data to and from the guest without an intermediate copy.

use std::marker::PhantomData;

use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestMemory, GuestMemoryMmap, VolatileSlice};

use super::ring::Chain;

/// The most pieces of one direction in a chain. A system call allows 1024.
pub(crate) const MAX_PIECES: usize = 512;

/// I/O vectors of a chain, allocated once for many chains.
#[derive(Default)]
pub(crate) struct IovecScratch {
    readable: Vec<libc::iovec>,
    writable: Vec<libc::iovec>,
}

/// The buffers of a chain.
pub(crate) struct Buffers<'m> {
    /// The buffers that the device reads.
    pub readable: Span<'m>,
    /// The buffers that the device writes. Empty if their end is not in guest memory.
    pub writable: Span<'m>,
    /// The chain breaks the rules: a buffer is not in guest memory, the directions are
    /// mixed (virtio 1.2 §2.7.4.2) or there are too many pieces.
    pub faulty: bool,
}

impl IovecScratch {
    /// Parses a chain. `None` if it has no end: a loop, a descriptor that is not in the table,
    /// or an unreadable table.
    pub fn gather<'m>(
        &'m mut self,
        mem: &'m GuestMemoryMmap,
        chain: Chain<'m>,
    ) -> Option<Buffers<'m>> {
        self.readable.clear();
        self.writable.clear();
        let mut faulty = false;
        let mut ended = false;
        for desc in chain {
            ended = !desc.has_next();
            let pieces = if desc.is_write_only() {
                &mut self.writable
            } else {
                faulty |= !self.writable.is_empty();
                &mut self.readable
            };
            if !push(mem, desc, pieces, MAX_PIECES) {
                faulty = true;
                // The known end is not the real one.
                pieces.clear();
            }
        }
        ended.then(|| Buffers {
            readable: Span::new(&mut self.readable),
            writable: Span::new(&mut self.writable),
            faulty,
        })
    }
}

/// Adds the pieces of a descriptor's buffer. Returns false, perhaps after adding some of them,
/// if it is not in guest memory or if there would be more than `limit` pieces.
pub(crate) fn push(
    mem: &GuestMemoryMmap,
    desc: Descriptor,
    pieces: &mut Vec<libc::iovec>,
    limit: usize,
) -> bool {
    if desc.len() == 0 {
        return true;
    }
    for piece in mem.get_slices(desc.addr(), desc.len() as usize) {
        let Ok(piece) = piece else { return false };
        if pieces.len() == limit {
            return false;
        }
        pieces.push(libc::iovec {
            iov_base: piece.ptr_guard_mut().as_ptr().cast(),
            iov_len: piece.len(),
        });
    }
    true
}

/// Bytes of guest memory, in pieces.
pub(crate) struct Span<'m> {
    pieces: &'m mut [libc::iovec],
    len: usize,
    memory: PhantomData<&'m GuestMemoryMmap>,
}

impl<'m> Span<'m> {
    /// The bytes of `pieces`.
    ///
    /// # Safety
    /// Each piece must have been [pushed](push) from `mem`.
    pub unsafe fn over(_mem: &'m GuestMemoryMmap, pieces: &'m mut [libc::iovec]) -> Span<'m> {
        Span::new(pieces)
    }

    fn new(pieces: &'m mut [libc::iovec]) -> Span<'m> {
        Span {
            len: pieces.iter().map(|piece| piece.iov_len).sum(),
            pieces,
            memory: PhantomData,
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// For a vectored system call. The guest may change the bytes at any time.
    pub fn iovecs(&self) -> &[libc::iovec] {
        self.pieces
    }

    /// Skips the first `count` bytes.
    pub fn advance(&mut self, mut count: usize) {
        let mut pieces = std::mem::take(&mut self.pieces);
        while let Some(first) = pieces.first_mut() {
            let cut = count.min(first.iov_len);
            first.iov_base = first.iov_base.wrapping_byte_add(cut);
            first.iov_len -= cut;
            self.len -= cut;
            count -= cut;
            if first.iov_len > 0 {
                break;
            }
            pieces = &mut pieces[1..];
        }
        self.pieces = pieces;
    }

    /// Splits the last byte off.
    pub fn split_last(&mut self) -> Option<LastByte<'m>> {
        let last = self.pieces.last_mut()?;
        last.iov_len -= 1;
        self.len -= 1;
        let byte = LastByte {
            at: last.iov_base.wrapping_byte_add(last.iov_len).cast(),
            memory: PhantomData,
        };
        if last.iov_len == 0 {
            let pieces = std::mem::take(&mut self.pieces);
            let end = pieces.len() - 1;
            self.pieces = &mut pieces[..end];
        }
        Some(byte)
    }

    /// Copies from the start; returns the number of copied bytes.
    pub fn copy_to(&self, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for piece in self.slices() {
            done += piece.copy_to(&mut bytes[done..]);
        }
        done
    }

    /// Copies to the start; returns the number of copied bytes.
    pub fn copy_from(&self, bytes: &[u8]) -> usize {
        let mut done = 0;
        for piece in self.slices() {
            let count = piece.len().min(bytes.len() - done);
            piece.copy_from(&bytes[done..done + count]);
            done += count;
        }
        done
    }

    fn slices(&self) -> impl Iterator<Item = VolatileSlice<'_>> {
        self.pieces.iter().map(|piece| {
            // SAFETY: the piece is part of a slice of the guest memory that is borrowed for 'm,
            // and has only been shortened.
            unsafe { VolatileSlice::new(piece.iov_base.cast(), piece.iov_len) }
        })
    }
}

/// The last byte of a device's output.
pub(crate) struct LastByte<'m> {
    at: *mut u8,
    memory: PhantomData<&'m GuestMemoryMmap>,
}

impl LastByte<'_> {
    /// Writes it.
    pub fn set(&self, value: u8) {
        // SAFETY: it is a byte of the guest memory that is borrowed for its lifetime.
        unsafe { self.at.write_volatile(value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::Ring;
    use crate::virtio::testing::{DriverQueue, END, NEXT, WRITE, memory};

    const DATA: u64 = 1 << 20;

    /// Parses the chain at 0 that `lay` made, and checks it.
    fn gather<T>(lay: impl Fn(&DriverQueue), look: impl Fn(Option<Buffers<'_>>) -> T) -> T {
        let mem = memory();
        let mut driver = DriverQueue::new(&mem, 0);
        lay(&driver);
        driver.offer(0);
        let (kick, calls) = (driver.kick_event(), driver.calls.clone());
        let mut ring = Ring::new(0, driver.queue(), mem, kick, calls).unwrap();
        let mem = ring.memory();
        let chain = ring.pop(&mem).unwrap();
        look(IovecScratch::default().gather(&mem, chain))
    }

    #[test]
    fn both_directions_and_cuts() {
        gather(
            |driver| {
                driver.write(DATA, b"abcdef");
                driver.descriptor(0, (DATA, 2, NEXT, 1));
                driver.descriptor(1, (DATA + 2, 4, NEXT, 2));
                driver.descriptor(2, (DATA + 64, 3, NEXT | WRITE, 3));
                driver.descriptor(3, (DATA + 128, 1, WRITE, 0));
            },
            |buffers| {
                let Buffers {
                    mut readable,
                    mut writable,
                    faulty,
                } = buffers.unwrap();
                assert!(!faulty);
                readable.advance(3);
                let mut rest = [0; 8];
                assert_eq!((readable.len(), readable.copy_to(&mut rest)), (3, 3));
                assert_eq!(&rest[..3], b"def");
                writable.split_last().unwrap().set(7);
                assert_eq!((writable.len(), writable.iovecs().len()), (3, 1));
                assert_eq!(writable.copy_from(b"12345"), 3);
                readable.advance(3);
                assert_eq!((readable.len(), readable.iovecs().len()), (0, 0));
            },
        );
    }

    #[test]
    fn faults_are_reported() {
        let outside = |driver: &DriverQueue| driver.descriptor(0, (END - 1, 2, WRITE, 0));
        assert!(gather(outside, |b| b
            .is_some_and(|b| b.faulty && b.writable.len() == 0)));
        let order = |driver: &DriverQueue| {
            driver.descriptor(0, (DATA, 2, NEXT | WRITE, 1));
            driver.descriptor(1, (DATA, 2, 0, 0));
        };
        assert!(gather(order, |b| b
            .is_some_and(|b| b.faulty && b.writable.len() == 2)));
        let endless = |driver: &DriverQueue| driver.descriptor(0, (DATA, 2, NEXT, 0));
        assert!(gather(endless, |b| b.is_none()));
        let nowhere = |driver: &DriverQueue| driver.descriptor(0, (DATA, 2, NEXT, 999));
        assert!(gather(nowhere, |b| b.is_none()));
    }

    /// Two readable pieces, `ab` and `cdef`.
    fn two<T>(look: impl Fn(Span<'_>) -> T) -> T {
        let lay = |driver: &DriverQueue| {
            driver.write(DATA, b"ab");
            driver.write(DATA + 64, b"cdef");
            driver.descriptor(0, (DATA, 2, NEXT, 1));
            driver.descriptor(1, (DATA + 64, 4, 0, 0));
        };
        gather(lay, |buffers| look(buffers.unwrap().readable))
    }

    fn text(span: &Span<'_>) -> (String, usize) {
        let mut bytes = [b'.'; 16];
        let len = span.copy_to(&mut bytes);
        assert_eq!(len, span.len());
        assert!(bytes[len..].iter().all(|byte| *byte == b'.'));
        let text = String::from_utf8(bytes[..len].to_vec()).unwrap();
        (text, span.iovecs().len())
    }

    #[test]
    fn bytes_are_skipped_across_pieces() {
        for (count, rest, pieces) in [
            (0, "abcdef", 2),
            (1, "bcdef", 2),
            (2, "cdef", 1),
            (3, "def", 1),
            (5, "f", 1),
            (6, "", 0),
            (7, "", 0),
        ] {
            two(|mut span| {
                span.advance(count);
                assert_eq!(text(&span), (rest.into(), pieces), "{count}");
            });
        }
    }

    #[test]
    fn the_last_bytes_are_split_off_one_by_one() {
        two(|mut span| {
            for (rest, pieces) in [("abcde", 2), ("abcd", 2), ("abc", 2), ("ab", 1), ("a", 1)] {
                assert!(span.split_last().is_some());
                assert_eq!(text(&span), (rest.into(), pieces));
            }
            span.split_last().unwrap().set(b'!');
            assert_eq!(text(&span), (String::new(), 0));
            assert!(span.split_last().is_none());
        });
    }

    #[test]
    fn bytes_are_copied_in_as_far_as_there_are_any() {
        two(|span| {
            assert_eq!(span.copy_from(b"1"), 1);
            assert_eq!(text(&span).0, "1bcdef");
            assert_eq!(span.copy_from(b"234"), 3);
            assert_eq!(text(&span).0, "234def");
            assert_eq!(span.copy_from(b"56789xyz"), 6);
            assert_eq!(text(&span).0, "56789x");
        });
    }

    #[test]
    fn a_direction_has_at_most_512_pieces() {
        use crate::virtio::testing::INDIRECT;
        for (count, faulty) in [(512, false), (513, true)] {
            let lay = |driver: &DriverQueue| {
                let table = DATA + 0x10_0000;
                for index in 0..count {
                    let next = if index + 1 < count { NEXT } else { 0 };
                    driver.descriptor_at(table, index, (DATA, 1, next, index + 1));
                }
                driver.descriptor(0, (table, u32::from(count) * 16, INDIRECT, 0));
            };
            gather(lay, |buffers| {
                let buffers = buffers.unwrap();
                assert_eq!(buffers.faulty, faulty);
                let len = if faulty { 0 } else { 512 };
                assert_eq!((buffers.readable.len(), buffers.writable.len()), (len, 0));
            });
        }
        // Empty descriptors are no pieces.
        let empty = |driver: &DriverQueue| {
            driver.descriptor(0, (u64::MAX, 0, NEXT, 1));
            driver.descriptor(1, (DATA, 3, 0, 0));
        };
        gather(empty, |buffers| {
            let buffers = buffers.unwrap();
            assert!(!buffers.faulty);
            assert_eq!(buffers.readable.iovecs().len(), 1);
        });
    }
}
