//! What is left of a dead pod is removed whatever its files look like.

use super::*;
use crate::state::Status;
use crate::state_dir::record::{PodConfig, PodRunStatus, ProcessRecord};

struct Lab(tempfile::TempDir);

impl Lab {
    /// With the files of a dead pod and its container, as an owner leaves them
    /// that was killed.
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

    /// All paths that are left, but for those of `good`.
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
            // Only its own state tells how it ended; never is it an invented 0.
            assert!(code == 3 || at == 4 && code == LOST, "{code}");
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
