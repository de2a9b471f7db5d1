//! The network device under a scripted driver, on real taps in a network namespace of their own.

use super::*;
use crate::jail;
use crate::virtio::testing::{DriverQueue, NEXT, SIZE, WRITE, memory};
use link::{Link, frame};
use test_support::{require, root};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_ERR, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_OK,
};

mod constants;
pub(crate) mod hostile;
pub(crate) mod link;
mod stress;

/// Where a queue's buffers are.
const RX_DATA: u64 = 1 << 20;
const TX_DATA: u64 = 8 << 20;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

fn options() -> NetOptions {
    NetOptions {
        mac: MAC,
        mtu: Some(1500),
    }
}

struct Rig {
    link: Link,
    device: Net,
    mem: Memory,
    /// Receive and transmit of each pair, then control.
    queues: Vec<DriverQueue>,
}

impl Rig {
    /// `None`, which `require!` has reported, without root: only root makes taps.
    fn new(pairs: usize, features: u64) -> Option<Rig> {
        require!(root());
        let (link, taps) = Link::new(pairs);
        let made = jail::run(ThreadKind::Net, "network", move || {
            Net::new(taps, options()).map_err(io::Error::other)
        });
        let mut device = made.unwrap();
        device.set_features(device.features() & features);
        let mem = memory();
        let queues = (0..device.queue_sizes().len())
            .map(|index| DriverQueue::new(&mem, index as u64))
            .collect();
        let mut rig = Rig {
            link,
            device,
            mem,
            queues,
        };
        for index in 0..rig.queues.len() {
            rig.start(index, rig.queues[index].queue()).unwrap();
        }
        Some(rig)
    }

    fn start(&mut self, index: usize, queue: Queue) -> Result<(), DeviceError> {
        let driver = &self.queues[index];
        let (kick, calls) = (driver.kick_event(), driver.calls.clone());
        self.device
            .start_queue(index, queue, self.mem.clone(), kick, calls)
    }

    /// Gives the guest's side `count` buffers of `len` bytes each, from head `first` on.
    fn give(&mut self, first: u16, count: u16, len: u32) {
        let rx = &mut self.queues[0];
        for head in first..first + count {
            rx.descriptor(head, (RX_DATA + u64::from(head) * 65536, len, WRITE, 0));
            rx.offer(head);
        }
        rx.kick();
    }

    /// The next frame that the guest gets, with its header, and its buffers' heads.
    fn receive(&mut self) -> (Vec<u8>, Vec<u32>) {
        let rx = &mut self.queues[0];
        let mut frame = Vec::new();
        let mut heads = Vec::new();
        loop {
            let (head, len) = rx.wait_used();
            frame.extend(rx.read(RX_DATA + u64::from(head) * 65536, len as usize));
            heads.push(head);
            let buffers = u16::from_le_bytes([frame[10], frame[11]]);
            if heads.len() == usize::from(buffers) {
                return (frame, heads);
            }
        }
    }

    /// Sends a frame, with its header, cut into descriptors of these lengths and a rest.
    fn send(&mut self, bytes: &[u8], cuts: &[usize]) {
        let tx = &mut self.queues[1];
        tx.write(TX_DATA, bytes);
        let mut start = 0;
        for (index, cut) in (0..).zip(cuts) {
            tx.descriptor(
                index,
                (TX_DATA + start as u64, *cut as u32, NEXT, index + 1),
            );
            start += cut;
        }
        let rest = (bytes.len() - start) as u32;
        tx.descriptor(cuts.len() as u16, (TX_DATA + start as u64, rest, 0, 0));
        self.sent();
    }

    /// Sends the chain at 0.
    fn sent(&mut self) {
        let tx = &mut self.queues[1];
        tx.offer(0);
        tx.kick();
        assert_eq!(tx.wait_used(), (0, 0));
    }
}

fn with_header(header: [u8; 10], frame: &[u8]) -> Vec<u8> {
    [&header[..], &[0, 0], frame].concat()
}

#[test]
fn frames_go_both_ways() {
    let Some(mut rig) = Rig::new(1, u64::MAX) else {
        return;
    };
    rig.give(0, 60, 65536);
    for len in [60, 61, 1000, 1514] {
        let there = frame(MAC, len, 1);
        rig.link.send(&there);
        let (got, heads) = rig.receive();
        assert_eq!(heads.len(), 1);
        assert_eq!(got[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(got[12..], there);

        let back = frame([0xff; 6], len, 2);
        for cuts in [&[][..], &[12], &[5, 9, 20], &[12, 14]] {
            rig.send(&with_header([0; 10], &back), cuts);
            assert_eq!(rig.link.receive().1, back);
        }
    }
}

#[test]
fn frame_takes_as_many_buffers_as_it_needs() {
    let Some(mut rig) = Rig::new(1, u64::MAX) else {
        return;
    };
    let mut next = 0;
    for (len, buffers) in [(500, 1), (501, 2), (1012, 2), (1013, 3), (60, 1), (1514, 3)] {
        rig.give(next, 4, 512);
        let there = frame(MAC, len, len as u8);
        rig.link.send(&there);

        let (got, heads) = rig.receive();

        assert_eq!(heads.len(), buffers, "{len}");
        assert_eq!(got[12..], there);
        next += 4;
    }
}

#[test]
fn one_buffer_holds_a_frame_if_they_cannot_be_merged() {
    let features = !(1 << VIRTIO_NET_F_MRG_RXBUF);
    let Some(mut rig) = Rig::new(1, features) else {
        return;
    };
    rig.give(0, 1, 1526);
    rig.link.send(&frame(MAC, 1514, 3));
    let (got, _) = rig.receive();
    assert_eq!((got.len(), got[10..12].to_vec()), (1526, vec![1, 0]));
    // Too long for the buffer: dropped, and the buffer serves the next.
    rig.give(1, 1, 512);
    rig.give(2, 1, 1526);
    rig.link.send(&frame(MAC, 1514, 4));
    rig.link.send(&frame(MAC, 100, 5));
    let (got, heads) = rig.receive();
    assert_eq!((got.len(), got[112 - 1], heads), (112, 5, vec![1]));
}

#[test]
fn frames_wait_for_buffers() {
    let Some(mut rig) = Rig::new(1, u64::MAX) else {
        return;
    };
    for number in 0..5 {
        rig.link.send(&frame(MAC, 1000, number));
    }
    rig.give(0, 2, 512);
    assert_eq!(rig.receive().0[12..], frame(MAC, 1000, 0));
    // One is too little for the next, which has left the tap.
    rig.give(2, 1, 512);
    for number in 1..5 {
        assert!(rig.queues[0].used().is_none());
        rig.give(1 + 2 * u16::from(number), 2, 512);
        assert_eq!(rig.receive().0[12..], frame(MAC, 1000, number));
    }
    // Also after a pause, when the queue continues at its position.
    rig.link.send(&frame(MAC, 600, 6));
    let queue = rig.device.stop_queue(0).unwrap();
    rig.start(0, queue).unwrap();
    rig.give(12, 2, 512);
    assert_eq!(rig.receive().0[12..], frame(MAC, 600, 6));
}

#[test]
fn segmentation_is_left_to_the_other_side() {
    let Some(mut rig) = Rig::new(1, u64::MAX) else {
        return;
    };
    let (header, long) = link::tcp(MAC, 40_000);
    assert_eq!(header[0], VIRTIO_NET_HDR_F_NEEDS_CSUM as u8);
    assert_eq!(header[1], VIRTIO_NET_HDR_GSO_TCPV4 as u8);

    // To the guest, through buffers such as Linux gives, and ones too small at first.
    rig.give(0, 30, 1536);
    rig.link.send_with(&header, &long);
    let (got, heads) = rig.receive();
    assert_eq!(heads.len(), 40_012usize.div_ceil(1536));
    assert_eq!(got[..10], header);
    assert!(got[12..] == long);
    rig.link.send_with(&header, &long);
    rig.give(30, 20, 1536);
    rig.give(50, 14, 1536);
    let (got, _) = rig.receive();
    assert!(got[12..] == long);

    // From the guest.
    rig.send(&with_header(header, &long), &[12, 54]);
    let (seen, got) = rig.link.receive();
    assert_eq!(seen, header);
    assert!(got == long);
}

#[test]
fn long_frames_are_cut_for_a_guest_that_knows_none() {
    let Some(mut rig) = Rig::new(1, !(LONG_FRAMES | 1 << VIRTIO_NET_F_GUEST_CSUM)) else {
        return;
    };
    let (header, long) = link::tcp(MAC, 4000);
    rig.give(0, 20, 1536);
    rig.link.send_with(&header, &long);
    for _ in 0..3 {
        let (got, _) = rig.receive();
        assert!(got.len() <= 1526);
        assert_eq!(got[..10], [0; 10]);
    }
}

#[test]
fn queues_of_the_tap_follow_the_driver() {
    let Some(mut rig) = Rig::new(2, u64::MAX) else {
        return;
    };
    let set = |rig: &mut Rig, class: u32, pairs: u16| {
        let control = &mut rig.queues[4];
        let low = pairs.to_le_bytes();
        control.write(TX_DATA, &[class as u8, 0, low[0], low[1]]);
        control.descriptor(0, (TX_DATA, 2, NEXT, 1));
        control.descriptor(1, (TX_DATA + 2, 2, NEXT, 2));
        control.descriptor(2, (TX_DATA + 16, 1, WRITE, 0));
        control.offer(0);
        control.kick();
        assert_eq!(control.wait_used(), (0, 1));
        u32::from(control.read(TX_DATA + 16, 1)[0])
    };
    let attached = |rig: &Rig| rig.link.queues();
    assert_eq!(set(&mut rig, VIRTIO_NET_CTRL_MQ, 1), VIRTIO_NET_OK);
    assert_eq!(attached(&rig), 1);
    assert_eq!(set(&mut rig, VIRTIO_NET_CTRL_MQ, 2), VIRTIO_NET_OK);
    assert_eq!(attached(&rig), 2);
    for (class, pairs) in [
        (VIRTIO_NET_CTRL_MQ, 0),
        (VIRTIO_NET_CTRL_MQ, 3),
        (0, 1),
        (9, 1),
    ] {
        assert_eq!(set(&mut rig, class, pairs), VIRTIO_NET_ERR);
        assert_eq!(attached(&rig), 2);
    }
    // No place for the answer.
    rig.queues[4].descriptor(2, (TX_DATA + 16, 1, 0, 0));
    rig.queues[4].offer(0);
    rig.queues[4].kick();
    assert_eq!(rig.queues[4].wait_used(), (0, 0));

    // The second pair sends, and gets frames of some flows.
    let out = with_header([0; 10], &frame([0xff; 6], 100, 1));
    let tx = &mut rig.queues[3];
    tx.write(TX_DATA, &out);
    tx.descriptor(0, (TX_DATA, out.len() as u32, 0, 0));
    tx.offer(0);
    tx.kick();
    assert_eq!(tx.wait_used(), (0, 0));
    assert_eq!(rig.link.receive().1, out[12..]);
    let rx = &mut rig.queues[2];
    for head in 0..SIZE {
        rx.descriptor(head, (RX_DATA + u64::from(head) * 65536, 2000, WRITE, 0));
        rx.offer(head);
    }
    rx.kick();
    for flow in 0..32 {
        rig.link.send(&link::udp(MAC, flow));
    }
    assert_eq!(rig.queues[2].wait_used(), (0, 12 + 60));

    // A reset goes back to one.
    for index in 0..5 {
        assert!(rig.device.stop_queue(index).is_some());
    }
    rig.device.reset();
    rig.device.set_features(0);
    rig.queues[2] = DriverQueue::new(&rig.mem, 2);
    for index in 0..3 {
        // The control queue is where the second pair was.
        let driver = DriverQueue::new(&rig.mem, index as u64);
        driver.write((index as u64) << 16, &[0; 1 << 16]);
        rig.queues[index] = driver;
        rig.start(index, rig.queues[index].queue()).unwrap();
    }
    assert!(matches!(
        rig.start(3, rig.queues[3].queue()),
        Err(DeviceError::NoQueue(3))
    ));
    rig.send(&out, &[]);
    assert_eq!(rig.link.receive().1, out[12..]);
    assert_eq!(attached(&rig), 1);
}

#[test]
fn configuration() {
    let Some(rig) = Rig::new(2, u64::MAX) else {
        return;
    };
    let mut config = [0xff; 16];
    rig.device.read_config(0, &mut config);
    assert_eq!(config, [2, 0, 0, 0, 0, 7, 1, 0, 2, 0, 0xdc, 5, 0, 0, 0, 0]);
    rig.device.read_config(usize::MAX, &mut config);
    assert_eq!(config, [0; 16]);
    assert_eq!(rig.device.queue_sizes(), [256, 256, 256, 256, 64]);
    let many = 1 << VIRTIO_NET_F_MQ | 1 << VIRTIO_NET_F_CTRL_VQ;
    assert_eq!(rig.device.features() & many, many);

    let rig = Rig::new(1, u64::MAX).unwrap();
    assert_eq!(rig.device.features() & many, 0);
    assert_eq!(rig.device.queue_sizes(), [256, 256]);
}
