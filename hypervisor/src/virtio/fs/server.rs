//! The threads that take FUSE requests off a queue.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{Reader, VirtioFsWriter, Writer};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

use crate::jail::ThreadKind;

use super::super::ring::Chain;
use super::super::{Ring, Worker};
use super::share::Share;

/// Parses and answers FUSE requests. Shared by all queues.
pub(super) type FuseServer = Server<Arc<Share>>;

const KICK: u64 = 0;
const STOP: u64 = 1;

/// The threads of one queue.
pub(super) struct QueueServer {
    workers: Vec<Worker<()>>,
    ring: Arc<Mutex<Ring>>,
}

impl QueueServer {
    /// Serves `ring` with this many threads.
    pub fn start(
        name: &str,
        threads: usize,
        ring: Ring,
        server: &Arc<FuseServer>,
    ) -> io::Result<QueueServer> {
        let kick = Arc::clone(ring.kick());
        let ring = Arc::new(Mutex::new(ring));
        let workers = (0..threads)
            .map(|number| {
                let thread = Thread {
                    kick: Arc::clone(&kick),
                    ring: Arc::clone(&ring),
                    server: Arc::clone(server),
                };
                let name = format!("{name}-{number}");
                Worker::spawn(ThreadKind::Fs, &name, move |stop| thread.run(stop))
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(QueueServer { workers, ring })
    }

    /// Ends the threads when they have served what they took; `None` if one panicked,
    /// whose chain is lost.
    pub fn stop(self) -> Option<Queue> {
        let ended = self.workers.into_iter().map(Worker::stop);
        let lost = ended.filter(Option::is_none).count();
        let ring = Arc::into_inner(self.ring).filter(|_| lost == 0)?;
        let ring = ring.into_inner().unwrap_or_else(PoisonError::into_inner);
        Some(ring.into_queue())
    }
}

/// One of the threads. All wait for the same kick; the kernel wakes one.
struct Thread {
    kick: Arc<EventFd>,
    ring: Arc<Mutex<Ring>>,
    server: Arc<FuseServer>,
}

impl Thread {
    fn run(&self, stop: &EventFd) {
        if let Err(err) = self.serve(stop) {
            log::error!("A file system thread stopped: {err}");
        }
    }

    fn serve(&self, stop: &EventFd) -> io::Result<()> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        // Edge-triggered: each kick is one event, and nobody needs to read the counter.
        let kick = EpollFlags::EPOLLIN | EpollFlags::EPOLLET | EpollFlags::EPOLLEXCLUSIVE;
        epoll.add(&*self.kick, EpollEvent::new(kick, KICK))?;
        let mut events = [EpollEvent::empty(); 2];
        loop {
            self.drain();
            let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(err) => return Err(err.into()),
            };
            if events[..count].iter().any(|event| event.data() == STOP) {
                return Ok(());
            }
        }
    }

    /// Serves requests until there are none.
    fn drain(&self) {
        let mem = self.lock().memory();
        loop {
            let chain = {
                let mut ring = self.lock();
                let chain = ring.pop(&mem);
                let more = ring.enable_kicks();
                match chain {
                    Some(chain) => {
                        if more {
                            // No kick may come for it: let another thread look.
                            let _ = self.kick.write(1);
                        }
                        chain
                    }
                    None if more => continue,
                    None => return,
                }
            };
            let head = chain.head_index();
            let len = handle(&self.server, &mem, chain);
            let mut ring = self.lock();
            ring.complete(&mem, head, len);
            ring.notify();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves one request; returns how many bytes the answer has.
fn handle<'m>(server: &FuseServer, mem: &'m GuestMemoryMmap, chain: Chain<'m>) -> u32 {
    let answer = Reader::from_descriptor_chain(mem, chain.clone()).and_then(|reader| {
        let writer = VirtioFsWriter::new(mem, chain)?;
        Ok((reader, writer))
    });
    let result = match answer {
        Ok((reader, writer)) => server
            .handle_message(reader, Writer::VirtioFs(writer), None, None)
            .map_err(|err| err.to_string()),
        Err(err) => Err(err.to_string()),
    };
    match result {
        Ok(len) => u32::try_from(len).unwrap_or(0),
        Err(err) => {
            log::debug!("Bad FUSE request: {err}");
            0
        }
    }
}
