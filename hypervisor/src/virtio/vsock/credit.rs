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

#[cfg(test)]
mod tests {
    use super::*;

    fn header(buf_alloc: u32, fwd_cnt: u32) -> Header {
        Header {
            buf_alloc,
            fwd_cnt,
            ..Header::default()
        }
    }

    #[test]
    fn the_guest_has_256_kibibytes_and_gets_back_what_was_forwarded() {
        // The counters wrap around.
        for start in [0, u32::MAX - 1000] {
            let start = Wrapping(start);
            let mut credit = Credit {
                received: start,
                forwarded: start,
                announced: start,
                ..Credit::default()
            };
            let window = 256 << 10;
            assert!(!credit.receive(window + 1));
            assert!(credit.receive(0) && credit.receive(100) && credit.receive(window - 100));
            assert!(credit.receive(0) && !credit.receive(1) && !credit.receive(usize::MAX));
            credit.forwarded(10);
            assert!(!credit.receive(11) && credit.receive(10) && !credit.receive(1));
            credit.forwarded_all();
            assert!(!credit.receive(window + 1) && credit.receive(window));
        }
    }

    #[test]
    fn credit_is_announced_by_halves_of_the_window() {
        let mut credit = Credit::default();
        assert!(credit.receive(256 << 10));
        credit.forwarded((128 << 10) - 1);
        credit.announce_if_due();
        assert!(!credit.announce);
        credit.forwarded(1);
        credit.announce_if_due();
        assert!(credit.announce);
        assert_eq!(credit.announced(), 128 << 10);
        assert!(!credit.announce);
        credit.forwarded(1);
        credit.announce_if_due();
        assert!(!credit.announce, "it was announced already");
        assert_eq!(credit.announced(), (128 << 10) + 1);
    }

    #[test]
    fn the_host_sends_as_much_as_the_guest_has_space_for() {
        let mut credit = Credit::default();
        assert_eq!(credit.available(), 0);
        credit.update(&header(100, 0));
        assert_eq!(credit.available(), 100);
        credit.sent(40);
        assert_eq!((credit.available(), credit.request), (60, false));
        credit.sent(60);
        assert_eq!((credit.available(), credit.request), (0, true));
        // It is asked once, until it has space again.
        credit.request = false;
        credit.update(&header(100, 0));
        credit.sent(0);
        assert!(!credit.request);
        credit.update(&header(100, 30));
        assert_eq!(credit.available(), 30);
        credit.sent(30);
        assert!(credit.request);
        // Less space than is in flight, and a claim to have read what was not sent.
        credit.update(&header(50, 30));
        assert_eq!(credit.available(), 0);
        credit.update(&header(100, 131));
        assert_eq!(credit.available(), 0);
    }

    #[test]
    fn the_hosts_counter_wraps_around() {
        let end = Wrapping(u32::MAX - 9);
        let mut credit = Credit {
            sent: end,
            peer_forwarded: end,
            ..Credit::default()
        };
        credit.update(&header(100, end.0));
        credit.sent(30);
        assert_eq!(credit.available(), 70);
        credit.update(&header(100, 20));
        assert_eq!(credit.available(), 100);
    }
}
