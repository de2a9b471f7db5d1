//! A hostile guest that tries to escape from the share.
//!
//! ```text
//!   place/share     the shared directory
//!   place/outside   the protected files `secret` and `dir/secret`
//! ```
//!
//! Checks at the end of each test: no answer had the secret; the kernel reported no open and no
//! change outside (inotify); no descriptor of this process leads there (`O_PATH` descriptors,
//! which inotify does not report); attributes and contents are unchanged.

mod handles;
mod links;
mod mounts;
mod names;
mod protocol;
mod races;
mod special;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify;

use super::client::{Client, opcode, words};

const SECRET: &str = "what no guest may know";

/// All open flags that might allow an escape.
const FLAGS: &[i32] = &[
    libc::O_RDONLY,
    libc::O_WRONLY,
    libc::O_RDWR,
    libc::O_RDWR | libc::O_TRUNC,
    libc::O_WRONLY | libc::O_APPEND,
    libc::O_PATH,
    libc::O_PATH | libc::O_DIRECTORY,
    libc::O_PATH | libc::O_NOFOLLOW,
    libc::O_DIRECTORY,
    libc::O_NOFOLLOW,
    libc::O_RDWR | libc::O_CREAT,
    libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC,
    libc::O_RDWR | libc::O_TMPFILE,
    libc::O_RDWR | libc::O_NONBLOCK,
    libc::O_RDONLY | libc::O_ASYNC,
    -1,
];

struct Prison {
    place: PathBuf,
    _temporary: Option<tempfile::TempDir>,
    guest: Client,
    watch: OwnedFd,
    before: Vec<String>,
}

impl Prison {
    fn new() -> Prison {
        let place = tempfile::tempdir().unwrap();
        Prison::build(place.path());
        let mut prison = Prison::at(place.path());
        prison._temporary = Some(place);
        prison
    }

    /// Makes the directories.
    fn build(place: &Path) {
        fs::create_dir(place.join("share")).unwrap();
        fs::create_dir_all(place.join("outside/dir")).unwrap();
        fs::write(place.join("outside/secret"), SECRET).unwrap();
        fs::write(place.join("outside/dir/secret"), SECRET).unwrap();
    }

    /// Shares the directories.
    fn at(place: &Path) -> Prison {
        let outside = place.join("outside");
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let watch = inotify::init(flags).unwrap();
        for dir in ["", "dir"] {
            let all = inotify::WatchFlags::ALL_EVENTS;
            inotify::add_watch(&watch, outside.join(dir), all).unwrap();
        }
        let mut guest = Client::sharing(&place.join("share"));
        guest.canary = Some(SECRET.as_bytes());
        Prison {
            place: place.to_owned(),
            _temporary: None,
            guest,
            watch,
            before: attributes(&outside),
        }
    }

    fn share(&self) -> PathBuf {
        self.place.join("share")
    }

    fn outside(&self) -> PathBuf {
        self.place.join("outside")
    }

    fn check(&self) {
        let event = rustix::io::read(&self.watch, &mut [0; 4096]);
        assert_eq!(event, Err(rustix::io::Errno::AGAIN), "something was opened");
        let outside = self.outside();
        for fd in fs::read_dir("/proc/self/fd").unwrap() {
            // Other tests open and close descriptors meanwhile.
            if let Ok(target) = fs::read_link(fd.unwrap().path()) {
                assert!(!target.starts_with(&outside), "{target:?} is held");
            }
        }
        assert_eq!(attributes(&outside), self.before);
        for name in ["secret", "dir/secret"] {
            assert_eq!(fs::read_to_string(outside.join(name)).unwrap(), SECRET);
        }
    }
}

impl Drop for Prison {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check();
        }
    }
}

/// The attributes of all files of a tree, without opening them.
fn attributes(dir: &Path) -> Vec<String> {
    ["", "secret", "dir", "dir/secret"]
        .iter()
        .map(|name| {
            let it = fs::symlink_metadata(dir.join(name)).unwrap();
            let times = (it.atime_nsec(), it.mtime_nsec(), it.ctime_nsec());
            let owner = (it.uid(), it.gid(), it.mode());
            format!("{name} {owner:?} {times:?} {} {}", it.len(), it.nlink())
        })
        .collect()
}

/// Tries all operations that would follow a link or open a device behind `node`, which is
/// `name` in `parent`; returns those that worked. Operations on the file itself are tried, too,
/// and may work.
fn assault(guest: &mut Client, parent: u64, name: &str, node: u64) -> Vec<String> {
    let mut worked = Vec::new();
    let mut note = |what: String, result: Result<_, i32>| {
        if result.is_ok() {
            worked.push(what);
        }
    };
    for flags in FLAGS {
        note(format!("open {flags:#o}"), guest.open(node, *flags));
        let made = guest.create(parent, name, *flags).map(|_| 0);
        note(format!("create over it {flags:#o}"), made);
    }
    note("opendir".into(), guest.opendir(node));
    for name in ["secret", "dir", "etc", ".", ".."] {
        let head = [0o644, 0, 0, 0];
        let found = guest.lookup(node, name).map(|_| 0);
        note(format!("lookup {name}"), found);
        let made = guest.create(node, name, libc::O_RDWR).map(|_| 0);
        note(format!("create {name}"), made);
        let made = guest.named(opcode::MKNOD, node, &head, &[name]).map(|_| 0);
        note(format!("mknod {name}"), made);
        let made = guest.symlink(node, name, "/").map(|_| 0);
        note(format!("symlink {name}"), made);
        for (opcode, what) in [(opcode::UNLINK, "unlink"), (opcode::RMDIR, "rmdir")] {
            let gone = guest.named(opcode, node, &[], &[name]).map(|_| 0);
            note(format!("{what} {name}"), gone);
        }
    }
    let size = 1 << 3;
    note("truncate".into(), guest.setattr(node, size).map(|_| 0));
    for opcode in [opcode::MKDIR, opcode::MKNOD] {
        let head = &[0o644, 0, 0, 0][..if opcode == opcode::MKDIR { 2 } else { 4 }];
        let made = guest.named(opcode, parent, head, &[name]).map(|_| 0);
        note(format!("{opcode} over it"), made);
    }
    let get = guest.getxattr(node, "user.x").map(|_| 0);
    note("getxattr".into(), get);
    for xattr in ["user.x", "security.x", "trusted.x", "system.x"] {
        note(xattr.into(), guest.setxattr(node, xattr, "y").map(|_| 0));
    }
    // Mode, owner and times, of the file itself.
    for valid in [1 << 0, 1 << 1 | 1 << 2, 1 << 4 | 1 << 5] {
        let _ = guest.setattr(node, valid);
    }
    let _ = guest.call(opcode::STATFS, node, &[]);
    let _ = guest.call(opcode::ACCESS, node, &words(&[7, 0]));
    let _ = guest.call(opcode::LISTXATTR, node, &words(&[4096, 0]));
    worked
}

/// Two words of a 64-bit number.
fn halves(long: u64) -> [u32; 2] {
    [long as u32, (long >> 32) as u32]
}
