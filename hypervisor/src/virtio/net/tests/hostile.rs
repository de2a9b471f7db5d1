//! A guest and a host that break the rules, and what cannot be a network device.

use super::*;
use crate::virtio::testing::END;
use std::sync::atomic::Ordering;

#[test]
fn frame_larger_than_all_buffers_is_dropped() {
    let Some(mut rig) = Rig::new(1, u64::MAX) else {
        return;
    };
    rig.link.send(&frame(MAC, 1514, 1));
    rig.link.send(&frame(MAC, 100, 2));
    rig.give(0, SIZE, 16);
    assert_eq!(rig.receive().0[12..], frame(MAC, 100, 2));
}

#[test]
fn bad_frames_are_dropped() {
    let Some(mut rig) = Rig::new(1, u64::MAX) else {
        return;
    };
    let good = with_header([0; 10], &frame([0xff; 6], 100, 9));
    let mut header = [0; 10];
    // Headers that contradict their frames.
    for (at, value) in [(1, 1), (1, 0x55), (0, 1), (1, 0xff)] {
        header[at] = value;
        header[6..].fill(0xff);
        rig.send(&with_header(header, &frame([0xff; 6], 100, 1)), &[]);
    }
    // No whole header, no frame, a frame too long, one outside memory.
    rig.send(&good[..5], &[]);
    rig.send(&good[..12], &[]);
    rig.send(&vec![0; MAX_FRAME + 1], &[12]);
    rig.queues[1].descriptor(0, (END - 50, 100, 0, 0));
    rig.sent();
    // The wrong direction, a loop, an endless chain.
    rig.queues[1].descriptor(0, (TX_DATA, 100, WRITE, 0));
    rig.sent();
    rig.queues[1].descriptor(0, (TX_DATA, 100, NEXT, 0));
    rig.sent();
    rig.queues[1].descriptor(0, (TX_DATA, 100, NEXT, 999));
    rig.sent();

    rig.send(&good, &[]);
    assert_eq!(rig.link.receive().1, good[12..]);
}

#[test]
fn bad_buffers_go_back_empty() {
    let Some(mut rig) = Rig::new(1, u64::MAX) else {
        return;
    };
    let bad = [
        (RX_DATA, 2000, 0, 0),
        (END - 10, 2000, WRITE, 0),
        (RX_DATA, 11, WRITE, 0),
        (RX_DATA, 2000, WRITE | NEXT, 999),
    ];
    for desc in bad {
        let rx = &mut rig.queues[0];
        rx.descriptor(0, desc);
        rx.offer(0);
        rx.kick();
        rig.link.send(&frame(MAC, 100, 1));
        assert_eq!(rig.queues[0].wait_used(), (0, 0));
        rig.give(1, 1, 2000);
        assert_eq!(rig.receive().0[12..], frame(MAC, 100, 1));
    }
    // Behind a valid one that is too small for the frame.
    rig.give(1, 1, 64);
    rig.queues[0].descriptor(2, bad[0]);
    rig.queues[0].offer(2);
    rig.link.send(&frame(MAC, 100, 1));
    rig.queues[0].kick();
    assert_eq!(rig.queues[0].wait_used(), (1, 0));
    assert_eq!(rig.queues[0].wait_used(), (2, 0));
    rig.give(3, 1, 2000);
    assert_eq!(rig.receive().0[12..], frame(MAC, 100, 1));
}

#[test]
fn interface_that_is_down_takes_nothing() {
    let Some(mut rig) = Rig::new(1, u64::MAX) else {
        return;
    };
    let out = with_header([0; 10], &frame([0xff; 6], 100, 1));
    rig.link.set_up(false);
    rig.send(&out, &[]);
    rig.give(0, 4, 2000);
    rig.link.set_up(true);
    rig.send(&out, &[]);
    assert_eq!(rig.link.receive().1, out[12..]);
    rig.link.send(&frame(MAC, 100, 2));
    assert_eq!(rig.receive().0[12..], frame(MAC, 100, 2));
    // Its end does not make the threads spin or the device fail.
    rig.link.delete();
    rig.send(&out, &[]);
    rig.device.stop_queue(1).unwrap();
    rig.device.reset();
}

#[test]
fn queues_are_checked() {
    let Some(mut rig) = Rig::new(1, u64::MAX) else {
        return;
    };
    assert!(matches!(
        rig.start(1, rig.queues[1].queue()),
        Err(DeviceError::Started(1))
    ));
    let queue = rig.queues[1].queue();
    rig.queues.push(DriverQueue::new(&rig.mem, 2));
    assert!(matches!(rig.start(2, queue), Err(DeviceError::NoQueue(2))));
    // A thread reads its queue before it checks whether it must stop.
    let queue = rig.device.stop_queue(1).unwrap();
    rig.queues[1].set_avail_index(SIZE + 1);
    rig.start(1, queue).unwrap();
    rig.device.stop_queue(1).unwrap();
    let failures = &rig.queues[1].calls.failures;
    assert_eq!(failures.load(Ordering::SeqCst), 1);
    // The other queue still works.
    rig.give(0, 1, 2000);
    rig.link.send(&frame(MAC, 100, 2));
    assert_eq!(rig.receive().0[12..], frame(MAC, 100, 2));
}

#[test]
fn unfit_taps_are_refused() {
    require!(root());
    let new = |taps, options| Net::new(taps, options).map(drop);
    assert!(matches!(new(vec![], options()), Err(NetError::Taps(0))));
    let null = File::open("/dev/null").unwrap();
    assert!(matches!(
        new(vec![null], options()),
        Err(NetError::Io { .. })
    ));
    let (_link, mut taps) = Link::new(1);
    let bare = link::tap(libc::IFF_TAP | libc::IFF_NO_PI);
    assert!(matches!(
        new(vec![bare], options()),
        Err(NetError::Flags {
            missing: libc::IFF_VNET_HDR
        })
    ));
    let many = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    let two = vec![link::tap(many), link::tap(many)];
    assert!(matches!(new(two, options()), Err(NetError::Mixed)));
    let tap = || vec![link::tap(many)];
    let mut group = options();
    group.mac[0] = 1;
    assert!(matches!(new(tap(), group), Err(NetError::Mac(_))));
    let mut small = options();
    small.mtu = Some(67);
    assert!(matches!(new(tap(), small), Err(NetError::Mtu(67))));
    let single = taps.pop().unwrap();
    assert!(matches!(
        new(vec![single, link::tap(many)], options()),
        Err(NetError::Flags { .. })
    ));
}
