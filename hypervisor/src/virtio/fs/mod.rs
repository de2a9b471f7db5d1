//! The file system device (virtio 1.2 §5.11): a host directory for the guest.
//!
//! ```text
//!   guest FUSE ── hiprio queue ──▶ 1 thread  ─┐
//!              ── request queue ─▶ 4 threads ─┴▶ FUSE server ▶ SharedDir ▶ the host's files
//! ```
//!
//! A few threads serve the requests of a queue, so that a program of the guest need not wait
//! for the `fsync` of another one. Each thread takes, serves and returns a request alone; FUSE
//! does not require an order.

mod change;
mod flags;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod handles;
mod host;
mod listing;
mod names;
mod node;
mod open;
mod place;
mod requests;
mod server;
mod share;
mod table;
mod xattr;

use std::io;
use std::path::Path;
use std::sync::Arc;

use virtio_queue::Queue;

use crate::event::EventFd;
use crate::jail::{self, ThreadKind};

use super::config::read_bytes;
use super::{
    Device, DeviceError, DeviceKind, Interrupt, Memory, QueueSlots, RING_FEATURES, SharedQueue,
};
use server::FuseServer;
use share::SharedDir;

/// virtio 1.2 §5.11.4: the tag field of the configuration.
const TAG_LEN: usize = 36;
/// The queue for FORGET and INTERRUPT (§5.11.2).
const HIPRIO: usize = 0;
/// One request queue: its threads are enough, and Linux before 6.11 uses one only.
const QUEUES: usize = 2;
/// A request takes up to 256 pages in as many descriptors, unless they are indirect.
const QUEUE_SIZE: u16 = 1024;
/// Threads that serve the request queue.
const REQUEST_THREADS: usize = 4;

/// A file system device.
pub struct Fs {
    tag: [u8; TAG_LEN],
    share: Arc<SharedDir>,
    server: Arc<FuseServer>,
    queues: QueueSlots<SharedQueue>,
}

impl Fs {
    /// A device for `dir` with the name `tag`; the guest may know `files` files at a time. It
    /// needs paths to `dir` and `/proc` now, but not later.
    pub fn new(tag: &str, dir: &Path, files: usize) -> io::Result<Fs> {
        let dir = dir.to_owned();
        // The share is opened by a thread of the kind that opens its files.
        let share = jail::run(ThreadKind::Fs, "fs-open", move || {
            SharedDir::new(&dir, files)
        })?;
        Fs::of(tag, Arc::new(share))
    }

    fn of(tag: &str, share: Arc<SharedDir>) -> io::Result<Fs> {
        let mut bytes = [0; TAG_LEN];
        let Some(place) = bytes.get_mut(..tag.len()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "tag too long"));
        };
        place.copy_from_slice(tag.as_bytes());
        Ok(Fs {
            tag: bytes,
            server: Arc::new(FuseServer::new(Arc::clone(&share))),
            share,
            queues: QueueSlots::new(QUEUES, "start the fs threads"),
        })
    }
}

impl Device for Fs {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Fs
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }

    /// virtio 1.2 §5.11.4: the tag, then the number of request queues.
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let request_queues = (QUEUES as u32 - 1).to_le_bytes();
        read_bytes(&[&self.tag[..], &request_queues].concat(), offset, data);
    }

    fn start_queue(
        &mut self,
        index: usize,
        queue: Queue,
        mem: Memory,
        kick: EventFd,
        call: Arc<dyn Interrupt>,
    ) -> Result<(), DeviceError> {
        let (name, threads) = match index {
            HIPRIO => ("fs-hiprio", 1),
            _ => ("fs", REQUEST_THREADS),
        };
        self.queues.start(index, queue, mem, kick, call, |ring| {
            server::start(name, threads, ring, &self.server)
        })
    }

    fn stop_queue(&mut self, index: usize) -> Option<Queue> {
        self.queues.stop(index)
    }

    fn reset(&mut self) {
        self.share.forget_all();
    }
}

#[cfg(test)]
mod tests;
