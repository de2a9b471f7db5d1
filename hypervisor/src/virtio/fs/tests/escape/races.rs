//! Directories that change while the guest walks through them, thousands of times.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::super::client::{Client, ROOT, opcode, u64_at};
use super::{Prison, SECRET, halves};

const TRIES: usize = 3000;

/// A directory with the same names as the files outside, and a link to the outside.
fn build(prison: &Prison) {
    let share = prison.share();
    fs::create_dir_all(share.join("real/dir")).unwrap();
    fs::write(share.join("real/secret"), "decoy").unwrap();
    fs::write(share.join("real/dir/secret"), "decoy").unwrap();
    symlink(prison.outside(), share.join("link")).unwrap();
}

/// Runs `swap` repeatedly in another thread while the guest walks.
fn race(prison: &mut Prison, mut swap: impl FnMut() + Send) {
    let done = AtomicBool::new(false);
    let mut read = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                swap();
            }
        });
        for number in 0..TRIES {
            read += usize::from(walk(&mut prison.guest, number));
        }
        done.store(true, Ordering::Relaxed);
    });
    // Otherwise there was no race.
    assert!(read > 0 && read < TRIES, "{read} of {TRIES} were read");
}

/// Walks down and tries all operations on the file. Returns true if it was a directory.
fn walk(guest: &mut Client, number: usize) -> bool {
    let dir = u64_at(&guest.lookup(ROOT, "real").unwrap(), 0);
    let name = format!("new{number}");
    let _ = guest.create(dir, &name, libc::O_RDWR | libc::O_TRUNC);
    let _ = guest.create(dir, "secret", libc::O_RDWR);
    let _ = guest.named(opcode::MKDIR, dir, &[0o755, 0], &["made"]);
    let _ = guest.named(opcode::RENAME, dir, &halves(ROOT), &["made", "taken"]);
    let _ = guest.named(opcode::UNLINK, dir, &[], &[&name]);
    let _ = guest.named(opcode::RMDIR, ROOT, &[], &["taken"]);
    let _ = guest.setattr(dir, 1);
    let _ = guest.opendir(dir);
    let Ok(entry) = guest.lookup(dir, "secret") else {
        return false;
    };
    let secret = u64_at(&entry, 0);
    let _ = guest.setxattr(secret, "user.x", "y");
    let _ = guest.named(opcode::LINK, ROOT, &halves(secret), &["stolen"]);
    let handle = guest.open(secret, libc::O_RDWR).unwrap();
    assert_eq!(guest.read(secret, handle, 100).unwrap(), b"decoy");
    // Closes the handle, since descriptors are limited.
    let close = super::super::client::longs(&[handle, 0, 0]);
    guest.call(opcode::RELEASE, secret, &close).unwrap();
    true
}

#[test]
fn host_swaps_a_directory_with_a_link() {
    let mut prison = Prison::new();
    build(&prison);
    let (real, link) = (prison.share().join("real"), prison.share().join("link"));

    race(&mut prison, || {
        renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE).unwrap();
    });
}

#[test]
fn guest_swaps_a_directory_with_a_link() {
    let mut prison = Prison::new();
    build(&prison);
    let mut other = Client::sharing(&prison.share());
    other.canary = Some(SECRET.as_bytes());

    race(&mut prison, || {
        let head = [halves(ROOT), [2, 0]].concat();
        let names = ["real", "link"];
        other.named(opcode::RENAME2, ROOT, &head, &names).unwrap();
    });
}

#[test]
fn directory_moved_out_is_no_way_up() {
    let mut prison = Prison::new();
    let (share, elsewhere) = (prison.share(), prison.place.join("elsewhere"));
    fs::create_dir_all(share.join("a/b/c")).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("secret"), SECRET).unwrap();
    let guest = &mut prison.guest;
    let nodes = [&["a"][..], &["a", "b"], &["a", "b", "c"]].map(|path| guest.node(path));

    fs::rename(share.join("a"), elsewhere.join("a")).unwrap();

    for node in nodes {
        for name in ["..", "../secret", "../../secret", "."] {
            assert_eq!(guest.lookup(node, name), Err(libc::EINVAL));
            let made = guest.create(node, name, libc::O_RDWR);
            assert_eq!(made, Err(libc::EINVAL));
        }
        assert_eq!(guest.lookup(node, "secret"), Err(libc::ENOENT));
        let names = ["secret", "stolen"];
        let stolen = guest.named(opcode::RENAME, node, &halves(ROOT), &names);
        assert_eq!(stolen, Err(libc::ENOENT));
    }
    assert_eq!(guest.lookup(ROOT, "a"), Err(libc::ENOENT));
}
