//! Many requests in flight, with a driver that sends and gets only the agreed kicks and
//! interrupts: it hangs if one is missing.

use super::*;

const SLOTS: u64 = 16;
const LEN: u64 = 4096;
const REQUESTS: u32 = 20_000;

/// One request at a time, on its own part of the disk.
#[derive(Clone, Copy, Default)]
struct Slot {
    busy: bool,
    /// The content of its part of the disk.
    fill: u8,
    reads: bool,
}

fn run(event_idx: bool) {
    let mut rig = Rig::new();
    let zeroes = vec![0; (SECTORS * SECTOR) as usize];
    rig.file.write_all_at(&zeroes, 0).unwrap();
    let mut queue = rig.device.stop_queue(0).unwrap();
    queue.set_event_idx(event_idx);
    let (kick, calls) = (rig.driver.kick_event(), rig.driver.calls.clone());
    rig.device
        .start_queue(0, queue, rig.mem.clone(), kick, calls)
        .unwrap();

    let mut slots = [Slot::default(); SLOTS as usize];
    let mut random = 1u32;
    let mut next = |below: u32| {
        random = random.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        (random >> 8) % below
    };
    let (mut offered, mut returned) = (0, 0);
    while returned < REQUESTS {
        let index = next(SLOTS as u32) as usize;
        if !slots[index].busy && offered < REQUESTS {
            let slot = &mut slots[index];
            let kind = match next(16) {
                0 => VIRTIO_BLK_T_FLUSH,
                1..8 => VIRTIO_BLK_T_OUT,
                _ => VIRTIO_BLK_T_IN,
            };
            offer(&mut rig, index as u64, kind, slot, next(256) as u8);
            offered += 1;
            if rig.driver.wants_kick(event_idx) {
                rig.driver.kick();
            }
            continue;
        }
        rig.driver.interrupt_after(0);
        let (head, _) = rig.driver.wait_used();
        check(&rig, u64::from(head) / 3, &mut slots[head as usize / 3]);
        returned += 1;
    }
    assert_eq!(rig.driver.outstanding(), 0);
    assert!(rig.device.stop_queue(0).is_some());
}

fn offer(rig: &mut Rig, index: u64, kind: u32, slot: &mut Slot, fill: u8) {
    let (header, data) = (HEADER + index * 32, DATA + index * 2 * LEN);
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&(index * LEN / SECTOR).to_le_bytes());
    rig.driver.write(header, &bytes);
    rig.driver.write(data + LEN, &[UNSET as u8]);
    slot.busy = true;
    slot.reads = kind == VIRTIO_BLK_T_IN;
    let (len, write) = match kind {
        VIRTIO_BLK_T_IN => (LEN, WRITE),
        VIRTIO_BLK_T_OUT => (LEN, 0),
        _ => (0, 0),
    };
    if kind == VIRTIO_BLK_T_OUT {
        slot.fill = fill;
        rig.driver.write(data, &[fill; LEN as usize]);
    }
    let head = index as u16 * 3;
    rig.driver.descriptor(head, (header, 16, NEXT, head + 1));
    rig.driver
        .descriptor(head + 1, (data, len as u32, NEXT | write, head + 2));
    rig.driver.descriptor(head + 2, (data + LEN, 1, WRITE, 0));
    rig.driver.offer(head);
}

fn check(rig: &Rig, index: u64, slot: &mut Slot) {
    let data = DATA + index * 2 * LEN;
    assert_eq!(rig.driver.read(data + LEN, 1), [OK as u8]);
    assert!(std::mem::take(&mut slot.busy));
    if slot.reads {
        let read = rig.driver.read(data, LEN as usize);
        assert_eq!(read, [slot.fill; LEN as usize]);
    }
}

#[test]
fn no_request_is_lost_with_event_indices() {
    run(true);
}

#[test]
fn no_request_is_lost_with_flags() {
    run(false);
}
