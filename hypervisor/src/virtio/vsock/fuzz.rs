//! The socket device under a fuzzer: a guest and host programs, both acting at random.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use vm_memory::{Bytes, GuestAddress};

use super::credit::WINDOW;
use super::engine::{Engine, QUEUES, RX, TX};
use super::header::{HEADER_LEN, HOST_CID, Header, TYPE_STREAM, op};
use super::host::HostSockets;
use super::muxer::{MAX_CONNECTIONS, Muxer};
use crate::fuzz::{Driver, Script};

const CID: u64 = 3;
/// Ports of both sides that are used.
const PORTS: usize = 4;
/// Host programs at a time.
const PEERS: usize = 8;
/// Buffers of the guest: for packets to it, and from it.
const RX_BUFFERS: u64 = 0x8000;
const RX_LEN: u32 = 0x400;
const TX_BUFFER: u64 = 0x10_0000;

thread_local! {
    static DRIVER: RefCell<Driver> = RefCell::new(Driver::new(QUEUES));
}

/// The socket device: chains of any kind, and packets in them that may be good.
pub fn vsock(bytes: &[u8]) {
    DRIVER.with_borrow_mut(|driver| {
        let mut world = World::new();
        let mut script = Script::new(bytes);
        driver.reset(QUEUES, script.byte() & 1 != 0);
        while !script.is_over() {
            if driver.step(&mut script).is_none() {
                continue;
            }
            match script.below(4) {
                0 => world.host(&mut script),
                1 => {
                    let (at, header) = (TX_BUFFER, header(&mut script));
                    driver.store(at, &header.encode());
                }
                _ => {}
            }
            world.work(driver);
        }
    });
}

/// The socket device: good chains with packets of any kind.
pub fn vsock_packets(bytes: &[u8]) {
    DRIVER.with_borrow_mut(|driver| {
        let mut world = World::new();
        let mut script = Script::new(bytes);
        driver.reset(QUEUES, script.byte() & 1 != 0);
        let mut buffers = Buffers(0);
        let mut credit = Credit::default();
        buffers.give(driver, script.byte() % 17);
        while !script.is_over() {
            match script.below(8) {
                0..4 => {
                    if let Some(header) = packet(driver, &mut script) {
                        credit.note(&header);
                    }
                }
                4 => buffers.give(driver, script.byte() % 17),
                5 if script.byte() == 0 => world.engine.muxer.reset(),
                _ => world.host(&mut script),
            }
            world.work(driver);
            while driver.used(TX).is_some() {}
            while let Some((head, len)) = driver.used(RX) {
                if let Some(header) = check(driver, head, len) {
                    credit.check(&header);
                }
            }
        }
    });
}

/// The guest's receive buffers, given in turn.
struct Buffers(u16);

impl Buffers {
    fn give(&mut self, driver: &mut Driver, count: u8) {
        for _ in 0..count {
            let head = self.0 % 16;
            self.0 = self.0.wrapping_add(1);
            let at = RX_BUFFERS + u64::from(head) * u64::from(RX_LEN);
            driver.put(RX as u64 * 0x1000, head, (at, RX_LEN, 2, 0));
            driver.offer(RX, head);
        }
    }
}

/// A packet of the guest, most often for an existing stream.
fn header(script: &mut Script<'_>) -> Header {
    let odd = script.byte();
    Header {
        src_cid: if odd == 1 { script.quad() } else { CID },
        dst_cid: if odd == 2 { script.quad() } else { HOST_CID },
        src_port: script.below(PORTS) as u32,
        dst_port: match script.below(PORTS * 2) {
            port if port < PORTS => port as u32,
            // Connections of host programs.
            port => (1 << 30) + (port - PORTS) as u32,
        },
        len: 0,
        kind: if odd == 3 { script.word() } else { TYPE_STREAM },
        op: u16::from(script.byte() % 9),
        flags: script.below(5) as u32,
        buf_alloc: script.number(),
        fwd_cnt: script.number(),
    }
}

/// Sends a packet; returns its header if the device accepts it.
fn packet(driver: &mut Driver, script: &mut Script<'_>) -> Option<Header> {
    let mut header = header(script);
    let len = u32::from(script.word()) % 0x5000;
    header.len = match script.byte() {
        0 => script.number(),
        _ => len,
    };
    driver.store(TX_BUFFER, &header.encode());
    driver.store(TX_BUFFER + HEADER_LEN as u64, &pattern(len as usize));
    let all = HEADER_LEN as u32 + len;
    driver.put(TX as u64 * 0x1000, 0, (TX_BUFFER, all, 0, 0));
    driver.offer(TX, 0);
    let stream = (header.src_cid, header.dst_cid, header.kind) == (CID, HOST_CID, TYPE_STREAM);
    (stream && header.len <= len).then_some(header)
}

/// What the guest has said of its free space in each connection, by the ports of host and
/// guest (virtio 1.2 §5.10.6.3).
#[derive(Default)]
struct Credit(HashMap<(u32, u32), Seen>);

#[derive(Default)]
struct Seen {
    /// `buf_alloc` and `fwd_cnt` of the last two packets: the device may not have read the last
    /// one yet.
    windows: [(u32, u32); 2],
    /// Bytes that the device sent.
    sent: u32,
}

impl Credit {
    fn note(&mut self, header: &Header) {
        let seen = self.0.entry((header.dst_port, header.src_port));
        let windows = &mut seen.or_default().windows;
        *windows = [windows[1], (header.buf_alloc, header.fwd_cnt)];
    }

    /// The device sends no more than the guest has space for.
    fn check(&mut self, header: &Header) {
        let seen = self.0.entry((header.src_port, header.dst_port));
        let seen = seen.or_default();
        match header.op {
            op::REQUEST | op::RESPONSE => seen.sent = 0,
            op::RW => {
                let free = |(window, forwarded): (u32, u32)| {
                    window.saturating_sub(seen.sent.wrapping_sub(forwarded))
                };
                let free = seen.windows.map(free).into_iter().max();
                assert!(
                    Some(header.len) <= free,
                    "{} bytes for {free:?}",
                    header.len
                );
                seen.sent = seen.sent.wrapping_add(header.len);
            }
            _ => {}
        }
    }
}

/// What the device gave to the guest; `None` if a buffer came back unused.
fn check(driver: &Driver, head: u32, len: u32) -> Option<Header> {
    if len == 0 {
        return None;
    }
    assert!((HEADER_LEN as u32..=RX_LEN).contains(&len));
    let at = RX_BUFFERS + u64::from(head) * u64::from(RX_LEN);
    let mut bytes = [0; HEADER_LEN];
    driver
        .memory()
        .read_slice(&mut bytes, GuestAddress(at))
        .unwrap();
    let header = Header::decode(&bytes);
    assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID));
    assert_eq!((header.kind, header.buf_alloc), (TYPE_STREAM, WINDOW));
    assert_eq!(header.len + HEADER_LEN as u32, len);
    assert!((op::REQUEST..=op::CREDIT_REQUEST).contains(&header.op));
    assert_eq!(header.len > 0, header.op == op::RW);
    Some(header)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

/// The device, and the host programs around it.
struct World {
    uds: PathBuf,
    engine: Engine,
    listeners: [Option<UnixListener>; PORTS],
    peers: [Option<UnixStream>; PEERS],
}

impl World {
    fn new() -> World {
        let name = format!("fuzz-vsock-{}", std::process::id());
        let uds = std::env::temp_dir().join(name);
        let host = HostSockets::listen(&uds).unwrap();
        World {
            engine: Engine {
                rings: [const { None }; QUEUES],
                muxer: Muxer::new(CID, host).unwrap(),
            },
            uds,
            listeners: [const { None }; PORTS],
            peers: [const { None }; PEERS],
        }
    }

    /// Lets the device work on the driver's queues.
    fn work(&mut self, driver: &mut Driver) {
        for index in 0..QUEUES {
            self.engine.rings[index] = driver.ring(index).take();
        }
        self.engine.work();
        for index in 0..QUEUES {
            *driver.ring(index) = self.engine.rings[index].take();
        }
        assert!(self.engine.muxer.connection_count() <= MAX_CONNECTIONS);
    }

    fn path(&self, port: usize) -> PathBuf {
        let mut path = self.uds.clone().into_os_string();
        path.push(format!("_{port}"));
        path.into()
    }

    /// A step of a host program.
    fn host(&mut self, script: &mut Script<'_>) {
        let (what, who) = (script.below(8), script.below(PEERS));
        let port = who % PORTS;
        match what {
            0 => {
                self.forget(port);
                self.listeners[port] = UnixListener::bind(self.path(port)).ok();
                if let Some(listener) = &self.listeners[port] {
                    listener.set_nonblocking(true).unwrap();
                }
            }
            1 if script.byte() == 0 => self.forget(port),
            1 | 2 => {
                let accepted = self.listeners[port].as_ref().map(UnixListener::accept);
                if let Some(Ok((peer, _))) = accepted {
                    self.put(who, peer);
                }
            }
            3 => {
                if let Ok(mut peer) = UnixStream::connect(&self.uds) {
                    let hello = format!("CONNECT {}\n", script.below(PORTS));
                    let _ = match script.byte() {
                        0 => peer.write(script.bytes(40)),
                        _ => peer.write(hello.as_bytes()),
                    };
                    self.put(who, peer);
                }
            }
            4 => {
                if let Some(peer) = &mut self.peers[who] {
                    let _ = peer.write(&pattern(script.word().into()));
                }
            }
            5 => {
                if let Some(peer) = &mut self.peers[who] {
                    let _ = peer.read(&mut vec![0; script.word().into()]);
                }
            }
            6 => {
                if let Some(peer) = &self.peers[who] {
                    let how = match script.below(3) {
                        0 => std::net::Shutdown::Read,
                        1 => std::net::Shutdown::Write,
                        _ => std::net::Shutdown::Both,
                    };
                    let _ = peer.shutdown(how);
                }
            }
            _ => self.peers[who] = None,
        }
    }

    fn put(&mut self, who: usize, peer: UnixStream) {
        peer.set_nonblocking(true).unwrap();
        self.peers[who] = Some(peer);
    }

    fn forget(&mut self, port: usize) {
        if self.listeners[port].take().is_some() {
            let _ = std::fs::remove_file(self.path(port));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for port in 0..PORTS {
            self.forget(port);
        }
    }
}
