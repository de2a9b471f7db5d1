//! The share in a process without any of the host's paths, as in the jail.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::client::{Client, ROOT, longs, opcode, u64_at, words};
use crate::virtio::Device;

/// Says to the test that it runs in a process of its own, and what it may use.
const PLACE: &str = "RUST_KATA_TEST_PLACE";

/// Runs the test of this name again in a process of its own, for changes that concern
/// all threads. In that process, returns the place for its files.
pub fn in_own_process(name: &str) -> Option<PathBuf> {
    if let Some(place) = std::env::var_os(PLACE) {
        return Some(place.into());
    }
    let place = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(PLACE, place.path())
        .output()
        .unwrap();
    let words = [&output.stdout[..], &output.stderr[..]].concat();
    let words = String::from_utf8_lossy(&words);
    let passed = output.status.success() && words.contains("1 passed");
    assert!(passed, "{words}");
    None
}

fn enter(root: &Path) {
    nix::unistd::chroot(root).unwrap();
    std::env::set_current_dir("/").unwrap();
    assert_eq!(fs::read_dir("/").unwrap().count(), 0);
}

#[test]
fn share_needs_no_path_of_the_host() {
    let test = "virtio::fs::tests::jail::share_needs_no_path_of_the_host";
    let Some(place) = in_own_process(test) else {
        return;
    };
    let (share, root) = (place.join("share"), place.join("root"));
    fs::create_dir_all(share.join("dir")).unwrap();
    fs::create_dir(&root).unwrap();
    fs::write(share.join("dir/file"), "content").unwrap();
    let shared = fs::File::open(share.join("dir/file")).unwrap();
    let mut client = Client::silent(&share);
    enter(&root);

    for _ in 0..2 {
        client.init(38, u32::MAX).unwrap();
        works(&mut client);
        client.tell(opcode::DESTROY, ROOT, &[]);
        client.init(38, u32::MAX).unwrap();
        works(&mut client);
        let queue = client.device.stop_queue(super::REQUEST).unwrap();
        client.device.reset();
        client.start(queue);
    }

    assert_eq!(shared.metadata().unwrap().mode() & 0o7777, 0o777);
}

/// Each kind of request that needs more than the descriptor of an inode.
fn works(client: &mut Client) {
    let file = client.node(&["dir", "file"]);
    let handle = client.open(file, libc::O_RDWR).unwrap();
    assert_eq!(client.read(file, handle, 100).unwrap(), b"content");
    client.setattr(file, 1).unwrap();
    client.setattr(file, 1 << 4 | 1 << 5).unwrap();
    client.setxattr(file, "user.name", "value").unwrap();
    assert_eq!(client.getxattr(file, "user.name").unwrap(), b"value");
    let list = client.call(opcode::LISTXATTR, file, &words(&[4096, 0]));
    assert_eq!(list.unwrap(), b"user.name\0");
    client
        .named(opcode::REMOVEXATTR, file, &[], &["user.name"])
        .unwrap();
    let dir = client.opendir(ROOT).unwrap();
    let list = longs(&[dir, 0, 4096, 0, 0]);
    assert!(client.call(opcode::READDIRPLUS, ROOT, &list).unwrap().len() > 100);
    let made = client.create(ROOT, "made", libc::O_RDWR).unwrap();
    client
        .write(u64_at(&made, 0), u64_at(&made, 128), b"x")
        .unwrap();
    client.named(opcode::UNLINK, ROOT, &[], &["made"]).unwrap();
}
