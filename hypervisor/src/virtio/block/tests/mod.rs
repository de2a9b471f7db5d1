//! The block device with a scripted driver, on files, loop devices and a slow disk.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use virtio_bindings::virtio_blk::*;
use virtio_queue::QueueT;

use super::*;
use crate::jail::{self, ThreadKind};
use crate::virtio::testing::{DriverQueue, END, INDIRECT, NEXT, SIZE, WRITE, memory};

mod constants;
mod device;
mod hostile;
mod slow;
mod stress;

const HEADER: u64 = 1 << 20;
const DATA: u64 = 2 << 20;
const STATUS: u64 = 3 << 20;
const TABLE: u64 = 4 << 20;

const OK: u32 = VIRTIO_BLK_S_OK;
const IOERR: u32 = VIRTIO_BLK_S_IOERR;
const UNSUPP: u32 = VIRTIO_BLK_S_UNSUPP;
/// The status before the device writes it.
const UNSET: u32 = 0xee;

/// The number of sectors of the disk.
const SECTORS: u64 = 2048;

struct Rig {
    device: Block,
    mem: Memory,
    driver: DriverQueue,
    file: File,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(BlockOptions::default(), u64::MAX)
    }

    /// A disk on which each byte is the number of its sector.
    fn with(options: BlockOptions, features: u64) -> Rig {
        Rig::within(&std::env::temp_dir(), options, features)
    }

    /// The same in this directory.
    fn within(folder: &Path, options: BlockOptions, features: u64) -> Rig {
        let file = tempfile::NamedTempFile::new_in(folder).unwrap();
        for sector in 0..SECTORS {
            let bytes = [sector as u8; SECTOR as usize];
            file.as_file()
                .write_all_at(&bytes, sector * SECTOR)
                .unwrap();
        }
        let opened = OpenOptions::new()
            .read(true)
            .write(!options.read_only)
            .open(file.path())
            .unwrap();
        Rig::on(opened, file.into_file(), options, features)
    }

    fn on(disk: File, file: File, options: BlockOptions, features: u64) -> Rig {
        let mem = memory();
        let driver = DriverQueue::new(&mem, 0);
        let made = jail::run(ThreadKind::Block, "disk", move || {
            Block::new(disk, options).map_err(io::Error::other)
        });
        let mut device = made.unwrap();
        device.set_features(device.features() & features);
        let (kick, calls) = (driver.kick_event(), driver.calls.clone());
        device
            .start_queue(0, driver.queue(), mem.clone(), kick, calls)
            .unwrap();
        Rig {
            device,
            mem,
            driver,
            file,
        }
    }

    fn header(&self, kind: u32, sector: u64) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.driver.write(HEADER, &header);
        self.driver.write(STATUS, &[UNSET as u8]);
    }

    /// Offers the chain at 0; returns the status and the length.
    fn run(&mut self) -> (u32, u32) {
        self.driver.offer(0);
        self.driver.kick();
        let (head, len) = self.driver.wait_used();
        assert_eq!(head, 0);
        (self.driver.read(STATUS, 1)[0].into(), len)
    }

    /// A request with `len` bytes of data, which the device writes if `write`.
    fn request(&mut self, kind: u32, sector: u64, len: u32, write: u16) -> (u32, u32) {
        self.header(kind, sector);
        self.driver.descriptor(0, (HEADER, 16, NEXT, 1));
        self.driver.descriptor(1, (DATA, len, NEXT | write, 2));
        self.driver.descriptor(2, (STATUS, 1, WRITE, 0));
        self.run()
    }

    fn read(&mut self, sector: u64, len: u32) -> (u32, u32) {
        self.request(VIRTIO_BLK_T_IN, sector, len, WRITE)
    }

    fn write(&mut self, sector: u64, len: u32) -> (u32, u32) {
        self.request(VIRTIO_BLK_T_OUT, sector, len, 0)
    }

    /// A discard or zeroes of ranges: sector, count, flags.
    fn ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u32 {
        for (at, (sector, count, flags)) in (DATA..).step_by(16).zip(ranges) {
            self.driver.write(at, &sector.to_le_bytes());
            self.driver.write(at + 8, &count.to_le_bytes());
            self.driver.write(at + 12, &flags.to_le_bytes());
        }
        self.request(kind, 0, ranges.len() as u32 * 16, 0).0
    }

    fn sector(&self, sector: u64) -> [u8; SECTOR as usize] {
        let mut bytes = [0; SECTOR as usize];
        self.file
            .read_exact_at(&mut bytes, sector * SECTOR)
            .unwrap();
        bytes
    }
}

#[test]
fn reads_and_writes() {
    let mut rig = Rig::new();
    let len = 4 * SECTOR as u32;

    assert_eq!(rig.read(7, len), (OK, len + 1));
    let read = rig.driver.read(DATA, len as usize);
    let sectors = |sector| [sector; SECTOR as usize];
    assert_eq!(read, [7, 8, 9, 10].map(sectors).concat());

    rig.driver.write(DATA, &[0xaa; 2 * SECTOR as usize]);
    assert_eq!(rig.write(SECTORS - 2, 2 * SECTOR as u32), (OK, 1));
    assert_eq!(rig.sector(SECTORS - 3), sectors(0xfd));
    assert_eq!(rig.sector(SECTORS - 2), sectors(0xaa));
    assert_eq!(rig.sector(SECTORS - 1), sectors(0xaa));
    assert_eq!(rig.read(0, 0), (OK, 1));
    assert_eq!(rig.request(VIRTIO_BLK_T_FLUSH, 0, 0, 0), (OK, 1));
}

#[test]
fn framing_is_the_drivers_choice() {
    let mut rig = Rig::new();
    for cut in 1..16 {
        // A divided header; data and status in one piece, in an indirect table.
        rig.header(VIRTIO_BLK_T_IN, cut);
        let table = [
            (HEADER, cut as u32, NEXT, 1),
            (HEADER + cut, 16 - cut as u32, NEXT, 2),
            (STATUS - 512, cut as u32 * 32, NEXT | WRITE, 3),
            (STATUS - 512 + cut * 32, 513 - cut as u32 * 32, WRITE, 0),
        ];
        for (index, desc) in (0..).zip(table) {
            rig.driver.descriptor_at(TABLE, index, desc);
        }
        rig.driver.descriptor(0, (TABLE, 64, INDIRECT, 0));

        assert_eq!(rig.run(), (OK, 513));

        assert_eq!(rig.driver.read(STATUS - 512, 512), [cut as u8; 512]);
    }
}

#[test]
fn many_requests_at_once() {
    let mut rig = Rig::new();
    // Two descriptors each: data and status are in one.
    for round in 0..100u64 {
        for slot in 0..u64::from(SIZE / 2) {
            let mut header = [0; 16];
            header[8..].copy_from_slice(&((round * 7 + slot) % SECTORS).to_le_bytes());
            rig.driver.write(HEADER + slot * 16, &header);
            let head = slot as u16 * 2;
            rig.driver
                .descriptor(head, (HEADER + slot * 16, 16, NEXT, head + 1));
            rig.driver
                .descriptor(head + 1, (DATA + slot * 1024, 513, WRITE, 0));
            rig.driver.offer(head);
        }
        rig.driver.kick();
        for _ in 0..SIZE / 2 {
            let (head, len) = rig.driver.wait_used();
            let slot = u64::from(head / 2);
            let mut wanted = [((round * 7 + slot) % SECTORS) as u8; 513];
            wanted[512] = OK as u8;
            assert_eq!(len, 513);
            assert_eq!(rig.driver.read(DATA + slot * 1024, 513), wanted);
        }
    }
}

#[test]
fn read_only_disk_is_not_written() {
    let options = BlockOptions {
        read_only: true,
        ..BlockOptions::default()
    };
    let mut rig = Rig::with(options, u64::MAX);

    let features = rig.device.features();

    assert_ne!(features & 1 << VIRTIO_BLK_F_RO, 0);
    let write = 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
    assert_eq!(features & write, 0);
    assert_eq!(rig.write(3, 512), (IOERR, 1));
    assert_eq!(rig.ranges(VIRTIO_BLK_T_DISCARD, &[(3, 1, 0)]), UNSUPP);
    assert_eq!(rig.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &[(3, 1, 0)]), UNSUPP);
    assert_eq!(rig.read(3, 512), (OK, 513));
    assert_eq!(rig.sector(3), [3; 512]);
}

#[test]
fn id_is_returned() {
    let options = BlockOptions {
        id: "rootfs".into(),
        ..BlockOptions::default()
    };
    let mut rig = Rig::with(options, u64::MAX);

    assert_eq!(rig.request(VIRTIO_BLK_T_GET_ID, 0, 20, WRITE), (OK, 21));

    assert_eq!(
        rig.driver.read(DATA, 20),
        *b"rootfs\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    );
    for len in [0, 19, 21] {
        let result = rig.request(VIRTIO_BLK_T_GET_ID, 0, len, WRITE);
        assert_eq!(result, (IOERR, 1));
    }
}

#[test]
fn discard_frees_space() {
    let mut rig = Rig::new();
    rig.file.sync_all().unwrap();
    let before = rig.file.metadata().unwrap().blocks();

    let ranges = [(0, 1024, 0), (1032, 8, 0)];
    assert_eq!(rig.ranges(VIRTIO_BLK_T_DISCARD, &ranges), OK);

    assert!(rig.file.metadata().unwrap().blocks() <= before - 1024);
    assert_eq!(rig.sector(1023), [0; 512]);
    assert_eq!(rig.sector(1024), [0; 512]);
    assert_eq!(rig.sector(1031), [7; 512]);
    assert_eq!(rig.sector(1039), [0; 512]);
    assert_eq!(rig.sector(1041), [17; 512]);
    assert_eq!(rig.file.metadata().unwrap().len(), SECTORS * SECTOR);
    // A discard always unmaps; the flag is for zeroes only.
    assert_eq!(rig.ranges(VIRTIO_BLK_T_DISCARD, &[(0, 1, 1)]), UNSUPP);
}

#[test]
fn zeroes_are_written() {
    let here = std::env::temp_dir();
    for (folder, flags, features) in [
        (&*here, 0, u64::MAX),
        (&here, 1, u64::MAX),
        (&here, 0, !(1 << VIRTIO_BLK_F_FLUSH)),
        // tmpfs cannot zero a range.
        (Path::new("/dev/shm"), 0, u64::MAX),
    ] {
        let mut rig = Rig::within(folder, BlockOptions::default(), features);

        for range in [(5, 1, flags), (9, 300, flags)] {
            assert_eq!(rig.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &[range]), OK);
        }

        for sector in 0..SECTORS {
            let zero = sector == 5 || (9..309).contains(&sector);
            let wanted = if zero { 0 } else { sector as u8 };
            assert_eq!(rig.sector(sector), [wanted; 512], "{sector}");
        }
    }
}

#[test]
fn driver_without_flush_writes_through() {
    let mut rig = Rig::with(BlockOptions::default(), !(1 << VIRTIO_BLK_F_FLUSH));

    rig.driver.write(DATA, &[0xbb; 512]);
    assert!(rig.device.durable);
    assert_eq!(rig.write(4, 512), (OK, 1));

    assert_eq!(rig.sector(4), [0xbb; 512]);
}

#[test]
fn queue_goes_on_after_a_stop() {
    let mut rig = Rig::new();
    assert_eq!(rig.read(1, 512), (OK, 513));

    let queue = rig.device.stop_queue(0).unwrap();
    assert!(rig.device.stop_queue(0).is_none());
    // Offered while stopped: it is served when the queue starts, without a kick.
    rig.header(VIRTIO_BLK_T_IN, 9);
    rig.driver.offer(0);
    let (kick, calls) = (rig.driver.kick_event(), rig.driver.calls.clone());
    rig.device
        .start_queue(0, queue, rig.mem.clone(), kick, calls)
        .unwrap();

    assert_eq!(rig.driver.wait_used(), (0, 513));
    assert_eq!(rig.driver.read(DATA, 512), [9; 512]);
    rig.device.stop_queue(0);
    rig.device.reset();
}

#[test]
fn configuration() {
    let options = BlockOptions {
        queues: 3,
        ..BlockOptions::default()
    };
    let mut rig = Rig::with(options, u64::MAX);
    let mut config = [0xff; 64];

    rig.device.read_config(0, &mut config);

    assert_eq!(config[..8], SECTORS.to_le_bytes());
    assert_eq!(config[8..16], [0, 0, 16, 0, 254, 0, 0, 0]);
    assert_eq!(config[20..24], 512u32.to_le_bytes());
    assert_eq!(config[34..36], [3, 0]);
    assert_eq!(config[36..44], [0, 0, 2, 0, 16, 0, 0, 0]);
    assert_eq!(config[56..], [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(rig.device.queue_sizes(), [256; 3]);
    assert_ne!(rig.device.features() & 1 << VIRTIO_BLK_F_MQ, 0);
    rig.device.read_config(usize::MAX, &mut config);
    assert_eq!(config, [0; 64]);

    let other = DriverQueue::new(&rig.mem, 1);
    let mut start = |index| {
        let (kick, calls) = (other.kick_event(), other.calls.clone());
        rig.device
            .start_queue(index, other.queue(), rig.mem.clone(), kick, calls)
    };
    start(2).unwrap();
    assert!(matches!(start(2), Err(DeviceError::Started(2))));
    assert!(matches!(start(3), Err(DeviceError::NoQueue(3))));
}
