//! Held locks, their holders, and files that are not locks.

use std::cell::Cell;
use std::io::BufRead;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::*;
use crate::error::ErrorKind;
use crate::state_dir::paths::RunPaths;

fn pod() -> (tempfile::TempDir, RunPaths) {
    let root = tempfile::tempdir().unwrap();
    let dir = RunPaths::new(root.path(), "ns", "p").unwrap();
    fs::create_dir_all(dir.path()).unwrap();
    create(&dir).unwrap();
    (root, dir)
}

fn owner(address: &str) -> OwnerProcess {
    OwnerProcess {
        pid: 7,
        start_time: 8,
        address: address.into(),
    }
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

fn is_locked(path: &Path) -> bool {
    let file = open(path, false).unwrap();
    match FileExt::try_lock_exclusive(&file) {
        Ok(()) => false,
        Err(e) => {
            assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock);
            true
        }
    }
}

/// Checks for a system error about this path, which is neither "busy" nor "not found".
#[track_caller]
fn names<T: std::fmt::Debug>(result: Result<T>, file: &Path) {
    match result {
        Err(Error::Io { path, source, .. }) => {
            assert_eq!(path, file);
            assert_ne!(source.kind(), std::io::ErrorKind::NotFound);
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn is_missing<T: std::fmt::Debug>(result: Result<T>) {
    let error = result.unwrap_err();
    assert!(
        matches!(error, Error::NotFound { what: "pod", .. }),
        "{error:?}"
    );
}

fn replace(path: &Path, by: impl FnOnce(&Path)) {
    let _ = fs::remove_file(path);
    by(path);
}

fn make_fifo(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

#[test]
fn clearing_spares_locks_and_removes_what_none_can_be() {
    let (root, dir) = pod();
    let _held = PodLock::exclusive(&dir).unwrap();
    let elsewhere = root.path().join("elsewhere");
    fs::write(&elsewhere, "whole").unwrap();
    let owned = open(&dir.owner(), true).unwrap();
    FileExt::lock_exclusive(&owned).unwrap();
    let locks = [Guarded::lock(&dir), dir.owner()];
    let before = locks.each_ref().map(|path| inode(path));

    clear(&dir).unwrap();

    assert_eq!(locks.each_ref().map(|path| inode(path)), before);
    assert!(locks.iter().all(|path| is_locked(path)));

    for path in &locks {
        for what in [
            |path: &Path| fs::create_dir_all(path.join("a/b")).unwrap(),
            |path: &Path| symlink("../../elsewhere", path).unwrap(),
            |path: &Path| symlink("/nonexistent", path).unwrap(),
            make_fifo,
        ] {
            replace(path, what);
            clear(&dir).unwrap();
            assert!(fs::symlink_metadata(path).is_err(), "{}", path.display());
        }
    }
    assert_eq!(fs::read(&elsewhere).unwrap(), b"whole");
    // Succeeds if nothing is left to remove.
    clear(&dir).unwrap();
    fs::remove_dir(dir.path()).unwrap();
    clear(&dir).unwrap();
    fs::write(dir.path(), "").unwrap();
    names(clear(&dir), &Guarded::lock(&dir));
}

#[test]
fn a_lock_is_busy_only_while_another_holds_it() {
    let (_root, dir) = pod();
    for hold in [PodLock::shared, PodLock::exclusive] {
        let held = hold(&dir).unwrap();
        assert!(PodLock::try_exclusive(&dir).unwrap().is_none());
        drop(held);
        assert!(PodLock::try_exclusive(&dir).unwrap().is_some());
    }
    let both = [
        PodLock::shared(&dir).unwrap(),
        PodLock::shared(&dir).unwrap(),
    ];
    drop(both);
    for what in [
        |path: &Path| fs::create_dir(path).unwrap(),
        |path: &Path| symlink("owner", path).unwrap(),
    ] {
        let path = Guarded::lock(&dir);
        replace(&path, what);
        names(PodLock::try_exclusive(&dir), &path);
        names(PodLock::exclusive(&dir), &path);
        names(PodLock::shared(&dir), &path);
        clear(&dir).unwrap();
    }
    is_missing(PodLock::try_exclusive(&dir));
    is_missing(PodLock::shared(&dir));
}

#[test]
fn a_lock_of_what_was_removed_meanwhile_guards_nothing() {
    let (_root, dir) = pod();
    let path = Guarded::lock(&dir);
    let gone = PodLock::take_at_once(&dir, |_| fs::remove_file(&path));
    is_missing(gone);
    create(&dir).unwrap();
    let other = PodLock::take_at_once(&dir, |_| {
        // While the old file is open, its inode is not reused.
        fs::remove_file(&path)?;
        fs::write(&path, "")
    });
    is_missing(other);
    // An error of the lock does not mean that the pod is gone.
    let broken = PodLock::take_at_once(&dir, |_| Err(rustix::io::Errno::IO.into()));
    names(broken, &path);
    PodLock::take_at_once(&dir, |_| Ok(())).unwrap();
}

#[test]
fn an_owner_is_one_as_long_as_it_holds_its_lock() {
    let (_root, dir) = pod();
    assert_eq!(OwnerLock::holder(&dir).unwrap(), None);
    // The previous owner wrote a longer text.
    fs::write(dir.owner(), "x".repeat(4096)).unwrap();
    assert_eq!(OwnerLock::holder(&dir).unwrap(), None, "nobody holds it");

    let owned = OwnerLock::take(&dir, &owner("/a")).unwrap();
    assert_eq!(OwnerLock::holder(&dir).unwrap(), Some(owner("/a")));
    let second = OwnerLock::take(&dir, &owner("/b")).unwrap_err();
    assert!(matches!(second, Error::AlreadyExists { what: "pod", .. }));
    assert_eq!(OwnerLock::holder(&dir).unwrap(), Some(owner("/a")));

    // An owner that is just starting.
    for text in ["", "{\"pid\": 7,"] {
        fs::write(dir.owner(), text).unwrap();
        let holder = OwnerLock::holder(&dir).unwrap().unwrap();
        assert_eq!(
            (holder.pid, holder.start_time, &*holder.address),
            (0, 0, "")
        );
    }
    drop(owned);
    assert_eq!(OwnerLock::holder(&dir).unwrap(), None);
    // An owner is found by its own lock, independent of the pod's.
    let _next = OwnerLock::take(&dir, &owner("/c")).unwrap();
    fs::remove_file(Guarded::lock(&dir)).unwrap();
    assert_eq!(OwnerLock::holder(&dir).unwrap(), Some(owner("/c")));
}

#[test]
fn an_owner_that_cannot_be_looked_for_is_not_none() {
    let (_root, dir) = pod();
    let path = dir.owner();
    for what in [
        |path: &Path| fs::create_dir(path).unwrap(),
        |path: &Path| symlink("lock", path).unwrap(),
    ] {
        replace(&path, what);
        names(OwnerLock::holder(&dir), &path);
        names(OwnerLock::take(&dir, &owner("")), &path);
        names(wait_for_owner(&dir), &path);
        clear(&dir).unwrap();
    }
    wait_for_owner(&dir).unwrap();
    // A lock that cannot be queried is not removed, either.
    fs::write(&path, "").unwrap();
    let mut options = OpenOptions::new();
    let unusable = options.read(true).custom_flags(libc::O_PATH).open(&path);
    names(OwnerLock::holder_of(unusable.unwrap(), &path), &path);
    wait_for_owner(&dir).unwrap();
    // An invalid lock of the pod is reported, too.
    replace(&Guarded::lock(&dir), |path| fs::create_dir(path).unwrap());
    names(OwnerLock::holder(&dir), &Guarded::lock(&dir));
}

#[test]
fn a_read_is_repeated_when_the_owner_changes() {
    let (_root, dir) = pod();
    let held = hold(&dir).unwrap();
    let read = |change: &dyn Fn(u32) -> bool| {
        let calls = Cell::new(0);
        let owned = Cell::new(None);
        let last = read_consistent(&dir, &held, |_, seen| {
            calls.set(calls.get() + 1);
            if change(calls.get()) {
                // Released before the next owner takes it, which would be refused otherwise.
                drop(owned.take());
                owned.set(Some(OwnerLock::take(&dir, &owner("/a")).unwrap()));
            }
            Ok(seen)
        });
        (calls.get(), last.unwrap())
    };
    assert_eq!(read(&|_| false), (1, None));
    assert_eq!(read(&|call| call == 1), (2, Some(owner("/a"))));
    assert_eq!(read(&|call| call <= 3), (4, Some(owner("/a"))));
    // The read ends even if the owner keeps changing.
    let (calls, _) = read(&|call| call <= 16);
    assert_eq!(calls, 17);
}

#[test]
fn a_pod_that_goes_while_it_is_read_was_not_there() {
    let (_root, dir) = pod();
    let held = hold(&dir).unwrap();
    is_missing(read_consistent(&dir, &held, |_, _| {
        fs::remove_file(Guarded::lock(&dir)).unwrap();
        Ok(())
    }));
    make_fifo(&Guarded::lock(&dir));
    match read_consistent(&dir, &held, |_, _| Ok(())) {
        Err(Error::BadFile { path, .. }) => assert_eq!(path, Guarded::lock(&dir)),
        other => panic!("{other:?}"),
    }
    fs::remove_dir_all(dir.path()).unwrap();
    is_missing(hold(&dir));
    fs::write(dir.path(), "").unwrap();
    names(hold(&dir), &dir.path());
    let parent = Dir::open(dir.namespace_dir()).unwrap();
    names(hold_in(&parent, "p", &dir), &dir.path());
    is_missing(hold_in(&parent, "q", &dir));
    assert_eq!(hold(&dir).unwrap_err().kind(), ErrorKind::Internal);
}

/// A process that holds a lock until the end of the test.
struct Holder(Child);

impl Holder {
    fn new(kind: &str, path: &Path) -> Self {
        let mut command = Command::new("flock");
        command.args(["--no-fork", kind]).arg(path);
        command.args(["sh", "-c", "echo ready; exec sleep 1000"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let holder = Self(child);
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        holder
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_holder_is_told_of_while_it_is_stopped() {
    let (_root, dir) = pod();
    assert_eq!(stopped_holder(&dir).unwrap(), None);
    for kind in ["--exclusive", "--shared"] {
        let holder = Holder::new(kind, &Guarded::lock(&dir));
        assert_eq!(stopped_holder(&dir).unwrap(), None, "it goes on");
        kill(holder.pid(), Signal::SIGSTOP).unwrap();
        let stopped = waitpid(holder.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert!(matches!(stopped, WaitStatus::Stopped(..)));
        assert_eq!(stopped_holder(&dir).unwrap(), Some(holder.0.id()));
        // Another pod's lock is another file.
        let other = RunPaths::new(_root.path(), "ns", "q").unwrap();
        fs::create_dir_all(other.path()).unwrap();
        create(&other).unwrap();
        assert_eq!(stopped_holder(&other).unwrap(), None);
    }
    assert_eq!(stopped_holder(&dir).unwrap(), None);
    fs::remove_file(Guarded::lock(&dir)).unwrap();
    assert_eq!(stopped_holder(&dir).unwrap(), None);
    fs::remove_dir(dir.path()).unwrap();
    fs::write(dir.path(), "").unwrap();
    names(stopped_holder(&dir), &Guarded::lock(&dir));
}
