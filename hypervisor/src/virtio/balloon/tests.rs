//! The balloon with a scripted driver, on memory whose usage can be measured.

use std::sync::atomic::Ordering;

use super::*;
use crate::virtio::testing::{DriverQueue, END, NEXT, WRITE, resident, shared_memory};

const PAGE: u64 = 4096;
/// The address of requests.
const LIST: u64 = 1 << 20;
/// Memory that is returned.
const POOL: u64 = 8 << 20;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const REPORT: usize = 4;

struct Driver {
    device: Balloon,
    mem: Memory,
    file: Arc<std::fs::File>,
    queues: Vec<DriverQueue>,
}

impl Driver {
    /// A device with running queues, and memory full of ones.
    fn new() -> Driver {
        let (mem, file) = shared_memory();
        let queues: Vec<_> = (0..QUEUES as u64)
            .map(|slot| DriverQueue::new(&mem, slot))
            .collect();
        queues[0].write(LIST, &vec![1; (END - LIST) as usize]);
        // The rings use their memory before the measurement.
        queues[0].write(0, &[0; LIST as usize]);
        let mut driver = Driver {
            device: Balloon::new(),
            mem,
            file,
            queues,
        };
        for index in 0..QUEUES {
            let queue = driver.queues[index].queue();
            driver.start(index, queue).unwrap();
        }
        driver
    }

    fn start(&mut self, index: usize, queue: Queue) -> Result<(), DeviceError> {
        let driver = self.queues.get(index).unwrap_or(&self.queues[0]);
        let (kick, calls) = (driver.kick_event(), driver.calls.clone());
        self.device
            .start_queue(index, queue, self.mem.clone(), kick, calls)
    }

    /// Sends the chain at 0; returns the number of pages that the guest lost.
    fn send(&mut self, index: usize) -> u64 {
        let before = resident(&self.file);
        let queue = &mut self.queues[index];
        queue.offer(0);
        queue.kick();
        assert_eq!(queue.wait_used(), (0, 0));
        (before - resident(&self.file)) / PAGE
    }

    fn send_pages(&mut self, index: usize, pages: &[u32]) -> u64 {
        let list: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        let queue = &self.queues[index];
        queue.write(LIST, &list);
        queue.descriptor(0, (LIST, list.len() as u32, 0, 0));
        self.send(index)
    }

    /// The first byte of a page of the pool.
    fn page(&self, number: u64) -> u8 {
        self.queues[0].read(POOL + number * PAGE, 1)[0]
    }
}

/// The number of a page of the pool.
fn pool(number: u64) -> u32 {
    (POOL / PAGE + number) as u32
}

#[test]
fn inflated_pages_go_back_to_the_host() {
    let mut driver = Driver::new();
    let pages = [9, 3, 5, 4, 3, 7, 9].map(pool);

    assert_eq!(driver.send_pages(INFLATE, &pages), 5);

    let expected = [1, 1, 1, 0, 0, 0, 1, 0, 1, 0, 1];
    let content: Vec<_> = (0..11).map(|number| driver.page(number)).collect();
    assert_eq!(content, expected);
    // After the deflation they are ordinary memory.
    assert_eq!(driver.send_pages(DEFLATE, &pages), 0);
    driver.queues[0].write(POOL + 3 * PAGE, &[2]);
    assert_eq!(driver.page(3), 2);
}

#[test]
fn a_list_may_be_split_anywhere() {
    let mut driver = Driver::new();
    let list: Vec<u8> = [pool(0), pool(2)].map(u32::to_le_bytes).concat();
    for cut in 0..=8 {
        let head = LIST + 8 - cut;
        let tail = LIST + 2 * PAGE;
        let queue = &driver.queues[INFLATE];
        queue.write(POOL, &[1; 3 * PAGE as usize]);
        queue.write(head, &list[..cut as usize]);
        queue.write(tail, &list[cut as usize..]);
        queue.descriptor(0, (head, cut as u32, NEXT, 1));
        queue.descriptor(1, (tail, 8 - cut as u32, 0, 0));

        assert_eq!(driver.send(INFLATE), 2, "cut at {cut}");
        assert_eq!([0, 1, 2].map(|number| driver.page(number)), [0, 1, 0]);
    }
}

#[test]
fn page_numbers_outside_memory_are_passed_over() {
    let mut driver = Driver::new();
    let end = (END / PAGE) as u32;
    let pages = [end, end + 1, u32::MAX - 1, u32::MAX, pool(1)];

    assert_eq!(driver.send_pages(INFLATE, &pages), 1);

    assert_eq!(driver.send_pages(INFLATE, &[end - 1, end, u32::MAX]), 1);
    assert_eq!(driver.send_pages(INFLATE, &[]), 0);
}

#[test]
fn a_huge_list_is_cut() {
    let mut driver = Driver::new();
    // 1 MiB of page numbers: ten times as many as are taken, and then another page.
    let mut list = vec![pool(5); 1 << 18];
    list[4096] = pool(7);
    list[4095] = pool(6);

    assert_eq!(driver.send_pages(INFLATE, &list), 2);

    assert_eq!([5, 6, 7].map(|number| driver.page(number)), [0, 0, 1]);
}

#[test]
fn bad_lists_do_nothing() {
    let mut driver = Driver::new();
    driver.queues[INFLATE].write(LIST, &pool(0).to_le_bytes());
    let cases = [
        (LIST, 4, WRITE, 0),
        (LIST, 3, 0, 0),
        (LIST, u32::MAX, 0, 0),
        (END - 2, 4, 0, 0),
        (u64::MAX, 4, 0, 0),
    ];
    for desc in cases {
        driver.queues[INFLATE].descriptor(0, desc);
        assert_eq!(driver.send(INFLATE), 0, "{desc:x?}");
    }
    // A chain with a loop has the length of the ring: the same page each time.
    driver.queues[INFLATE].descriptor(0, (LIST, 4, NEXT, 0));
    assert_eq!(driver.send(INFLATE), 1);
}

#[test]
fn reported_ranges_go_back_to_the_host() {
    let mut driver = Driver::new();
    let queue = &driver.queues[REPORT];
    let part = (16 * PAGE) as u32;
    queue.descriptor(0, (POOL, part, NEXT | WRITE, 1));
    queue.descriptor(1, (POOL + 32 * PAGE, part, WRITE, 0));

    assert_eq!(driver.send(REPORT), 32);

    let content = [0, 15, 16, 31, 32, 47, 48].map(|number| driver.page(number));
    assert_eq!(content, [0, 0, 1, 1, 0, 0, 1]);
    // Linux uses this number for the queue.
    let queue = &driver.queues[2];
    queue.descriptor(0, (POOL + 16 * PAGE, part, WRITE, 0));
    assert_eq!(driver.send(2), 16);
}

#[test]
fn bad_reports_discard_no_more_than_their_ranges() {
    let mut driver = Driver::new();
    let cases = [
        ((POOL, PAGE as u32, 0, 0), 0),
        ((POOL, 0, WRITE, 0), 0),
        ((POOL + 1, 2 * PAGE as u32, WRITE, 0), 1),
        ((END, u32::MAX, WRITE, 0), 0),
        ((u64::MAX - 1, u32::MAX, WRITE, 0), 0),
        ((END - PAGE, u32::MAX, WRITE, 0), 1),
    ];
    for (desc, pages) in cases {
        driver.queues[REPORT].descriptor(0, desc);
        assert_eq!(driver.send(REPORT), pages, "{desc:x?}");
    }
}

#[test]
fn target_is_shown_and_answered() {
    let mut driver = Driver::new();
    let control = driver.device.control();
    let changed = driver.queues[3].calls.clone();
    control.set_target(1);
    driver.device.set_config_interrupt(changed.clone());

    control.set_target(0x0403_0201);

    assert_eq!(changed.count.load(Ordering::SeqCst), 1);
    let mut config = [9; 20];
    driver.device.read_config(0, &mut config);
    let mut expected = [0; 20];
    expected[..4].copy_from_slice(&[1, 2, 3, 4]);
    assert_eq!(config, expected);
    driver.device.write_config(4, &7u32.to_le_bytes());
    assert_eq!(control.actual(), 7);
    // In bytes, across the field's ends, and elsewhere.
    driver.device.write_config(5, &[1]);
    assert_eq!(control.actual(), 0x107);
    driver.device.write_config(2, &[9; 3]);
    assert_eq!(control.actual(), 0x109);
    driver.device.write_config(7, &[8; 100]);
    assert_eq!(control.actual(), 0x0800_0109);
    driver.device.write_config(usize::MAX, &[9; 100]);
    driver.device.read_config(0, &mut config);
    expected[4..8].copy_from_slice(&[9, 1, 0, 8]);
    assert_eq!(config, expected);
    driver.device.reset();
    assert_eq!(control.actual(), 0);
}

#[test]
fn queues_are_checked_and_go_on_after_a_pause() {
    let mut driver = Driver::new();
    assert_eq!(driver.send_pages(INFLATE, &[pool(0)]), 1);

    let again = driver.start(DEFLATE, driver.queues[DEFLATE].queue());
    assert!(matches!(again, Err(DeviceError::Started(DEFLATE))));
    let unknown = driver.start(QUEUES, driver.queues[0].queue());
    assert!(matches!(unknown, Err(DeviceError::NoQueue(QUEUES))));
    let queue = driver.device.stop_queue(INFLATE).unwrap();
    assert!(driver.device.stop_queue(INFLATE).is_none());
    assert!(driver.device.stop_queue(QUEUES).is_none());
    driver.start(INFLATE, queue).unwrap();

    assert_eq!(driver.send_pages(INFLATE, &[pool(1)]), 1);
}
