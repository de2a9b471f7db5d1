//! Mounts of the host in the share are separate file systems for the guest.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::client::{Client, ROOT, longs, opcode, u64_at};
use super::jail::in_own_process;

const NONE: Option<&str> = None;

/// fuse.h, `FUSE_ATTR_SUBMOUNT`; the positions of an entry's attribute flags and inode.
const SUBMOUNT: u32 = 1;
const FLAGS: usize = 124;
const INODE: usize = 40;

fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(NONE, "/", NONE, private, NONE).unwrap();
}

fn bind(from: &Path, to: &Path) {
    mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE).unwrap();
}

fn read_only(at: &Path) {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(NONE, at, NONE, flags, NONE).unwrap();
}

fn flags(entry: &[u8]) -> u32 {
    u32::from_le_bytes(entry[FLAGS..FLAGS + 4].try_into().unwrap())
}

/// The names in a listing without attributes, with their inode numbers.
fn names(client: &mut Client, node: u64) -> Vec<(String, u64)> {
    const READDIR: u32 = 28;
    let handle = client.opendir(node).unwrap();
    let list = longs(&[handle, 0, 32 << 10, 0, 0]);
    let listed = client.call(READDIR, node, &list).unwrap();
    let mut names = Vec::new();
    let mut rest = &listed[..];
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[16..20].try_into().unwrap()) as usize;
        let name = String::from_utf8(rest[24..24 + len].to_vec()).unwrap();
        names.push((name, u64_at(rest, 0)));
        rest = &rest[(24 + len).next_multiple_of(8)..];
    }
    names.sort();
    names
}

#[test]
fn listings_are_whole_and_agree_with_attributes() {
    let mut client = Client::new();
    fs::create_dir(client.path().join("dir")).unwrap();
    fs::write(client.path().join("dir/file"), "").unwrap();
    let dir = client.node(&["dir"]);

    let listed = names(&mut client, dir);

    let found =
        |client: &mut Client, parent, name| u64_at(&client.lookup(parent, name).unwrap(), INODE);
    let file = found(&mut client, dir, "file");
    let own = found(&mut client, ROOT, "dir");
    let only: Vec<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(only, [".", "..", "file"]);
    assert_eq!(listed[0].1, own);
    assert_eq!(listed[2].1, file);

    // With attributes: dots have none, so that the guest counts no lookups for them.
    let handle = client.opendir(dir).unwrap();
    let list = longs(&[handle, 0, 32 << 10, 0, 0]);
    let listed = client.call(opcode::READDIRPLUS, dir, &list).unwrap();
    let mut rest = &listed[..];
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let (node, inode) = (u64_at(rest, 0), u64_at(rest, 128));
        let len = u32::from_le_bytes(rest[144..148].try_into().unwrap()) as usize;
        let name = String::from_utf8(rest[152..152 + len].to_vec()).unwrap();
        assert_eq!(node == 0, name.starts_with('.'), "{name}");
        if node != 0 {
            assert_eq!(inode, u64_at(rest, INODE), "{name}");
        }
        seen.push(name);
        rest = &rest[(152 + len).next_multiple_of(8)..];
    }
    seen.sort();
    assert_eq!(seen, [".", "..", "file"]);
}

#[test]
fn mounts_are_shown_to_the_guest_as_such() {
    let test = "virtio::fs::tests::submounts::mounts_are_shown_to_the_guest_as_such";
    let Some(place) = in_own_process(test) else {
        return;
    };
    own_mounts();
    for dir in ["share/a", "share/b", "share/plain", "one/deep", "two"] {
        fs::create_dir_all(place.join(dir)).unwrap();
    }
    for file in ["share/file", "single"] {
        fs::write(place.join(file), "").unwrap();
    }
    bind(&place.join("one"), &place.join("share/a"));
    bind(&place.join("one"), &place.join("share/b"));
    bind(&place.join("two"), &place.join("share/a/deep"));
    bind(&place.join("single"), &place.join("share/file"));
    let mut client = Client::sharing(&place.join("share"));

    let a = client.lookup(ROOT, "a").unwrap();
    let b = client.lookup(ROOT, "b").unwrap();
    let (in_a, in_b) = (u64_at(&a, 0), u64_at(&b, 0));
    assert_eq!((flags(&a), flags(&b)), (SUBMOUNT, SUBMOUNT));
    assert_ne!(in_a, in_b, "one of two mounts of a directory");
    assert_eq!(flags(&client.lookup(ROOT, "plain").unwrap()), 0);
    // The guest's kernel mounts directories only.
    assert_eq!(flags(&client.lookup(ROOT, "file").unwrap()), 0);
    let deep = client.lookup(in_a, "deep").unwrap();
    assert_eq!(flags(&deep), SUBMOUNT);
    assert_eq!(flags(&client.lookup(in_b, "deep").unwrap()), 0);
    // The same each time.
    let again = client.lookup(ROOT, "a").unwrap();
    assert_eq!((u64_at(&again, 0), flags(&again)), (in_a, SUBMOUNT));
}

#[test]
fn a_writable_mount_on_top_of_a_read_only_one_has_the_same_files() {
    let test = "virtio::fs::tests::submounts::\
                a_writable_mount_on_top_of_a_read_only_one_has_the_same_files";
    let Some(place) = in_own_process(test) else {
        return;
    };
    own_mounts();
    let (source, target) = (place.join("source"), place.join("share/v"));
    for dir in [&source, &target] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::create_dir(source.join("dir")).unwrap();
    fs::write(source.join("dir/file"), "content").unwrap();
    bind(&source, &target);
    read_only(&target);
    let mut client = Client::sharing(&place.join("share"));
    let path = ["v", "dir", "file"];
    let before = (1..=3).map(|n| client.node(&path[..n])).collect::<Vec<_>>();
    let refused = client.open(before[2], libc::O_RDWR);
    assert_eq!(refused, Err(libc::EROFS));

    bind(&source, &target);
    let after = (1..=3).map(|n| client.node(&path[..n])).collect::<Vec<_>>();

    assert_eq!(before, after, "one file, one number");
    let handle = client.open(after[2], libc::O_RDWR).unwrap();
    client.write(after[2], handle, b"changed").unwrap();
    assert_eq!(fs::read(source.join("dir/file")).unwrap(), b"changed");
    assert!(client.create(after[1], "new", libc::O_RDWR).is_ok());
    // After the unmount: files found by the upper mount stay valid while the guest knows them.
    umount2(&target, MntFlags::MNT_DETACH).unwrap();
    assert_eq!(client.node(&path[..1]), before[0]);
}

#[test]
fn files_of_two_file_systems_in_one_place_differ() {
    let test = "virtio::fs::tests::submounts::files_of_two_file_systems_in_one_place_differ";
    let Some(place) = in_own_process(test) else {
        return;
    };
    own_mounts();
    fs::create_dir(place.join("share")).unwrap();
    let mut inodes = Vec::new();
    for name in ["a", "b"] {
        let dir = place.join(name);
        fs::create_dir(&dir).unwrap();
        mount(Some("none"), &dir, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        fs::write(dir.join("file"), "").unwrap();
        let target = place.join("share").join(name);
        fs::write(&target, "").unwrap();
        bind(&dir.join("file"), &target);
        inodes.push(std::os::unix::fs::MetadataExt::ino(
            &fs::metadata(&target).unwrap(),
        ));
    }
    assert_eq!(inodes[0], inodes[1], "two fresh tmpfs count alike");
    let mut client = Client::sharing(&place.join("share"));

    let shown = ["a", "b"].map(|name| u64_at(&client.lookup(ROOT, name).unwrap(), INODE));

    assert_ne!(shown[0], shown[1]);
}
