//! A guest that breaks rules must hurt only itself: no panic, no endless loop, no
//! growth without bounds.

use super::super::super::muxer::MAX_CONNECTIONS;
use super::*;
use crate::virtio::testing::{END, INDIRECT, NEXT};

#[test]
fn more_than_the_credit_resets() {
    let mut guest = Guest::new();
    let _host = guest.open(1024);

    for _ in 0..(2 * WINDOW / 65536) {
        guest.send_to(op::RW, 1024, 0, &[0; 65536]);
    }
    // The host did not read, so at most a socket buffer and a window are in flight.
    guest.packets.retain(|(header, _)| header.op == op::RST);

    assert!(!guest.packets.is_empty());
    assert_eq!(guest.engine.muxer.connection_count(), 0);
}

#[test]
fn packets_for_unknown_connections_are_reset() {
    let mut guest = Guest::new();

    for op in [op::RESPONSE, op::SHUTDOWN, op::RW, op::CREDIT_UPDATE, 99] {
        guest.send_to(op, 1024, 0, &[]);
        guest.expect(op::RST);
    }
    guest.send_to(op::RST, 1024, 0, &[]);
    guest.expect_nothing();
}

#[test]
fn nonsense_on_a_connection_resets_it() {
    for op in [op::REQUEST, op::RESPONSE, 0, 99] {
        let mut guest = Guest::new();
        let mut host = guest.open(1024);

        guest.send_to(op, 1024, 0, &[]);

        guest.expect(op::RST);
        assert_eq!(host.read(&mut [0; 8]).unwrap(), 0);
    }
}

#[test]
fn data_after_the_end_resets() {
    let mut guest = Guest::new();
    let _host = guest.open(1024);
    guest.send_to(op::SHUTDOWN, 1024, shutdown::SEND, &[]);

    guest.send_to(op::RW, 1024, 0, b"more");

    guest.expect(op::RST);
}

#[test]
fn claim_of_impossible_credit_gives_none() {
    let mut guest = Guest::new();
    let mut host = guest.open(1024);
    guest.read = 1_000_000;
    guest.send_to(op::CREDIT_UPDATE, 1024, 0, &[]);

    host.write_all(b"data").unwrap();

    guest.expect_nothing();
}

#[test]
fn foreign_addresses_and_types_are_not_served() {
    let mut guest = Guest::new();
    let _listener = guest.listen(1024);
    let request = Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: GUEST_PORT,
        dst_port: 1024,
        kind: TYPE_STREAM,
        op: op::REQUEST,
        ..Header::default()
    };
    let other = [
        Header {
            src_cid: 4,
            ..request
        },
        Header {
            dst_cid: 5,
            ..request
        },
        Header {
            dst_cid: u64::MAX,
            ..request
        },
    ];
    for header in other {
        guest.queue_packet(header, &[]);
        guest.expect_nothing();
    }
    guest.queue_packet(Header { kind: 2, ..request }, &[]);
    guest.expect(op::RST);
}

#[test]
fn bad_chains_come_back_unused() {
    let mut guest = Guest::new();
    let header = Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: 1,
        dst_port: 2,
        kind: TYPE_STREAM,
        op: op::RW,
        len: 100,
        ..Header::default()
    };
    guest.tx.write(TX_BUFFERS, &header.encode());
    let table = TX_BUFFERS + 0x1000;
    // A table within a table, a table that loops, and a table with an odd length.
    guest.tx.descriptor_at(table, 0, (table, 16, INDIRECT, 0));
    guest
        .tx
        .descriptor_at(table + 64, 0, (TX_BUFFERS, 4, NEXT, 0));
    let chains: &[&[(u64, u32, u16, u16)]] = &[
        &[(TX_BUFFERS, 0, 0, 0)],
        &[(TX_BUFFERS, 43, 0, 0)],
        &[(TX_BUFFERS, 44, 0, 0)],
        &[(TX_BUFFERS, 143, 0, 0)],
        &[(TX_BUFFERS, 200, WRITE, 0)],
        &[(END - 10, 200, 0, 0)],
        &[(u64::MAX - 10, 200, 0, 0)],
        &[(TX_BUFFERS, u32::MAX, 0, 0)],
        &[(TX_BUFFERS, 1, NEXT, 0)],
        &[(TX_BUFFERS, 44, NEXT, 63), (0, 0, 0, 0)],
        &[(TX_BUFFERS, 44, NEXT, 1000)],
        &[(TX_BUFFERS, 44, NEXT, 1), (TX_BUFFERS, 100, WRITE, 0)],
        &[(table, 16, INDIRECT, 0)],
        &[(table + 64, 16, INDIRECT, 0)],
        &[(table, 15, INDIRECT, 0)],
        &[(END, 16, INDIRECT, 0)],
    ];
    for chain in chains {
        for (index, desc) in chain.iter().enumerate() {
            guest.tx.descriptor(index as u16, *desc);
        }
        guest.tx.offer(0);
        let turn = guest.engine.turn(EpollTimeout::ZERO).unwrap();
        assert_eq!(turn, Turn::Wait, "{chain:?}");
        assert_eq!(guest.tx.used(), Some((0, 0)), "{chain:?}");
    }
    guest.expect_nothing();
}

#[test]
fn useless_receive_buffers_are_returned_empty() {
    let mut guest = Guest::starved();
    guest.rx.descriptor(0, (RX_BUFFERS, 44, WRITE, 0));
    guest.rx.descriptor(1, (RX_BUFFERS, 4096, 0, 0));
    guest.rx.descriptor(2, (END, 4096, WRITE, 0));
    guest.rx.descriptor(3, (RX_BUFFERS, 4096, WRITE, 0));
    for head in 0..4 {
        guest.rx.offer(head);
    }

    guest.queue_packet(
        Header {
            src_port: 1,
            dst_port: 1,
            op: op::RW,
            ..Header::default()
        },
        &[],
    );
    guest.engine.turn(EpollTimeout::ZERO).unwrap();

    for head in 0..3 {
        assert_eq!(guest.rx.used(), Some((head, 0)));
    }
    assert_eq!(guest.rx.used(), Some((3, HEADER_LEN as u32)));
}

#[test]
fn broken_rings_are_left_alone() {
    for break_it in [
        |queue: &mut DriverQueue| queue.set_avail_index(1000),
        |queue: &mut DriverQueue| queue.offer(SIZE),
        |queue: &mut DriverQueue| queue.offer(u16::MAX),
    ] {
        let mut guest = Guest::new();
        break_it(&mut guest.tx);
        guest.work();
        break_it(&mut guest.rx);
        let mut host = guest.connect();
        host.write_all(b"CONNECT 1\n").unwrap();
        guest.work();
        guest.tx.kick();
        guest.rx.kick();
        guest.work();
    }
}

#[test]
fn resets_do_not_pile_up() {
    let mut guest = Guest::starved();

    // No port is listened on; without receive buffers the resets cannot be sent.
    let mut taken = 0;
    for number in 0..2000 {
        let header = Header {
            src_port: number,
            dst_port: 9,
            op: op::RW,
            ..Header::default()
        };
        guest.queue_packet(header, &[]);
        let turn = guest.engine.turn(EpollTimeout::ZERO).unwrap();
        assert_ne!(turn, Turn::Stop);
        let before = taken;
        while guest.tx.used().is_some() {
            taken += 1;
        }
        if taken == before {
            break;
        }
    }
    assert!((200..300).contains(&taken), "{taken}");

    guest.give_buffers(SIZE);
    guest.rx.kick();
    guest.work();
    let resets = guest.packets.iter().filter(|(h, _)| h.op == op::RST);
    assert_eq!(resets.count(), taken + 1);
}

#[test]
fn number_of_connections_is_bounded() {
    let mut guest = Guest::new();
    let listener = guest.listen(1024);
    rustix::net::listen(&listener, 4096).unwrap();
    let mut accepted = Vec::new();

    for port in 0..MAX_CONNECTIONS as u32 + 5 {
        let header = Header {
            src_port: port,
            dst_port: 1024,
            op: op::REQUEST,
            ..Header::default()
        };
        guest.queue_packet(header, &[]);
        guest.work();
        listener.set_nonblocking(true).unwrap();
        accepted.extend(listener.accept().ok());
    }

    assert_eq!(accepted.len(), MAX_CONNECTIONS);
    let refused = guest.packets.iter().filter(|(h, _)| h.op == op::RST);
    assert_eq!(refused.count(), 5);
}

#[test]
fn bad_handshakes_are_closed() {
    for text in [
        "GET / HTTP/1.1\r\n",
        "CONNECT x\n",
        "CONNECT -1\n",
        "\n",
        &"C".repeat(64),
    ] {
        let mut guest = Guest::new();
        let mut host = guest.connect();
        host.write_all(text.as_bytes()).unwrap();

        guest.expect_nothing();

        assert!(!matches!(host.read(&mut [0; 8]), Ok(1..)), "{text:?}");
        assert_eq!(guest.engine.muxer.connection_count(), 0);
    }
}

#[test]
fn host_programs_wait_while_there_are_too_many() {
    let mut guest = Guest::new();
    let mut programs = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        programs.push(guest.connect());
        guest.work();
    }
    assert_eq!(guest.engine.muxer.connection_count(), MAX_CONNECTIONS);
    let mut late = guest.connect();
    late.write_all(b"CONNECT 7\n").unwrap();
    guest.expect_nothing();
    assert_eq!(guest.engine.muxer.connection_count(), MAX_CONNECTIONS);
    // Nor can the guest have more.
    let _listener = guest.listen(1024);
    guest.send_to(op::REQUEST, 1024, 0, &[]);
    guest.expect(op::RST);

    close(programs.pop().unwrap());

    let (request, _) = guest.expect(op::REQUEST);
    assert_eq!(request.dst_port, 7);
}

#[test]
fn a_packet_has_at_most_a_mebibyte() {
    let mut guest = Guest::new();
    let _host = guest.open(1024);
    let header = Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: GUEST_PORT,
        dst_port: 1024,
        kind: TYPE_STREAM,
        op: op::RW,
        ..Header::default()
    };
    for (len, op) in [((1 << 20) + 1, None), (1 << 20, Some(op::RST))] {
        let header = Header { len, ..header };
        guest.tx.write(TX_BUFFERS, &header.encode());
        let whole = HEADER_LEN as u32 + len;
        guest.tx.descriptor(0, (TX_BUFFERS, whole, 0, 0));
        guest.tx.offer(0);
        // The longest that is taken exceeds the credit.
        match op {
            None => guest.expect_nothing(),
            Some(op) => drop(guest.expect(op)),
        }
    }
}

#[test]
fn a_reset_ends_all_connections_and_forgets_what_was_to_be_said() {
    let mut guest = Guest::starved();
    let mut host = guest.connect();
    host.write_all(b"CONNECT 7\n").unwrap();
    let busy = guest.listen(1024);
    rustix::net::listen(&busy, 0).unwrap();
    let _waiting = UnixStream::connect(guest.path(1024)).unwrap();
    guest.send_to(op::REQUEST, 1024, 0, &[]);
    guest.send_to(op::RW, 9, 0, &[]);
    assert!(guest.engine.muxer.has_packet());
    assert_eq!(guest.engine.muxer.connection_count(), 1);

    guest.engine.muxer.reset();

    assert!(!guest.engine.muxer.has_packet());
    assert_eq!(guest.engine.muxer.connection_count(), 0);
    assert_eq!(host.read(&mut [0; 8]).unwrap(), 0);
    guest.give_buffers(8);
    guest.rx.kick();
    busy.accept().unwrap();
    let turn = guest.engine.turn(EpollTimeout::from(50u16)).unwrap();
    assert_eq!(turn, Turn::Wait);
    guest.expect_nothing();
}

#[test]
fn a_request_that_was_withdrawn_is_not_tried_again() {
    let mut guest = Guest::new();
    let busy = guest.listen(1024);
    rustix::net::listen(&busy, 0).unwrap();
    let _waiting = UnixStream::connect(guest.path(1024)).unwrap();
    guest.send_to(op::REQUEST, 1024, 0, &[]);
    guest.send_to(op::RST, 1024, 0, &[]);
    busy.accept().unwrap();
    guest.engine.turn(EpollTimeout::from(50u16)).unwrap();
    guest.expect_nothing();
    busy.set_nonblocking(true).unwrap();
    let none = busy.accept().unwrap_err();
    assert_eq!(none.kind(), std::io::ErrorKind::WouldBlock);
}
