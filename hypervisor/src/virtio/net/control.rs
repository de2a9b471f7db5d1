//! The control queue (virtio 1.2 §5.1.6.5): the number of queue pairs that the driver uses.

use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};
use vm_memory::GuestMemoryMmap;

use super::super::Handler;
use super::super::buffers::{Buffers, IovecScratch};
use super::super::ring::Chain;
use super::tap::Tap;
use crate::jail::ThreadKind;
use crate::sync::lock;

/// The taps of an interface, and the number of them that the driver uses.
pub(super) struct Taps {
    taps: Vec<Arc<Tap>>,
    pairs: Mutex<u16>,
}

impl Taps {
    pub fn new(taps: Vec<Arc<Tap>>) -> Taps {
        Taps {
            taps,
            pairs: Mutex::new(1),
        }
    }

    /// Uses `pairs` from the next [`apply`](Taps::apply) on.
    pub fn set_pairs(&self, pairs: u16) {
        *lock(&self.pairs) = pairs;
    }

    /// Attaches the queues in use and detaches the others. Otherwise the kernel would send
    /// frames to queues that are not read.
    pub fn apply(&self) -> std::io::Result<()> {
        let pairs = lock(&self.pairs);
        // The first queue is always in use.
        for (index, tap) in (0u16..).zip(&self.taps).skip(1) {
            tap.attach(index < *pairs)?;
        }
        Ok(())
    }
}

/// Serves the control queue.
pub(super) struct Control(pub Arc<Taps>);

impl Handler for Control {
    const KIND: ThreadKind = ThreadKind::Net;

    fn handle(&mut self, mem: &GuestMemoryMmap, chain: Chain<'_>) -> u32 {
        let mut scratch = IovecScratch::default();
        let Some(mut buffers) = scratch.gather(mem, chain) else {
            return 0;
        };
        let Some(ack) = buffers.writable.split_last() else {
            return 0;
        };
        let result = match self.serve(&buffers) {
            Some(()) => VIRTIO_NET_OK,
            None => VIRTIO_NET_ERR,
        };
        ack.set(result as u8);
        1
    }
}

impl Control {
    /// `None` if the command is unknown or not valid.
    fn serve(&self, buffers: &Buffers<'_>) -> Option<()> {
        // Class, command, and the number of the only known command.
        let mut command = [0; 4];
        let len = buffers.readable.copy_to(&mut command);
        let known = [
            VIRTIO_NET_CTRL_MQ as u8,
            VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET as u8,
        ];
        // The only writable byte is the acknowledgement.
        if buffers.faulty || len < command.len() || command[..2] != known {
            return None;
        }
        let pairs = u16::from_le_bytes([command[2], command[3]]);
        if pairs == 0 || usize::from(pairs) > self.0.taps.len() {
            return None;
        }
        self.0.set_pairs(pairs);
        self.0
            .apply()
            .inspect_err(|err| log::error!("Cannot use {pairs} queues of a tap: {err}"))
            .ok()
    }
}
