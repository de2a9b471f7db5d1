//! Requests in a wrong order, or with flags and numbers that no kernel sends.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::super::client::{Client, ROOT, longs, opcode, u64_at, words};
use super::{FLAGS, Prison, halves};

#[test]
fn flags_of_open_and_create_are_reduced() {
    let mut prison = Prison::new();
    fs::write(prison.share().join("file"), "content").unwrap();
    fs::create_dir(prison.share().join("dir")).unwrap();
    let (file, dir) = {
        let guest = &mut prison.guest;
        (guest.node(&["file"]), guest.node(&["dir"]))
    };

    for (number, flags) in FLAGS.iter().enumerate() {
        let guest = &mut prison.guest;
        let _ = guest.create(ROOT, "file", *flags);
        let _ = guest.create(ROOT, &format!("new{number}"), *flags);
        if let Ok(handle) = guest.open(file, *flags) {
            let _ = guest.read(file, handle, 100);
            let _ = guest.write(file, handle, b"content");
        }
        // A directory cannot be used for making a file without a name (O_TMPFILE).
        if let Ok(handle) = guest.open(dir, *flags) {
            let written = guest.write(dir, handle, b"x");
            assert_eq!(written, Err(libc::EBADF), "{flags:#o}");
        }
    }

    assert!(fs::metadata(prison.share().join("file")).unwrap().is_file());
    assert_eq!(fs::read_dir(prison.share().join("dir")).unwrap().count(), 0);
}

#[test]
fn attributes_of_the_host_are_hidden() {
    let mut prison = Prison::new();
    let path = prison.share().join("file");
    fs::write(&path, "").unwrap();
    let none = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&path, "trusted.overlay.opaque", b"y", none).unwrap();
    let guest = &mut prison.guest;
    let file = guest.node(&["file"]);
    guest.setxattr(file, "user.mine", "x").unwrap();

    for name in ["trusted.overlay.opaque", "trusted.new", "trusted."] {
        assert_eq!(guest.setxattr(file, name, "n"), Err(libc::EOPNOTSUPP));
        assert_eq!(guest.getxattr(file, name), Err(libc::EOPNOTSUPP));
        let removed = guest.named(opcode::REMOVEXATTR, file, &[], &[name]);
        assert_eq!(removed, Err(libc::EOPNOTSUPP));
    }
    let list = |guest: &mut Client, size| guest.call(opcode::LISTXATTR, file, &words(&[size, 0]));
    assert_eq!(list(guest, 4096).unwrap(), b"user.mine\0");
    assert_eq!(list(guest, 0).unwrap()[..4], 10u32.to_le_bytes());
    assert_eq!(list(guest, 9), Err(libc::ERANGE));

    let mut value = [0; 1];
    rustix::fs::getxattr(&path, "trusted.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value, b"y");
}

#[test]
fn huge_numbers_are_errors() {
    let mut prison = Prison::new();
    let path = prison.share().join("file");
    fs::write(&path, "content").unwrap();
    let guest = &mut prison.guest;
    let file = guest.node(&["file"]);
    let handle = guest.open(file, libc::O_RDWR).unwrap();
    let huge = [i64::MAX as u64, 1 << 63, u64::MAX, u64::MAX - 4095];

    for number in huge {
        for (offset, length) in [(number, 1), (0, number), (number, number)] {
            let body = longs(&[handle, offset, length, 0]);
            let made = guest.call(opcode::FALLOCATE, file, &body).unwrap_err();
            assert!([libc::EINVAL, libc::EFBIG].contains(&made), "{made}");
            for whence in [0, 1, 2, 3, 4, u32::MAX] {
                let body = longs(&[handle, number, u64::from(whence)]);
                let _ = guest.call(opcode::LSEEK, file, &body);
            }
            let body = longs(&[handle, offset, file, handle, offset, length, 0]);
            let copied = guest.call(opcode::COPY_FILE_RANGE, file, &body);
            assert_eq!(copied, Err(libc::ENOSYS));
        }
        let body = longs(&[handle, number, u64::from(u32::MAX), 0, 0]);
        let _ = guest.call(opcode::READ, file, &body);
        let mut body = longs(&[handle, number, 1, 0, 0]);
        body.push(0);
        let written = guest.call(opcode::WRITE, file, &body).unwrap_err();
        assert!([libc::EINVAL, libc::EFBIG].contains(&written), "{written}");
    }

    // FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FICLONE, FIONREAD, TIOCSTI
    for command in [0x8008_6601u32, 0x4008_6602, 0x4004_9409, 0x541b, 0x5412] {
        let mut body = longs(&[handle]);
        body.extend(words(&[0, command, 0, 0, 8, 8]));
        body.extend([0; 8]);
        let answer = guest.call(opcode::IOCTL, file, &body);
        assert_eq!(answer, Err(libc::ENOTTY));
    }
    // Mapping files into the guest is not offered.
    let body = longs(&[handle, 0, 4096, 1, 0]);
    let mapped = guest.call(opcode::SETUPMAPPING, file, &body);
    assert_eq!(mapped, Err(libc::EINVAL));
    assert_eq!(guest.read(file, handle, 100).unwrap(), b"content");
    assert_eq!(fs::metadata(&path).unwrap().len(), 7);
}

#[test]
fn directories_are_not_linked() {
    let mut prison = Prison::new();
    fs::create_dir_all(prison.share().join("dir/deep")).unwrap();
    let dir = prison.guest.node(&["dir"]);
    let deep = prison.guest.node(&["dir", "deep"]);

    for (node, parent) in [(dir, deep), (ROOT, deep), (deep, ROOT)] {
        let linked = prison
            .guest
            .named(opcode::LINK, parent, &halves(node), &["loop"]);
        assert_eq!(linked, Err(libc::EPERM));
        let names = ["dir", "below"];
        let moved = prison
            .guest
            .named(opcode::RENAME, ROOT, &halves(deep), &names);
        assert_eq!(moved, Err(libc::EINVAL));
    }
}

/// struct fuse_init_out.
fn init_flags(answer: &[u8]) -> u32 {
    u32::from_le_bytes(answer[12..16].try_into().unwrap())
}

#[test]
fn init_may_come_again_or_never() {
    let mut prison = Prison::new();
    fs::write(prison.share().join("file"), "content").unwrap();
    let mut silent = Client::silent(&prison.share());
    let file = silent.node(&["file"]);
    let handle = silent.open(file, libc::O_RDONLY).unwrap();
    assert_eq!(silent.read(file, handle, 100).unwrap(), b"content");

    let guest = &mut prison.guest;
    let file = guest.node(&["file"]);
    let handle = guest.open(file, libc::O_RDONLY).unwrap();
    for minor in [0, 1, 4, 5, 22, 23, 31, 38, 45, u32::MAX] {
        for flags in [0, u32::MAX, 1 << 30, 1 << 16] {
            let answer = guest.init(minor, flags).unwrap();
            if minor > 22 {
                // WRITEBACK_CACHE, NO_OPEN_SUPPORT, NO_OPENDIR_SUPPORT
                let unwanted = 1 << 16 | 1 << 17 | 1 << 24;
                assert_eq!(init_flags(&answer) & unwanted, 0);
            }
            assert_eq!(guest.read(file, handle, 100).unwrap(), b"content");
            assert_eq!(guest.read(file, 0, 100), Err(libc::EBADF));
        }
    }
    for (major, expected) in [(0, Err(libc::EPROTO)), (6, Err(libc::EPROTO))] {
        let body = words(&[major, 38, 65536, 0]);
        assert_eq!(guest.call(opcode::INIT, ROOT, &body), expected);
    }
    let newer = guest.call(opcode::INIT, ROOT, &words(&[8, 0, 65536, 0]));
    assert_eq!(newer.unwrap()[..4], 7u32.to_le_bytes());
    for len in [0, 4, 15] {
        let short = super::super::client::request(opcode::INIT, ROOT, &vec![7; len]);
        guest.exchange(&short);
    }
    assert_eq!(guest.read(file, handle, 100).unwrap(), b"content");
}

#[test]
fn guest_is_the_user_that_it_says_and_root_again_after() {
    let mut prison = Prison::new();
    let share = prison.share();
    let guest = &mut prison.guest;
    let mut create = words(&[libc::O_RDWR as u32, 0o644, 0, 0]);
    create.extend(b"theirs\0");
    let mut request = super::super::client::request(opcode::CREATE, ROOT, &create);
    // fuse_in_header: uid, gid
    request[24..32].copy_from_slice(&words(&[1234, 2345]));

    assert_eq!(guest.exchange(&request)[4..8], [0; 4]);
    let answer = guest.create(ROOT, "ours", libc::O_RDWR).unwrap();

    assert_ne!(u64_at(&answer, 0), 0);
    let owner = |name| {
        let it = fs::metadata(share.join(name)).unwrap();
        (it.uid(), it.gid())
    };
    assert_eq!(owner("theirs"), (1234, 2345));
    assert_eq!(owner("ours"), (0, 0));
}
