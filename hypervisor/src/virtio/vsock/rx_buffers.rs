//! Buffers of the guest, filled by one read from the host.
//!
//! Linux offers buffers of 4 KiB, a packet each. One read into many of them costs one
//! system call in place of many; what it does not fill goes back to the queue untouched.

use vm_memory::GuestMemoryMmap;

use super::super::Ring;
use super::header::{HEADER_LEN, Header};
use super::slices::{Access, Slices};

/// Buffers taken off the receive queue, in order.
pub(super) struct RxBuffers<'m>(Vec<RxBuffer<'m>>);

struct RxBuffer<'m> {
    head: u16,
    header: Slices<'m>,
    /// Bytes of data behind the header.
    len: u32,
}

impl<'m> RxBuffers<'m> {
    /// Takes up to `count` buffers, with the data parts of all as one. `None` if the queue
    /// is empty; buffers without space for data are returned as they are, so there may be
    /// none in the end.
    pub fn take(
        ring: &mut Ring,
        mem: &'m GuestMemoryMmap,
        count: usize,
    ) -> Option<(RxBuffers<'m>, Slices<'m>)> {
        let mut buffers = Vec::with_capacity(count);
        let mut all = Slices::with_capacity(count);
        for turn in 0..count {
            let Some(chain) = ring.pop(mem) else {
                if turn == 0 {
                    return None;
                }
                break;
            };
            let head = chain.head_index();
            let before = all.len();
            let header = all.append(mem, chain, Access::Write, HEADER_LEN);
            match header.filter(|_| all.len() > before) {
                Some(header) => {
                    // A chain is shorter than 2^32 bytes.
                    let len = (all.len() - before) as u32;
                    buffers.push(RxBuffer { head, header, len });
                }
                None if buffers.is_empty() => ring.complete(mem, head, 0),
                // The buffers before it may have to go back, and only the last one
                // taken can.
                None => {
                    ring.undo_pop();
                    break;
                }
            }
        }
        Some((RxBuffers(buffers), all))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns as many buffers to the driver as the packet fills, each as a packet of its
    /// own, and the others to the queue.
    pub fn complete(self, ring: &mut Ring, mem: &GuestMemoryMmap, packet: Option<Header>) {
        let mut left = packet;
        let mut filled = Vec::with_capacity(self.0.len());
        for buffer in &self.0 {
            let Some(packet) = left else {
                ring.undo_pop();
                continue;
            };
            let len = packet.len.min(buffer.len);
            buffer.header.copy_from(&Header { len, ..packet }.encode());
            filled.push((buffer.head, HEADER_LEN as u32 + len));
            let rest = packet.len - len;
            left = (rest > 0).then_some(Header {
                len: rest,
                ..packet
            });
        }
        ring.complete_all(mem, &filled);
    }
}
