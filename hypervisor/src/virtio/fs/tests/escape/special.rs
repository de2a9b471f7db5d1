//! Device nodes, FIFOs and sockets: the guest sees them, but the host never opens them.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

use super::super::client::{ROOT, opcode};
use super::{Prison, assault};

/// /dev/zero and the first disk, whose content is a secret.
const ZERO: (u64, u64) = (1, 5);
const DISK: (u64, u64) = (254, 0);

#[test]
fn files_of_the_host_are_not_opened() {
    let mut prison = Prison::new();
    let path = |name: &str| prison.share().join(name);
    let device = |kind, (major, minor)| {
        let name = format!("device-{major}-{minor}");
        mknod(&path(&name), kind, Mode::S_IRWXU, makedev(major, minor)).unwrap();
        name
    };
    let zero = device(SFlag::S_IFCHR, ZERO);
    let disk = device(SFlag::S_IFBLK, DISK);
    mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
    let socket = UnixListener::bind(path("socket")).unwrap();

    // Opening a FIFO on the host would block a thread of the server forever.
    for name in [&zero, &disk, "fifo", "socket"] {
        let node = prison.guest.node(&[name]);
        let worked = assault(&mut prison.guest, ROOT, name, node);
        assert!(worked.is_empty(), "{name}: {worked:?}");
    }
    socket.set_nonblocking(true).unwrap();
    let none = socket.accept().unwrap_err();
    assert_eq!(none.kind(), std::io::ErrorKind::WouldBlock);
    assert!(
        fs::metadata(prison.share().join(zero))
            .unwrap()
            .file_type()
            .is_char_device()
    );
}

#[test]
fn files_of_the_guest_are_not_opened() {
    let mut prison = Prison::new();
    let nodes = [
        ("char", libc::S_IFCHR, makedev(ZERO.0, ZERO.1)),
        ("block", libc::S_IFBLK, makedev(DISK.0, DISK.1)),
        ("fifo", libc::S_IFIFO, 0),
        ("socket", libc::S_IFSOCK, 0),
    ];

    for (name, kind, device) in nodes {
        let head = [kind | 0o666, device as u32, 0, 0];
        prison
            .guest
            .named(opcode::MKNOD, ROOT, &head, &[name])
            .unwrap();
        let node = prison.guest.node(&[name]);
        let worked = assault(&mut prison.guest, ROOT, name, node);
        assert!(worked.is_empty(), "{name}: {worked:?}");
    }
}
