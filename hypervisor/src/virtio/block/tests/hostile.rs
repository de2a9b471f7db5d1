//! Forbidden requests, and files that cannot be a disk.

use super::*;

#[test]
fn bad_places_and_lengths() {
    let mut rig = Rig::new();
    for (sector, len) in [
        (SECTORS, 512),
        (SECTORS - 1, 1024),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (0, 511),
        (0, 513),
        (0, 1),
    ] {
        assert_eq!(rig.read(sector, len), (IOERR, 1), "{sector} {len}");
        assert_eq!(rig.write(sector, len), (IOERR, 1), "{sector} {len}");
    }
    assert_eq!(rig.sector(0), [0; 512]);
    assert_eq!(rig.sector(SECTORS - 1), [0xff; 512]);
}

#[test]
fn bad_chains() {
    let mut rig = Rig::new();
    // Data of the wrong direction.
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, 512, 0), (IOERR, 1));
    assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 0, 512, WRITE), (IOERR, 1));
    // Unknown requests.
    for kind in [2, 14, 99, u32::MAX] {
        assert_eq!(rig.request(kind, 0, 512, WRITE), (UNSUPP, 1));
    }
    // Data outside memory, or around its end; a short header; mixed directions.
    type Chain = [(u64, u32, u16, u16); 3];
    let header = (HEADER, 16, NEXT, 1);
    let status = (STATUS, 1, WRITE, 0);
    let bad: [Chain; 5] = [
        [header, (END, 512, NEXT | WRITE, 2), status],
        [header, (END - 256, 512, NEXT | WRITE, 2), status],
        [header, (u64::MAX - 255, 512, NEXT | WRITE, 2), status],
        [(HEADER, 15, NEXT, 1), (DATA, 512, NEXT | WRITE, 2), status],
        [(DATA, 512, NEXT | WRITE, 1), (HEADER, 16, NEXT, 2), status],
    ];
    for chain in bad {
        rig.header(VIRTIO_BLK_T_IN, 0);
        for (index, desc) in (0..).zip(chain) {
            rig.driver.descriptor(index, desc);
        }
        assert_eq!(rig.run(), (IOERR, 1), "{chain:?}");
    }
    // No byte for the status; no end.
    let hopeless: [Chain; 5] = [
        [header, (DATA, 512, NEXT, 2), (STATUS, 1, 0, 0)],
        [header, (DATA, 512, NEXT, 2), (END, 1, WRITE, 0)],
        [header, (DATA, 512, NEXT, 2), (STATUS, 0, WRITE, 0)],
        [header, (DATA, 512, NEXT, 2), (STATUS, 1, WRITE | NEXT, 0)],
        [header, (TABLE, 65, INDIRECT, 0), status],
    ];
    for chain in hopeless {
        rig.header(VIRTIO_BLK_T_OUT, 0);
        for (index, desc) in (0..).zip(chain) {
            rig.driver.descriptor(index, desc);
        }
        assert_eq!(rig.run(), (UNSET, 0), "{chain:?}");
    }
    assert_eq!(rig.sector(0), [0; 512]);
    assert_eq!(rig.read(1, 512), (OK, 513));
}

#[test]
fn huge_requests_are_refused() {
    let mut rig = Rig::new();
    rig.header(VIRTIO_BLK_T_IN, 0);
    rig.driver.descriptor(0, (HEADER, 16, NEXT, 1));
    // The same 8 MiB repeatedly, up to more than a request may have.
    for index in 1..35 {
        rig.driver
            .descriptor(index, (8 << 20, 8 << 20, NEXT | WRITE, index + 1));
    }
    rig.driver.descriptor(35, (STATUS, 1, WRITE, 0));
    assert_eq!(rig.run(), (IOERR, 1));

    // More pieces than a system call allows.
    for index in 0..2000 {
        rig.driver
            .descriptor_at(TABLE, index, (DATA, 1, NEXT | WRITE, index + 1));
    }
    rig.driver.descriptor_at(TABLE, 2000, (STATUS, 1, WRITE, 0));
    rig.driver.descriptor(1, (TABLE, 2001 * 16, INDIRECT, 0));
    assert_eq!(rig.run(), (IOERR, 1));
}

#[test]
fn bad_ranges_change_nothing() {
    let mut rig = Rig::new();
    for (kind, most) in [
        (VIRTIO_BLK_T_DISCARD, DISCARDS),
        (VIRTIO_BLK_T_WRITE_ZEROES, ZEROES),
    ] {
        assert_eq!(rig.ranges(kind, &[(1, 1, 2)]), UNSUPP);
        assert_eq!(rig.ranges(kind, &[(1, 0, 0)]), IOERR);
        assert_eq!(rig.ranges(kind, &[(1, 1, 0), (SECTORS, 1, 0)]), IOERR);
        assert_eq!(rig.ranges(kind, &[(1, SECTORS as u32, 0)]), IOERR);
        assert_eq!(rig.ranges(kind, &[(u64::MAX, 2, 0)]), IOERR);
        assert_eq!(rig.ranges(kind, &[(1, u32::MAX, 0)]), IOERR);
        assert_eq!(rig.ranges(kind, &[]), IOERR);
        assert_eq!(rig.ranges(kind, &vec![(1, 1, 0); most.count + 1]), IOERR);
        assert_eq!(rig.request(kind, 0, 17, 0), (IOERR, 1));
        assert_eq!(rig.request(kind, 0, 16, WRITE), (IOERR, 1));
    }
    assert_eq!(rig.sector(1), [1; 512]);
}

/// A pause waits for requests in flight: zeroes may have to be written.
#[test]
fn zeroes_of_a_request_are_few() {
    const MIB: u64 = 1 << 20;
    // tmpfs cannot zero a range.
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    file.as_file().set_len(1 << 30).unwrap();
    let opened = OpenOptions::new().read(true).write(true).open(file.path());
    let options = BlockOptions::default();
    let mut rig = Rig::on(opened.unwrap(), file.into_file(), options, u64::MAX);
    let sectors = |mib: u64| (mib * MIB / SECTOR) as u32;
    let config = |rig: &Rig, at| {
        let mut bytes = [0; 4];
        rig.device.read_config(at, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    // max_write_zeroes_sectors, max_write_zeroes_seg; before them the limits of discards.
    assert_eq!((config(&rig, 48), config(&rig, 52)), (sectors(4), 1));
    assert_eq!(
        u64::from(config(&rig, 36)) * u64::from(config(&rig, 40)) * SECTOR,
        1 << 30
    );

    let zeroes = VIRTIO_BLK_T_WRITE_ZEROES;
    assert_eq!(rig.ranges(zeroes, &[(0, sectors(1024), 0)]), IOERR);
    assert_eq!(rig.ranges(zeroes, &[(0, sectors(4) + 8, 0)]), IOERR);
    assert_eq!(rig.ranges(zeroes, &[(0, 8, 0), (8, 8, 0)]), IOERR);
    assert_eq!(rig.ranges(zeroes, &[(8, sectors(4), 0)]), OK);
    let written = rig.file.metadata().unwrap().blocks() * 512;
    assert!(written <= 4 * MIB, "{written}");
}

#[test]
fn shrunk_file_is_an_error() {
    let mut rig = Rig::new();
    rig.file.set_len(1024).unwrap();

    assert_eq!(rig.read(1, 1024), (IOERR, 1));
    assert_eq!(rig.read(100, 512), (IOERR, 1));
    assert_eq!(rig.read(1, 512), (OK, 513));
}

#[test]
fn broken_ring_is_reported() {
    let mut rig = Rig::new();
    let queue = rig.device.stop_queue(0).unwrap();
    rig.driver.set_avail_index(SIZE + 1);

    // A thread reads its queue before it checks whether it must stop.
    let (kick, calls) = (rig.driver.kick_event(), rig.driver.calls.clone());
    rig.device
        .start_queue(0, queue, rig.mem.clone(), kick, calls)
        .unwrap();
    assert!(rig.device.stop_queue(0).is_some());

    let failures = &rig.driver.calls.failures;
    assert_eq!(failures.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[test]
fn unfit_files_are_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1000).unwrap();
    let open = |read, write, flags| {
        OpenOptions::new()
            .read(read)
            .write(write)
            .custom_flags(flags)
            .open(file.path())
            .unwrap()
    };
    let new = |file, read_only| {
        let options = BlockOptions {
            read_only,
            ..BlockOptions::default()
        };
        Block::new(file, options).map(drop)
    };

    let result = new(open(true, true, 0), false);
    assert!(
        matches!(
            result,
            Err(BlockError::Size {
                size: 1000,
                logical: 512
            })
        ),
        "{result:?}"
    );
    file.as_file().set_len(1024).unwrap();
    new(open(true, true, 0), false).unwrap();
    new(open(true, false, 0), true).unwrap();
    for (read, write, read_only) in [
        (true, false, false),
        (true, true, true),
        (false, true, false),
    ] {
        let result = new(open(read, write, 0), read_only);
        assert!(matches!(result, Err(BlockError::Access { .. })));
    }
    let result = new(open(true, true, libc::O_APPEND), false);
    assert!(matches!(result, Err(BlockError::Flags(libc::O_APPEND))));
    let result = new(open(true, false, libc::O_PATH), true);
    assert!(matches!(result, Err(BlockError::Flags(libc::O_PATH))));
    let result = new(File::open("/").unwrap(), true);
    assert!(matches!(result, Err(BlockError::Kind)));

    let build = |id: &str, queues| {
        let options = BlockOptions {
            read_only: false,
            id: id.into(),
            queues,
        };
        Block::new(open(true, true, 0), options).map(drop)
    };
    build("exactly 20 bytes: ok", 16).unwrap();
    assert!(matches!(
        build("more than twenty bytes", 1),
        Err(BlockError::Id(_))
    ));
    assert!(matches!(build("", 0), Err(BlockError::Queues(0))));
    assert!(matches!(build("", 17), Err(BlockError::Queues(17))));
}
