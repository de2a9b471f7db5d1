//! The device under a scripted guest: rings in memory, real Unix sockets on the host.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use super::super::credit::WINDOW;
use super::super::header::{HOST_CID, TYPE_STREAM, op, shutdown};
use super::super::host::HostSockets;
use super::*;
use crate::virtio::testing::{DriverQueue, SIZE, WRITE, memory};

mod hostile;
mod streams;

const CID: u64 = 3;
const GUEST_PORT: u32 = 7000;
const RX_BUFFERS: u64 = 4 << 20;
const RX_LEN: u32 = 4096;
const TX_BUFFERS: u64 = 8 << 20;
const TX_LEN: u64 = 96 << 10;

/// A guest's driver and program in one, and the device that it drives.
struct Guest {
    dir: tempfile::TempDir,
    engine: Engine,
    rx: DriverQueue,
    tx: DriverQueue,
    next_tx: u16,
    /// Announced in every packet.
    window: u32,
    read: u32,
    packets: VecDeque<(Header, Vec<u8>)>,
}

impl Guest {
    /// A guest without receive buffers.
    fn starved() -> Guest {
        let dir = tempfile::tempdir().unwrap();
        let mem = memory();
        let rx = DriverQueue::new(&mem, 0);
        let tx = DriverQueue::new(&mem, 1);
        let host = HostSockets::listen(&dir.path().join("vsock")).unwrap();
        let mut engine = Engine {
            rings: [const { None }; QUEUES],
            muxer: Muxer::new(CID, host).unwrap(),
        };
        for (index, queue) in [(RX, &rx), (TX, &tx)] {
            let calls = queue.calls.clone();
            let ring = Ring::new(index, queue.queue(), mem.clone(), queue.kick_event(), calls);
            engine.rings[index] = Some(ring.unwrap());
        }
        Guest {
            dir,
            engine,
            rx,
            tx,
            next_tx: 0,
            window: 1 << 20,
            read: 0,
            packets: VecDeque::new(),
        }
    }

    fn new() -> Guest {
        let mut guest = Guest::starved();
        guest.give_buffers(SIZE);
        guest
    }

    fn give_buffers(&mut self, count: u16) {
        for index in 0..count {
            let address = RX_BUFFERS + u64::from(index) * u64::from(RX_LEN);
            self.rx.descriptor(index, (address, RX_LEN, WRITE, 0));
            self.rx.offer(index);
        }
    }

    fn path(&self, port: u32) -> PathBuf {
        self.dir.path().join(format!("vsock_{port}"))
    }

    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.path(port)).unwrap()
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("vsock")).unwrap()
    }

    /// Queues a packet of any kind, with the guest's credit.
    fn queue_packet(&mut self, mut header: Header, data: &[u8]) {
        if (header.src_cid, header.dst_cid, header.kind) == (0, 0, 0) {
            header.src_cid = CID;
            header.dst_cid = HOST_CID;
            header.kind = TYPE_STREAM;
        }
        header.buf_alloc = self.window;
        header.fwd_cnt = self.read;
        header.len = data.len() as u32;
        let slot = self.next_tx % SIZE;
        self.next_tx += 1;
        let address = TX_BUFFERS + u64::from(slot) * TX_LEN;
        self.tx.write(address, &header.encode());
        self.tx.write(address + HEADER_LEN as u64, data);
        let len = (HEADER_LEN + data.len()) as u32;
        self.tx.descriptor(slot, (address, len, 0, 0));
        self.tx.offer(slot);
    }

    /// Sends a packet and lets the device work.
    fn send_to(&mut self, op: u16, host_port: u32, flags: u32, data: &[u8]) {
        let header = Header {
            src_port: GUEST_PORT,
            dst_port: host_port,
            op,
            flags,
            ..Header::default()
        };
        self.queue_packet(header, data);
        self.work();
    }

    /// Lets the device work until it would wait, and takes what it sent.
    fn work(&mut self) {
        for _ in 0..10_000 {
            let turn = self.engine.turn(EpollTimeout::ZERO).unwrap();
            while self.tx.used().is_some() {}
            let mut received = false;
            while let Some((head, len)) = self.rx.used() {
                received = true;
                self.receive(head, len);
            }
            if turn == Turn::Wait && !received {
                return;
            }
        }
        panic!("the device does not come to rest");
    }

    fn receive(&mut self, head: u32, len: u32) {
        let address = RX_BUFFERS + u64::from(head) * u64::from(RX_LEN);
        let bytes = self.rx.read(address, len as usize);
        let header = Header::decode(bytes[..HEADER_LEN].try_into().unwrap());
        assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID));
        assert_eq!(header.len as usize, bytes.len() - HEADER_LEN);
        self.packets
            .push_back((header, bytes[HEADER_LEN..].to_vec()));
        self.rx.offer(head as u16);
    }

    /// The next packet, which must be of this kind.
    fn expect(&mut self, op: u16) -> (Header, Vec<u8>) {
        self.work();
        let packet = self.packets.pop_front().expect("no packet");
        assert_eq!(packet.0.op, op, "{packet:?}");
        packet
    }

    fn expect_nothing(&mut self) {
        self.work();
        assert!(self.packets.is_empty(), "{:?}", self.packets);
    }

    /// Connects to `port` on the host; returns the host's end.
    fn open(&mut self, port: u32) -> UnixStream {
        let listener = self.listen(port);
        self.send_to(op::REQUEST, port, 0, &[]);
        let (response, _) = self.expect(op::RESPONSE);
        assert_eq!((response.src_port, response.dst_port), (port, GUEST_PORT));
        assert_eq!(response.buf_alloc, WINDOW);
        listener.accept().unwrap().0
    }

    /// All data that comes next, until another packet; the guest's program reads it.
    fn take_data(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        self.work();
        while let Some((header, _)) = self.packets.front() {
            match header.op {
                op::RW => all.extend(self.packets.pop_front().unwrap().1),
                op::CREDIT_REQUEST => drop(self.packets.pop_front()),
                _ => break,
            }
        }
        self.read = self.read.wrapping_add(all.len() as u32);
        all
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

/// Reads what there is on the host's end without waiting for more.
fn read_now(stream: &mut UnixStream) -> Vec<u8> {
    stream.set_nonblocking(true).unwrap();
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut piece) {
        all.extend(&piece[..len]);
    }
    stream.set_nonblocking(false).unwrap();
    all
}

/// Closes a host's end at once: a process that another test forks may have a copy of it.
fn close(host: UnixStream) {
    host.shutdown(std::net::Shutdown::Both).unwrap();
}
