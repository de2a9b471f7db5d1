//! A receive and a transmit queue, and the thread that serves both.

use std::io;
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::super::buffers::IovecScratch;
use super::super::{Ring, worker};
use super::receive::{Backlog, Receiving, Shape, Taken, receive};
use super::tap::Tap;
use super::transmit::{Sending, send};
use crate::event::EventFd;

/// Events, after the kicks of the two queues.
const RX: u64 = 0;
const TX: u64 = 1;
const STOP: u64 = 2;
const TAP: u64 = 3;
const ATTACHED: u64 = 4;

/// Two queues and their tap.
pub(super) struct Pair {
    /// The queue to the guest, and the queue from it.
    pub rings: [Option<Ring>; 2],
    pub backlog: Backlog,
    tap: Arc<Tap>,
}

impl Pair {
    pub fn new(tap: Arc<Tap>) -> Pair {
        Pair {
            rings: [None, None],
            backlog: Backlog::new(),
            tap,
        }
    }

    /// Serves the queues until `stop` is readable.
    pub fn run(&mut self, stop: &EventFd, shape: Shape) -> io::Result<()> {
        let mut taken = Taken::default();
        let result = self.serve(stop, shape, &mut taken);
        if let [Some(rx), _] = &mut self.rings {
            taken.undo(rx);
        }
        result
    }

    /// All events except the stop are edges, so that none has to be disabled while it cannot be
    /// handled: `receiving` and `sending` record the edges.
    fn serve(&mut self, stop: &EventFd, shape: Shape, taken: &mut Taken) -> io::Result<()> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        let kick = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        for (token, ring) in [RX, TX].into_iter().zip(&self.rings) {
            if let Some(ring) = ring {
                epoll.add(&**ring.kick(), EpollEvent::new(kick, token))?;
            }
        }
        epoll.add(self.tap.attachment(), EpollEvent::new(kick, ATTACHED))?;
        let both = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        let mut watched = EpollEvent::new(both, TAP);
        epoll.add(self.tap.file(), watched)?;

        // It points into guest memory while it is used.
        let mut scratch = IovecScratch::default();
        let (mut receiving, mut sending) = (Receiving::Ready, Sending::Ready);
        let mut events = [EpollEvent::empty(); 5];
        let [rx, tx] = &mut self.rings;
        loop {
            if let (Some(ring), Receiving::Ready) = (&mut *rx, receiving) {
                receiving = receive(ring, &self.tap, taken, &mut self.backlog, shape);
            }
            if let (Some(ring), Sending::Ready) = (&mut *tx, sending) {
                sending = send(ring, &self.tap, &mut scratch);
                if sending == Sending::Full {
                    // There may be room now: the kernel checks again.
                    epoll.modify(self.tap.file(), &mut watched)?;
                }
            }
            let ready = (rx.is_some() && receiving == Receiving::Ready)
                || (tx.is_some() && sending == Sending::Ready);
            let timeout = match ready {
                true => EpollTimeout::ZERO,
                false => EpollTimeout::NONE,
            };
            for event in worker::wait(&epoll, &mut events, timeout)? {
                let frames = !event
                    .events()
                    .intersection(!EpollFlags::EPOLLOUT)
                    .is_empty();
                match event.data() {
                    STOP => return Ok(()),
                    TAP => {
                        if receiving == Receiving::Empty && frames {
                            receiving = Receiving::Ready;
                        }
                        if sending == Sending::Full {
                            sending = Sending::Ready;
                        }
                    }
                    // Frames do not wake a wait on a detached queue.
                    ATTACHED => {
                        epoll.delete(self.tap.file())?;
                        epoll.add(self.tap.file(), watched)?;
                    }
                    // A kick only helps a direction that waits for it.
                    RX if receiving == Receiving::Starved => receiving = Receiving::Ready,
                    TX if sending == Sending::Idle => sending = Sending::Ready,
                    _ => {}
                }
            }
        }
    }
}
