//! The remains of a dead pod are removed, even if its files are damaged.

use super::*;
use crate::state::Status;
use crate::state_dir::record::{PodConfig, PodRunStatus, ProcessRecord};

struct Lab(tempfile::TempDir);

impl Lab {
    /// Makes the files of a dead pod and its container, as a killed owner leaves them.
    fn new() -> Self {
        let lab = Self(tempfile::tempdir().unwrap());
        let dir = lab.dir("good");
        Self::make(&dir);
        fs::write(dir.owner(), r#"{"pid":7,"start_time":1,"address":""}"#).unwrap();
        state_dir::write(&dir.config(), &PodConfig::default()).unwrap();
        let state = PodRunState {
            status: PodRunStatus::Running,
            hypervisor: String::new(),
            processes: Vec::new(),
            reason: None,
            cgroups: Vec::new(),
        };
        state_dir::write(&dir.state(), &state).unwrap();
        let record = ContainerRecord {
            id: "a".into(),
            bundle: "/b".into(),
            sandbox: false,
            created: SystemTime::UNIX_EPOCH,
        };
        state_dir::write(&dir.container("a").join("config.json"), &record).unwrap();
        let exit = Exit {
            status: 3,
            at: SystemTime::UNIX_EPOCH,
        };
        let state = ContainerRunState {
            init: ProcessRecord {
                status: Status::Stopped,
                pid: 0,
                exit: Some(exit),
            },
            guest_pid: 0,
            execs: Default::default(),
        };
        state_dir::write(&dir.container("a").join("state.json"), &state).unwrap();
        lab
    }

    fn dir(&self, name: &str) -> RunPaths {
        RunPaths::new(self.0.path(), "ns", name).unwrap()
    }

    fn make(dir: &RunPaths) {
        for sub in [dir.container("a"), dir.sockets(), dir.shared()] {
            fs::create_dir_all(sub).unwrap();
        }
        lock::create(dir).unwrap();
    }

    /// A copy of `good`.
    fn bad(&self) -> RunPaths {
        let dir = self.dir("bad");
        Self::make(&dir);
        for (from, to) in files(&self.dir("good")).iter().zip(files(&dir)) {
            fs::copy(from, to).unwrap();
        }
        dir
    }

    /// All remaining paths, except those of `good`.
    fn left(&self) -> Vec<PathBuf> {
        let dirs = [self.0.path().join("ns"), self.0.path().join(".vm")];
        let entries = dirs.iter().flat_map(|dir| fs::read_dir(dir).unwrap());
        let good = self.dir("good");
        let mut left: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        left.retain(|path| *path != good.path() && *path != good.vm());
        left
    }
}

fn files(dir: &RunPaths) -> [PathBuf; 5] {
    let [config, state] = ["config.json", "state.json"].map(|name| dir.container("a").join(name));
    [dir.config(), dir.state(), dir.owner(), config, state]
}

#[test]
fn a_pod_with_any_damaged_file_is_found_and_removed() {
    let lab = Lab::new();
    let root = lab.0.path();
    for at in 0..5 {
        let whole = fs::read(&files(&lab.dir("good"))[at]).unwrap();
        let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|n| whole[..n].to_vec()).collect();
        damaged.push(vec![0; whole.len()]);
        damaged.push(br#"{"version": 2}"#.to_vec());
        for text in damaged {
            let dir = lab.bad();
            fs::write(&files(&dir)[at], &text).unwrap();
            let found = find_container(root, "ns", "a").unwrap().unwrap();
            assert_eq!(found.owner, None);
            let exits = reap(root, "ns", "bad", false).unwrap();
            let code = exits["a"].status;
            // Only its own state tells how it ended; the exit code is never an invented 0.
            assert!(code == 3 || at == 4 && code == Exit::KILLED, "{code}");
            assert!(lab.left().is_empty(), "{:?}", lab.left());
        }
        for what in 0..4 {
            let dir = lab.bad();
            let file = &files(&dir)[at];
            fs::remove_file(file).unwrap();
            match what {
                0 => {}
                1 => fs::create_dir(file).unwrap(),
                2 => std::os::unix::fs::symlink("/dev/zero", file).unwrap(),
                _ => nix::unistd::mkfifo(file, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            }
            reap(root, "ns", "bad", false).unwrap();
            assert!(lab.left().is_empty(), "{:?}", lab.left());
        }
    }
    let left = reap(root, "ns", "good", false).unwrap();
    assert_eq!(left["a"].status, 3);
}

#[test]
fn a_pod_that_cannot_be_looked_into_hides_no_container_of_others() {
    let lab = Lab::new();
    let root = lab.0.path();
    let namespace = root.join("ns");
    // Of no pod: files, and names that no pod can have.
    fs::write(namespace.join("file"), "").unwrap();
    fs::create_dir(namespace.join("lost+found")).unwrap();
    assert_eq!(pods(root, "ns").unwrap(), ["file", "good"]);
    assert_eq!(find_container(root, "ns", "none").unwrap(), None);
    // A link to itself, which the kernel cannot resolve.
    let bad = namespace.join("bad");
    std::os::unix::fs::symlink("bad", &bad).unwrap();
    assert_eq!(
        find_container(root, "ns", "a").unwrap().unwrap().pod,
        "good"
    );
    match find_container(root, "ns", "none") {
        Err(Error::Io { path, .. }) => assert!(path.starts_with(&bad), "{}", path.display()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pods_are_found_with_their_owner_and_sandbox() {
    let lab = Lab::new();
    let root = lab.0.path();
    assert_eq!(find_pod(root, "ns", "none").unwrap(), None);
    assert_eq!(find_pod(root, "other", "good").unwrap(), None);
    assert!(pods(root, "other").unwrap().is_empty());
    let expected = |owner| PodLocation {
        pod: "good".into(),
        sandbox: true,
        owner,
        exit: None,
        pid: 0,
    };
    assert_eq!(find_pod(root, "ns", "good").unwrap(), Some(expected(None)));
    let owner = OwnerProcess {
        pid: std::process::id(),
        start_time: 1,
        address: "/a".into(),
    };
    let owned = OwnerLock::take(&lab.dir("good"), &owner).unwrap();
    let found = find_pod(root, "ns", "good").unwrap();
    assert_eq!(found, Some(expected(Some(owner.clone()))));
    let container = find_container(root, "ns", "a").unwrap().unwrap();
    assert_eq!((container.owner, container.sandbox), (Some(owner), false));
    assert_eq!(container.exit.map(|exit| exit.status), Some(3));
    drop(owned);
    // Without its record: a sandbox has the name of its pod.
    fs::remove_file(lab.dir("good").container("a").join("config.json")).unwrap();
    assert!(!find_container(root, "ns", "a").unwrap().unwrap().sandbox);
    fs::create_dir(lab.dir("good").container("good")).unwrap();
    assert!(find_container(root, "ns", "good").unwrap().unwrap().sandbox);
    for bad in ["", "../good"] {
        let refused = find_container(root, "ns", bad).unwrap_err();
        assert_eq!(refused.kind(), crate::error::ErrorKind::InvalidArgument);
    }
}

#[test]
fn the_pods_of_dead_owners_are_abandoned_whatever_their_locks_are() {
    let lab = Lab::new();
    let root = lab.0.path();
    let owner = OwnerProcess {
        pid: std::process::id(),
        start_time: 1,
        address: String::new(),
    };
    Lab::make(&lab.dir("alive"));
    let _alive = OwnerLock::take(&lab.dir("alive"), &owner).unwrap();
    Lab::make(&lab.dir("new"));
    for name in ["dead", "directory", "link"] {
        Lab::make(&lab.dir(name));
    }
    fs::write(lab.dir("dead").owner(), "").unwrap();
    fs::create_dir(lab.dir("directory").owner()).unwrap();
    std::os::unix::fs::symlink("/nonexistent", lab.dir("link").owner()).unwrap();
    fs::create_dir(root.join("ns/lost+found")).unwrap();

    let found = abandoned(root, "ns").unwrap();

    assert_eq!(found, ["dead", "directory", "good", "link"]);
    for pod in found {
        reap(root, "ns", &pod, false).unwrap();
    }
    assert!(abandoned(root, "ns").unwrap().is_empty());
    let [alive, new] = ["alive", "new"].map(|name| lab.dir(name).path().is_dir());
    assert!(alive && new);
}

#[test]
fn a_pod_whose_owner_lives_is_removed_neither_unasked_nor_by_its_owner() {
    let lab = Lab::new();
    let root = lab.0.path();
    let dir = lab.dir("good");
    for (pid, force) in [(1, false), (0, true), (std::process::id(), true)] {
        let owner = OwnerProcess {
            pid,
            start_time: u64::MAX,
            address: String::new(),
        };
        let _owned = OwnerLock::take(&dir, &owner).unwrap();
        let refused = reap(root, "ns", "good", force).unwrap_err();
        assert!(
            matches!(refused, Error::WrongState { what: "pod", .. }),
            "{refused}"
        );
        assert!(dir.container("a").is_dir() && dir.vm().is_dir());
    }
}

#[test]
fn an_owner_is_killed_and_not_another_process_with_its_pid() {
    let mut child = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let pid = child.id();
    let mut owner = OwnerProcess {
        pid,
        start_time: u64::MAX,
        address: String::new(),
    };
    kill_owner("good", &owner).unwrap();
    assert!(child.try_wait().unwrap().is_none(), "it is another process");

    owner.start_time = hypervisor::start_time(pid).unwrap();
    kill_owner("good", &owner).unwrap();
    let ended = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&ended),
        Some(libc::SIGKILL)
    );
}

#[test]
fn removing_what_is_gone_is_no_error_and_what_cannot_go_is_one() {
    let lab = Lab::new();
    let (dir, gone) = (lab.dir("good"), lab.dir("gone"));
    remove(&gone, &ShareTree::new(gone.shared()), &[]).unwrap();
    assert!(reap(lab.0.path(), "ns", "gone", false).unwrap().is_empty());
    // An invalid lock.
    fs::remove_file(Guarded::lock(&dir)).unwrap();
    fs::create_dir(Guarded::lock(&dir)).unwrap();
    match remove(&dir, &ShareTree::new(dir.shared()), &[]) {
        Err(Error::Io { path, .. }) => assert_eq!(path, Guarded::lock(&dir)),
        other => panic!("{other:?}"),
    }
    assert!(dir.container("a").is_dir(), "nothing was removed");
}

#[test]
fn the_last_pod_of_a_namespace_takes_its_directories_along() {
    let lab = Lab::new();
    let root = lab.0.path();
    lab.bad();
    reap(root, "ns", "bad", false).unwrap();
    assert!(root.join("ns").is_dir() && root.join(".vm").is_dir());
    reap(root, "ns", "good", false).unwrap();
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);
}
