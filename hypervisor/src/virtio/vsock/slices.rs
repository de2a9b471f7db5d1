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

    fn push(&mut self, piece: VolatileSlice<'m>) {
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
