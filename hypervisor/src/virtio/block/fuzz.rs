//! A fuzz target for the block device.

use std::fs::File;
use std::sync::atomic::AtomicBool;

use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::GuestMemoryMmap;

use super::disk::{Disk, Wait};
use super::request::{BlockRequest, Target};
use super::{Block, BlockOptions};
use crate::fuzz::{Checked, Script, drive};
use crate::virtio::buffers::IovecScratch;
use crate::virtio::ring::Chain;
use crate::virtio::{Device, Handler};

/// The size of the disk in bytes.
const SIZE: u64 = 64 << 10;

/// The block device: its queues and its configuration.
pub fn block(bytes: &[u8]) {
    let (kind, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let read_only = kind & 1 != 0;
    let file = disk(read_only);
    let options = BlockOptions {
        read_only,
        ..BlockOptions::default()
    };
    let mut device = Block::new(file.try_clone().unwrap(), options).unwrap();
    let server = Checked(BlockServer {
        target: Target {
            disk: Disk::new(file.try_clone().unwrap(), read_only).unwrap(),
            read_only,
            id: *b"fuzz\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            failed: AtomicBool::new(true),
        },
        durable: kind & 2 != 0,
    });
    drive(bytes, vec![server], |script: &mut Script<'_>| {
        let mut config = [0xff; 64];
        device.read_config(script.byte().into(), &mut config);
        device.write_config(script.byte().into(), script.bytes(4));
    });
    assert_eq!(file.metadata().unwrap().len(), SIZE, "the disk has grown");
}

fn disk(read_only: bool) -> File {
    let file = File::from(memfd_create(c"disk", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(SIZE).unwrap();
    match read_only {
        true => {
            use std::os::fd::AsRawFd;
            File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
        }
        false => file,
    }
}

/// The work of a device's thread for a request.
struct BlockServer {
    target: Target,
    durable: bool,
}

impl Handler for BlockServer {
    fn handle(&mut self, mem: &GuestMemoryMmap, chain: Chain<'_>) -> u32 {
        let mut scratch = IovecScratch::default();
        let request = scratch
            .gather(mem, chain)
            .and_then(|buffers| BlockRequest::parse(&self.target, buffers));
        let Some(mut request) = request else {
            return 0;
        };
        let status = request
            .serve(&self.target, self.durable, Wait::No)
            .or_else(|| request.serve(&self.target, self.durable, Wait::Yes));
        status.map_or(0, |status| request.finish(status))
    }
}
