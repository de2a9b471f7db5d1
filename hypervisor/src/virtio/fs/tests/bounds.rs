//! A guest that never forgets files costs the host a bounded number of files and descriptors.

use std::fs;
use std::sync::Arc;

use super::super::share::SharedDir;
use super::super::table::Limits;
use super::client::{REQUEST, ROOT, longs, opcode, u64_at};
use super::*;

/// A client of a share with these limits.
fn limited(files: usize, descriptors: usize, open: usize) -> (Client, Arc<SharedDir>) {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { files, descriptors };
    let share = Arc::new(SharedDir::with(dir.path(), limits, open).unwrap());
    let mut client = Client::new();
    let queue = client.device.stop_queue(REQUEST).unwrap();
    client.device = Fs::of("share", Arc::clone(&share)).unwrap();
    client.dir = dir.path().to_owned();
    client._temporary = Some(dir);
    client.start(queue);
    client.init(38, u32::MAX).unwrap();
    (client, share)
}

fn make_files(client: &Client, count: usize) {
    for number in 0..count {
        let path = client.path().join(format!("f{number}"));
        fs::write(path, number.to_string()).unwrap();
    }
}

#[test]
fn of_files_end_with_an_error_until_some_are_forgotten() {
    let (mut client, share) = limited(10, 100, 10);
    make_files(&client, 20);
    let nodes: Vec<u64> = (0..9).map(|n| client.node(&[&format!("f{n}")])).collect();

    assert_eq!(client.lookup(ROOT, "f9"), Err(libc::ENFILE));
    let made = client.create(ROOT, "new", libc::O_RDWR);
    assert_eq!(made, Err(libc::ENFILE));
    // It can use the files that it knows.
    assert!(client.open(nodes[8], libc::O_RDONLY).is_ok());
    assert!(client.lookup(ROOT, "f0").is_ok());
    // A listing has all names, and attributes while there is room for them.
    let dir = client.opendir(ROOT).unwrap();
    let list = longs(&[dir, 0, 64 << 10, 0, 0]);
    let listed = client.call(opcode::READDIRPLUS, ROOT, &list).unwrap();
    for number in 0..20 {
        let name = format!("f{number}");
        assert!(listed.windows(name.len()).any(|it| it == name.as_bytes()));
    }
    assert_eq!(share.table.counts().0, 10);

    client.send_only(opcode::FORGET, nodes[0], &longs(&[u64::MAX]));
    assert!(client.lookup(ROOT, "f9").is_ok());
}

#[test]
fn of_open_files_end_with_an_error_until_one_is_closed() {
    let (mut client, _share) = limited(100, 100, 3);
    make_files(&client, 1);
    let file = client.node(&["f0"]);
    let handles: Vec<u64> = (0..3)
        .map(|_| client.open(file, libc::O_RDONLY).unwrap())
        .collect();

    assert_eq!(client.open(file, libc::O_RDONLY), Err(libc::ENFILE));
    assert_eq!(client.opendir(ROOT), Err(libc::ENFILE));
    let made = client.create(ROOT, "new", libc::O_RDWR);
    assert_eq!(made, Err(libc::ENFILE));
    let close = longs(&[handles[0], 0, 0]);
    client.call(opcode::RELEASE, file, &close).unwrap();
    assert!(client.open(file, libc::O_RDONLY).is_ok());
}

#[test]
fn of_descriptors_are_kept_by_letting_go_of_what_was_not_used() {
    let (mut client, share) = limited(10_000, 50, 10);
    fs::create_dir_all(client.path().join("a/b")).unwrap();
    for number in 0..500 {
        let path = client.path().join(format!("a/b/f{number}"));
        fs::write(path, number.to_string()).unwrap();
    }
    let dir = client.node(&["a", "b"]);
    let nodes: Vec<u64> = (0..500)
        .map(|n| u64_at(&client.lookup(dir, &format!("f{n}")).unwrap(), 0))
        .collect();

    let (files, open) = share.table.counts();
    assert!(files > 500 && open <= 58, "{files} files, {open} open");
    for (number, node) in nodes.iter().enumerate() {
        let handle = client.open(*node, libc::O_RDONLY).unwrap();
        let content = client.read(*node, handle, 10).unwrap();
        assert_eq!(content, number.to_string().as_bytes());
        let close = longs(&[handle, 0, 0]);
        client.call(opcode::RELEASE, *node, &close).unwrap();
    }
    assert!(share.table.counts().1 <= 58);
    for node in &nodes {
        client.send_only(opcode::FORGET, *node, &longs(&[u64::MAX]));
    }
    assert!(share.table.counts().0 < 10);
}

#[test]
fn closed_files_are_followed_through_renames_and_kept_when_unlinked() {
    let (mut client, _share) = limited(10_000, 20, 10);
    fs::create_dir(client.path().join("dir")).unwrap();
    make_files(&client, 200);
    let (moved, gone) = (client.node(&["f0"]), client.node(&["f1"]));
    let (over, dir) = (client.node(&["f2"]), client.node(&["dir"]));
    let push_out = |client: &mut Client| {
        for number in 10..200 {
            client.node(&[&format!("f{number}")]);
        }
    };
    push_out(&mut client);
    let to = [dir as u32, (dir >> 32) as u32];

    let names = ["f0", "elsewhere"];
    client.named(opcode::RENAME, ROOT, &to, &names).unwrap();
    client.named(opcode::UNLINK, ROOT, &[], &["f1"]).unwrap();
    let root = [ROOT as u32, 0];
    client
        .named(opcode::RENAME, ROOT, &root, &["f3", "f2"])
        .unwrap();
    push_out(&mut client);

    for (node, content) in [(moved, b"0"), (gone, b"1"), (over, b"2")] {
        let handle = client.open(node, libc::O_RDONLY).unwrap();
        assert_eq!(client.read(node, handle, 10).unwrap(), content);
    }
    // A file that the host has moved away is stale, and is never confused with another one.
    let lost = client.node(&["f4"]);
    push_out(&mut client);
    let path = |name: &str| client.path().join(name);
    fs::rename(path("f4"), path("dir/f4")).unwrap();
    fs::write(path("f4"), "another").unwrap();
    push_out(&mut client);
    match client.open(lost, libc::O_RDONLY) {
        Err(err) => assert_eq!(err, libc::ESTALE),
        Ok(handle) => assert_eq!(client.read(lost, handle, 10).unwrap(), b"4"),
    }
}

/// Requests that are served at the same time may each have made room for one file.
#[test]
fn of_descriptors_leave_room_for_requests_at_the_same_time() {
    let (client, share) = limited(100, 3, 10);
    make_files(&client, 20);
    let root = share.table.get(ROOT).unwrap();
    let above = share.table.hold(&root).unwrap();
    let mut known = 1;
    let full = loop {
        let name = std::ffi::CString::new(format!("f{known}")).unwrap();
        let file = super::super::host::hold(&above.file, &name).unwrap();
        let seen = super::super::host::stat(&file).unwrap();
        let new = super::super::table::New {
            seen: &seen,
            place: Arc::clone(&root.place),
            crossed: false,
            held: super::super::table::Held {
                file,
                mount: above.mount,
            },
            parent: ROOT,
            name: &name,
        };
        match share.table.add_lookup(new) {
            Ok(_) => known += 1,
            Err(err) => break err,
        }
    };
    assert_eq!(full.raw_os_error(), Some(libc::ENFILE));
    // Three descriptors, and one for each of eight requests.
    assert_eq!((known, share.table.counts()), (11, (11, 11)));
}

#[test]
fn a_file_is_forgotten_with_its_last_lookup() {
    let (mut client, share) = limited(100, 100, 10);
    make_files(&client, 1);
    let node = client.node(&["f0"]);
    assert_eq!(client.node(&["f0"]), node);
    assert_eq!(share.table.counts(), (2, 2));
    client.send_only(opcode::FORGET, node, &longs(&[1]));
    assert_eq!(share.table.counts(), (2, 2));
    client.send_only(opcode::FORGET, node, &longs(&[1]));
    assert_eq!(share.table.counts(), (1, 1));
    assert_eq!(client.open(node, libc::O_RDONLY), Err(libc::EBADF));
    // The root is never forgotten.
    client.send_only(opcode::FORGET, ROOT, &longs(&[u64::MAX]));
    assert_eq!(share.table.counts(), (1, 1));
    // Nor is it in the way of a new number.
    assert_ne!(client.node(&["f0"]), node);
}
