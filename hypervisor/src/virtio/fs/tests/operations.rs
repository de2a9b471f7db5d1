//! What the guest does with files and directories, and what the host then has.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use super::client::{Client, OUT_LEN, ROOT, longs, opcode, request, u64_at, words};
use test_support::{require, root};

/// fuse.h, FOPEN_*.
const KEEP_CACHE: u32 = 1 << 1;
const CACHE_DIR: u32 = 1 << 3;
const NO_FLUSH: u32 = 1 << 5;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// A request of this user and group; the error number, if any.
fn as_user(client: &mut Client, ids: [u32; 2], opcode: u32, head: &[u32], names: &[&str]) -> i32 {
    let mut body = words(head);
    for name in names {
        body.extend(name.as_bytes());
        body.push(0);
    }
    let mut request = request(opcode, ROOT, &body);
    request[24..32].copy_from_slice(&words(&ids));
    let answer = client.exchange(&request);
    -(u32_at(&answer, 4) as i32)
}

#[test]
fn new_files_have_the_kind_mode_and_owner_that_the_guest_says() {
    require!(root());
    let mut client = Client::new();
    let ids = [1234, 5678];
    let fifo = libc::S_IFIFO | 0o666;
    let socket = libc::S_IFSOCK | 0o604;
    let make = [
        // Flags, mode, umask; mode and umask; mode, device, umask.
        (
            opcode::CREATE,
            &[2, 0o100_777, 0o022, 0][..],
            &["create"][..],
        ),
        (opcode::MKDIR, &[0o1777, 0o027], &["mkdir"]),
        (opcode::MKNOD, &[0o100_640, 0, 0, 0], &["mknod"]),
        (opcode::MKNOD, &[0o604, 0, 0o004, 0], &["plain"]),
        (opcode::MKNOD, &[fifo, 0, 0o022, 0], &["fifo"]),
        (opcode::MKNOD, &[socket, 0, 0, 0], &["socket"]),
        (opcode::SYMLINK, &[], &["link", "to/where"]),
    ];
    // A directory that anyone may write to: the request is made as the guest's user.
    let anyone = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(client.path(), anyone).unwrap();
    for (opcode, head, names) in make {
        assert_eq!(
            as_user(&mut client, ids, opcode, head, names),
            0,
            "{names:?}"
        );
    }
    let look = |name: &str| {
        let it = fs::symlink_metadata(client.path().join(name)).unwrap();
        assert_eq!([it.uid(), it.gid()], ids, "{name}");
        (it.file_type(), it.mode() & 0o7777)
    };
    let (kind, mode) = look("create");
    assert!(kind.is_file() && mode == 0o755, "{mode:#o}");
    let (kind, mode) = look("mkdir");
    assert!(kind.is_dir() && mode == 0o1750, "{mode:#o}");
    for (name, wanted) in [("mknod", 0o640), ("plain", 0o600)] {
        let (kind, mode) = look(name);
        assert!(kind.is_file() && mode == wanted, "{mode:#o}");
    }
    let (kind, mode) = look("fifo");
    assert!(kind.is_fifo() && mode == 0o644, "{mode:#o}");
    let (kind, mode) = look("socket");
    assert!(kind.is_socket() && mode == 0o604, "{mode:#o}");
    assert!(look("link").0.is_symlink());
    let target = fs::read_link(client.path().join("link")).unwrap();
    assert_eq!(target.to_str(), Some("to/where"));
    // The next file is root's again.
    for (uid, gid, name) in [(0, 0, "root"), (0, 77, "group"), (88, 0, "user")] {
        let flags = [2, 0o644, 0, 0];
        assert_eq!(
            as_user(&mut client, [uid, gid], opcode::CREATE, &flags, &[name]),
            0
        );
        let it = fs::metadata(client.path().join(name)).unwrap();
        assert_eq!((it.uid(), it.gid()), (uid, gid));
    }
}

#[test]
fn an_existing_file_is_opened_by_create_unless_it_must_be_new() {
    let mut client = Client::new();
    let path = client.path().join("file");
    fs::write(&path, "content").unwrap();
    let exclusive = client.create(ROOT, "file", libc::O_RDWR | libc::O_EXCL);
    assert_eq!(exclusive, Err(libc::EEXIST));
    let answer = client.create(ROOT, "file", libc::O_RDWR).unwrap();
    let (node, handle) = (u64_at(&answer, 0), u64_at(&answer, 128));
    assert_eq!(client.read(node, handle, 99).unwrap(), b"content");
    client
        .create(ROOT, "file", libc::O_RDWR | libc::O_TRUNC)
        .unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
    client
        .create(ROOT, "new", libc::O_RDWR | libc::O_EXCL)
        .unwrap();
    assert!(client.path().join("new").exists());
}

#[test]
fn truncation_at_the_open_takes_bits_away_if_the_guest_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let mut client = Client::new();
    let path = client.path().join("file");
    for (kill, opcode) in [
        (0, opcode::OPEN),
        (1, opcode::OPEN),
        (0, opcode::CREATE),
        (1, opcode::CREATE),
    ] {
        fs::write(&path, "content").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
        let flags = (libc::O_RDWR | libc::O_TRUNC) as u32;
        // FUSE_OPEN_KILL_SUIDGID is 1.
        match opcode {
            opcode::OPEN => {
                let node = client.node(&["file"]);
                client.call(opcode, node, &words(&[flags, kill])).unwrap();
            }
            _ => {
                let head = [flags, 0o644, 0, kill];
                client.named(opcode, ROOT, &head, &["file"]).unwrap();
            }
        }
        let it = fs::metadata(&path).unwrap();
        let mode = if kill == 1 { 0o755 } else { 0o6755 };
        assert_eq!((it.size(), it.mode() & 0o7777), (0, mode));
    }
}

#[test]
fn opened_files_are_cached_where_only_the_guest_changes_them() {
    let mut client = Client::new();
    fs::create_dir_all(client.path().join("web/rootfs/etc")).unwrap();
    for name in ["shared", "web/rootfs/own"] {
        fs::write(client.path().join(name), "").unwrap();
    }
    let mut opened = |opcode, path: &[&str], flags: i32| {
        let node = client.node(path);
        let answer = client
            .call(opcode, node, &words(&[flags as u32, 0]))
            .unwrap();
        assert_eq!(answer.len(), 16);
        u32_at(&answer, 8)
    };
    let own = ["web", "rootfs", "own"];
    assert_eq!(opened(opcode::OPEN, &["shared"], libc::O_RDWR), 0);
    assert_eq!(opened(opcode::OPEN, &["shared"], libc::O_RDONLY), NO_FLUSH);
    assert_eq!(opened(opcode::OPEN, &own, libc::O_RDWR), KEEP_CACHE);
    assert_eq!(opened(opcode::OPEN, &own, libc::O_WRONLY), KEEP_CACHE);
    let both = KEEP_CACHE | NO_FLUSH;
    assert_eq!(opened(opcode::OPEN, &own, libc::O_RDONLY), both);
    assert_eq!(opened(opcode::OPENDIR, &["web"], 0), NO_FLUSH);
    let dir = opened(opcode::OPENDIR, &["web", "rootfs", "etc"], 0);
    assert_eq!(dir, both | CACHE_DIR);
}

#[test]
fn directories_are_opened_to_be_listed_whatever_the_flags() {
    let mut client = Client::new();
    fs::write(client.path().join("file"), "").unwrap();
    for flags in [
        0,
        libc::O_EXCL | libc::O_TRUNC,
        libc::O_CREAT,
        libc::O_NONBLOCK,
    ] {
        let opened = client.call(opcode::OPENDIR, ROOT, &words(&[flags as u32, 0]));
        assert!(opened.is_ok(), "{flags:#o}");
    }
    let file = client.node(&["file"]);
    assert_eq!(client.opendir(file), Err(libc::ENOTDIR));
    let exclusive = client.open(file, libc::O_RDONLY | libc::O_EXCL);
    assert!(exclusive.is_ok());
}

#[test]
fn listings_tell_the_kind_of_each_file_and_go_on_where_they_ended() {
    const READDIR: u32 = 28;
    let mut client = Client::new();
    fs::create_dir(client.path().join("list")).unwrap();
    let path = |name: &str| client.dir.join("list").join(name);
    fs::write(path("file"), "").unwrap();
    fs::create_dir(path("dir")).unwrap();
    symlink("x", path("link")).unwrap();
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for number in 0..100 {
        fs::write(path(&format!("{number:0>200}")), "").unwrap();
    }
    let list = client.node(&["list"]);
    let handle = client.opendir(list).unwrap();
    let (mut kinds, mut count, mut offset, mut rounds) = (Vec::new(), 0, 0, 0);
    loop {
        let body = longs(&[handle, offset, 2048, 0, 0]);
        let listed = client.call(READDIR, list, &body).unwrap();
        if listed.is_empty() {
            break;
        }
        assert!(listed.len() <= 2048);
        rounds += 1;
        let mut rest = &listed[..];
        while !rest.is_empty() {
            offset = u64_at(rest, 8);
            let len = u32_at(rest, 16) as usize;
            let name = String::from_utf8(rest[24..24 + len].to_vec()).unwrap();
            match len {
                200 => count += 1,
                _ => kinds.push((name, u32_at(rest, 20))),
            }
            rest = &rest[(24 + len).next_multiple_of(8)..];
        }
    }
    kinds.sort();
    // dirent.h, DT_*: directory, FIFO, regular file, link.
    let expected = [
        (".", 4),
        ("..", 4),
        ("dir", 4),
        ("fifo", 1),
        ("file", 8),
        ("link", 10),
    ];
    let found: Vec<_> = kinds.iter().map(|(name, kind)| (&**name, *kind)).collect();
    assert_eq!(found, expected);
    assert_eq!(count, 100);
    assert!(rounds > 10, "{rounds}");
    // No room for a single entry.
    let small = client.call(READDIR, list, &longs(&[handle, 0, 16, 0, 0]));
    assert!(small.is_err() || small == Ok(vec![]), "{small:?}");
}

#[test]
fn names_are_moved_exchanged_linked_and_removed() {
    // renameat2(2): RENAME_NOREPLACE, RENAME_EXCHANGE.
    let (no_replace, exchange) = (1, 2);
    let mut client = Client::new();
    let (one, two) = (client.path().join("one"), client.path().join("two"));
    fs::write(&one, "1").unwrap();
    fs::write(&two, "2").unwrap();
    let rename = |client: &mut Client, flags: u32| {
        let head = [ROOT as u32, 0, flags, 0];
        client.named(opcode::RENAME2, ROOT, &head, &["one", "two"])
    };
    assert_eq!(rename(&mut client, no_replace), Err(libc::EEXIST));
    rename(&mut client, exchange).unwrap();
    assert_eq!(fs::read(&one).unwrap(), b"2");
    rename(&mut client, 0).unwrap();
    assert!(!one.exists());
    assert_eq!(fs::read(&two).unwrap(), b"2");

    let node = client.node(&["two"]);
    let head = [node as u32, (node >> 32) as u32];
    let linked = client.named(opcode::LINK, ROOT, &head, &["three"]).unwrap();
    assert_eq!(u64_at(&linked, 0), node);
    let three = client.path().join("three");
    assert_eq!(fs::metadata(&three).unwrap().nlink(), 2);
    client.named(opcode::UNLINK, ROOT, &[], &["two"]).unwrap();
    assert!(!two.exists() && three.exists());
    fs::create_dir(client.path().join("dir")).unwrap();
    let unlinked = client.named(opcode::UNLINK, ROOT, &[], &["dir"]);
    assert_eq!(unlinked, Err(libc::EISDIR));
    let removed = client.named(opcode::RMDIR, ROOT, &[], &["three"]);
    assert_eq!(removed, Err(libc::ENOTDIR));
    client.named(opcode::RMDIR, ROOT, &[], &["dir"]).unwrap();
    assert!(!client.path().join("dir").exists());
}

#[test]
fn data_is_read_written_allocated_and_searched_by_position() {
    const FLUSH: u32 = 25;
    let mut client = Client::new();
    let path = client.path().join("file");
    fs::write(&path, "0123456789").unwrap();
    let node = client.node(&["file"]);
    let handle = client.open(node, libc::O_RDWR).unwrap();
    let read = |client: &mut Client, offset: u64, size: u64, flags: u64| {
        client.call(
            opcode::READ,
            node,
            &longs(&[handle, offset, size, 0, flags]),
        )
    };
    assert_eq!(read(&mut client, 3, 4, 2).unwrap(), b"3456");
    assert_eq!(read(&mut client, 8, 4, 2).unwrap(), b"89");
    assert_eq!(read(&mut client, 10, 4, 2).unwrap(), b"");
    let write = |client: &mut Client, offset: u64, flags: u64, data: &[u8]| {
        let mut body = longs(&[handle, offset, data.len() as u64, 0, flags]);
        body.extend(data);
        let answer = client.call(opcode::WRITE, node, &body).unwrap();
        assert_eq!(u32_at(&answer, 0) as usize, data.len());
    };
    write(&mut client, 2, 2, b"xyz");
    assert_eq!(fs::read(&path).unwrap(), b"01xyz56789");
    // The guest's program has set O_APPEND, and taken it back.
    let append = (libc::O_RDWR | libc::O_APPEND) as u64;
    write(&mut client, 0, append, b"end");
    write(&mut client, 0, libc::O_RDWR as u64, b"A");
    assert_eq!(fs::read(&path).unwrap(), b"A1xyz56789end");

    let whole = 1 << 20;
    let allocate = longs(&[handle, whole, 4096, 0]);
    client.call(opcode::FALLOCATE, node, &allocate).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), whole + 4096);
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(13).unwrap();
    file.set_len(whole).unwrap();
    let seek = |client: &mut Client, offset: u64, whence: i32| {
        let mut body = longs(&[handle, offset]);
        body.extend(words(&[whence as u32, 0]));
        let answer = client.call(opcode::LSEEK, node, &body)?;
        Ok::<_, i32>(u64_at(&answer, 0))
    };
    assert_eq!(seek(&mut client, 5, libc::SEEK_SET), Ok(5));
    assert_eq!(seek(&mut client, 3, libc::SEEK_CUR), Ok(8));
    let back = (-2i64).cast_unsigned();
    assert_eq!(seek(&mut client, back, libc::SEEK_CUR), Ok(6));
    assert_eq!(seek(&mut client, back, libc::SEEK_END), Ok(whole - 2));
    assert_eq!(seek(&mut client, 1, libc::SEEK_DATA), Ok(1));
    let hole = seek(&mut client, 0, libc::SEEK_HOLE).unwrap();
    assert!((13..whole).contains(&hole), "{hole}");
    assert_eq!(seek(&mut client, hole, libc::SEEK_DATA), Err(libc::ENXIO));
    assert_eq!(seek(&mut client, 0, 9), Err(libc::EINVAL));

    for (opcode, body) in [
        (FLUSH, longs(&[handle, 0, 0])),
        (opcode::FSYNC, longs(&[handle, 0])),
        (opcode::FSYNC, longs(&[handle, 1])),
    ] {
        client.call(opcode, node, &body).unwrap();
        let wrong = [longs(&[99]), body[8..].to_vec()].concat();
        assert_eq!(client.call(opcode, node, &wrong), Err(libc::EBADF));
    }
    let release = longs(&[handle, 0, 0]);
    client.call(opcode::RELEASE, node, &release).unwrap();
    assert_eq!(
        client.call(opcode::RELEASE, node, &release),
        Err(libc::EBADF)
    );
    assert_eq!(read(&mut client, 0, 4, 2), Err(libc::EBADF));
}

#[test]
fn directories_are_synced_and_released() {
    const FSYNCDIR: u32 = 30;
    const RELEASEDIR: u32 = 29;
    let mut client = Client::new();
    let handle = client.opendir(ROOT).unwrap();
    client.call(FSYNCDIR, ROOT, &longs(&[handle, 0])).unwrap();
    assert_eq!(
        client.call(FSYNCDIR, ROOT, &longs(&[99, 0])),
        Err(libc::EBADF)
    );
    let release = longs(&[handle, 0, 0]);
    client.call(RELEASEDIR, ROOT, &release).unwrap();
    assert_eq!(client.call(RELEASEDIR, ROOT, &release), Err(libc::EBADF));
}

#[test]
fn a_large_read_comes_whole() {
    let mut client = Client::new();
    let content: Vec<u8> = (0..100_000u32).map(|byte| byte as u8).collect();
    fs::write(client.path().join("file"), &content).unwrap();
    let node = client.node(&["file"]);
    let handle = client.open(node, libc::O_RDONLY).unwrap();
    assert!((content.len() as u32) < OUT_LEN);
    assert!(client.read(node, handle, 100_000).unwrap() == content);
}

#[test]
fn a_destroyed_session_and_a_reset_forget_all() {
    for reset in [false, true] {
        let mut client = Client::new();
        fs::write(client.path().join("file"), "content").unwrap();
        let node = client.node(&["file"]);
        let handle = client.open(node, libc::O_RDONLY).unwrap();
        match reset {
            true => crate::virtio::Device::reset(&mut client.device),
            false => client.send_only(opcode::DESTROY, ROOT, &[]),
        }
        let _ = client.init(38, u32::MAX);
        assert_eq!(client.read(node, handle, 10), Err(libc::EBADF));
        assert_eq!(client.open(node, libc::O_RDONLY), Err(libc::EBADF));
        assert!(client.lookup(ROOT, "file").is_ok());
    }
}
