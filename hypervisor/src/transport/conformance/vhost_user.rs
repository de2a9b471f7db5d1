//! The driver behind a vhost-user front end, which uses the vhost crate. QEMU is such a front
//! end for its guest.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

use super::super::vhost_user::VhostUser;
use super::driver::{Driver, wait_any};
use super::guest::{Guest, REGIONS};
use crate::virtio::Device;
use crate::virtio::testing::Rings;

/// The address of guest memory in the front end.
const USER: u64 = 0x7000_0000;

struct Vring {
    kick: EventFd,
    call: EventFd,
    error: EventFd,
    config: Option<VringConfigData>,
    base: u16,
}

/// See the module.
pub struct VhostUserDriver {
    front: Frontend,
    vrings: Vec<Vring>,
    failed: bool,
    // Dropped after the front end.
    _server: VhostUser,
}

impl VhostUserDriver {
    fn start(&mut self, index: usize) {
        let vring = &self.vrings[index];
        let Some(config) = &vring.config else {
            return;
        };
        let front = &self.front;
        front.set_vring_num(index, config.queue_size).unwrap();
        front.set_vring_base(index, vring.base).unwrap();
        front.set_vring_addr(index, config).unwrap();
        front.set_vring_call(index, &vring.call).unwrap();
        front.set_vring_err(index, &vring.error).unwrap();
        front.set_vring_kick(index, &vring.kick).unwrap();
    }

    /// Waits until the back end has executed its requests.
    fn sync(&self) {
        self.front.get_features().unwrap();
    }
}

impl Driver for VhostUserDriver {
    fn new(device: Box<dyn Device>, guest: &Guest) -> VhostUserDriver {
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).unwrap();
        let vrings = device.queue_sizes().iter().map(|_| Vring {
            kick: event(),
            call: event(),
            error: event(),
            config: None,
            base: 0,
        });
        let vrings: Vec<_> = vrings.collect();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = VhostUser::serve(device, theirs).unwrap();
        let mut front = Frontend::from_stream(ours, vrings.len() as u64);
        front.set_owner().unwrap();
        front.get_features().unwrap();
        let offered = front.get_protocol_features().unwrap();
        front.set_protocol_features(offered).unwrap();
        let regions = REGIONS.map(|(start, len, offset)| VhostUserMemoryRegionInfo {
            guest_phys_addr: start,
            memory_size: len,
            userspace_addr: USER + start,
            mmap_offset: offset,
            mmap_handle: guest.file.as_raw_fd(),
        });
        front.set_mem_table(&regions).unwrap();
        VhostUserDriver {
            front,
            vrings,
            failed: false,
            _server: server,
        }
    }

    fn offered(&mut self) -> u64 {
        let own = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.front.get_features().unwrap() & !own
    }

    fn negotiate(&mut self, features: u64) -> bool {
        let own = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.front.get_features().is_ok()
            && self.front.set_features(features | own).is_ok()
            && self.front.get_features().is_ok()
    }

    fn set_up(&mut self, index: usize, rings: &Rings) {
        let vring = &mut self.vrings[index];
        vring.base = rings.avail_index();
        vring.config = Some(VringConfigData {
            queue_max_size: rings.size(),
            queue_size: rings.size(),
            flags: 0,
            desc_table_addr: USER + rings.table(),
            used_ring_addr: USER + rings.used_ring(),
            avail_ring_addr: USER + rings.avail_ring(),
            log_addr: None,
        });
        self.start(index);
    }

    fn run(&mut self) {
        for index in 0..self.vrings.len() {
            if self.vrings[index].config.is_some() {
                self.front.set_vring_enable(index, true).unwrap();
            }
        }
        self.sync();
    }

    fn kick(&mut self, index: usize) {
        self.vrings[index].kick.write(1).unwrap();
    }

    fn wait(&mut self, limit: Duration) -> bool {
        let events = self.vrings.iter().flat_map(|vring| {
            [&vring.call, &vring.error].map(|event| {
                // SAFETY: the descriptor is open while `vring` is borrowed.
                unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
            })
        });
        let ready = wait_any(events, limit);
        for vring in &self.vrings {
            let _ = vring.call.read();
        }
        ready
    }

    fn failed(&mut self) -> bool {
        for vring in &self.vrings {
            self.failed |= vring.error.read().is_ok();
        }
        self.failed
    }

    fn read_config(&mut self, offset: u32, len: usize) -> Option<Vec<u8>> {
        let flags = VhostUserConfigFlags::empty();
        let room = vec![0; len];
        let offered = self.front.get_protocol_features().unwrap();
        if !offered.contains(VhostUserProtocolFeatures::CONFIG) {
            return None;
        }
        let (_, data) = self
            .front
            .get_config(offset, len as u32, flags, &room)
            .unwrap();
        Some(data)
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        // Refused if the protocol feature is missing.
        let flags = VhostUserConfigFlags::WRITABLE;
        let _ = self.front.set_config(offset, flags, data);
    }

    fn generation(&mut self) -> Option<u32> {
        None
    }

    fn reset(&mut self) {
        for index in 0..self.vrings.len() {
            if self.vrings[index].config.take().is_some() {
                self.front.get_vring_base(index).unwrap();
            }
        }
        self.front.reset_device().unwrap();
        self.sync();
        while self.wait(Duration::ZERO) {
            self.failed();
        }
        self.failed = false;
    }

    fn reset_queue(&mut self, index: usize) {
        self.front.get_vring_base(index).unwrap();
        self.vrings[index].config = None;
    }

    fn pause(&mut self) {
        for index in 0..self.vrings.len() {
            if self.vrings[index].config.is_some() {
                let base = self.front.get_vring_base(index).unwrap();
                self.vrings[index].base = base as u16;
            }
        }
    }

    fn resume(&mut self) {
        for index in 0..self.vrings.len() {
            self.start(index);
        }
        self.sync();
    }
}
