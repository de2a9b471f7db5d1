//! The memory device with a scripted driver, on memory whose usage can be measured.

use std::sync::atomic::Ordering;

use super::*;
use crate::virtio::testing::{DriverQueue, END, NEXT, WRITE, resident, shared_memory};

const BLOCK: u64 = 64 << 10;
/// Half of guest memory.
const REGION: MemRegion = MemRegion {
    addr: END / 2,
    size: END / 2,
    block_size: BLOCK,
};
const BLOCKS: u16 = (REGION.size / BLOCK) as u16;

const REQUEST: u64 = 1 << 20;
const ANSWER: u64 = 2 << 20;

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

const ACK: [u16; 2] = [0, 0];
const NACK: [u16; 2] = [1, 0];
const ERROR: [u16; 2] = [3, 0];
const PLUGGED: [u16; 2] = [0, 0];
const UNPLUGGED: [u16; 2] = [0, 1];
const MIXED: [u16; 2] = [0, 2];

struct Driver {
    device: Mem,
    mem: Memory,
    file: Arc<std::fs::File>,
    queue: DriverQueue,
}

impl Driver {
    fn new() -> Driver {
        let (mem, file) = shared_memory();
        let queue = DriverQueue::new(&mem, 0);
        queue.write(0, &vec![0; REGION.addr as usize]);
        let mut driver = Driver {
            device: Mem::new(REGION).unwrap(),
            mem,
            file,
            queue,
        };
        let queue = driver.queue.queue();
        driver.start(0, queue).unwrap();
        driver
    }

    fn start(&mut self, index: usize, queue: Queue) -> Result<(), DeviceError> {
        let (kick, calls) = (self.queue.kick_event(), self.queue.calls.clone());
        self.device
            .start_queue(index, queue, self.mem.clone(), kick, calls)
    }

    /// Sends the chain at 0; returns the length of the answer.
    fn send(&mut self) -> u32 {
        self.queue.write(ANSWER, &[0xee; 16]);
        self.queue.offer(0);
        self.queue.kick();
        let (head, len) = self.queue.wait_used();
        assert_eq!(head, 0);
        len
    }

    /// Sends a normal request; returns type and state of the answer.
    fn request(&mut self, kind: u16, addr: u64, blocks: u16) -> [u16; 2] {
        // Padding is ignored.
        let mut request = [0xaa; 24];
        request[..2].copy_from_slice(&kind.to_le_bytes());
        request[8..16].copy_from_slice(&addr.to_le_bytes());
        request[16..18].copy_from_slice(&blocks.to_le_bytes());
        self.queue.write(REQUEST, &request);
        self.queue.descriptor(0, (REQUEST, 24, NEXT, 1));
        self.queue.descriptor(1, (ANSWER, 10, WRITE, 0));
        assert_eq!(self.send(), 10);
        self.answer()
    }

    fn answer(&self) -> [u16; 2] {
        let bytes = self.queue.read(ANSWER, 16);
        assert_eq!(bytes[2..8], [0; 6]);
        assert_eq!(bytes[10..], [0xee; 6]);
        [0, 8].map(|at| u16::from_le_bytes([bytes[at], bytes[at + 1]]))
    }

    /// Field `index` of the configuration; all fields have eight bytes.
    fn config(&self, index: usize) -> u64 {
        let mut bytes = [0; 8];
        self.device.read_config(index * 8, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// The host memory that the region uses, in bytes.
    fn cost(&self) -> u64 {
        resident(&self.file) - REGION.addr
    }
}

fn block(number: u64) -> u64 {
    REGION.addr + number * BLOCK
}

#[test]
fn blocks_are_plugged_up_to_the_request() {
    let mut driver = Driver::new();
    let control = driver.device.control();
    assert_eq!(driver.request(PLUG, block(0), 1), NACK);

    control.resize(4 * BLOCK).unwrap();

    assert_eq!(driver.request(PLUG, block(0), 5), NACK);
    assert_eq!(driver.request(PLUG, block(8), 3), ACK);
    assert_eq!(control.plugged(), 3 * BLOCK);
    assert_eq!(driver.request(PLUG, block(0), 2), NACK);
    assert_eq!(driver.request(PLUG, block(10), 1), ERROR);
    assert_eq!(driver.request(PLUG, block(7), 1), ACK);
    assert_eq!(driver.request(PLUG, block(0), 1), NACK);
    assert_eq!(driver.request(PLUG, block(6), 2), ERROR);
    assert_eq!(driver.config(5), 4 * BLOCK);
    // A smaller size is a request, which does not change the present size.
    control.resize(BLOCK).unwrap();
    assert_eq!(driver.config(6), BLOCK);
    assert_eq!(driver.config(5), 4 * BLOCK);
    assert_eq!(driver.request(STATE, block(7), 4), PLUGGED);
}

#[test]
fn unplugged_blocks_go_back_to_the_host() {
    let mut driver = Driver::new();
    driver.device.control().resize(REGION.size).unwrap();
    assert_eq!(driver.request(PLUG, block(0), BLOCKS), ACK);
    driver
        .queue
        .write(REGION.addr, &vec![1; REGION.size as usize]);
    assert_eq!(driver.cost(), REGION.size);

    assert_eq!(driver.request(UNPLUG, block(3), 2), ACK);

    assert_eq!(driver.cost(), REGION.size - 2 * BLOCK);
    assert_eq!(driver.device.control().plugged(), REGION.size - 2 * BLOCK);
    assert_eq!(driver.queue.read(block(3) - 1, 2), [1, 0]);
    assert_eq!(driver.queue.read(block(5) - 1, 2), [0, 1]);
    assert_eq!(driver.request(STATE, block(3), 2), UNPLUGGED);
    assert_eq!(driver.request(STATE, block(2), 2), MIXED);
    assert_eq!(driver.request(STATE, block(5), 1), PLUGGED);
    assert_eq!(driver.request(UNPLUG, block(2), 2), ERROR);
    assert_eq!(driver.request(UNPLUG, block(3), 1), ERROR);
    assert_eq!(driver.queue.read(block(2), 1), [1]);
    // Each block may be plugged again.
    assert_eq!(driver.request(PLUG, block(4), 1), ACK);
    assert_eq!(driver.request(STATE, block(4), 1), PLUGGED);
}

#[test]
fn all_is_unplugged_at_once_even_what_was_not_plugged() {
    let mut driver = Driver::new();
    driver.device.control().resize(8 * BLOCK).unwrap();
    assert_eq!(driver.request(PLUG, block(5), 2), ACK);
    driver.queue.write(block(5), &[1; BLOCK as usize]);
    driver.queue.write(block(50), &[1; BLOCK as usize]);
    assert_eq!(driver.cost(), 2 * BLOCK);

    assert_eq!(driver.request(UNPLUG_ALL, u64::MAX, 0), ACK);

    assert_eq!(driver.cost(), 0);
    assert_eq!(driver.config(5), 0);
    assert_eq!(driver.config(6), 8 * BLOCK);
    assert_eq!(driver.request(STATE, block(0), BLOCKS), UNPLUGGED);
    assert_eq!(driver.request(UNPLUG_ALL, 0, 0), ACK);
}

#[test]
fn ranges_outside_the_region_are_errors() {
    let mut driver = Driver::new();
    driver.device.control().resize(REGION.size).unwrap();
    assert_eq!(driver.request(PLUG, block(0), 1), ACK);
    let end = REGION.addr + REGION.size;
    let ranges = [
        (0, 1),
        (REGION.addr - BLOCK, 2),
        (REGION.addr + 1, 1),
        (REGION.addr + BLOCK / 2, 1),
        (REGION.addr, 0),
        (REGION.addr, BLOCKS + 1),
        (REGION.addr, u16::MAX),
        (end - BLOCK, 2),
        (end, 1),
        (u64::MAX, 1),
        (!(BLOCK - 1), u16::MAX),
    ];
    for (addr, blocks) in ranges {
        for kind in [PLUG, UNPLUG, STATE] {
            let answer = driver.request(kind, addr, blocks);
            assert_eq!(answer, ERROR, "{kind} {addr:x} {blocks}");
        }
    }
    assert_eq!(driver.config(5), BLOCK);
    assert_eq!(driver.request(4, block(0), 1), ERROR);
    assert_eq!(driver.request(u16::MAX, block(0), 1), ERROR);
}

#[test]
fn requests_that_cannot_be_answered_do_nothing() {
    let mut driver = Driver::new();
    driver.device.control().resize(REGION.size).unwrap();
    let mut request = [0; 24];
    request[8..16].copy_from_slice(&block(0).to_le_bytes());
    request[16] = 1;
    driver.queue.write(REQUEST, &request);
    // No answer; an answer that is too short, outside memory, or not writable for the device.
    let answers = [
        None,
        Some((ANSWER, 9, WRITE, 0)),
        Some((END - 9, 10, WRITE, 0)),
        Some((u64::MAX, 10, WRITE, 0)),
        Some((ANSWER, 10, 0, 0)),
    ];
    for answer in answers {
        let next = if answer.is_some() { NEXT } else { 0 };
        driver.queue.descriptor(0, (REQUEST, 24, next, 1));
        driver.queue.descriptor(1, answer.unwrap_or_default());
        assert_eq!(driver.send(), 0, "{answer:x?}");
    }
    // A request that is too short, outside memory, or not readable for the device.
    let requests = [
        (REQUEST, 23, NEXT, 1),
        (END - 8, 24, NEXT, 1),
        (REQUEST, 24, NEXT | WRITE, 1),
    ];
    for desc in requests {
        driver.queue.descriptor(0, desc);
        driver.queue.descriptor(1, (ANSWER, 10, WRITE, 0));
        let len = driver.send();
        let wrong_way = desc.2 & WRITE != 0;
        let answer = if wrong_way { REQUEST } else { ANSWER };
        assert_eq!(len, 10, "{desc:x?}");
        assert_eq!(driver.queue.read(answer, 2), [3, 0], "{desc:x?}");
    }
    assert_eq!(driver.config(5), 0);
}

#[test]
fn request_and_answer_may_be_split_anywhere() {
    let mut driver = Driver::new();
    driver.device.control().resize(REGION.size).unwrap();
    for cut in 1..10 {
        let number = u64::from(cut);
        let mut request = [0; 24];
        request[8..16].copy_from_slice(&block(number).to_le_bytes());
        request[16] = 1;
        driver.queue.write(REQUEST, &request);
        let (far, rest) = (REQUEST + number, ANSWER + number);
        driver.queue.descriptor(0, (REQUEST, cut, NEXT, 1));
        driver.queue.descriptor(1, (far, 24 - cut, NEXT, 2));
        driver.queue.descriptor(2, (ANSWER, cut, NEXT | WRITE, 3));
        driver.queue.descriptor(3, (rest, 10 - cut, WRITE, 0));

        assert_eq!(driver.send(), 10);
        assert_eq!(driver.answer(), ACK);
        assert_eq!(driver.config(5), number * BLOCK);
    }
}

#[test]
fn config_has_region_and_sizes() {
    let mut driver = Driver::new();
    let control = driver.device.control();
    let changed = Arc::new(DriverQueue::new(&driver.mem, 1)).calls.clone();
    driver.device.set_config_interrupt(changed.clone());

    control.resize(2 * BLOCK).unwrap();
    assert_eq!(driver.request(PLUG, block(1), 1), ACK);

    assert_eq!(changed.count.load(Ordering::SeqCst), 1);
    let fields: Vec<_> = (0..8).map(|index| driver.config(index)).collect();
    let (addr, size) = (REGION.addr, REGION.size);
    assert_eq!(fields, [BLOCK, 0, addr, size, size, BLOCK, 2 * BLOCK, 0]);
    driver.device.write_config(48, &[0xff; 8]);
    driver.device.reset();
    assert_eq!(driver.config(5), BLOCK);
    assert_eq!(driver.config(6), 2 * BLOCK);
}

#[test]
fn impossible_regions_and_sizes_are_refused() {
    let region = |addr, size, block_size| MemRegion {
        addr,
        size,
        block_size,
    };
    let bad = [
        region(0, BLOCK, 0),
        region(0, 3 << 20, 3 << 20),
        region(BLOCK / 2, BLOCK, BLOCK),
        region(0, BLOCK / 2, BLOCK),
        region(u64::MAX - BLOCK + 1, BLOCK, BLOCK),
    ];
    for region in bad {
        assert_eq!(Mem::new(region).err(), Some(MemError::Region(region)));
    }
    let control = Mem::new(REGION).unwrap().control();
    for size in [1, BLOCK + 1, REGION.size + BLOCK, u64::MAX] {
        let region = REGION;
        assert_eq!(control.resize(size), Err(MemError::Size { size, region }));
    }
    assert_eq!(control.requested(), 0);
}

#[test]
fn who_waits_hears_of_the_last_block() {
    let mut driver = Driver::new();
    let control = driver.device.control();
    control.resize(2 * BLOCK).unwrap();
    let waiting = control.clone();
    let waiter = std::thread::spawn(move || waiting.wait(Duration::from_secs(60)));

    assert_eq!(driver.request(PLUG, block(0), 1), ACK);
    assert_eq!(control.wait(Duration::from_millis(1)), BLOCK);
    assert_eq!(driver.request(PLUG, block(1), 1), ACK);

    assert_eq!(waiter.join().unwrap(), 2 * BLOCK);
}

#[test]
fn queue_is_checked_and_goes_on_after_a_pause() {
    let mut driver = Driver::new();
    driver.device.control().resize(2 * BLOCK).unwrap();
    assert_eq!(driver.request(PLUG, block(0), 1), ACK);

    let again = driver.start(0, driver.queue.queue());
    assert!(matches!(again, Err(DeviceError::Started(0))));
    let unknown = driver.start(1, driver.queue.queue());
    assert!(matches!(unknown, Err(DeviceError::NoQueue(1))));
    let queue = driver.device.stop_queue(0).unwrap();
    assert!(driver.device.stop_queue(0).is_none());
    assert!(driver.device.stop_queue(1).is_none());
    driver.start(0, queue).unwrap();

    assert_eq!(driver.request(STATE, block(0), 2), MIXED);
    assert_eq!(driver.request(PLUG, block(1), 1), ACK);
}
