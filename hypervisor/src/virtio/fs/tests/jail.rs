//! The share in a process without paths of the host, as in the jail.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::client::{Client, ROOT, longs, opcode, request, u64_at, words};
use crate::virtio::Device;

/// Set if the test runs in a separate process; names its directory.
const PLACE: &str = "RUST_KATA_TEST_PLACE";

/// Capabilities that a jailed thread does not have, although simpler code would need them:
/// `CAP_DAC_READ_SEARCH` and `CAP_MKNOD`.
const MISSING: [libc::c_ulong; 2] = [2, 27];

/// Runs the test with this name again in a separate process, for changes that affect all
/// threads. In that process, returns the directory for its files.
pub fn in_own_process(name: &str) -> Option<PathBuf> {
    own_process(name, &[])
}

/// As [`in_own_process`], without some capabilities.
fn own_process(name: &str, without: &'static [libc::c_ulong]) -> Option<PathBuf> {
    if let Some(place) = std::env::var_os(PLACE) {
        return Some(place.into());
    }
    let place = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(PLACE, place.path());
    // SAFETY: a system call, which is allowed after a fork. The exec drops capabilities that
    // are not in the bounding set.
    unsafe {
        command.pre_exec(move || {
            for capability in without {
                match libc::prctl(libc::PR_CAPBSET_DROP, *capability, 0, 0, 0) {
                    0 => {}
                    _ => return Err(std::io::Error::last_os_error()),
                }
            }
            Ok(())
        });
    }
    let output = command.output().unwrap();
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
    let Some(place) = own_process(test, &MISSING) else {
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
        client.send_only(opcode::DESTROY, ROOT, &[]);
        client.init(38, u32::MAX).unwrap();
        works(&mut client);
        let queue = client.device.stop_queue(super::REQUEST).unwrap();
        client.device.reset();
        client.start(queue);
    }

    assert_eq!(shared.metadata().unwrap().mode() & 0o7777, 0o777);
}

/// Tests each kind of request that needs more than the descriptor of an inode.
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
    // As another user; the thread's credentials change and change back.
    let mut theirs = request(opcode::MKDIR, ROOT, &words(&[0o755, 0]));
    theirs.extend(b"theirs\0");
    let len = theirs.len() as u32;
    theirs[..4].copy_from_slice(&len.to_le_bytes());
    theirs[24..32].copy_from_slice(&words(&[1234, 1234]));
    assert_eq!(client.exchange(&theirs)[4..8], [0; 4]);
    let head = [file as u32, 0];
    client.named(opcode::LINK, ROOT, &head, &["link"]).unwrap();
    let fifo = [libc::S_IFIFO | 0o600, 0, 0, 0];
    client.named(opcode::MKNOD, ROOT, &fifo, &["fifo"]).unwrap();
    let head = [client.node(&["fifo"]) as u32, 0];
    client.named(opcode::LINK, ROOT, &head, &["fifo2"]).unwrap();
    for name in ["made", "link", "fifo", "fifo2"] {
        client.named(opcode::UNLINK, ROOT, &[], &[name]).unwrap();
    }
    client.named(opcode::RMDIR, ROOT, &[], &["theirs"]).unwrap();
}
