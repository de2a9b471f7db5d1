//! One stream between the guest and a host socket.
//!
//! ```text
//!   guest ── RW ──▶ [buffer, at most WINDOW] ──▶ host socket
//!   guest ◀── RW ── (straight from the socket, as far as the guest's credit goes)
//! ```
//!
//! Each direction ends by itself: `SHUTDOWN` on the guest's side is `shutdown(2)` on
//! the host's. What the guest has sent is written to the host even when the guest's
//! end is gone already; then the connection only [drains](Phase::Draining).

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::buffer::Buffer;
use super::credit::Credit;
use super::handshake::handshake;
use super::header::{Header, op, shutdown};
use super::slices::Slices;

/// Buffers of the guest filled by one read from the host: the amount that Linux sends at once.
const MAX_RX_BUFFERS: usize = 16;

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The host has connected, but not yet said to which port.
    Handshake,
    /// The guest was asked for a connection.
    Requested,
    /// Data flows.
    Established,
    /// The guest's end is gone; the buffer is still to be written to the host.
    Draining,
    /// Nothing is left to do.
    Finished,
}

/// The packet violates the protocol; the connection must be reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation;

/// See the module.
pub(crate) struct Connection {
    /// Whether the muxer has it in its queue of those with a packet for the guest.
    pub queued: bool,
    stream: UnixStream,
    phase: Phase,
    host_port: u32,
    guest_port: u32,
    /// The host socket may have something to read.
    readable: bool,
    /// The host socket may have room.
    writable: bool,
    /// Both directions of the host socket are shut.
    hung_up: bool,
    /// Nothing more will be read from the host.
    host_done: bool,
    /// The guest will send nothing more.
    guest_done: bool,
    /// The guest wants nothing more.
    guest_deaf: bool,
    /// The host does not read any more: what the guest sends is dropped.
    discard: bool,
    /// Sent by the guest, not yet written to the host.
    buffer: Buffer,
    credit: Credit,
    /// Buffers of the guest that the next read may fill.
    rx_buffers: usize,
    /// Control packets to send: an opening one, and the shutdown flags.
    open: Option<u16>,
    shutdown: u32,
    shutdown_sent: u32,
}

impl Connection {
    /// A host program has connected and will say to which port.
    pub fn from_host(stream: UnixStream, host_port: u32) -> Connection {
        Connection::new(stream, Phase::Handshake, host_port, 0)
    }

    /// The guest asked for this connection, which the host has accepted.
    pub fn from_guest(stream: UnixStream, request: &Header) -> Connection {
        let phase = Phase::Established;
        let mut connection = Connection::new(stream, phase, request.dst_port, request.src_port);
        connection.credit.update(request);
        connection.open = Some(op::RESPONSE);
        connection
    }

    fn new(stream: UnixStream, phase: Phase, host_port: u32, guest_port: u32) -> Connection {
        Connection {
            queued: false,
            stream,
            phase,
            host_port,
            guest_port,
            // Unknown until the first attempt.
            readable: true,
            writable: true,
            hung_up: false,
            host_done: false,
            guest_done: false,
            guest_deaf: false,
            discard: false,
            buffer: Buffer::default(),
            credit: Credit::default(),
            rx_buffers: 1,
            open: None,
            shutdown: 0,
            shutdown_sent: 0,
        }
    }

    /// The socket, to be polled edge-triggered.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The ports: host, guest.
    pub fn ports(&self) -> (u32, u32) {
        (self.host_port, self.guest_port)
    }

    /// The host socket became readable, writable, or both its directions are shut.
    pub fn on_host_event(&mut self, readable: bool, writable: bool, hung_up: bool) {
        self.readable |= readable;
        self.hung_up |= hung_up;
        if writable || hung_up {
            self.writable = true;
            self.flush();
        }
        if hung_up {
            self.stop_writing();
            self.close_if_done();
        }
    }

    /// Reads the handshake, if it is complete. `Ok(true)`: ask the guest.
    pub fn read_handshake(&mut self) -> Result<bool, Violation> {
        match handshake(&self.stream) {
            Ok(Some(port)) => {
                self.guest_port = port;
                self.phase = Phase::Requested;
                self.open = Some(op::REQUEST);
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(_) => Err(Violation),
        }
    }

    /// A packet of the guest for this connection, other than RST.
    pub fn on_packet(&mut self, header: &Header, data: Slices<'_>) -> Result<(), Violation> {
        self.credit.update(header);
        match (self.phase, header.op) {
            (Phase::Requested, op::RESPONSE) => {
                let ok = format!("OK {}\n", self.host_port);
                match rustix::net::send(
                    &self.stream,
                    ok.as_bytes(),
                    rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL,
                ) {
                    Ok(sent) if sent == ok.len() => self.phase = Phase::Established,
                    // The first bytes on a socket fit, unless its other end is gone.
                    _ => return Err(Violation),
                }
                Ok(())
            }
            (Phase::Established, op::RW) => self.on_data(data),
            (Phase::Established, op::SHUTDOWN) => {
                self.on_shutdown(header.flags);
                Ok(())
            }
            (Phase::Established, op::CREDIT_UPDATE) => Ok(()),
            (Phase::Established, op::CREDIT_REQUEST) => {
                self.credit.announce = true;
                Ok(())
            }
            _ => Err(Violation),
        }
    }

    /// Whether the guest has shut both directions, to which the answer is RST
    /// (virtio 1.2 §5.10.6.6).
    pub fn closed_by_guest(&self) -> bool {
        self.guest_done && self.guest_deaf
    }

    /// The guest is done with the connection: what it has sent still goes to the host.
    pub fn on_reset(&mut self) {
        if self.phase == Phase::Established && !self.buffer.is_empty() {
            self.phase = Phase::Draining;
            self.flush();
        } else {
            self.finish();
        }
    }

    /// Whether there is something to send to the guest.
    pub fn has_packet(&self) -> bool {
        match self.phase {
            Phase::Requested => self.open.is_some(),
            Phase::Established => {
                self.open.is_some()
                    || self.credit.announce
                    || self.credit.request
                    || self.shutdown & !self.shutdown_sent != 0
                    || (self.readable && !self.host_done && self.credit.available() > 0)
            }
            Phase::Handshake | Phase::Draining | Phase::Finished => false,
        }
    }

    /// For how many of the guest's buffers the next packet may have data: more each time while
    /// the host has enough to fill them.
    pub fn rx_buffers_wanted(&self) -> usize {
        if self.open.is_some() {
            1
        } else {
            self.rx_buffers
        }
    }

    /// Makes the next packet to the guest, with its data written to `data`, which may be
    /// empty. `None` if there is nothing to send after all, or only data and `data` is
    /// empty. The caller sets the fields that are the same in all packets.
    pub fn next_packet(&mut self, data: Slices<'_>) -> Option<Header> {
        let mut header = if let Some(op) = self.open.take() {
            self.packet(op)
        } else {
            match self.read_host(data) {
                Some(len) => {
                    let mut header = self.packet(op::RW);
                    header.len = len;
                    header
                }
                None => self.control_packet()?,
            }
        };
        header.fwd_cnt = self.credit.announced();
        if self.shutdown_sent == shutdown::BOTH {
            self.finish();
        }
        Some(header)
    }

    fn control_packet(&mut self) -> Option<Header> {
        if self.shutdown & !self.shutdown_sent != 0 {
            self.shutdown_sent = self.shutdown;
            let mut header = self.packet(op::SHUTDOWN);
            header.flags = self.shutdown;
            Some(header)
        } else if std::mem::take(&mut self.credit.request) {
            Some(self.packet(op::CREDIT_REQUEST))
        } else if self.credit.announce {
            Some(self.packet(op::CREDIT_UPDATE))
        } else {
            None
        }
    }

    fn packet(&self, op: u16) -> Header {
        Header {
            src_port: self.host_port,
            dst_port: self.guest_port,
            op,
            ..Header::default()
        }
    }

    /// Reads from the host into `data`, as far as the guest's credit goes.
    fn read_host(&mut self, mut data: Slices<'_>) -> Option<u32> {
        let credit = self.credit.available();
        if !self.readable || self.host_done || credit == 0 || data.len() == 0 {
            return None;
        }
        data.truncate(credit as usize);
        match data.receive(self.stream.as_fd()) {
            Ok(0) => self.host_ended(),
            Ok(len) => {
                self.rx_buffers = if len == data.len() {
                    MAX_RX_BUFFERS.min(self.rx_buffers * 2)
                } else {
                    1
                };
                // No longer than the credit, which is a u32.
                let len = len as u32;
                self.credit.sent(len);
                return Some(len);
            }
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            // The other end closed with data unread; what it had sent was read before.
            Err(_) => {
                self.hung_up = true;
                self.host_ended();
            }
        }
        None
    }

    fn host_ended(&mut self) {
        self.host_done = true;
        self.shutdown |= shutdown::SEND;
        self.close_if_done();
    }

    fn on_data(&mut self, data: Slices<'_>) -> Result<(), Violation> {
        if self.guest_done || !self.credit.receive(data.len()) {
            return Err(Violation);
        }
        let mut data = data;
        if !self.discard && self.buffer.is_empty() {
            self.write_host(&mut data);
        }
        if self.discard {
            self.credit.forwarded_all();
        } else {
            self.buffer.push(&data);
        }
        self.credit.announce_if_due();
        Ok(())
    }

    /// Writes straight from guest memory.
    fn write_host(&mut self, data: &mut Slices<'_>) {
        while self.writable && data.len() > 0 {
            match data.send(self.stream.as_fd()) {
                Ok(len) => {
                    data.advance(len);
                    self.credit.forwarded(len as u32);
                }
                Err(err) => self.write_failed(&err),
            }
        }
    }

    /// Writes the buffered data.
    fn flush(&mut self) {
        while self.writable && !self.buffer.is_empty() {
            match self.buffer.send(self.stream.as_fd()) {
                Ok(len) => self.credit.forwarded(len as u32),
                Err(err) => self.write_failed(&err),
            }
        }
        self.credit.announce_if_due();
        if self.buffer.is_empty() {
            if self.phase == Phase::Draining {
                self.finish();
            } else if self.guest_done {
                let _ = self.stream.shutdown(std::net::Shutdown::Write);
                self.close_if_done();
            }
        }
    }

    fn write_failed(&mut self, err: &io::Error) {
        match err.kind() {
            io::ErrorKind::WouldBlock => self.writable = false,
            io::ErrorKind::Interrupted => {}
            _ => self.stop_writing(),
        }
    }

    /// The host does not read: drops the guest's data, and notifies the guest.
    fn stop_writing(&mut self) {
        self.writable = false;
        self.discard = true;
        self.buffer.clear();
        self.credit.forwarded_all();
        self.shutdown |= shutdown::RECEIVE;
        if self.phase == Phase::Draining {
            self.finish();
        }
    }

    fn on_shutdown(&mut self, flags: u32) {
        if flags & shutdown::RECEIVE != 0 && !self.guest_deaf {
            self.guest_deaf = true;
            self.host_done = true;
            self.shutdown |= shutdown::SEND;
            let _ = self.stream.shutdown(std::net::Shutdown::Read);
        }
        if flags & shutdown::SEND != 0 && !self.guest_done {
            self.guest_done = true;
            self.flush();
        }
        self.close_if_done();
    }

    /// When both directions are done, both flags are sent, which ends the connection.
    fn close_if_done(&mut self) {
        let host_side_done = self.hung_up || (self.guest_done && self.buffer.is_empty());
        if self.host_done && host_side_done {
            self.shutdown = shutdown::BOTH;
        }
    }

    fn finish(&mut self) {
        self.phase = Phase::Finished;
        discard_input(&self.stream);
    }
}

/// Reads and drops the remaining data. Closing a Unix socket with unread data would make the
/// other end see ECONNRESET in place of the end of the stream.
fn discard_input(stream: &UnixStream) {
    let _ = stream.shutdown(std::net::Shutdown::Read);
    let mut scratch = [0; 4096];
    // What is there fits into a socket buffer, and no more can come.
    while let Ok(1..) =
        rustix::net::recv(stream, &mut scratch[..], rustix::net::RecvFlags::DONTWAIT)
            .map(|(len, _)| len)
    {}
}

#[cfg(test)]
mod tests;
