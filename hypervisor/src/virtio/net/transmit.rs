//! Frames from the guest to the tap.

use std::io;

use super::super::Ring;
use super::super::buffers::IovecScratch;
use super::tap::Tap;
use super::{HEADER_LEN, MAX_FRAME};

/// The most frames that are sent before the other direction gets a turn.
const BATCH: usize = 64;

/// The reason why no frames are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// None; there may be more frames to send, without a further event.
    Ready,
    /// The guest's frames have all been sent; the next one comes with a kick.
    Idle,
    /// The tap is full.
    Full,
}

/// Sends a batch of frames.
///
/// The kernel checks the headers: their checksum and segmentation fields only concern the frame
/// itself. A frame that the kernel refuses is dropped, as on a wire.
pub(super) fn send(ring: &mut Ring, tap: &Tap, scratch: &mut IovecScratch) -> Sending {
    let mem = ring.memory();
    ring.disable_kicks();
    let mut state = Sending::Ready;
    for _ in 0..BATCH {
        let Some(chain) = ring.pop(&mem) else {
            state = match ring.enable_kicks() {
                true => Sending::Ready,
                false => Sending::Idle,
            };
            break;
        };
        let head = chain.head_index();
        let frame = scratch
            .gather(&mem, chain)
            .filter(|buffers| !buffers.faulty && buffers.writable.len() == 0)
            .map(|buffers| buffers.readable)
            .filter(|frame| (HEADER_LEN..=MAX_FRAME).contains(&frame.len()));
        if let Some(frame) = frame {
            // SAFETY: the vectors point into guest memory, which `frame` borrows.
            match unsafe { tap.write(frame.iovecs()) } {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    ring.undo_pop();
                    state = Sending::Full;
                    break;
                }
                Err(err) => log::debug!("A guest's frame was not taken: {err}"),
                Ok(_) => {}
            }
        }
        ring.complete(&mem, head, 0);
    }
    ring.notify();
    state
}
