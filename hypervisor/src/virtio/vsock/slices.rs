//! The bytes of a descriptor chain, and moving them to and from a socket without a
//! copy in between.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use smallvec::SmallVec;
use vm_memory::{GuestMemory, GuestMemoryMmap, VolatileSlice};

use super::super::ring::Chain;

/// The most pieces that a packet may be scattered over. Linux uses two, or one more
/// than the pages of 64 KiB.
const MAX_PIECES: usize = 64;

/// Pieces of guest memory, in order.
pub(crate) struct Slices<'m> {
    /// Most packets have a piece or two.
    pieces: SmallVec<[VolatileSlice<'m>; 2]>,
    len: usize,
}

/// Which descriptors of a chain make up the packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// The descriptors that the device reads.
    Read,
    /// The descriptors that the device writes.
    Write,
}

impl<'m> Slices<'m> {
    /// No bytes, and space for this many pieces.
    pub fn with_capacity(pieces: usize) -> Slices<'m> {
        Slices {
            pieces: SmallVec::with_capacity(pieces),
            len: 0,
        }
    }

    /// Appends the bytes of `chain`, except the first `head` of them, which it returns:
    /// fewer if the chain is shorter. `None`, with nothing appended, if a descriptor is
    /// outside guest memory or of the wrong direction, or if there are too many.
    pub fn append(
        &mut self,
        mem: &'m GuestMemoryMmap,
        chain: Chain<'m>,
        access: Access,
        head: usize,
    ) -> Option<Slices<'m>> {
        let (count, len) = (self.pieces.len(), self.len);
        let head = self.try_append(mem, chain, access, head);
        if head.is_none() {
            self.pieces.truncate(count);
            self.len = len;
        }
        head
    }

    fn try_append(
        &mut self,
        mem: &'m GuestMemoryMmap,
        chain: Chain<'m>,
        access: Access,
        head: usize,
    ) -> Option<Slices<'m>> {
        let mut first = Slices::with_capacity(0);
        let mut left = MAX_PIECES;
        for desc in chain {
            if desc.is_write_only() != (access == Access::Write) {
                return None;
            }
            if desc.len() == 0 {
                continue;
            }
            for piece in mem.get_slices(desc.addr(), desc.len() as usize) {
                let mut piece = piece.ok()?;
                left = left.checked_sub(1)?;
                let cut = piece.len().min(head - first.len);
                if cut > 0 {
                    first.push(piece.subslice(0, cut).ok()?);
                    piece = piece.offset(cut).ok()?;
                }
                if !piece.is_empty() {
                    self.push(piece);
                }
            }
        }
        Some(first)
    }

    pub(super) fn push(&mut self, piece: VolatileSlice<'m>) {
        self.len += piece.len();
        self.pieces.push(piece);
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Leaves the first `count` bytes out.
    pub fn advance(&mut self, mut count: usize) {
        let mut gone = 0;
        for piece in &mut self.pieces {
            if count == 0 {
                break;
            }
            let cut = count.min(piece.len());
            count -= cut;
            self.len -= cut;
            match piece.offset(cut) {
                Ok(rest) if !rest.is_empty() => *piece = rest,
                _ => gone += 1,
            }
        }
        self.pieces.drain(..gone);
    }

    /// Leaves all but the first `count` bytes out.
    pub fn truncate(&mut self, count: usize) {
        while self.len > count {
            let Some(last) = self.pieces.pop() else {
                return;
            };
            self.len -= last.len();
            let part = last.subslice(0, last.len().min(count.saturating_sub(self.len)));
            // A part that starts at zero and is not longer than the whole is in range.
            if let Ok(part) = part
                && !part.is_empty()
            {
                self.push(part);
            }
        }
    }

    /// Copies into `bytes`; returns how many.
    pub fn copy_to(&self, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for piece in &self.pieces {
            done += piece.copy_to(&mut bytes[done..]);
        }
        done
    }

    /// Copies from `bytes`; returns how many.
    pub fn copy_from(&self, bytes: &[u8]) -> usize {
        let mut done = 0;
        for piece in &self.pieces {
            let count = piece.len().min(bytes.len() - done);
            piece.copy_from(&bytes[done..done + count]);
            done += count;
        }
        done
    }

    /// Sends the bytes on a stream socket without waiting; returns how many went.
    pub fn send(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut iov = self.iov();
        // SAFETY: all-zero is a valid msghdr: no name, no data, no ancillary data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = iov.as_mut_ptr();
        message.msg_iovlen = iov.len();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the vectors point into guest memory that `self` borrows, so it stays
        // mapped during the call. The guest may change its content meanwhile, which the
        // kernel's copy tolerates.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Receives from a stream socket without waiting; returns how many bytes came, zero
    /// at its end. There must be room.
    pub fn receive(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut iov = self.iov();
        // SAFETY: all-zero is a valid msghdr: no name, no data, no ancillary data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = iov.as_mut_ptr();
        message.msg_iovlen = iov.len();
        // SAFETY: as in `send`; nothing else than the guest's memory is written to.
        let received =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    fn iov(&self) -> Vec<libc::iovec> {
        self.pieces
            .iter()
            .map(|piece| libc::iovec {
                iov_base: piece.ptr_guard_mut().as_ptr().cast(),
                iov_len: piece.len(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::Ring;
    use crate::virtio::testing::{DriverQueue, END, NEXT, WRITE, memory};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use vm_memory::{GuestAddress, GuestAddressSpace};

    const DATA: u64 = 1 << 20;

    /// Calls `look` with the slices of these lengths, which hold `abc…`.
    fn with<T>(lens: &[usize], look: impl FnOnce(Slices<'_>) -> T) -> T {
        let mem = memory();
        let mem = mem.memory();
        let mut slices = Slices::with_capacity(lens.len());
        let mut letters = b'a'..=b'z';
        for (place, len) in (DATA..).step_by(4096).zip(lens) {
            let slice = mem.get_slice(GuestAddress(place), *len).unwrap();
            let bytes: Vec<_> = letters.by_ref().take(*len).collect();
            slice.copy_from(&bytes[..]);
            slices.push(slice);
        }
        look(slices)
    }

    /// The text, and the number of pieces.
    fn text(slices: &Slices<'_>) -> (String, usize) {
        let mut bytes = vec![0; slices.len() + 8];
        let count = slices.copy_to(&mut bytes);
        assert_eq!(count, slices.len());
        bytes.truncate(count);
        (String::from_utf8(bytes).unwrap(), slices.pieces.len())
    }

    #[test]
    fn bytes_are_left_out_at_both_ends() {
        let lens = [2, 3, 1];
        for (count, rest, pieces) in [
            (0, "abcdef", 3),
            (1, "bcdef", 3),
            (2, "cdef", 2),
            (3, "def", 2),
            (5, "f", 1),
            (6, "", 0),
            (9, "", 0),
        ] {
            with(&lens, |mut slices| {
                slices.advance(count);
                assert_eq!(text(&slices), (rest.into(), pieces), "{count}");
            });
        }
        for (count, rest, pieces) in [
            (0, "", 0),
            (1, "a", 1),
            (2, "ab", 1),
            (3, "abc", 2),
            (5, "abcde", 2),
            (6, "abcdef", 3),
            (9, "abcdef", 3),
        ] {
            with(&lens, |mut slices| {
                slices.truncate(count);
                assert_eq!(text(&slices), (rest.into(), pieces), "{count}");
            });
        }
    }

    #[test]
    fn bytes_are_copied_in_order_as_far_as_there_are_any() {
        with(&[2, 3], |slices| {
            assert_eq!(slices.copy_from(b"12"), 2);
            assert_eq!(text(&slices).0, "12cde");
            assert_eq!(slices.copy_from(b"7890"), 4);
            assert_eq!(text(&slices).0, "7890e");
            assert_eq!(slices.copy_from(b"uvwxyz"), 5);
            assert_eq!(text(&slices).0, "uvwxy");
        });
    }

    #[test]
    fn a_socket_takes_and_gives_what_it_can_at_once() {
        let (one, other) = UnixStream::pair().unwrap();
        with(&[2, 3], |mut slices| {
            let empty = slices.receive(one.as_fd()).unwrap_err();
            assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
            assert_eq!(slices.send(one.as_fd()).unwrap(), 5);
            slices.advance(1);
            assert_eq!(slices.send(one.as_fd()).unwrap(), 4);
            assert_eq!(slices.receive(other.as_fd()).unwrap(), 4);
            assert_eq!(text(&slices).0, "abcd");
            assert_eq!(slices.receive(other.as_fd()).unwrap(), 4);
            assert_eq!(text(&slices).0, "ebcd");
            assert_eq!(slices.receive(other.as_fd()).unwrap(), 1);
        });
        other.shutdown(std::net::Shutdown::Both).unwrap();
        with(&[1], |slices| {
            // The end of the stream; and no signal for a write after it.
            assert_eq!(slices.receive(one.as_fd()).unwrap(), 0);
            let broken = slices.send(one.as_fd()).unwrap_err();
            assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
        });
    }

    #[test]
    fn a_full_socket_holds_nothing_up() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mem = memory();
        let mem = mem.memory();
        let mut slices = Slices::with_capacity(1);
        slices.push(mem.get_slice(GuestAddress(DATA), 4 << 20).unwrap());
        let first = slices.send(one.as_fd()).unwrap();
        assert!(first > 0 && first < 4 << 20);
        let full = loop {
            match slices.send(one.as_fd()) {
                Ok(_) => {}
                Err(err) => break err,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }

    /// Appends the chain of these descriptors; returns the head's text and the rest's.
    fn append(
        descs: &[(u64, u32)],
        access: Access,
        write: bool,
        head: usize,
    ) -> Option<(String, String)> {
        let mem = memory();
        let mut driver = DriverQueue::new(&mem, 0);
        driver.write(DATA, b"abcdefghijklmnopqrstuvwxyz");
        for (index, (address, len)) in (0u16..).zip(descs) {
            let last = usize::from(index) + 1 == descs.len();
            let flags = if last { 0 } else { NEXT } | if write { WRITE } else { 0 };
            driver.descriptor(index, (*address, *len, flags, index + 1));
        }
        driver.offer(0);
        let (kick, calls) = (driver.kick_event(), driver.calls.clone());
        let mut ring = Ring::new(0, driver.queue(), mem, kick, calls).unwrap();
        let mem = ring.memory();
        let chain = ring.pop(&mem).unwrap();
        let mut slices = Slices::with_capacity(0);
        slices.push(mem.get_slice(GuestAddress(DATA + 25), 1).unwrap());
        let first = slices.append(&mem, chain, access, head);
        if first.is_none() {
            assert_eq!(text(&slices), ("z".into(), 1), "something was left behind");
        }
        Some((text(&first?).0, text(&slices).0))
    }

    #[test]
    fn a_head_is_cut_off_wherever_the_descriptors_end() {
        let read = |descs: &[(u64, u32)], head| append(descs, Access::Read, false, head);
        let some = |head: &str, rest: &str| Some((head.to_owned(), rest.to_owned()));
        let two = [(DATA, 4), (DATA + 8, 4)];
        assert_eq!(read(&two, 0), some("", "zabcdijkl"));
        assert_eq!(read(&two, 3), some("abc", "zdijkl"));
        assert_eq!(read(&two, 4), some("abcd", "zijkl"));
        assert_eq!(read(&two, 5), some("abcdi", "zjkl"));
        assert_eq!(read(&two, 8), some("abcdijkl", "z"));
        assert_eq!(read(&two, 9), some("abcdijkl", "z"));
        // Empty descriptors, and the end of memory.
        let gap = [(DATA, 1), (u64::MAX, 0), (DATA + 2, 1)];
        assert_eq!(read(&gap, 1), some("a", "zc"));
        assert_eq!(read(&[(DATA, 4), (END - 2, 3)], 1), None);
        assert_eq!(append(&two, Access::Write, true, 1), some("a", "zbcdijkl"));
        assert_eq!(append(&two, Access::Write, false, 1), None);
        assert_eq!(append(&two, Access::Read, true, 1), None);
    }

    #[test]
    fn a_packet_has_at_most_64_pieces() {
        let pieces = [(DATA, 1); 64];
        let (head, rest) = append(&pieces, Access::Read, false, 1).unwrap();
        assert_eq!((head.len(), rest.len()), (1, 64));
        // The boundary of two regions would cut a piece; an indirect table has more entries.
        let mem = memory();
        let mut driver = DriverQueue::new(&mem, 0);
        let table = 2 << 20;
        for index in 0..65 {
            let next = if index < 64 { NEXT } else { 0 };
            driver.descriptor_at(table, index, (DATA, 1, next, index + 1));
        }
        let indirect = (table, 65 * 16, crate::virtio::testing::INDIRECT, 0);
        driver.descriptor(0, indirect);
        driver.offer(0);
        let (kick, calls) = (driver.kick_event(), driver.calls.clone());
        let mut ring = Ring::new(0, driver.queue(), mem, kick, calls).unwrap();
        let mem = ring.memory();
        let chain = ring.pop(&mem).unwrap();
        let mut slices = Slices::with_capacity(0);
        assert!(slices.append(&mem, chain, Access::Read, 1).is_none());
        assert_eq!(slices.len(), 0);
    }
}
