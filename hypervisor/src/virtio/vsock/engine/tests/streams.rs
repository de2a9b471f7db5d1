//! What well-behaved programs on both sides see.

use super::*;

#[test]
fn data_flows_both_ways() {
    let mut guest = Guest::new();
    let mut host = guest.open(1024);

    guest.send_to(op::RW, 1024, 0, b"from guest");
    host.write_all(b"from host").unwrap();

    assert_eq!(read_now(&mut host), b"from guest");
    assert_eq!(guest.take_data(), b"from host");
}

/// What is read at once is cut into the guest's buffers; those that it does not fill
/// are there for what comes next.
#[test]
fn bursts_of_every_length_arrive_whole() {
    let mut guest = Guest::new();
    let mut host = guest.open(1024);
    let room = RX_LEN as usize - HEADER_LEN;

    for len in [1, room, room + 1, 150_000, 16 * room, 16 * room + 1, 1] {
        let data = pattern(len);
        host.write_all(&data).unwrap();
        guest.work();
        let packets = guest.packets.iter().filter(|p| p.0.op == op::RW).count();
        assert!(guest.take_data() == data, "{len}");
        assert!(
            (len.div_ceil(room)..=len.div_ceil(room) + 8).contains(&packets),
            "{len}: {packets}"
        );
        // The guest's program has read it.
        guest.send_to(op::CREDIT_UPDATE, 1024, 0, &[]);
    }
}

#[test]
fn connection_without_listener_is_refused() {
    let mut guest = Guest::new();

    guest.send_to(op::REQUEST, 9, 0, &[]);

    let (reset, _) = guest.expect(op::RST);
    assert_eq!((reset.src_port, reset.dst_port), (9, GUEST_PORT));
}

#[test]
fn host_connects_after_handshake() {
    let mut guest = Guest::new();
    let mut host = guest.connect();

    host.write_all(b"CONN").unwrap();
    guest.expect_nothing();
    host.write_all(b"ECT 7000\nearly data").unwrap();
    let (request, _) = guest.expect(op::REQUEST);
    assert_eq!(request.dst_port, GUEST_PORT);
    guest.expect_nothing();
    guest.send_to(op::RESPONSE, request.src_port, 0, &[]);

    let ok = format!("OK {}\n", request.src_port);
    assert_eq!(read_now(&mut host), ok.as_bytes());
    assert_eq!(guest.take_data(), b"early data");
}

#[test]
fn refused_host_connection_is_closed() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    host.write_all(b"CONNECT 7000\n").unwrap();
    let (request, _) = guest.expect(op::REQUEST);

    guest.send_to(op::RST, request.src_port, 0, &[]);

    assert_eq!(host.read(&mut [0; 8]).unwrap(), 0);
    guest.expect_nothing();
}

#[test]
fn host_that_gives_up_before_the_answer_resets() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    host.write_all(b"CONNECT 7000\n").unwrap();
    let (request, _) = guest.expect(op::REQUEST);

    close(host);

    let (reset, _) = guest.expect(op::RST);
    assert_eq!(reset.src_port, request.src_port);
}

#[test]
fn guest_may_stop_sending_and_still_receive() {
    let mut guest = Guest::new();
    let mut host = guest.open(1024);

    guest.send_to(op::RW, 1024, 0, b"question");
    guest.send_to(op::SHUTDOWN, 1024, shutdown::SEND, &[]);
    let mut question = String::new();
    host.read_to_string(&mut question).unwrap();
    host.write_all(b"answer").unwrap();
    close(host);

    assert_eq!(question, "question");
    assert_eq!(guest.take_data(), b"answer");
    let (end, _) = guest.expect(op::SHUTDOWN);
    assert_eq!(end.flags, shutdown::BOTH);
}

#[test]
fn host_may_stop_sending_and_still_receive() {
    let mut guest = Guest::new();
    let mut host = guest.open(1024);

    host.write_all(b"question").unwrap();
    host.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(guest.take_data(), b"question");
    let (end, _) = guest.expect(op::SHUTDOWN);
    assert_eq!(end.flags, shutdown::SEND);
    guest.send_to(op::RW, 1024, 0, b"answer");
    assert_eq!(read_now(&mut host), b"answer");

    close(host);
    let (end, _) = guest.expect(op::SHUTDOWN);
    assert_eq!(end.flags, shutdown::BOTH);
}

#[test]
fn all_data_arrives_before_the_guests_close() {
    let mut guest = Guest::new();
    let mut host = guest.open(1024);
    let data = pattern(WINDOW as usize);

    // More than the socket takes: the rest is buffered when the guest closes.
    for part in data.chunks(64 << 10) {
        guest.send_to(op::RW, 1024, 0, part);
    }
    guest.packets.clear();
    guest.send_to(op::SHUTDOWN, 1024, shutdown::BOTH, &[]);
    guest.expect(op::RST);
    let mut received = Vec::new();
    while received.len() < data.len() {
        let part = read_now(&mut host);
        assert!(!part.is_empty(), "{} bytes", received.len());
        received.extend(part);
        guest.work();
    }

    assert_eq!(received, data);
    assert_eq!(host.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(guest.engine.muxer.connection_count(), 0);
}

#[test]
fn guests_close_does_not_look_like_an_error_to_the_host() {
    let mut guest = Guest::new();
    let mut host = guest.open(1024);
    guest.window = 0;
    guest.send_to(op::CREDIT_UPDATE, 1024, 0, &[]);
    host.write_all(b"never read by the guest").unwrap();

    guest.send_to(op::SHUTDOWN, 1024, shutdown::BOTH, &[]);

    guest.expect(op::RST);
    assert_eq!(host.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn all_data_arrives_before_the_hosts_close() {
    let mut guest = Guest::new();
    let mut host = guest.open(1024);
    let data = pattern(150_000);
    host.write_all(&data).unwrap();
    close(host);

    let received = guest.take_data();

    // The guest learns at once that its own data is not wanted any more.
    assert_eq!(received.len(), data.len());
    assert_eq!(received, data);
    let (end, _) = guest.expect(op::SHUTDOWN);
    assert_eq!(end.flags, shutdown::BOTH);
    assert_eq!(guest.engine.muxer.connection_count(), 0);
}

#[test]
fn host_waits_for_the_guests_credit() {
    let mut guest = Guest::new();
    guest.window = 1000;
    let mut host = guest.open(1024);
    host.write_all(&pattern(2500)).unwrap();

    let mut received = guest.take_data();
    assert_eq!(received.len(), 1000);
    guest.expect_nothing();
    while received.len() < 2500 {
        guest.send_to(op::CREDIT_UPDATE, 1024, 0, &[]);
        let more = guest.take_data();
        assert!(!more.is_empty() && more.len() <= 1000);
        received.extend(more);
    }

    assert_eq!(received, pattern(2500));
}

#[test]
fn guests_credit_waits_for_the_host() {
    let mut guest = Guest::new();
    let mut host = guest.open(1024);
    let data = pattern(WINDOW as usize);
    for part in data.chunks(32 << 10) {
        guest.send_to(op::RW, 1024, 0, part);
    }
    guest.work();
    let announced = guest.packets.drain(..).map(|(h, _)| h.fwd_cnt).next_back();
    assert!(announced.unwrap_or(0) < WINDOW, "credit for unread data");

    let mut received = 0;
    while received < data.len() {
        received += read_now(&mut host).len();
        guest.work();
    }

    let last = guest.packets.pop_back().unwrap().0;
    assert_eq!(last.op, op::CREDIT_UPDATE);
    assert!(WINDOW - last.fwd_cnt < WINDOW / 4);
}

#[test]
fn requested_credit_is_sent() {
    let mut guest = Guest::new();
    let _host = guest.open(1024);
    guest.send_to(op::RW, 1024, 0, b"12345");

    guest.send_to(op::CREDIT_REQUEST, 1024, 0, &[]);

    let (credit, _) = guest.expect(op::CREDIT_UPDATE);
    assert_eq!((credit.buf_alloc, credit.fwd_cnt), (WINDOW, 5));
}

#[test]
fn guest_hears_when_the_host_stops_reading() {
    let mut guest = Guest::new();
    let host = guest.open(1024);
    host.shutdown(std::net::Shutdown::Read).unwrap();

    guest.send_to(op::RW, 1024, 0, b"unwanted");

    let (end, _) = guest.expect(op::SHUTDOWN);
    assert_eq!(end.flags, shutdown::RECEIVE);
}

#[test]
fn busy_listener_is_tried_again() {
    let mut guest = Guest::new();
    let listener = guest.listen(1024);
    rustix::net::listen(&listener, 0).unwrap();
    // One fits into a backlog of zero.
    let _waiting = UnixStream::connect(guest.path(1024)).unwrap();

    guest.send_to(op::REQUEST, 1024, 0, &[]);
    guest.expect_nothing();
    listener.accept().unwrap();
    let turn = guest.engine.turn(EpollTimeout::from(5000u16)).unwrap();

    assert_ne!(turn, Turn::Stop);
    guest.expect(op::RESPONSE);
}

#[test]
fn connections_are_apart() {
    let mut guest = Guest::new();
    let mut one = guest.open(1024);
    let mut two = guest.open(1025);

    guest.send_to(op::RW, 1025, 0, b"two");
    guest.send_to(op::RW, 1024, 0, b"one");

    assert_eq!(read_now(&mut one), b"one");
    assert_eq!(read_now(&mut two), b"two");
}
