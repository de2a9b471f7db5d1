//! Many frames, by a driver that kicks and is interrupted no more than agreed: it hangs
//! if one kick or interrupt is missing.

use super::*;
use std::collections::VecDeque;
use virtio_queue::QueueT;

const BUFFER: u32 = 700;
const FRAMES: usize = 3000;

struct Driver {
    rig: Rig,
    event_idx: bool,
    random: u32,
    /// Heads that are not with the device.
    free: VecDeque<u16>,
}

impl Driver {
    fn next(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        (self.random >> 8) as usize % below
    }

    /// Gives up to `count` receive buffers.
    fn give(&mut self, count: usize) {
        for _ in 0..count {
            let Some(head) = self.free.pop_front() else {
                return;
            };
            let rx = &mut self.rig.queues[0];
            let address = RX_DATA + u64::from(head) * 65536;
            rx.descriptor(head, (address, BUFFER, WRITE, 0));
            rx.offer(head);
            if rx.wants_kick(self.event_idx) {
                rx.kick();
            }
        }
    }

    /// The next frame.
    fn receive(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut count = 0;
        self.rig.queues[0].interrupt_after(0);
        let mut next = self.rig.queues[0].wait_used();
        loop {
            let (head, len) = next;
            let rx = &mut self.rig.queues[0];
            let address = RX_DATA + u64::from(head) * 65536;
            bytes.extend(rx.read(address, len as usize));
            self.free.push_back(head as u16);
            count += 1;
            if count == u16::from_le_bytes([bytes[10], bytes[11]]) {
                return bytes.split_off(12);
            }
            // The buffers of a frame come together.
            next = self.rig.queues[0].used().unwrap();
        }
    }

    /// Sends a frame as the only descriptor.
    fn transmit(&mut self, head: u16, frame: &[u8]) {
        let tx = &mut self.rig.queues[1];
        let bytes = with_header([0; 10], frame);
        let address = TX_DATA + u64::from(head) * 4096;
        tx.write(address, &bytes);
        tx.descriptor(head, (address, bytes.len() as u32, 0, 0));
        tx.offer(head);
        if tx.wants_kick(self.event_idx) {
            tx.kick();
        }
    }
}

fn run(event_idx: bool) {
    let Some(mut rig) = Rig::new(1, u64::MAX) else {
        return;
    };
    for index in 0..2 {
        let mut queue = rig.device.stop_queue(index).unwrap();
        queue.set_event_idx(event_idx);
        rig.start(index, queue).unwrap();
    }
    let mut driver = Driver {
        rig,
        event_idx,
        random: 1,
        free: (0..SIZE).collect(),
    };
    let mut done = 0;
    while done < FRAMES {
        // To the guest, whose buffers come before and after the frames.
        let burst = 1 + driver.next(20);
        let early = driver.next(40);
        driver.give(early);
        let frames: Vec<_> = (0..burst)
            .map(|_| frame(MAC, 60 + driver.next(1454), driver.next(256) as u8))
            .collect();
        for frame in &frames {
            driver.rig.link.send(frame);
        }
        driver.give(usize::from(SIZE));
        for frame in &frames {
            assert_eq!(&driver.receive(), frame);
            driver.give(2);
        }
        // And from it.
        let frames: Vec<_> = (0..burst)
            .map(|_| frame([0xff; 6], 60 + driver.next(1454), driver.next(256) as u8))
            .collect();
        for (head, frame) in (0..).zip(&frames) {
            driver.transmit(head, frame);
        }
        for (head, frame) in (0..).zip(&frames) {
            let tx = &mut driver.rig.queues[1];
            tx.interrupt_after(0);
            assert_eq!(tx.wait_used(), (head, 0));
            assert_eq!(&driver.rig.link.receive().1, frame);
        }
        done += burst;
    }
}

#[test]
fn no_frame_is_lost_with_event_indices() {
    run(true);
}

#[test]
fn no_frame_is_lost_with_flags() {
    run(false);
}
