//! The transport with a front end that uses the vhost crate.

mod requests;

use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};

use super::*;
use crate::virtio::{DeviceError, DeviceKind};

const SIZE: u64 = 1 << 20;
/// The address of the memory in the front end, which differs from the guest's.
const USER: u64 = 0x7000_0000;
const GUEST: u64 = 0x10_0000;

/// Records the transport's calls for a test.
struct Probe {
    events: Sender<Event>,
    queues: [Option<(Queue, Arc<dyn Interrupt>)>; 2],
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Start {
        index: usize,
        desc: u64,
        next_avail: u16,
        next_used: u16,
        event_idx: bool,
        size: u16,
    },
    Stop(usize),
    Reset,
    Write(usize, Vec<u8>),
}

impl Device for Probe {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Vsock
    }

    fn features(&self) -> u64 {
        1 << 32 | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &[128; 2]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        data.fill(offset as u8);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        let written = Event::Write(offset, data.to_vec());
        self.events.send(written).unwrap();
    }

    fn start_queue(
        &mut self,
        index: usize,
        queue: Queue,
        _mem: Memory,
        _kick: EventFd,
        call: Arc<dyn Interrupt>,
    ) -> std::result::Result<(), DeviceError> {
        call.signal();
        self.events
            .send(Event::Start {
                index,
                desc: queue.desc_table(),
                next_avail: queue.next_avail(),
                next_used: queue.next_used(),
                event_idx: queue.event_idx_enabled(),
                size: queue.size(),
            })
            .unwrap();
        self.queues[index] = Some((queue, call));
        Ok(())
    }

    fn stop_queue(&mut self, index: usize) -> Option<Queue> {
        let (mut queue, _) = self.queues[index].take()?;
        let _ = self.events.send(Event::Stop(index));
        queue.set_next_avail(queue.next_avail() + 3);
        Some(queue)
    }

    fn reset(&mut self) {
        self.events.send(Event::Reset).unwrap();
    }
}

struct Fixture {
    server: VhostUser,
    front: Frontend,
    events: Receiver<Event>,
    call: vmm_sys_util::eventfd::EventFd,
}

impl Fixture {
    /// A connection with negotiated features and shared memory.
    fn new() -> Fixture {
        let (sender, events) = channel();
        let device = Probe {
            events: sender,
            queues: [None, None],
        };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = VhostUser::serve(Box::new(device), theirs).unwrap();
        let mut front = Frontend::from_stream(ours, 2);
        front.set_owner().unwrap();
        let features = front.get_features().unwrap();
        front.set_features(features).unwrap();
        let wanted = VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ;
        assert!(front.get_protocol_features().unwrap().contains(wanted));
        front.set_protocol_features(wanted).unwrap();

        let memfd = File::from(memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap());
        memfd.set_len(SIZE).unwrap();
        // The used index of the ring in memory, for the queue at GUEST.
        let bytes = 7u16.to_le_bytes();
        std::os::unix::fs::FileExt::write_at(&memfd, &bytes, 0x8002).unwrap();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: GUEST,
            memory_size: SIZE,
            userspace_addr: USER,
            mmap_offset: 0,
            mmap_handle: memfd.as_raw_fd(),
        };
        front.set_mem_table(&[region]).unwrap();
        Fixture {
            server,
            front,
            events,
            call: vmm_sys_util::eventfd::EventFd::new(libc::EFD_NONBLOCK).unwrap(),
        }
    }

    fn start(&mut self, index: usize, base: u16) {
        let kick = vmm_sys_util::eventfd::EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let config = VringConfigData {
            queue_max_size: 256,
            queue_size: 256,
            flags: 0,
            desc_table_addr: USER,
            used_ring_addr: USER + 0x8000,
            avail_ring_addr: USER + 0x4000,
            log_addr: None,
        };
        self.front.set_vring_num(index, 256).unwrap();
        self.front.set_vring_base(index, base).unwrap();
        self.front.set_vring_addr(index, &config).unwrap();
        self.front.set_vring_call(index, &self.call).unwrap();
        self.front.set_vring_kick(index, &kick).unwrap();
        self.front.set_vring_enable(index, true).unwrap();
    }

    fn event(&self) -> Event {
        let limit = std::time::Duration::from_secs(10);
        self.events.recv_timeout(limit).unwrap()
    }
}

fn started(index: usize, next_avail: u16) -> Event {
    Event::Start {
        index,
        desc: GUEST,
        next_avail,
        next_used: 7,
        event_idx: true,
        size: 256,
    }
}

#[test]
fn queue_starts_when_enabled_and_keeps_its_place() {
    let mut fixture = Fixture::new();

    fixture.start(0, 5);
    assert_eq!(fixture.event(), started(0, 5));
    let base = fixture.front.get_vring_base(0).unwrap();

    assert_eq!(fixture.event(), Event::Stop(0));
    assert_eq!(base, 8);
    fixture.start(0, base as u16);
    assert_eq!(fixture.event(), started(0, 8));
}

#[test]
fn interrupts_reach_the_front_end() {
    let mut fixture = Fixture::new();

    fixture.start(1, 0);
    fixture.event();

    assert_eq!(fixture.call.read().unwrap(), 1);
}

#[test]
fn disabling_stops_and_enabling_goes_on() {
    let mut fixture = Fixture::new();
    fixture.start(0, 0);
    fixture.event();

    fixture.front.set_vring_enable(0, false).unwrap();
    assert_eq!(fixture.event(), Event::Stop(0));
    fixture.front.set_vring_enable(0, true).unwrap();

    assert_eq!(fixture.event(), started(0, 3));
}

#[test]
fn config_is_read_through() {
    let mut fixture = Fixture::new();
    let flags = VhostUserConfigFlags::empty();

    let (_, data) = fixture.front.get_config(4, 8, flags, &[0; 8]).unwrap();

    assert_eq!(data, [4; 8]);
}

#[test]
fn disconnect_stops_the_queues() {
    let mut fixture = Fixture::new();
    fixture.start(0, 0);
    fixture.event();
    assert!(fixture.server.is_connected());

    drop(fixture.front);

    let limit = std::time::Duration::from_secs(10);
    assert_eq!(fixture.events.recv_timeout(limit).unwrap(), Event::Stop(0));
    assert!(!fixture.server.is_connected());
}

#[test]
fn rings_outside_the_shared_memory_are_refused() {
    let fixture = Fixture::new();
    let config = VringConfigData {
        queue_max_size: 256,
        queue_size: 256,
        flags: 0,
        desc_table_addr: USER + SIZE,
        used_ring_addr: USER + 0x8000,
        avail_ring_addr: USER + 0x4000,
        log_addr: None,
    };

    let _ = fixture.front.set_vring_addr(0, &config);

    // The front end notices the end of the connection.
    assert!(fixture.front.get_features().is_err() || !fixture.server.is_connected());
}
