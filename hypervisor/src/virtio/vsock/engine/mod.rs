//! Moves packets between the queues and the [`Muxer`].

use std::io;

use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};

use super::super::Ring;
use super::header::{HEADER_LEN, Header};
use super::muxer::{Muxer, token};
use super::rx_buffers::RxBuffers;
use super::slices::{Access, Slices};
use crate::event::EventFd;
use crate::virtio::worker;

/// Queue indices (virtio 1.2 §5.10.2).
pub(crate) const RX: usize = 0;
/// Guest to host.
pub(crate) const TX: usize = 1;
/// The event queue, which stays unused: the guest's id never changes.
pub(crate) const EVENT: usize = 2;
/// Number of queues.
pub(crate) const QUEUES: usize = 3;

const STOP: u64 = token::FREE;
const KICK_RX: u64 = token::FREE + 1;
const KICK_TX: u64 = token::FREE + 2;

/// Packets moved in one direction before the other, and events, get their turn.
const BATCH: usize = 256;
/// The longest packet taken from the guest; Linux sends up to 64 KiB.
const MAX_PACKET: usize = 1 << 20;

/// The next step of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// There is more to move that needs no event.
    More,
    /// Nothing can be moved before the next event.
    Wait,
    /// It was asked to stop.
    Stop,
}

/// The queues and the muxer, served by one thread.
pub(crate) struct Engine {
    pub rings: [Option<Ring>; QUEUES],
    pub muxer: Muxer,
}

impl Engine {
    /// Serves until `stop` is readable.
    pub fn run(&mut self, stop: &EventFd) {
        if let Err(err) = self.serve(stop) {
            log::error!("The vsock device stopped: {err}");
        }
        self.unwatch(stop);
    }

    fn serve(&mut self, stop: &EventFd) -> io::Result<()> {
        self.watch(stop)?;
        let mut turn = Turn::More;
        loop {
            turn = match turn {
                Turn::More => self.turn(EpollTimeout::ZERO)?,
                Turn::Wait => self.turn(EpollTimeout::NONE)?,
                Turn::Stop => return Ok(()),
            };
        }
    }

    /// Waits for events for at most `timeout`, handles them, and moves packets.
    fn turn(&mut self, timeout: EpollTimeout) -> io::Result<Turn> {
        let mut events = [EpollEvent::empty(); 64];
        for event in worker::wait(self.muxer.epoll(), &mut events, timeout)? {
            match event.data() {
                STOP => return Ok(Turn::Stop),
                KICK_RX | KICK_TX => {}
                token => self.muxer.on_event(token, event.events()),
            }
        }
        Ok(if self.move_packets() {
            Turn::More
        } else {
            Turn::Wait
        })
    }

    /// Works until there is nothing to do, which must be soon.
    #[cfg(feature = "fuzzing")]
    pub fn work(&mut self) {
        for _ in 0..10_000 {
            if matches!(self.turn(EpollTimeout::ZERO), Ok(Turn::Wait)) {
                return;
            }
        }
        panic!("the device does not come to rest");
    }

    fn watch(&self, stop: &EventFd) -> io::Result<()> {
        let epoll = self.muxer.epoll();
        epoll.add(stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        // Edge-triggered: each kick is one event, and the counter need not be read.
        let kick = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        for (index, token) in [(RX, KICK_RX), (TX, KICK_TX)] {
            if let Some(ring) = &self.rings[index] {
                epoll.add(&**ring.kick(), EpollEvent::new(kick, token))?;
            }
        }
        Ok(())
    }

    fn unwatch(&self, stop: &EventFd) {
        let epoll = self.muxer.epoll();
        // Removing a socket that was not added, after an error, does no harm.
        let _ = epoll.delete(stop);
        for ring in [RX, TX].into_iter().filter_map(|i| self.rings[i].as_ref()) {
            let _ = epoll.delete(&**ring.kick());
        }
    }

    /// Moves up to a batch each way. True if there is more that needs no event.
    fn move_packets(&mut self) -> bool {
        let [Some(rx), Some(tx), _] = &mut self.rings else {
            return false;
        };
        let more_tx = from_guest(tx, &mut self.muxer);
        let blocked = !self.muxer.wants_packets();
        let more_rx = to_guest(rx, &mut self.muxer);
        more_tx || more_rx || (blocked && self.muxer.wants_packets())
    }
}

/// Takes packets from the guest.
fn from_guest(ring: &mut Ring, muxer: &mut Muxer) -> bool {
    let mem = ring.memory();
    ring.disable_kicks();
    let mut budget = BATCH;
    let mut more = true;
    // When the muxer wants no more, taking buffers off `rx` makes it continue.
    while budget > 0 && muxer.wants_packets() {
        let Some(chain) = ring.pop(&mem) else {
            more = false;
            break;
        };
        budget -= 1;
        let head = chain.head_index();
        let mut data = Slices::with_capacity(0);
        let header = data.append(&mem, chain, Access::Read, HEADER_LEN);
        if let Some(header) = header.and_then(|header| parse(&header, &mut data)) {
            muxer.on_packet(&header, data);
        }
        ring.complete(&mem, head, 0);
    }
    ring.notify();
    if !muxer.wants_packets() {
        // Blocked by the guest: an rx buffer will wake us.
        return false;
    }
    more || ring.enable_kicks()
}

/// The header of a packet, whose data is cut to the length in it.
fn parse(head: &Slices<'_>, data: &mut Slices<'_>) -> Option<Header> {
    let mut bytes = [0; HEADER_LEN];
    if head.copy_to(&mut bytes) < HEADER_LEN {
        return None;
    }
    let header = Header::decode(&bytes);
    let len = header.len as usize;
    if len > data.len() || len > MAX_PACKET {
        return None;
    }
    data.truncate(len);
    Some(header)
}

/// Gives packets to the guest.
fn to_guest(ring: &mut Ring, muxer: &mut Muxer) -> bool {
    let mem = ring.memory();
    let mut budget = BATCH;
    let mut starved = false;
    ring.disable_kicks();
    while budget > 0 && muxer.has_packet() {
        let Some((buffers, data)) = RxBuffers::take(ring, &mem, muxer.rx_buffers_wanted()) else {
            starved = true;
            break;
        };
        budget = budget.saturating_sub(buffers.count().max(1));
        if buffers.count() > 0 {
            let packet = muxer.next_packet(data);
            buffers.complete(ring, &mem, packet);
        }
    }
    ring.notify();
    if starved {
        ring.enable_kicks()
    } else {
        muxer.has_packet()
    }
}

#[cfg(test)]
mod tests;
