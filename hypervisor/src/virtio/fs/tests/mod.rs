//! The device and its threads with a scripted FUSE client.

mod attributes;
mod bounds;
mod client;
mod escape;
mod jail;
mod operations;
mod set_id;
mod submounts;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use virtio_queue::QueueT;

use super::*;
use crate::virtio::testing::{END, INDIRECT, NEXT, WRITE};
use client::{Client, IN, OUT, OUT_LEN, REQUEST, ROOT, opcode, u64_at};

#[test]
fn hosts_file_can_be_read() {
    let mut client = Client::new();
    fs::write(client.path().join("file"), "content").unwrap();

    let node = client.node(&["file"]);
    let handle = client.open(node, libc::O_RDONLY).unwrap();

    assert_eq!(client.read(node, handle, 100).unwrap(), b"content");
}

#[test]
fn guests_file_is_on_the_host_at_once() {
    let mut client = Client::new();

    let answer = client.create(ROOT, "new", libc::O_RDWR).unwrap();
    let (node, handle) = (u64_at(&answer, 0), u64_at(&answer, 128));
    client.write(node, handle, b"hello").unwrap();

    let path = client.path().join("new");
    assert_eq!(fs::read(&path).unwrap(), b"hello");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
}

#[test]
fn config_is_tag_and_queue_count() {
    let client = Client::new();
    let mut config = [0xff; 44];

    client.device.read_config(0, &mut config);

    assert_eq!(&config[..6], b"share\0");
    assert_eq!(config[36..], [1, 0, 0, 0, 0, 0, 0, 0]);
    client.device.read_config(usize::MAX, &mut config);
    assert_eq!(config, [0; 44]);
    Fs::new(&"x".repeat(36), client.path(), 1000).unwrap();
    let refused = Fs::new(&"x".repeat(37), client.path(), 1000).err().unwrap();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn there_is_no_way_up() {
    let mut client = Client::new();
    fs::create_dir(client.path().join("dir")).unwrap();
    let dir = client.node(&["dir"]);

    for parent in [ROOT, dir] {
        for name in ["..", ".", "../..", "dir/..", "/etc/passwd", "/"] {
            assert_eq!(client.lookup(parent, name), Err(libc::EINVAL), "{name}");
        }
    }
}

#[test]
fn symbolic_links_are_not_followed() {
    let mut client = Client::new();
    symlink("/etc/passwd", client.path().join("link")).unwrap();
    let link = client.node(&["link"]);

    for flags in [libc::O_RDONLY, libc::O_PATH] {
        assert_eq!(client.open(link, flags), Err(libc::EBADF));
    }
    // With O_PATH the host would ignore O_CREAT and O_EXCL, and follow the link.
    let created = client.create(ROOT, "link", libc::O_PATH | libc::O_RDONLY);
    assert_eq!(created, Err(libc::EBADF));
}

#[test]
fn special_files_are_not_opened() {
    let mut client = Client::new();
    let fifo = client.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let node = client.node(&["fifo"]);

    assert_eq!(client.open(node, libc::O_RDONLY), Err(libc::EBADF));
}

#[test]
fn unknown_things_are_errors() {
    let mut client = Client::new();

    assert_eq!(client.lookup(ROOT, "none"), Err(libc::ENOENT));
    assert_eq!(client.lookup(999, "none"), Err(libc::EBADF));
    assert_eq!(client.open(u64::MAX, 0), Err(libc::EBADF));
    assert_eq!(client.read(ROOT, 999, 10), Err(libc::EBADF));
    assert_eq!(client.call(9999, ROOT, &[]), Err(libc::ENOSYS));
    assert_eq!(client.read(ROOT, 999, u32::MAX), Err(libc::EBADF));
}

#[test]
fn hosts_attributes_are_refused() {
    let mut client = Client::new();
    fs::write(client.path().join("file"), "").unwrap();
    let node = client.node(&["file"]);
    let result = client.setxattr(node, "trusted.overlay.opaque", "y");

    assert_eq!(result, Err(libc::EOPNOTSUPP));
}

#[test]
fn only_containers_roots_may_be_cached() {
    let mut client = Client::new();
    fs::create_dir_all(client.path().join("web/rootfs/etc")).unwrap();
    fs::create_dir_all(client.path().join("web/mounts/0")).unwrap();
    let (container, rootfs) = (client.node(&["web"]), client.node(&["web", "rootfs"]));
    let mounts = client.node(&["web", "mounts"]);
    // fuse_entry_out: entry_valid at 16, attr_valid at 24, in seconds.
    let valid = |answer: Vec<u8>| (u64_at(&answer, 16), u64_at(&answer, 24));

    assert_eq!(valid(client.lookup(ROOT, "web").unwrap()), (0, 0));
    assert_eq!(valid(client.lookup(container, "rootfs").unwrap()), (0, 10));
    assert_eq!(valid(client.lookup(rootfs, "etc").unwrap()), (10, 10));
    assert_eq!(valid(client.lookup(mounts, "0").unwrap()), (0, 0));
    let missing = client.lookup(rootfs, "missing").unwrap();
    assert_eq!((u64_at(&missing, 0), u64_at(&missing, 16)), (0, 10));
    let attributes = client.call(opcode::GETATTR, rootfs, &[0; 16]).unwrap();
    assert_eq!(u64_at(&attributes, 0), 10);
}

#[test]
fn bad_chains_are_returned_and_do_no_harm() {
    let mut client = Client::new();
    let table = IN + 0x1000;
    client
        .queue
        .descriptor_at(table, 0, (table, 16, INDIRECT, 0));
    let chains: &[&[(u64, u32, u16, u16)]] = &[
        &[(IN, 0, 0, 0)],
        &[(IN, 10, 0, 0)],
        &[(IN, 40, 0, 0)],
        &[(OUT, OUT_LEN, WRITE, 0)],
        &[(OUT, OUT_LEN, WRITE | NEXT, 1), (IN, 40, 0, 0)],
        &[(END - 8, 40, NEXT, 1), (OUT, OUT_LEN, WRITE, 0)],
        &[(IN, 40, NEXT, 1), (u64::MAX, 40, WRITE, 0)],
        &[(IN, 40, NEXT, 1), (OUT, 0, WRITE, 0)],
        &[(IN, 40, NEXT, 1), (OUT, 4, WRITE, 0)],
        &[(IN, 40, NEXT, 0)],
        &[(IN, 40, NEXT, 500)],
        &[(IN, u32::MAX, NEXT, 0)],
        &[(table, 16, INDIRECT, 0)],
        &[(table, 7, INDIRECT, 0)],
    ];
    for body in [[0u8; 40], [0xff; 40]] {
        for chain in chains {
            client.queue.write(IN, &body);
            for (index, desc) in chain.iter().enumerate() {
                client.queue.descriptor(index as u16, *desc);
            }
            client.queue.offer(0);
            client.queue.kick();
            assert_eq!(client.queue.wait_used().0, 0, "{chain:?}");
        }
    }
    assert_eq!(client.lookup(ROOT, "none"), Err(libc::ENOENT));
}

#[test]
fn broken_ring_is_left_alone() {
    let mut client = Client::new();
    client.queue.set_avail_index(5000);
    client.queue.kick();

    let queue = client.device.stop_queue(REQUEST);

    assert!(queue.is_some());
}

#[test]
fn files_stay_open_over_a_pause() {
    let mut client = Client::new();
    fs::write(client.path().join("file"), "content").unwrap();
    let node = client.node(&["file"]);
    let handle = client.open(node, libc::O_RDONLY).unwrap();

    let queue = client.device.stop_queue(REQUEST).unwrap();
    assert!(client.device.stop_queue(REQUEST).is_none());
    client.start(queue);

    assert_eq!(client.read(node, handle, 100).unwrap(), b"content");
}

#[test]
fn queues_are_checked() {
    let mut client = Client::new();
    let queue = client.queue.queue();
    let calls = client.queue.calls.clone();
    let mut start = |index, queue| {
        let kick = client.queue.kick_event();
        let mem = client.mem.clone();
        client
            .device
            .start_queue(index, queue, mem, kick, calls.clone())
    };

    let again = start(REQUEST, queue);
    assert!(matches!(again, Err(DeviceError::Started(REQUEST))));
    let unknown = start(7, client.queue.queue());
    assert!(matches!(unknown, Err(DeviceError::NoQueue(7))));
    let nowhere = start(HIPRIO, Queue::new(16).unwrap());
    assert!(matches!(nowhere, Err(DeviceError::BadQueue(HIPRIO))));
}
