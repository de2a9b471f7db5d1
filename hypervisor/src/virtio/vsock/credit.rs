//! The flow control of one stream (virtio 1.2 §5.10.6.3), each way counted in bytes.

use std::num::Wrapping;

use super::header::Header;

/// What the guest may send ahead of the host's reading, per connection (`buf_alloc`).
pub(crate) const WINDOW: u32 = 256 << 10;
/// Credit is announced again when this much of it was returned: the rest is two of Linux's
/// longest packets, so the guest can still send meanwhile.
const CREDIT_STEP: u32 = WINDOW / 2;

/// The credit of both sides.
#[derive(Default)]
pub(super) struct Credit {
    /// Whether a packet with the guest's credit must be sent.
    pub announce: bool,
    /// Whether a packet that asks for the guest's free space must be sent.
    pub request: bool,
    /// It was sent, and the guest has not answered with free space.
    requested: bool,
    /// Bytes from the guest, and how many of them were written to the host.
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    /// `forwarded`, as announced in the last packet to the guest.
    announced: Wrapping<u32>,
    /// Bytes to the guest, how many of them its program has read, and its buffer.
    sent: Wrapping<u32>,
    peer_forwarded: Wrapping<u32>,
    peer_window: u32,
}

impl Credit {
    /// Counts bytes from the guest; false if they exceed its credit.
    pub fn receive(&mut self, len: usize) -> bool {
        let in_flight = (self.received - self.forwarded).0;
        match u32::try_from(len) {
            Ok(len) if len <= WINDOW - in_flight => {
                self.received += len;
                true
            }
            _ => false,
        }
    }

    /// Counts bytes written to the host.
    pub fn forwarded(&mut self, len: u32) {
        self.forwarded += len;
    }

    /// All bytes from the guest were written to the host or dropped.
    pub fn forwarded_all(&mut self) {
        self.forwarded = self.received;
    }

    /// Has the credit announced if enough of it came back.
    pub fn announce_if_due(&mut self) {
        if (self.forwarded - self.announced).0 >= CREDIT_STEP {
            self.announce = true;
        }
    }

    /// The `fwd_cnt` of a packet that is sent now, which announces the credit.
    pub fn announced(&mut self) -> u32 {
        self.announce = false;
        self.announced = self.forwarded;
        self.forwarded.0
    }

    /// Counts bytes sent to the guest.
    pub fn sent(&mut self, len: u32) {
        self.sent += len;
        if self.available() == 0 && !self.requested {
            self.request = true;
            self.requested = true;
        }
    }

    /// Takes the guest's free space from one of its packets.
    pub fn update(&mut self, header: &Header) {
        self.peer_window = header.buf_alloc;
        self.peer_forwarded = Wrapping(header.fwd_cnt);
        if self.available() > 0 {
            self.requested = false;
        }
    }

    /// How much the guest has space for. A guest that claims to have read more than was
    /// sent gets nothing.
    pub fn available(&self) -> u32 {
        self.peer_window
            .saturating_sub((self.sent - self.peer_forwarded).0)
    }
}
