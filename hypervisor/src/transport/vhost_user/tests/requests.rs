//! Each request of a front end by itself: its answer, and the state after it.

use std::os::unix::fs::FileExt;

use vhost::vhost_user::VhostUserBackendReqHandlerMut;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserSharedMsg, VhostUserSingleMemoryRegion,
    VhostUserVringAddrFlags,
};

use super::*;

/// VHOST_USER_F_PROTOCOL_FEATURES; VERSION_1 and EVENT_IDX of the device.
const PROTOCOL: u64 = 1 << 30;
const OWN: u64 = 1 << 32 | 1 << 29;

fn backend() -> (Backend, Receiver<Event>) {
    let (sender, events) = channel();
    let device = Probe {
        events: sender,
        queues: [None, None],
    };
    (Backend::new(Box::new(device)), events)
}

fn memory_file(size: u64) -> File {
    let memfd = File::from(memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap());
    memfd.set_len(size).unwrap();
    memfd
}

/// A backend with memory; the used index of the ring there is 7.
fn with_memory() -> (Backend, Receiver<Event>) {
    let (mut backend, events) = backend();
    let memfd = memory_file(SIZE);
    memfd.write_at(&7u16.to_le_bytes(), 0x8002).unwrap();
    let region = VhostUserMemoryRegion::new(GUEST, SIZE, USER, 0);
    backend.set_mem_table(&[region], vec![memfd]).unwrap();
    (backend, events)
}

fn describe(backend: &mut Backend, index: u32) {
    backend.set_vring_num(index, 256).unwrap();
    backend.set_vring_base(index, 5).unwrap();
    addresses(backend, index, USER, USER + 0x8000, USER + 0x4000).unwrap();
    let kick = File::from(eventfd());
    backend.set_vring_kick(index as u8, Some(kick)).unwrap();
}

fn addresses(backend: &mut Backend, index: u32, desc: u64, used: u64, avail: u64) -> Result<()> {
    let flags = VhostUserVringAddrFlags::empty();
    backend.set_vring_addr(index, flags, desc, used, avail, 0)
}

fn eventfd() -> OwnedFd {
    let event = EventFd::new().unwrap();
    event.as_fd().try_clone_to_owned().unwrap()
}

fn events(receiver: &Receiver<Event>) -> Vec<Event> {
    receiver.try_iter().collect()
}

#[track_caller]
fn is_invalid<T>(result: Result<T>) {
    assert!(matches!(result.err(), Some(Error::InvalidParam)));
}

#[test]
fn features_are_those_of_device_and_protocol_and_no_others() {
    let (mut backend, _) = backend();
    assert_eq!(backend.get_features().unwrap(), OWN | PROTOCOL);
    assert_eq!(backend.get_queue_num().unwrap(), 2);
    for (features, taken) in [
        (0, true),
        (OWN | PROTOCOL, true),
        (1 << 32, true),
        (OWN | 1, false),
        (1 << 63, false),
    ] {
        match backend.set_features(features) {
            Ok(()) => assert!(taken && backend.features == features),
            Err(err) => assert!(!taken && matches!(err, Error::InvalidParam)),
        }
    }
    // MQ, CONFIG, RESET_DEVICE.
    let protocol = backend.get_protocol_features().unwrap();
    assert_eq!(protocol.bits(), 1 | 1 << 9 | 1 << 13);
    backend.set_owner().unwrap();
    backend.set_protocol_features(protocol.bits()).unwrap();
    let tag = tempfile::tempdir().unwrap();
    let fs = crate::virtio::fs::Fs::new("t", tag.path(), 10).unwrap();
    let mut fs = Backend::new(Box::new(fs));
    assert_eq!(fs.get_protocol_features().unwrap().bits(), 1 | 1 << 13);
}

#[test]
fn a_queue_starts_once_when_its_description_is_complete() {
    let (mut backend, receiver) = with_memory();
    backend.set_features(OWN | PROTOCOL).unwrap();
    describe(&mut backend, 1);
    assert_eq!(events(&receiver), [], "it is not enabled");
    backend.set_vring_enable(1, true).unwrap();
    assert_eq!(events(&receiver), [started(1, 5)]);
    // It runs already.
    backend.set_vring_enable(1, true).unwrap();
    addresses(&mut backend, 1, USER, USER + 0x8000, USER + 0x4000).unwrap();
    assert_eq!(events(&receiver), []);

    backend.set_vring_enable(1, false).unwrap();
    backend.set_vring_enable(1, false).unwrap();
    assert_eq!(events(&receiver), [Event::Stop(1)]);
    let state = backend.get_vring_base(1).unwrap();
    assert_eq!((state.index, state.num), (1, 8));
    // It lost its rings with its position.
    backend.set_vring_enable(1, true).unwrap();
    assert_eq!(events(&receiver), []);
}

#[test]
fn without_the_protocol_features_no_queue_has_to_be_enabled() {
    let (mut backend, receiver) = with_memory();
    backend.set_features(1 << 32).unwrap();
    describe(&mut backend, 0);
    let Event::Start {
        index, event_idx, ..
    } = events(&receiver).remove(0)
    else {
        panic!("it was not started");
    };
    assert_eq!((index, event_idx), (0, false));
}

#[test]
fn a_queue_without_a_size_or_a_kick_does_not_run() {
    let (mut backend, receiver) = with_memory();
    addresses(&mut backend, 0, USER, USER + 0x8000, USER + 0x4000).unwrap();
    let kick = File::from(eventfd());
    backend.set_vring_kick(0, Some(kick)).unwrap();
    assert_eq!(events(&receiver), [], "no size");
    backend.set_vring_kick(0, None).unwrap();
    backend.set_vring_num(0, 16).unwrap();
    backend.set_vring_enable(0, true).unwrap();
    assert_eq!(events(&receiver), [], "no kick");
}

#[test]
fn sizes_positions_and_numbers_have_bounds() {
    let (mut backend, _) = with_memory();
    for size in [1, 256, 1024] {
        backend.set_vring_num(0, size).unwrap();
        assert_eq!(u32::from(backend.vrings[0].size), size);
    }
    for size in [0, 3, 1000, 2048, 65536, 65536 + 256] {
        is_invalid(backend.set_vring_num(0, size));
    }
    backend.set_vring_base(0, 65535).unwrap();
    assert_eq!(backend.vrings[0].next_avail, 65535);
    is_invalid(backend.set_vring_base(0, 65536));
    // The device has two queues.
    is_invalid(backend.set_vring_num(2, 256));
    is_invalid(backend.set_vring_base(2, 0));
    is_invalid(addresses(&mut backend, 2, USER, USER, USER));
    is_invalid(backend.get_vring_base(2));
    is_invalid(backend.set_vring_kick(2, None));
    is_invalid(backend.set_vring_call(2, None));
    is_invalid(backend.set_vring_err(2, None));
    is_invalid(backend.set_vring_enable(2, true));
}

#[test]
fn addresses_are_translated_within_their_region() {
    let (mut backend, _) = backend();
    let regions = [
        VhostUserMemoryRegion::new(0, 0x1000, 0x7000, 0),
        VhostUserMemoryRegion::new(0x10_0000, 0x2000, 0x9000, 0x1000),
    ];
    let files = vec![memory_file(0x1000), memory_file(0x3000)];
    backend.set_mem_table(&regions, files).unwrap();
    let translate = |user| backend.translate(user).ok();
    let first = [0x6fff, 0x7000, 0x7abc, 0x7fff, 0x8000].map(translate);
    assert_eq!(first, [None, Some(0), Some(0xabc), Some(0xfff), None]);
    let second = [0x8fff, 0x9000, 0xafff, 0xb000, u64::MAX].map(translate);
    assert_eq!(second, [None, Some(0x10_0000), Some(0x10_1fff), None, None]);
    // The new table replaces the old one; regions that overlap are refused.
    let one = VhostUserMemoryRegion::new(0, 0x1000, 0x1_0000, 0);
    backend
        .set_mem_table(&[one], vec![memory_file(0x1000)])
        .unwrap();
    assert_eq!(backend.translate(0x7000).ok(), None);
    let files = vec![memory_file(0x1000), memory_file(0x1000)];
    assert!(backend.set_mem_table(&[one, one], files).is_err());
}

#[test]
fn call_and_error_reach_their_own_descriptors() {
    let (mut backend, _) = backend();
    let (call, error) = (EventFd::new().unwrap(), EventFd::new().unwrap());
    let file = |event: &EventFd| Some(File::from(event.as_fd().try_clone_to_owned().unwrap()));
    let interrupt = Arc::clone(&backend.vrings[1].call);
    interrupt.signal();
    backend.set_vring_call(1, file(&call)).unwrap();
    backend.set_vring_err(1, file(&error)).unwrap();
    interrupt.signal();
    assert_eq!((call.read().ok(), error.read().ok()), (Some(1), None));
    interrupt.failed();
    assert_eq!((call.read().ok(), error.read().ok()), (None, Some(1)));
    backend.set_vring_call(1, None).unwrap();
    interrupt.signal();
    assert_eq!(call.read().ok(), None);
}

#[test]
fn a_reset_stops_all_and_keeps_no_position() {
    for owner in [false, true] {
        let (mut backend, receiver) = with_memory();
        backend.set_features(OWN | PROTOCOL).unwrap();
        describe(&mut backend, 0);
        backend.set_vring_enable(0, true).unwrap();
        events(&receiver);

        match owner {
            true => backend.reset_owner().unwrap(),
            false => backend.reset_device().unwrap(),
        }

        assert_eq!(events(&receiver), [Event::Stop(0), Event::Reset]);
        let vring = &backend.vrings[0];
        let state = (backend.features, vring.enabled, vring.next_avail);
        assert_eq!(state, (0, false, 0));
    }
}

#[test]
fn the_configuration_is_read_and_written_in_pieces() {
    let (mut backend, receiver) = backend();
    let flags = VhostUserConfigFlags::empty();
    assert_eq!(backend.get_config(3, 2, flags).unwrap(), [3, 3]);
    assert_eq!(backend.get_config(0, 256, flags).unwrap(), [0; 256]);
    is_invalid(backend.get_config(0, 257, flags));
    backend.set_config(4, &[1, 2], flags).unwrap();
    assert_eq!(events(&receiver), [Event::Write(4, vec![1, 2])]);
}

#[test]
fn requests_of_features_that_are_not_offered_are_refused() {
    #[track_caller]
    fn is_refused<T>(result: Result<T>) {
        assert!(matches!(result.err(), Some(Error::InvalidOperation(_))));
    }
    let (mut backend, _) = backend();
    let region = VhostUserSingleMemoryRegion::default();
    let inflight = VhostUserInflight::default();
    is_refused(backend.get_shared_object(VhostUserSharedMsg::default()));
    is_refused(backend.get_inflight_fd(&inflight));
    is_refused(backend.set_inflight_fd(&inflight, memory_file(1)));
    is_refused(backend.get_max_mem_slots());
    is_refused(backend.add_mem_region(&region, memory_file(1)));
    is_refused(backend.remove_mem_region(&region));
    let (save, stopped) = (
        VhostTransferStateDirection::SAVE,
        VhostTransferStatePhase::STOPPED,
    );
    is_refused(backend.set_device_state_fd(save, stopped, memory_file(1)));
    is_refused(backend.check_device_state());
    is_refused(backend.get_shmem_config());
    is_refused(backend.set_log_base(&VhostUserLog::default(), memory_file(1)));
}

#[test]
fn reads_of_a_kick_do_not_block() {
    // SAFETY: makes a descriptor that is owned at once.
    let blocking = unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
        assert!(fd >= 0);
        std::os::fd::FromRawFd::from_raw_fd(fd)
    };
    let unread = event_fd(blocking).read().unwrap_err();
    assert_eq!(unread.kind(), io::ErrorKind::WouldBlock);
}
