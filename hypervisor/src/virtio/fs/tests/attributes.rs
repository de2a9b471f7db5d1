//! Attributes of files: what the guest reads of them, and each change by itself.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::client::{Client, ROOT, longs, opcode, u64_at, words};
use test_support::{require, root};

/// fuse.h, FATTR_*.
const MODE: u32 = 1;
const UID: u32 = 1 << 1;
const GID: u32 = 1 << 2;
const SIZE: u32 = 1 << 3;
const ATIME: u32 = 1 << 4;
const MTIME: u32 = 1 << 5;
const HANDLE: u32 = 1 << 6;
const ATIME_NOW: u32 = 1 << 7;
const MTIME_NOW: u32 = 1 << 8;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// struct fuse_attr: eight-byte fields, then four-byte ones.
fn attributes(attr: &[u8]) -> ([u64; 6], [u32; 9]) {
    let long = [0, 1, 2, 3, 4, 5].map(|index| u64_at(attr, index * 8));
    let word = [0, 1, 2, 3, 4, 5, 6, 7, 8].map(|index| u32_at(attr, 48 + index * 4));
    (long, word)
}

/// The same of a file of the host.
fn expected(path: &Path) -> ([u64; 6], [u32; 9]) {
    let it = fs::symlink_metadata(path).unwrap();
    let long = [
        it.ino(),
        it.size(),
        it.blocks(),
        it.atime() as u64,
        it.mtime() as u64,
        it.ctime() as u64,
    ];
    let word = [
        it.atime_nsec() as u32,
        it.mtime_nsec() as u32,
        it.ctime_nsec() as u32,
        it.mode(),
        it.nlink() as u32,
        it.uid(),
        it.gid(),
        it.rdev() as u32,
        it.blksize() as u32,
    ];
    (long, word)
}

fn getattr(client: &mut Client, node: u64) -> ([u64; 6], [u32; 9]) {
    let answer = client.call(opcode::GETATTR, node, &[0; 16]).unwrap();
    attributes(&answer[16..])
}

/// SETATTR with all fields set; those that `valid` names are taken.
fn setattr(client: &mut Client, node: u64, valid: u32, handle: u64) -> Result<(), i32> {
    let mut body = words(&[valid, 0]);
    // Handle, size, lock owner; access, modification, change.
    body.extend(longs(&[handle, 5, 0, 1000, 2000, 3000]));
    body.extend(words(&[111, 222, 333, 0o10_4751, 0, 1234, 5678, 0]));
    client.call(opcode::SETATTR, node, &body).map(drop)
}

#[test]
fn are_those_of_the_host() {
    let mut client = Client::new();
    let path = |name: &str| client.dir.join(name);
    fs::write(path("file"), [1; 5000]).unwrap();
    fs::create_dir(path("dir")).unwrap();
    symlink("somewhere", path("link")).unwrap();
    for name in ["file", "dir", "link"] {
        let entry = client.lookup(ROOT, name).unwrap();
        let node = u64_at(&entry, 0);
        let wanted = expected(&client.path().join(name));
        assert_eq!(attributes(&entry[40..]), wanted, "{name}");
        assert_eq!(getattr(&mut client, node), wanted, "{name}");
    }
    let link = client.node(&["link"]);
    let target = client.call(opcode::READLINK, link, &[]).unwrap();
    assert_eq!(target, b"somewhere");
    // By an open file, which may be gone from its directory: FUSE_GETATTR_FH is 1.
    let file = client.node(&["file"]);
    let handle = client.open(file, libc::O_RDWR).unwrap();
    let other = client.node(&["dir"]);
    let by_handle = [words(&[1, 0]), longs(&[handle])].concat();
    let answer = client.call(opcode::GETATTR, file, &by_handle).unwrap();
    assert_eq!(attributes(&answer[16..]), getattr(&mut client, file));
    let wrong = client.call(opcode::GETATTR, other, &by_handle);
    assert_eq!(wrong, Err(libc::EBADF));
}

#[test]
fn change_one_by_one_by_name_and_by_handle() {
    require!(root());
    for by_handle in [false, true] {
        let mut client = Client::new();
        let path = client.path().join("file");
        fs::write(&path, "0123456789").unwrap();
        let node = client.node(&["file"]);
        let handle = match by_handle {
            true => client.open(node, libc::O_RDWR).unwrap(),
            false => 0,
        };
        let with = if by_handle { HANDLE } else { 0 };
        let look = |path: &Path| {
            let it = fs::metadata(path).unwrap();
            let times = [(it.atime(), it.atime_nsec()), (it.mtime(), it.mtime_nsec())];
            (it.mode() & 0o7777, it.uid(), it.gid(), it.size(), times)
        };
        let reset = |path: &Path| {
            fs::write(path, "0123456789").unwrap();
            std::os::unix::fs::chown(path, Some(7), Some(8)).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
            let file = fs::File::options().write(true).open(path).unwrap();
            let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(99);
            let times = fs::FileTimes::new().set_accessed(old).set_modified(old);
            file.set_times(times).unwrap();
        };
        reset(&path);
        let before = look(&path);
        assert_eq!(before, (0o640, 7, 8, 10, [(99, 0); 2]));
        for (valid, change) in [
            (0, before),
            (MODE, (0o4751, 7, 8, 10, before.4)),
            (UID, (0o640, 1234, 8, 10, before.4)),
            (GID, (0o640, 7, 5678, 10, before.4)),
            (UID | GID, (0o640, 1234, 5678, 10, before.4)),
            (ATIME, (0o640, 7, 8, 10, [(1000, 111), (99, 0)])),
            (MTIME, (0o640, 7, 8, 10, [(99, 0), (2000, 222)])),
            (ATIME | MTIME, (0o640, 7, 8, 10, [(1000, 111), (2000, 222)])),
        ] {
            setattr(&mut client, node, valid | with, handle).unwrap();
            assert_eq!(look(&path), change, "{valid:#x}");
            reset(&path);
        }
        setattr(&mut client, node, SIZE | with, handle).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"01234");
        reset(&path);
        for (valid, changed) in [(ATIME | ATIME_NOW, 0), (MTIME | MTIME_NOW, 1)] {
            setattr(&mut client, node, valid | with, handle).unwrap();
            let times = look(&path).4;
            assert!(times[changed].0 > 1_600_000_000, "{times:?}");
            assert_eq!(times[1 - changed], (99, 0));
            reset(&path);
        }
    }
}

#[test]
fn an_id_that_means_none_is_left_as_it_is() {
    require!(root());
    let mut client = Client::new();
    let path = client.path().join("file");
    fs::write(&path, "").unwrap();
    std::os::unix::fs::chown(&path, Some(7), Some(8)).unwrap();
    let node = client.node(&["file"]);
    for (uid, gid, then) in [(u32::MAX, 3, (7, 3)), (4, u32::MAX, (4, 3))] {
        let mut body = words(&[UID | GID, 0]);
        body.extend(longs(&[0; 6]));
        body.extend(words(&[0, 0, 0, 0, 0, uid, gid, 0]));
        client.call(opcode::SETATTR, node, &body).unwrap();
        let it = fs::metadata(&path).unwrap();
        assert_eq!((it.uid(), it.gid()), then);
    }
}

/// The owner of a link is changed, not that of its target.
#[test]
fn of_a_link_are_its_own() {
    require!(root());
    let mut client = Client::new();
    fs::write(client.path().join("file"), "").unwrap();
    symlink("file", client.path().join("link")).unwrap();
    let link = client.node(&["link"]);
    setattr(&mut client, link, UID, 0).unwrap();
    let owner = |name: &str| {
        fs::symlink_metadata(client.path().join(name))
            .unwrap()
            .uid()
    };
    assert_eq!((owner("link"), owner("file")), (1234, 0));
}

#[test]
fn of_the_file_system_are_the_hosts() {
    let mut client = Client::new();
    let answer = client.call(opcode::STATFS, ROOT, &[]).unwrap();
    let host = nix::sys::statvfs::statvfs(client.path()).unwrap();
    // struct fuse_kstatfs: blocks at 0, files at 24, block size, length of names, fragment.
    assert_eq!(u64_at(&answer, 0), host.blocks());
    assert_eq!(u64_at(&answer, 24), host.files());
    let words = [40, 44, 48].map(|at| u64::from(u32_at(&answer, at)));
    assert_eq!(
        words,
        [host.block_size(), host.name_max(), host.fragment_size()]
    );
}

#[test]
fn with_names_are_set_listed_and_removed() {
    const GETXATTR: u32 = opcode::GETXATTR;
    let mut client = Client::new();
    let path = client.path().join("file");
    fs::write(&path, "").unwrap();
    fs::create_dir(client.path().join("dir")).unwrap();
    symlink("file", client.path().join("link")).unwrap();
    for name in ["file", "dir"] {
        let node = client.node(&[name]);
        client.setxattr(node, "user.one", "12345").unwrap();
        client.setxattr(node, "user.two", "").unwrap();
        let mut get = |size, name| client.named(GETXATTR, node, &[size, 0], &[name]);
        assert_eq!(get(4096, "user.one").unwrap(), b"12345");
        assert_eq!(get(5, "user.one").unwrap(), b"12345");
        assert_eq!(get(4, "user.one"), Err(libc::ERANGE));
        // A size of zero asks for the length.
        assert_eq!(get(0, "user.one").unwrap(), words(&[5, 0]));
        assert_eq!(get(4096, "user.none"), Err(libc::ENODATA));
        assert_eq!(get(0, "trusted.one"), Err(libc::EOPNOTSUPP));
        let mut list = |size| client.call(opcode::LISTXATTR, node, &words(&[size, 0]));
        let names = list(4096).unwrap();
        let mut sorted: Vec<_> = names.split_inclusive(|byte| *byte == 0).collect();
        sorted.sort();
        assert_eq!(sorted, [b"user.one\0", b"user.two\0"]);
        assert_eq!(list(18).unwrap().len(), 18);
        assert_eq!(list(17), Err(libc::ERANGE));
        assert_eq!(list(0).unwrap(), words(&[18, 0]));

        let mut remove = |name| client.named(opcode::REMOVEXATTR, node, &[], &[name]);
        remove("user.one").unwrap();
        assert_eq!(remove("user.one"), Err(libc::ENODATA));
        assert_eq!(remove("trusted.one"), Err(libc::EOPNOTSUPP));
        let left = client.call(opcode::LISTXATTR, node, &words(&[99, 0]));
        assert_eq!(left.unwrap(), b"user.two\0");
    }
    // A link has none.
    let link = client.node(&["link"]);
    assert_eq!(client.getxattr(link, "user.two"), Err(libc::ENODATA));
    assert_eq!(client.setxattr(link, "user.x", "y"), Err(libc::EOPNOTSUPP));
    let listed = client.call(opcode::LISTXATTR, link, &words(&[0, 0]));
    assert_eq!(listed.unwrap(), words(&[0, 0]));
}
