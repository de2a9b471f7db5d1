//! A connection without a muxer: each packet and event, and what it then says and does.

use std::io::{Read, Write};

use super::super::credit::WINDOW;
use super::*;
use crate::virtio::Memory;
use crate::virtio::testing::memory;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryMmap};

const HOST_PORT: u32 = 1024;
const GUEST_PORT: u32 = 7;
const DATA: u64 = 1 << 20;

/// An established connection, the host's end, and memory for data.
struct Rig {
    connection: Connection,
    host: UnixStream,
    mem: Memory,
    /// The bytes that the guest has got, all of which it reads.
    got: u32,
}

fn pair() -> (UnixStream, UnixStream) {
    let (ours, host) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    host.set_nonblocking(true).unwrap();
    (ours, host)
}

fn slices(mem: &GuestMemoryMmap, len: usize) -> Slices<'_> {
    let mut slices = Slices::with_capacity(1);
    if len > 0 {
        slices.push(mem.get_slice(GuestAddress(DATA), len).unwrap());
    }
    slices
}

impl Rig {
    fn new() -> Rig {
        let (ours, host) = pair();
        let request = Header {
            src_port: GUEST_PORT,
            dst_port: HOST_PORT,
            op: op::REQUEST,
            buf_alloc: 1 << 20,
            ..Header::default()
        };
        let mut rig = Rig {
            connection: Connection::from_guest(ours, &request),
            host,
            mem: memory(),
            got: 0,
        };
        let (response, _) = rig.next(0).unwrap();
        assert_eq!(response.op, op::RESPONSE);
        rig
    }

    fn packet(&mut self, op: u16, flags: u32, data: &[u8]) -> Result<(), Violation> {
        let mem = self.mem.memory();
        mem.write_slice(data, GuestAddress(DATA)).unwrap();
        let header = Header {
            op,
            flags,
            buf_alloc: 1 << 20,
            fwd_cnt: self.got,
            ..Header::default()
        };
        let data = slices(&mem, data.len());
        self.connection.on_packet(&header, data)
    }

    /// The next packet for the guest, which has this much room for data.
    fn next(&mut self, room: usize) -> Option<(Header, Vec<u8>)> {
        let mem = self.mem.memory();
        let header = self.connection.next_packet(slices(&mem, room))?;
        self.got += header.len;
        let mut data = vec![0; header.len as usize];
        mem.read_slice(&mut data, GuestAddress(DATA)).unwrap();
        Some((header, data))
    }

    /// Operation and flags of the next packet without data, if there is one.
    fn control(&mut self) -> Option<(u16, u32)> {
        assert_eq!(self.connection.has_packet(), self.connection.has_packet());
        let (header, _) = self.next(0)?;
        assert_eq!((header.src_port, header.dst_port), (HOST_PORT, GUEST_PORT));
        Some((header.op, header.flags))
    }

    fn read(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        let mut all = Vec::new();
        while let Ok(len @ 1..) = self.host.read(&mut bytes) {
            all.extend(&bytes[..len]);
        }
        all
    }

    /// Whether the host sees the end of the stream.
    fn at_end(&mut self) -> bool {
        matches!(self.host.read(&mut [0; 8]), Ok(0))
    }
}

#[test]
fn a_guest_that_only_stops_receiving_may_send_on() {
    let mut rig = Rig::new();
    rig.packet(op::SHUTDOWN, shutdown::RECEIVE, &[]).unwrap();
    assert!(!rig.connection.closed_by_guest());
    assert!(rig.connection.has_packet());
    assert_eq!(rig.control(), Some((op::SHUTDOWN, shutdown::SEND)));
    assert!(!rig.connection.has_packet());
    // The host cannot send any more.
    let failed = rig.host.write(b"x").unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::BrokenPipe);
    rig.packet(op::RW, 0, b"more").unwrap();
    assert_eq!(rig.read(), b"more");
    // Once more changes nothing.
    rig.packet(op::SHUTDOWN, shutdown::RECEIVE, &[]).unwrap();
    assert_eq!(rig.control(), None);
    rig.packet(op::SHUTDOWN, shutdown::SEND, &[]).unwrap();
    assert!(rig.connection.closed_by_guest() && rig.at_end());
    assert_eq!(rig.control(), Some((op::SHUTDOWN, shutdown::BOTH)));
    assert_eq!(rig.connection.phase(), Phase::Finished);
}

#[test]
fn a_guest_that_only_stops_sending_may_receive_on() {
    let mut rig = Rig::new();
    rig.packet(op::RW, 0, b"last").unwrap();
    rig.packet(op::SHUTDOWN, shutdown::SEND, &[]).unwrap();
    assert_eq!(rig.read(), b"last");
    assert!(rig.at_end() && !rig.connection.closed_by_guest());
    assert_eq!(rig.control(), None);
    rig.host.write_all(b"answer").unwrap();
    rig.connection.on_host_event(true, false, false);
    let (header, data) = rig.next(4096).unwrap();
    assert_eq!((header.op, &data[..]), (op::RW, &b"answer"[..]));
    assert_eq!(rig.packet(op::RW, 0, b"more"), Err(Violation));
}

#[test]
fn each_operation_has_its_phase() {
    let ops = [0, 1, 2, 4, 5, 6, 7, 8];
    let allowed = |connection: fn() -> Rig| {
        let allows = |op: &u16| connection().packet(*op, 0, &[]).is_ok();
        ops.into_iter().filter(allows).collect::<Vec<_>>()
    };
    // SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST; RESPONSE.
    assert_eq!(allowed(Rig::new), [4, 5, 6, 7]);
    let requested = || {
        let mut rig = Rig::new();
        (rig.connection.phase, rig.connection.guest_port) = (Phase::Requested, GUEST_PORT);
        rig
    };
    assert_eq!(allowed(requested), [2]);
    let handshake = || {
        let mut rig = Rig::new();
        rig.connection.phase = Phase::Handshake;
        rig
    };
    assert_eq!(allowed(handshake), [0u16; 0]);
}

#[test]
fn a_host_is_answered_when_the_guest_has_accepted() {
    let (ours, mut host) = pair();
    let mut connection = Connection::from_host(ours, HOST_PORT);
    assert_eq!(connection.read_handshake(), Ok(false));
    assert!(!connection.has_packet());
    host.write_all(b"CONNECT 7\ndata").unwrap();
    assert_eq!(connection.read_handshake(), Ok(true));
    assert_eq!(connection.ports(), (HOST_PORT, 7));
    assert_eq!(
        (connection.phase(), connection.has_packet()),
        (Phase::Requested, true)
    );
    let mut rig = Rig {
        connection,
        host,
        mem: memory(),
        got: 0,
    };
    assert_eq!(rig.control(), Some((op::REQUEST, 0)));
    // Nothing else before the answer, though there is data.
    rig.connection.on_host_event(true, true, false);
    assert!(!rig.connection.has_packet());
    rig.packet(op::RESPONSE, 0, &[]).unwrap();
    assert_eq!(rig.read(), b"OK 1024\n");
    assert!(rig.connection.has_packet());
    assert_eq!(rig.next(4096).unwrap().1, b"data");

    let (ours, mut host) = pair();
    let mut bad = Connection::from_host(ours, HOST_PORT);
    host.write_all(b"HELLO\n").unwrap();
    assert_eq!(bad.read_handshake(), Err(Violation));
}

#[test]
fn a_host_that_is_gone_when_the_guest_accepts_is_a_violation() {
    let (ours, mut host) = pair();
    let mut connection = Connection::from_host(ours, HOST_PORT);
    host.write_all(b"CONNECT 7\n").unwrap();
    connection.read_handshake().unwrap();
    let mut rig = Rig {
        connection,
        host: pair().0,
        mem: memory(),
        got: 0,
    };
    host.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(rig.packet(op::RESPONSE, 0, &[]), Err(Violation));
}

#[test]
fn a_read_fills_more_buffers_each_time_while_there_is_enough() {
    let mut rig = Rig::new();
    rig.host.write_all(&[7; 100]).unwrap();
    let mut wanted = Vec::new();
    for _ in 0..6 {
        wanted.push(rig.connection.rx_buffers_wanted());
        assert_eq!(rig.next(10).unwrap().1, [7; 10]);
    }
    assert_eq!(wanted, [1, 2, 4, 8, 16, 16]);
    assert_eq!(rig.next(100).unwrap().1.len(), 40);
    assert_eq!(rig.connection.rx_buffers_wanted(), 1);
    // Without data, no packet; nor any until the host's socket is readable again.
    assert!(rig.connection.has_packet());
    assert!(rig.next(100).is_none() && !rig.connection.has_packet());
    rig.connection.on_host_event(false, true, false);
    assert!(!rig.connection.has_packet());
    rig.connection.on_host_event(true, false, false);
    assert!(rig.connection.has_packet());
    // An opening packet has no data.
    rig.connection.rx_buffers = 4;
    rig.connection.open = Some(op::RESPONSE);
    assert_eq!(rig.connection.rx_buffers_wanted(), 1);
}

#[test]
fn data_goes_no_further_than_the_guests_credit() {
    let mut rig = Rig::new();
    rig.host.write_all(&[1; 100]).unwrap();
    let header = Header {
        op: op::CREDIT_UPDATE,
        buf_alloc: 60,
        ..Header::default()
    };
    let mem = rig.mem.memory();
    rig.connection.on_packet(&header, slices(&mem, 0)).unwrap();
    assert_eq!(rig.next(100).unwrap().1.len(), 60);
    // It is asked once.
    assert_eq!(rig.control(), Some((op::CREDIT_REQUEST, 0)));
    assert!(!rig.connection.has_packet());
    assert!(rig.next(100).is_none());
    let header = Header {
        fwd_cnt: 60,
        ..header
    };
    rig.connection.on_packet(&header, slices(&mem, 0)).unwrap();
    assert!(rig.connection.has_packet());
    assert_eq!(rig.next(100).unwrap().1.len(), 40);
}

#[test]
fn the_guests_data_is_buffered_until_the_host_reads() {
    let mut rig = Rig::new();
    let part = vec![3; 64 << 10];
    let mut sent = 0;
    while rig.connection.buffer.is_empty() {
        rig.packet(op::RW, 0, &part).unwrap();
        sent += part.len();
    }
    // The socket is full; credit is only given back for what the host's socket took.
    assert!(!rig.connection.writable);
    rig.packet(op::RW, 0, &part[..10]).unwrap();
    sent += 10;
    assert!(!rig.connection.writable);
    let mut received = 0;
    for _ in 0..100 {
        received += rig.read().len();
        rig.connection.on_host_event(false, true, false);
    }
    assert_eq!(received, sent);
    assert!(rig.connection.buffer.is_empty());
    if sent as u32 >= WINDOW / 2 {
        assert_eq!(rig.control(), Some((op::CREDIT_UPDATE, 0)));
    }
    rig.packet(op::CREDIT_REQUEST, 0, &[]).unwrap();
    let (header, _) = rig.next(0).unwrap();
    assert_eq!(
        (header.op, header.fwd_cnt),
        (op::CREDIT_UPDATE, sent as u32)
    );
    assert_eq!(rig.control(), None);
}

#[test]
fn buffered_data_drains_after_the_guests_reset() {
    let mut rig = Rig::new();
    let part = vec![3; 64 << 10];
    let mut sent = 0;
    while rig.connection.buffer.is_empty() {
        rig.packet(op::RW, 0, &part).unwrap();
        sent += part.len();
    }
    rig.connection.on_reset();
    assert_eq!(rig.connection.phase(), Phase::Draining);
    assert!(!rig.connection.has_packet());
    assert_eq!(rig.packet(op::RW, 0, b"more"), Err(Violation));
    let mut received = 0;
    while rig.connection.phase() == Phase::Draining {
        let len = rig.read().len();
        assert!(len > 0, "{received} of {sent}");
        received += len;
        rig.connection.on_host_event(false, true, false);
    }
    received += rig.read().len();
    assert_eq!((rig.connection.phase(), received), (Phase::Finished, sent));
    // Without buffered data there is nothing to drain.
    let mut rig = Rig::new();
    rig.connection.on_reset();
    assert_eq!(rig.connection.phase(), Phase::Finished);
    // A host that hangs up ends the draining.
    let mut rig = Rig::new();
    while rig.connection.buffer.is_empty() {
        rig.packet(op::RW, 0, &part).unwrap();
    }
    rig.connection.on_reset();
    rig.connection.on_host_event(true, true, true);
    assert_eq!(rig.connection.phase(), Phase::Finished);
}

#[test]
fn a_host_that_does_not_read_is_told_to_the_guest_and_data_is_dropped() {
    let mut rig = Rig::new();
    rig.host.shutdown(std::net::Shutdown::Read).unwrap();
    rig.packet(op::RW, 0, b"unwanted").unwrap();
    assert!(rig.connection.discard && rig.connection.buffer.is_empty());
    assert!(
        rig.next(10)
            .is_none_or(|(header, _)| header.op == op::SHUTDOWN)
    );
    assert_eq!(rig.connection.shutdown_sent, shutdown::RECEIVE);
    assert!(!rig.connection.has_packet());
    // Credit for dropped data comes back.
    let part = vec![0; 64 << 10];
    for _ in 0..8 {
        rig.packet(op::RW, 0, &part).unwrap();
    }
    assert_eq!(rig.control(), Some((op::CREDIT_UPDATE, 0)));
    // The host may still send.
    rig.host.write_all(b"data").unwrap();
    rig.connection.on_host_event(true, false, false);
    assert_eq!(rig.next(100).unwrap().1, b"data");
}

#[test]
fn a_host_that_ends_is_told_after_its_data() {
    let mut rig = Rig::new();
    rig.host.write_all(b"data").unwrap();
    rig.host.shutdown(std::net::Shutdown::Write).unwrap();
    rig.connection.on_host_event(true, true, false);
    assert_eq!(rig.next(100).unwrap().1, b"data");
    let (end, _) = rig.next(100).unwrap();
    assert_eq!((end.op, end.flags), (op::SHUTDOWN, shutdown::SEND));
    assert!(!rig.connection.has_packet());
    rig.packet(op::RW, 0, b"answer").unwrap();
    assert_eq!(rig.read(), b"answer");
    // It hangs up: both directions are done.
    rig.connection.on_host_event(true, true, true);
    assert_eq!(rig.control(), Some((op::SHUTDOWN, shutdown::BOTH)));
    assert_eq!(rig.connection.phase(), Phase::Finished);
}
