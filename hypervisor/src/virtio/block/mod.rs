//! The block device (virtio 1.2 §5.2): a disk image or a block device of the host.
//!
//! ```text
//!   guest ── request queue ──▶ 4 threads ── preadv2, pwritev2 ──▶ file
//!                                  each: take, serve, return
//! ```
//!
//! Data is transferred between the file and guest memory without an intermediate copy. Requests
//! are served in parallel, see `server.rs`.
//!
//! Reasons for threads instead of io_uring: the operations of a ring bypass seccomp, so a
//! jailed process with a ring can open, connect and send in spite of its filter. Many operators
//! disable io_uring (`kernel.io_uring_disabled`, the default filters of container engines), so
//! threads would be needed as well. A ring has the advantage of many requests in flight with
//! few system calls, but this saves little compared to the cost of moving the data. Processor
//! time of each request, measured with 32 requests at a time on ext4, Linux 6.18: reads of 4
//! KiB from the page cache took 1.4 µs with `preadv2` and `RWF_NOWAIT`, 1.2 µs with a ring; of
//! 128 KiB 9 µs and 11 µs; writes of 4 KiB took 16 µs with `pwritev2` and 30 µs with a ring,
//! which passes them to its own threads.

mod disk;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod request;
mod server;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_queue::Queue;

use super::config::read_bytes;
use super::{
    Device, DeviceError, DeviceKind, Interrupt, Memory, QueueSlots, RING_FEATURES, SharedQueue,
};
use crate::event::EventFd;
use disk::{Disk, SECTOR};
use request::{ID_LEN, Target};

/// The number of requests that QEMU has.
const QUEUE_SIZE: u16 = 256;
/// The most pieces of data in a request: a full queue, less header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// The most bytes in a piece of data.
const SIZE_MAX: u32 = 1 << 20;
/// The most bytes of a request's data: the product of the two limits above.
const MAX_DATA: usize = SEG_MAX as usize * SIZE_MAX as usize;
/// The largest request of a driver other than reads and writes. A pause waits for the end of
/// such a request, so this bounds the pause.
#[derive(Debug, Clone, Copy)]
struct RangeLimit {
    count: usize,
    /// The most sectors in each.
    sectors: u32,
}

/// Discards: 1 GiB in total, since they move no data.
const DISCARDS: RangeLimit = RangeLimit {
    count: 16,
    sectors: 1 << 17,
};
/// Zeroes: 4 MiB in total, since some storage has to write them.
const ZEROES: RangeLimit = RangeLimit {
    count: 1,
    sectors: 1 << 13,
};
/// Threads that serve a queue: so many requests can wait for the storage.
const THREADS: usize = 4;
/// The most queues of a device.
const MAX_QUEUES: u16 = 16;
/// virtio 1.2 §5.2.4: the length of the configuration, including `write_zeroes_may_unmap`.
const CONFIG_LEN: usize = 57;

/// The options of a disk.
#[derive(Debug, Clone)]
pub struct BlockOptions {
    /// The guest cannot write.
    pub read_only: bool,
    /// The disk's serial number in the guest; at most 20 bytes.
    pub id: String,
    /// The number of request queues, each with its own threads; 1 to 16.
    pub queues: u16,
}

impl Default for BlockOptions {
    fn default() -> BlockOptions {
        BlockOptions {
            read_only: false,
            id: String::new(),
            queues: 1,
        }
    }
}

/// The reason why a file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// It is a directory, a socket or another special file.
    #[error("invalid disk: expected a regular file or a block device")]
    Kind,
    /// The file's access mode differs from that of the disk.
    #[error("invalid access mode of the disk's file for read_only = {read_only}")]
    Access {
        /// The mode of the disk.
        read_only: bool,
    },
    /// It was opened with O_APPEND, O_DIRECT or O_PATH.
    #[error("invalid flags {0:#o} of the disk's file")]
    Flags(i32),
    /// Its size is not a multiple of its block size.
    #[error("invalid disk size {size}: expected a multiple of {logical}")]
    Size {
        /// Its size in bytes.
        size: u64,
        /// The size of a block in bytes.
        logical: u32,
    },
    /// The name has more than 20 bytes.
    #[error("invalid disk id {0:?}: expected at most 20 bytes")]
    Id(String),
    /// None, or too many.
    #[error("invalid number of disk queues {0}: expected 1 to 16")]
    Queues(u16),
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// The failed action.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// A block device.
pub struct Block {
    target: Arc<Target>,
    config: [u8; CONFIG_LEN],
    sizes: Vec<u16>,
    queues: QueueSlots<SharedQueue>,
    durable: bool,
}

impl Block {
    /// A disk on an open file, whose access mode must be exactly that of the disk.
    pub fn new(file: File, options: BlockOptions) -> Result<Block, BlockError> {
        let BlockOptions {
            read_only,
            id,
            queues,
        } = options;
        if queues == 0 || queues > MAX_QUEUES {
            return Err(BlockError::Queues(queues));
        }
        let mut bytes = [0; ID_LEN];
        match bytes.get_mut(..id.len()) {
            Some(place) => place.copy_from_slice(id.as_bytes()),
            None => return Err(BlockError::Id(id)),
        }
        let disk = Disk::new(file, read_only)?;
        Ok(Block {
            config: config(&disk, queues, read_only),
            sizes: vec![QUEUE_SIZE; queues.into()],
            queues: QueueSlots::new(queues.into(), "start the block threads"),
            durable: true,
            target: Arc::new(Target {
                disk,
                read_only,
                id: bytes,
                failed: AtomicBool::new(false),
            }),
        })
    }
}

/// virtio 1.2 §5.2.4. Fields of features that are not offered stay zero.
fn config(disk: &Disk, queues: u16, read_only: bool) -> [u8; CONFIG_LEN] {
    let mut config = [0; CONFIG_LEN];
    let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    let ratio = disk.physical / disk.logical;
    put(0, &disk.sectors.to_le_bytes());
    put(8, &SIZE_MAX.to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &disk.logical.to_le_bytes());
    // The topology: the number of logical blocks in a physical one, as a power of two, and the
    // smallest efficient I/O in logical blocks.
    put(24, &[ratio.ilog2() as u8]);
    put(26, &(ratio as u16).to_le_bytes());
    put(34, &queues.to_le_bytes());
    if !read_only {
        let alignment = disk.physical / SECTOR as u32;
        put(36, &DISCARDS.sectors.to_le_bytes());
        put(40, &(DISCARDS.count as u32).to_le_bytes());
        put(44, &alignment.to_le_bytes());
        put(48, &ZEROES.sectors.to_le_bytes());
        put(52, &(ZEROES.count as u32).to_le_bytes());
        put(56, &[1]);
    }
    config
}

impl Device for Block {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        let mut features = RING_FEATURES
            | 1 << VIRTIO_BLK_F_SIZE_MAX
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_FLUSH
            | 1 << VIRTIO_BLK_F_TOPOLOGY;
        if self.sizes.len() > 1 {
            features |= 1 << VIRTIO_BLK_F_MQ;
        }
        features
            | if self.target.read_only {
                1 << VIRTIO_BLK_F_RO
            } else {
                1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
            }
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_bytes(&self.config, offset, data);
    }

    fn set_features(&mut self, features: u64) {
        self.durable = features & 1 << VIRTIO_BLK_F_FLUSH == 0;
    }

    fn start_queue(
        &mut self,
        index: usize,
        queue: Queue,
        mem: Memory,
        kick: EventFd,
        call: Arc<dyn Interrupt>,
    ) -> Result<(), DeviceError> {
        self.queues.start(index, queue, mem, kick, call, |ring| {
            server::start(THREADS, ring, &self.target, self.durable)
        })
    }

    fn stop_queue(&mut self, index: usize) -> Option<Queue> {
        self.queues.stop(index)
    }

    fn reset(&mut self) {
        self.durable = true;
    }
}

#[cfg(test)]
mod tests;
