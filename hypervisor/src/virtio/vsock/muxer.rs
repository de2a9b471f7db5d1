//! All connections of one guest, and the host sockets behind them.
//!
//! Host and guest reach each other as with Firecracker's hybrid vsock:
//!
//! - A host program connects to `<uds>` and writes `CONNECT <port>\n`. When the guest
//!   accepts, it reads `OK <host port>\n`; from then on the socket is the stream.
//! - A guest program connects to CID 2, port P. The muxer connects to `<uds>_P`; if no
//!   program listens there, the guest's connection is refused.
//!
//! Sockets are polled edge-triggered: a connection remembers what its socket may be
//! able to do, and asks it only when there is both something to move and room for it.
//! So a guest without credit or buffers, or a host program that does not read, costs
//! nothing but its own buffers.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::connection::{Connection, Phase};
use super::credit::WINDOW;
use super::header::{HOST_CID, Header, TYPE_STREAM, op};
use super::host::{Dial, HostSockets, Redial};
use super::slices::Slices;

/// The most connections at a time. With [`WINDOW`] it bounds what a guest can make
/// the host buffer.
pub(crate) const MAX_CONNECTIONS: usize = 1024;
/// When this many resets wait for the guest to take them, its packets are not read any more
/// (virtio 1.2 §5.10.6.1.2).
const MAX_RESETS: usize = 256;
/// Ports given to connections from the host lie above those that programs listen on.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// Tokens of the muxer's descriptors in its epoll set; others belong to connections.
pub(crate) mod token {
    /// The listening socket.
    pub const LISTENER: u64 = 0;
    /// The timer that tries refused connects again.
    pub const REDIAL: u64 = 1;
    /// The first that the muxer does not use.
    pub const FREE: u64 = 2;
    /// Connections count from here.
    pub const FIRST_CONNECTION: u64 = 64;
}

/// A connection as the guest names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ConnectionKey {
    host_port: u32,
    guest_port: u32,
}

/// See the module.
pub(crate) struct Muxer {
    guest_cid: u64,
    host: HostSockets,
    epoll: Epoll,
    connections: HashMap<u64, Connection>,
    /// The connections that the guest knows.
    by_key: HashMap<ConnectionKey, u64>,
    /// Connections that have something for the guest, each at most once.
    ready: VecDeque<u64>,
    resets: VecDeque<ConnectionKey>,
    /// Requests whose listener was too busy.
    redials: VecDeque<Redial>,
    next_id: u64,
    next_host_port: u32,
    /// Host programs wait for a connection to end.
    accept_later: bool,
}

impl Muxer {
    /// A muxer without connections.
    pub fn new(guest_cid: u64, host: HostSockets) -> io::Result<Muxer> {
        let epoll = Epoll::new(nix::sys::epoll::EpollCreateFlags::EPOLL_CLOEXEC)?;
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(host.listener(), EpollEvent::new(edge, token::LISTENER))?;
        epoll.add(host.timer(), EpollEvent::new(edge, token::REDIAL))?;
        Ok(Muxer {
            guest_cid,
            host,
            epoll,
            connections: HashMap::new(),
            by_key: HashMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            redials: VecDeque::new(),
            next_id: token::FIRST_CONNECTION,
            next_host_port: FIRST_HOST_PORT,
            accept_later: false,
        })
    }

    /// The set in which the muxer's sockets are; the device adds its own.
    pub fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// How many connections there are.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Ends all connections.
    pub fn reset(&mut self) {
        self.connections.clear();
        self.by_key.clear();
        self.ready.clear();
        self.resets.clear();
        self.redials.clear();
    }

    /// Handles an event of the muxer's sockets.
    pub fn on_event(&mut self, token: u64, events: EpollFlags) {
        match token {
            token::LISTENER => self.accept(),
            token::REDIAL => self.redial(),
            id => self.on_host_event(id, events),
        }
    }

    /// Whether more packets of the guest may be taken.
    pub fn wants_packets(&self) -> bool {
        self.resets.len() < MAX_RESETS
    }

    /// Handles a packet of the guest.
    pub fn on_packet(&mut self, header: &Header, data: Slices<'_>) {
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            return;
        }
        let key = ConnectionKey {
            host_port: header.dst_port,
            guest_port: header.src_port,
        };
        let id = self.by_key.get(&key).copied();
        match (header.op, id) {
            (op::RST, Some(id)) => self.end(id),
            (op::RST, None) => self.redials.retain(|redial| key_of(&redial.request) != key),
            _ if header.kind != TYPE_STREAM => self.reset_key(key),
            (op::REQUEST, None) => self.dial(*header, None),
            (_, Some(id)) => {
                let Some(connection) = self.connections.get_mut(&id) else {
                    return;
                };
                match connection.on_packet(header, data) {
                    Err(_) => {
                        self.reset_key(key);
                        self.remove(id);
                    }
                    Ok(()) if connection.closed_by_guest() => {
                        self.reset_key(key);
                        self.end(id);
                    }
                    Ok(()) => self.requeue_or_remove(id),
                }
            }
            (_, None) => self.reset_key(key),
        }
    }

    /// Whether there is a packet for the guest.
    pub fn has_packet(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// For how many of the guest's buffers the next packet may have data.
    pub fn rx_buffers_wanted(&self) -> usize {
        let next = self.ready.front().filter(|_| self.resets.is_empty());
        let next = next.and_then(|id| self.connections.get(id));
        next.map_or(1, Connection::rx_buffers_wanted)
    }

    /// Makes the next packet for the guest, with its data written to `data`. `None` if there is
    /// nothing to send after all.
    pub fn next_packet(&mut self, data: Slices<'_>) -> Option<Header> {
        let mut header = match self.resets.pop_front() {
            Some(key) => Header {
                src_port: key.host_port,
                dst_port: key.guest_port,
                op: op::RST,
                ..Header::default()
            },
            None => self.connection_packet(data)?,
        };
        header.src_cid = HOST_CID;
        header.dst_cid = self.guest_cid;
        header.kind = TYPE_STREAM;
        header.buf_alloc = WINDOW;
        Some(header)
    }

    fn connection_packet(&mut self, data: Slices<'_>) -> Option<Header> {
        let id = self.ready.pop_front()?;
        let connection = self.connections.get_mut(&id)?;
        connection.queued = false;
        let header = connection.next_packet(data);
        self.requeue_or_remove(id);
        header
    }

    /// After a change: queues the connection if it has something to say, and removes
    /// it if it is over.
    fn requeue_or_remove(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.phase() == Phase::Finished {
            self.remove(id);
        } else if connection.has_packet() && !std::mem::replace(&mut connection.queued, true) {
            self.ready.push_back(id);
        }
    }

    /// The guest is done with a connection; it may still have to drain.
    fn end(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.on_reset();
            self.by_key.remove(&key_of_connection(connection));
            self.requeue_or_remove(id);
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        let key = key_of_connection(&connection);
        if self.by_key.get(&key) == Some(&id) {
            self.by_key.remove(&key);
        }
        // Closing the socket takes it out of the epoll set.
        drop(connection);
        if std::mem::take(&mut self.accept_later) {
            self.accept();
        }
    }

    fn reset_key(&mut self, key: ConnectionKey) {
        self.resets.push_back(key);
    }

    fn on_host_event(&mut self, id: u64, events: EpollFlags) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let hung_up = events.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        connection.on_host_event(
            events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP) || hung_up,
            events.contains(EpollFlags::EPOLLOUT),
            hung_up,
        );
        match connection.phase() {
            Phase::Handshake => self.shake_hands(id),
            Phase::Requested if hung_up => {
                let key = key_of_connection(connection);
                self.reset_key(key);
                self.remove(id);
            }
            _ => self.requeue_or_remove(id),
        }
    }

    fn shake_hands(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        match connection.read_handshake() {
            Ok(false) => {}
            Ok(true) => {
                self.by_key.insert(key_of_connection(connection), id);
                self.requeue_or_remove(id);
            }
            Err(_) => self.remove(id),
        }
    }

    fn accept(&mut self) {
        loop {
            if self.connections.len() >= MAX_CONNECTIONS {
                self.accept_later = true;
                return;
            }
            match self.host.accept() {
                Ok(stream) => {
                    let port = self.next_host_port;
                    self.next_host_port = port.checked_add(1).unwrap_or(FIRST_HOST_PORT);
                    if let Some(id) = self.insert(Connection::from_host(stream, port)) {
                        self.shake_hands(id);
                    }
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(err) if err.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => {
                    // Most likely there are no free descriptors: continue when one is free.
                    log::warn!("Cannot accept a connection for the guest: {err}");
                    self.accept_later = true;
                    return;
                }
            }
        }
    }

    /// Connects to the host for a guest's request.
    fn dial(&mut self, request: Header, redial: Option<Redial>) {
        let key = key_of(&request);
        if self.connections.len() + self.redials.len() >= MAX_CONNECTIONS {
            self.reset_key(key);
            return;
        }
        match self.host.dial(request.dst_port) {
            Dial::Connected(stream) => {
                let connection = Connection::from_guest(stream, &request);
                match self.insert(connection) {
                    Some(id) => {
                        self.by_key.insert(key, id);
                        self.requeue_or_remove(id);
                    }
                    None => self.reset_key(key),
                }
            }
            Dial::Busy => match redial
                .unwrap_or_else(|| Redial::new(request))
                .still_in_time()
            {
                Some(redial) => {
                    self.redials.push_back(redial);
                    self.host.arm_timer();
                }
                None => self.reset_key(key),
            },
            Dial::Refused => self.reset_key(key),
        }
    }

    fn redial(&mut self) {
        for redial in std::mem::take(&mut self.redials) {
            self.dial(redial.request, Some(redial));
        }
    }

    fn insert(&mut self, connection: Connection) -> Option<u64> {
        let id = self.next_id;
        self.next_id += 1;
        if let Err(err) = watch(&self.epoll, connection.stream(), id) {
            log::warn!("Cannot watch a connection of the guest: {err}");
            return None;
        }
        self.connections.insert(id, connection);
        Some(id)
    }
}

fn watch(epoll: &Epoll, stream: &UnixStream, id: u64) -> io::Result<()> {
    let events =
        EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    epoll.add(stream.as_fd(), EpollEvent::new(events, id))?;
    Ok(())
}

fn key_of(request: &Header) -> ConnectionKey {
    ConnectionKey {
        host_port: request.dst_port,
        guest_port: request.src_port,
    }
}

fn key_of_connection(connection: &Connection) -> ConnectionKey {
    let (host_port, guest_port) = connection.ports();
    ConnectionKey {
        host_port,
        guest_port,
    }
}
