//! Nodes and handles that are stale, forged or of another kind.

use std::fs;

use super::super::client::{REQUEST, ROOT, longs, opcode, u64_at, words};
use super::{FLAGS, Prison, halves};
use crate::virtio::Device;

#[test]
fn of_an_unlinked_file_stay_with_it() {
    let mut prison = Prison::new();
    let path = prison.share().join("file");
    fs::write(&path, "old").unwrap();
    let guest = &mut prison.guest;
    let old = guest.node(&["file"]);
    let handle = guest.open(old, libc::O_RDWR).unwrap();

    guest.named(opcode::UNLINK, ROOT, &[], &["file"]).unwrap();
    fs::write(&path, "new").unwrap();
    let new = guest.node(&["file"]);

    assert_ne!(old, new);
    guest.write(old, handle, b"changed").unwrap();
    assert_eq!(guest.read(old, handle, 100).unwrap(), b"changed");
    assert_eq!(guest.read(new, handle, 100), Err(libc::EBADF));
    assert_eq!(fs::read(&path).unwrap(), b"new");
    let again = guest.open(old, libc::O_RDONLY).unwrap();
    assert_eq!(guest.read(old, again, 100).unwrap(), b"changed");
    // A link to a removed file would restore it.
    let linked = guest.named(opcode::LINK, ROOT, &halves(old), &["back"]);
    assert_eq!(linked, Err(libc::ENOENT));
}

#[test]
fn of_a_removed_directory_stay_with_it() {
    let mut prison = Prison::new();
    let path = prison.share().join("dir");
    fs::create_dir(&path).unwrap();
    let guest = &mut prison.guest;
    let old = guest.node(&["dir"]);
    let handle = guest.opendir(old).unwrap();

    guest.named(opcode::RMDIR, ROOT, &[], &["dir"]).unwrap();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("file"), "new").unwrap();

    assert_ne!(guest.node(&["dir"]), old);
    assert_eq!(guest.lookup(old, "file"), Err(libc::ENOENT));
    assert_eq!(guest.lookup(old, ".."), Err(libc::EINVAL));
    let made = guest.create(old, "made", libc::O_RDWR);
    assert_eq!(made, Err(libc::ENOENT));
    let list = longs(&[handle, 0, 4096, 0, 0]);
    let names = guest.call(opcode::READDIRPLUS, old, &list);
    assert!(matches!(names, Err(libc::ENOENT) | Ok(_)));
    assert!(!names.unwrap_or_default().windows(4).any(|w| w == b"file"));
}

#[test]
fn that_were_never_given_are_refused() {
    let mut prison = Prison::new();
    fs::write(prison.share().join("file"), "content").unwrap();
    fs::create_dir(prison.share().join("dir")).unwrap();
    let guest = &mut prison.guest;
    let (file, dir) = (guest.node(&["file"]), guest.node(&["dir"]));
    let handle = guest.open(file, libc::O_RDONLY).unwrap();
    let list = guest.opendir(dir).unwrap();

    for node in [0, 999, u64::MAX, 1 << 56, 1 << 60, 1 << 61, 1 << 62 | 1] {
        for flags in FLAGS {
            assert_eq!(guest.open(node, *flags), Err(libc::EBADF), "{node:#x}");
        }
        assert_eq!(guest.lookup(node, "file"), Err(libc::EBADF), "{node:#x}");
        assert_eq!(guest.read(node, handle, 10), Err(libc::EBADF), "{node:#x}");
        let value = guest.getxattr(node, "user.x");
        assert_eq!(value, Err(libc::EBADF), "{node:#x}");
        let linked = guest.named(opcode::LINK, ROOT, &halves(node), &["x"]);
        assert_eq!(linked, Err(libc::EBADF), "{node:#x}");
        let moved = guest.named(opcode::RENAME, ROOT, &halves(node), &["file", "x"]);
        assert_eq!(moved, Err(libc::EBADF), "{node:#x}");
    }
    for other in [0, handle + 1000, list, u64::MAX, u64::from(u32::MAX)] {
        assert_eq!(guest.read(file, other, 10), Err(libc::EBADF));
        assert_eq!(guest.write(file, other, b"x"), Err(libc::EBADF));
        for opcode in [opcode::RELEASE, opcode::FSYNC, opcode::LSEEK] {
            let body = longs(&[other, 0, 0]);
            assert_eq!(guest.call(opcode, file, &body), Err(libc::EBADF));
        }
    }
    assert_eq!(guest.write(file, handle, b"x"), Err(libc::EBADF));
    // Marks in a node only change the guest's caching.
    assert!(guest.open(file | 1 << 60, libc::O_RDONLY).is_ok());

    guest
        .call(opcode::RELEASE, file, &longs(&[handle, 0, 0]))
        .unwrap();
    assert_eq!(guest.read(file, handle, 10), Err(libc::EBADF));
    guest.send_only(opcode::FORGET, file, &longs(&[u64::MAX]));
    assert_eq!(guest.open(file, libc::O_RDONLY), Err(libc::EBADF));
}

#[test]
fn are_forgotten_by_lies_without_harm() {
    let mut prison = Prison::new();
    fs::write(prison.share().join("file"), "content").unwrap();
    let guest = &mut prison.guest;
    let file = guest.node(&["file"]);

    guest.send_only(opcode::FORGET, ROOT, &longs(&[u64::MAX]));
    for count in [2u32, 1000, 65_000, 1 << 20, u32::MAX] {
        let mut body = words(&[count, 0]);
        body.extend(longs(&[file, 0]));
        guest.send_only(opcode::BATCH_FORGET, 0, &body);
    }
    guest.send_only(opcode::BATCH_FORGET, 0, &words(&[u32::MAX, 0]));
    guest.send_only(opcode::BATCH_FORGET, 0, &[]);
    assert!(guest.open(file, libc::O_RDONLY).is_ok());
    let mut body = words(&[3, 0]);
    body.extend(longs(&[file, u64::MAX, file, 1, 12345, 7]));
    guest.send_only(opcode::BATCH_FORGET, 0, &body);

    assert_eq!(guest.open(file, libc::O_RDONLY), Err(libc::EBADF));
    let file = guest.node(&["file"]);
    assert!(guest.open(file, libc::O_RDONLY).is_ok());
}

#[test]
fn survive_neither_reset_nor_unmount() {
    let mut prison = Prison::new();
    fs::write(prison.share().join("file"), "content").unwrap();

    let share = prison.share();
    for reset in [false, true] {
        let guest = &mut prison.guest;
        let file = guest.node(&["file"]);
        let handle = guest.open(file, libc::O_RDONLY).unwrap();
        let before = open_files(&share);
        if reset {
            let queue = guest.device.stop_queue(REQUEST).unwrap();
            guest.device.reset();
            guest.start(queue);
        } else {
            guest.send_only(opcode::DESTROY, ROOT, &[]);
        }

        assert_eq!(guest.read(file, handle, 10), Err(libc::EBADF));
        assert_eq!(guest.open(file, libc::O_RDONLY), Err(libc::EBADF));
        // The inode and the handle.
        assert_eq!(open_files(&share), before - 2);
        let answer = guest.lookup(ROOT, "file").unwrap();
        assert_ne!(u64_at(&answer, 0), 0);
    }
}

/// The number of this process's descriptors that lead into `dir`.
fn open_files(dir: &std::path::Path) -> usize {
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
        .filter(|target| target.starts_with(dir))
        .count()
}
