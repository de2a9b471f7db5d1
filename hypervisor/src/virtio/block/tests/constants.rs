//! What the driver reads of the device, number by number (virtio 1.2 §5.2.3, §5.2.4), and the
//! bounds that it is told.

use super::*;
use std::os::fd::AsRawFd;

/// An empty disk of this size.
fn sparse(folder: &Path, size: u64) -> Rig {
    let file = tempfile::NamedTempFile::new_in(folder).unwrap();
    file.as_file().set_len(size).unwrap();
    let opened = OpenOptions::new().read(true).write(true).open(file.path());
    let options = BlockOptions::default();
    Rig::on(opened.unwrap(), file.into_file(), options, u64::MAX)
}

#[test]
fn feature_bits() {
    let features = |read_only, queues| {
        let options = BlockOptions {
            read_only,
            queues,
            ..BlockOptions::default()
        };
        Rig::with(options, u64::MAX).device.features()
    };
    // INDIRECT_DESC, EVENT_IDX, VERSION_1; SIZE_MAX, SEG_MAX, BLK_SIZE, FLUSH, TOPOLOGY.
    let common = 1 << 28 | 1 << 29 | 1 << 32 | 1 << 1 | 1 << 2 | 1 << 6 | 1 << 9 | 1 << 10;
    // DISCARD, WRITE_ZEROES; MQ; RO.
    assert_eq!(features(false, 1), common | 1 << 13 | 1 << 14);
    assert_eq!(features(false, 2), common | 1 << 13 | 1 << 14 | 1 << 12);
    assert_eq!(features(true, 1), common | 1 << 5);
}

#[test]
fn configuration_field_by_field() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(0x1234 * 512).unwrap();
    let mut disk = Disk::new(file, false).unwrap();
    assert_eq!((disk.sectors, disk.logical), (0x1234, 512));
    (disk.logical, disk.physical) = (1024, 16384);

    let mut expected = [
        &[0x34, 0x12, 0, 0, 0, 0, 0, 0][..],     // capacity
        &[0, 0, 0x10, 0],                        // size_max: 1 MiB
        &[254, 0, 0, 0],                         // seg_max
        &[0; 4],                                 // geometry: not offered
        &[0, 4, 0, 0],                           // blk_size
        &[4, 0, 16, 0], // 2^4 logical blocks; no offset; 16 of them at least
        &[0; 4],        // opt_io_size: none
        &[0, 0, 7, 0],  // writeback: not offered; num_queues
        &[0, 0, 2, 0, 16, 0, 0, 0, 32, 0, 0, 0], // discards: sectors, segments, alignment
        &[0, 0x20, 0, 0, 1, 0, 0, 0, 1], // zeroes: sectors, segments, they may unmap
    ]
    .concat();
    assert_eq!(config(&disk, 7, false)[..], expected);
    expected[36..].fill(0);
    assert_eq!(config(&disk, 7, true)[..], expected);
}

#[test]
fn a_request_has_as_much_data_as_size_max_and_seg_max_allow() {
    const MIB: u32 = 1 << 20;
    const PIECE: u32 = 8 * MIB;
    let mut rig = sparse(Path::new("/dev/shm"), 256 << 20);
    // 254 pieces of 1 MiB, as the driver was told; the same guest memory again and again.
    let mut request = |kind, write, rest: u32| {
        rig.header(kind, 0);
        rig.driver.descriptor(0, (HEADER, 16, NEXT, 1));
        for index in 1..32 {
            let piece = (8 << 20, PIECE, NEXT | write, index + 1);
            rig.driver.descriptor(index, piece);
        }
        rig.driver.descriptor(32, (8 << 20, rest, NEXT | write, 33));
        rig.driver.descriptor(33, (STATUS, 1, WRITE, 0));
        rig.run()
    };
    assert_eq!(
        request(VIRTIO_BLK_T_IN, WRITE, 6 * MIB),
        (OK, 254 * MIB + 1)
    );
    assert_eq!(request(VIRTIO_BLK_T_IN, WRITE, 6 * MIB + 512), (IOERR, 1));
    assert_eq!(request(VIRTIO_BLK_T_OUT, 0, 6 * MIB + 512), (IOERR, 1));
}

#[test]
fn only_zeroes_that_may_unmap_free_space() {
    for folder in [std::env::temp_dir().as_path(), Path::new("/dev/shm")] {
        let mut rig = Rig::within(folder, BlockOptions::default(), u64::MAX);
        rig.file.sync_all().unwrap();
        let blocks = |rig: &Rig| rig.file.metadata().unwrap().blocks();
        let before = blocks(&rig);

        let zeroes = VIRTIO_BLK_T_WRITE_ZEROES;
        assert_eq!(rig.ranges(zeroes, &[(0, 1024, 0)]), OK);
        assert!(blocks(&rig) >= before, "{folder:?}");
        let unmap = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
        assert_eq!(rig.ranges(zeroes, &[(0, 1024, unmap)]), OK);
        assert!(blocks(&rig) <= before - 1024, "{folder:?}");
        assert_eq!(rig.sector(1024 + 7), [7; 512]);
    }
}

#[test]
fn only_a_storage_that_cannot_do_it_is_taken_for_one() {
    let unsupported = (0..=133)
        .filter(|errno| disk::is_unsupported(&io::Error::from_raw_os_error(*errno)))
        .collect::<Vec<_>>();
    // fallocate(2) and preadv2(2): ENOSYS, EOPNOTSUPP; ioctl(2): ENOTTY. The numbers of x86-64.
    assert_eq!(unsupported, [25, 38, 95]);
    assert!(!disk::is_unsupported(&io::ErrorKind::Unsupported.into()));
}

/// A storage that refuses changes is no storage that knows no discards.
#[test]
fn refused_changes_are_errors() {
    let file = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    let file = File::from(file);
    file.write_all_at(&[7; 8192], 0).unwrap();
    // SAFETY: no pointer is involved.
    let sealed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) };
    assert_eq!(sealed, 0);
    let disk = file.try_clone().unwrap();
    let mut rig = Rig::on(disk, file, BlockOptions::default(), u64::MAX);

    assert_eq!(rig.ranges(VIRTIO_BLK_T_DISCARD, &[(0, 8, 0)]), IOERR);
    for flags in [0, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP] {
        let zeroes = rig.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, flags)]);
        assert_eq!(zeroes, IOERR);
    }
    assert_eq!(rig.write(0, 512), (IOERR, 1));
    assert_eq!(rig.sector(0), [7; 512]);
    assert_eq!(rig.read(0, 512), (OK, 513));
}

/// A mount for as long as the value lives.
struct Small(tempfile::TempDir);

impl Small {
    fn new(size: &str) -> Small {
        let folder = tempfile::tempdir().unwrap();
        let none = nix::mount::MsFlags::empty();
        let options = format!("size={size}");
        nix::mount::mount(
            Some("none"),
            folder.path(),
            Some("tmpfs"),
            none,
            Some(options.as_str()),
        )
        .unwrap();
        Small(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_storage_is_an_error_until_there_is_room() {
    test_support::require!(test_support::root());
    let small = Small::new("64k");
    let mut rig = sparse(small.0.path(), 1 << 20);

    assert_eq!(rig.write(0, 32 << 10), (OK, 1));
    assert_eq!(rig.write(1024, 64 << 10), (IOERR, 1));
    // tmpfs has no way to zero a range: they are written.
    let zeroes = VIRTIO_BLK_T_WRITE_ZEROES;
    assert_eq!(rig.ranges(zeroes, &[(1024, 1024, 0)]), IOERR);
    assert_eq!(rig.read(0, 512), (OK, 513));
    assert_eq!(rig.ranges(VIRTIO_BLK_T_DISCARD, &[(0, 2048, 0)]), OK);
    assert_eq!(rig.write(1024, 32 << 10), (OK, 1));
}
