//! The network device (virtio 1.2 §5.1): a tap interface of the host.
//!
//! ```text
//!   guest ── transmit queue i ──▶ ┌──────────────┐ ── writev ──▶ queue i of
//!         ◀── receive queue i ─── │ thread net-i │ ◀── readv ─── the host's tap
//!                                 └──────────────┘
//!         ── control queue ─────▶ thread net-control: attaches, detaches the tap's queues
//! ```
//!
//! Frames are transferred between the tap and guest memory without an intermediate copy, after
//! a virtio header that the guest writes or reads: the two kernels agree on checksums and
//! segmentation by it, and the host's kernel checks the guest's headers.

mod control;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod pair;
mod receive;
mod tap;
mod transmit;

use std::fs::File;
use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_UFO,
    VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};
use virtio_queue::Queue;

use super::config::read_bytes;
use super::{
    Device, DeviceError, DeviceKind, Interrupt, Memory, RING_FEATURES, Restartable, Ring,
    SerialQueue,
};
use control::{Control, Taps};
use pair::Pair;
use receive::Shape;
use tap::Tap;

use crate::event::EventFd;
use crate::jail::ThreadKind;

/// `struct virtio_net_hdr` with `num_buffers`, as in §5.1.6.
const HEADER_LEN: usize = 12;
/// §5.1.6.3.1: the longest frame, of 65550 bytes, with its header.
const MAX_FRAME: usize = HEADER_LEN + 65550;
/// The bytes around a packet of the MTU's size: Ethernet's header and a VLAN's tag.
const AROUND: usize = 14 + 4;
/// The MTU if the option is not set.
const USUAL_MTU: u16 = 1500;
/// §5.1.4: the least MTU allowed.
const MIN_MTU: u16 = 68;
/// The same number as in QEMU.
const QUEUE_SIZE: u16 = 256;
/// Commands come one at a time.
const CONTROL_SIZE: u16 = 64;
/// The most pairs of queues of a device.
const MAX_PAIRS: usize = 16;
/// §5.1.4: the length of the configuration, including the MTU.
const CONFIG_LEN: usize = 12;

/// Features with which the guest may get long frames.
const LONG_FRAMES: u64 = 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_UFO
    | USO_IN;
const USO_IN: u64 = 1 << VIRTIO_NET_F_GUEST_USO4 | 1 << VIRTIO_NET_F_GUEST_USO6;
/// Offloads that any kernel's tap supports.
const OFFLOADS: u64 = 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_HOST_ECN
    | 1 << VIRTIO_NET_F_HOST_UFO
    | 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN
    | 1 << VIRTIO_NET_F_GUEST_UFO;

/// The options of a network device.
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// The guest's address on the link.
    pub mac: [u8; 6],
    /// The link's MTU, if the guest should know it.
    pub mtu: Option<u16>,
}

/// The reason why a network device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// No tap, or too many.
    #[error("invalid number of taps {0}: expected 1 to 16")]
    Taps(usize),
    /// It was opened without the flags that this device needs.
    #[error(
        "invalid tap: it lacks the flags {missing:#x} (of IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE)"
    )]
    Flags {
        /// Flags of TUNSETIFF.
        missing: i32,
    },
    /// They belong to different interfaces.
    #[error("invalid taps: expected queues of one interface")]
    Mixed,
    /// It is a multicast address.
    #[error("invalid MAC address {0:02x?}: expected a unicast address")]
    Mac([u8; 6]),
    /// It is less than virtio allows.
    #[error("invalid MTU {0}: expected at least 68")]
    Mtu(u16),
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// The failed action.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// A network device.
pub struct Net {
    taps: Arc<Taps>,
    first: Arc<Tap>,
    offered: u64,
    /// Features that the driver acknowledged.
    agreed: u64,
    mtu: u16,
    config: [u8; CONFIG_LEN],
    sizes: Vec<u16>,
    pairs: Vec<Restartable<Box<Pair>>>,
    control: Option<SerialQueue<Control>>,
}

/// The function of a queue.
enum QueueRole {
    /// One of the two queues of a pair.
    Data(usize, usize),
    Control,
}

impl Net {
    /// A device on the open queues of one tap interface; each queue of the tap is a pair of the
    /// device's queues.
    pub fn new(taps: Vec<File>, options: NetOptions) -> Result<Net, NetError> {
        let NetOptions { mac, mtu } = options;
        let count = taps.len();
        if count == 0 || count > MAX_PAIRS {
            return Err(NetError::Taps(count));
        }
        if mac[0] & 1 != 0 {
            return Err(NetError::Mac(mac));
        }
        if let Some(mtu) = mtu.filter(|mtu| *mtu < MIN_MTU) {
            return Err(NetError::Mtu(mtu));
        }
        let many = count > 1;
        let taps = taps
            .into_iter()
            .map(|tap| Tap::new(tap, many).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        let first = Arc::clone(&taps[0]);
        if !taps.iter().all(|tap| tap.is_beside(&first)) {
            return Err(NetError::Mixed);
        }

        let mut offered = RING_FEATURES
            | OFFLOADS
            | 1 << VIRTIO_NET_F_MAC
            | 1 << VIRTIO_NET_F_STATUS
            | 1 << VIRTIO_NET_F_MRG_RXBUF;
        // Linux 6.2 and later can segment UDP.
        let with_uso = offered | USO_IN | 1 << VIRTIO_NET_F_HOST_USO;
        if first.set_offloads(with_uso).is_ok() {
            offered = with_uso;
        }
        let io = |what| move |source| NetError::Io { what, source };
        first
            .set_offloads(0)
            .map_err(io("set the offloads of a tap"))?;
        let mut sizes = vec![QUEUE_SIZE; 2 * count];
        if many {
            offered |= 1 << VIRTIO_NET_F_CTRL_VQ | 1 << VIRTIO_NET_F_MQ;
            sizes.push(CONTROL_SIZE);
        }

        let mut config = [0; CONFIG_LEN];
        config[..6].copy_from_slice(&mac);
        config[6..8].copy_from_slice(&(VIRTIO_NET_S_LINK_UP as u16).to_le_bytes());
        if many {
            config[8..10].copy_from_slice(&(count as u16).to_le_bytes());
        }
        if let Some(mtu) = mtu {
            offered |= 1 << VIRTIO_NET_F_MTU;
            config[10..].copy_from_slice(&mtu.to_le_bytes());
        }
        let pairs = taps
            .iter()
            .map(|tap| Restartable::Idle(Box::new(Pair::new(Arc::clone(tap)))))
            .collect();
        Ok(Net {
            taps: Arc::new(Taps::new(taps)),
            first,
            offered,
            agreed: 0,
            mtu: mtu.unwrap_or(USUAL_MTU),
            config,
            sizes,
            pairs,
            control: None,
        })
    }

    fn has(&self, feature: u32) -> bool {
        self.agreed & 1 << feature != 0
    }

    /// §5.1.2: without multi-queue the control queue follows the first pair, whatever the
    /// number of pairs.
    fn role(&self, index: usize) -> Option<QueueRole> {
        let pairs = match self.has(VIRTIO_NET_F_MQ) {
            true => self.pairs.len(),
            false => 1,
        };
        if index < 2 * pairs {
            return Some(QueueRole::Data(index / 2, index % 2));
        }
        (index == 2 * pairs && self.pairs.len() > 1).then_some(QueueRole::Control)
    }

    fn shape(&self) -> Shape {
        Shape {
            longest: match self.agreed & LONG_FRAMES {
                0 => HEADER_LEN + AROUND + usize::from(self.mtu),
                _ => MAX_FRAME,
            },
            mergeable: self.has(VIRTIO_NET_F_MRG_RXBUF),
        }
    }

    /// Starts the thread of a pair, if one of its queues is started.
    fn run(&mut self, index: usize, pair: Box<Pair>) -> io::Result<()> {
        if pair.rings.iter().all(Option::is_none) {
            self.pairs[index] = Restartable::Idle(pair);
            return Ok(());
        }
        let (shape, features) = (self.shape(), self.agreed);
        // The first pair's thread sets the options of the whole interface.
        let whole = (index == 0).then(|| (Arc::clone(&self.first), Arc::clone(&self.taps)));
        let work = move |pair: &mut Box<Pair>, stop: &EventFd| {
            let setup = whole.map_or(Ok(()), |(first, taps)| {
                first.set_offloads(features).and_then(|()| taps.apply())
            });
            if let Err(err) = setup.and_then(|()| pair.run(stop, shape)) {
                log::error!("A network device stopped: {err}");
            }
        };
        self.pairs[index].start(ThreadKind::Net, &format!("net-{index}"), pair, work)
    }

    fn start_control(&mut self, index: usize, ring: Ring) -> Result<(), DeviceError> {
        if self.control.is_some() {
            return Err(DeviceError::Started(index));
        }
        let control = Control(Arc::clone(&self.taps));
        let queue = SerialQueue::start("net-control", ring, control);
        self.control = Some(queue.map_err(io_error)?);
        Ok(())
    }
}

fn io_error(source: io::Error) -> DeviceError {
    DeviceError::Io {
        what: "start a network thread",
        source,
    }
}

impl Device for Net {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Net
    }

    fn features(&self) -> u64 {
        self.offered
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_bytes(&self.config, offset, data);
    }

    fn set_features(&mut self, features: u64) {
        self.agreed = features;
    }

    fn start_queue(
        &mut self,
        index: usize,
        queue: Queue,
        mem: Memory,
        kick: EventFd,
        call: Arc<dyn Interrupt>,
    ) -> Result<(), DeviceError> {
        let role = self.role(index).ok_or(DeviceError::NoQueue(index))?;
        let ring = Ring::new(index, queue, mem, kick, call)?;
        let (number, side) = match role {
            QueueRole::Data(number, side) => (number, side),
            QueueRole::Control => return self.start_control(index, ring),
        };
        let Some(mut pair) = self.pairs[number].stop() else {
            return Err(io_error(io::ErrorKind::BrokenPipe.into()));
        };
        let mut result = Ok(());
        if pair.rings[side].is_some() {
            result = Err(DeviceError::Started(index));
        } else {
            pair.rings[side] = Some(ring);
        }
        self.run(number, pair).map_err(io_error)?;
        result
    }

    fn stop_queue(&mut self, index: usize) -> Option<Queue> {
        let (number, side) = match self.role(index)? {
            QueueRole::Data(number, side) => (number, side),
            QueueRole::Control => return Some(self.control.take()?.stop()?.0),
        };
        let mut pair = self.pairs[number].stop()?;
        let ring = pair.rings[side].take();
        if let Err(err) = self.run(number, pair) {
            log::error!("Cannot start a network thread: {err}");
        }
        ring.map(Ring::into_queue)
    }

    fn reset(&mut self) {
        self.taps.set_pairs(1);
        for index in 0..self.pairs.len() {
            if let Some(mut pair) = self.pairs[index].stop() {
                pair.backlog.clear();
                if let Err(err) = self.run(index, pair) {
                    log::error!("Cannot start a network thread: {err}");
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
