//! What a test left behind: processes, mounts, state folders, bundles, sockets
//! and cgroups of its bed. Only what bears the bed's name is looked at, for
//! other tests run on the same machine; but for mounts: of the machine's own, none
//! may be missing and none may be new.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use sha2::{Digest, Sha256};

use crate::bed::Bed;
use crate::capture::hex;
use crate::mounts;
use crate::process;

/// How often the kernel is asked where it gives no event (mounts, cgroups and
/// files of other processes).
const AGAIN: Duration = Duration::from_millis(50);

/// Everything left, by name; empty as soon as nothing is, at the latest after
/// `limit`.
pub fn left_after(bed: &Bed, limit: Duration) -> Vec<String> {
    let deadline = Instant::now() + limit;
    for process in bed.processes() {
        process::wait_gone(
            process.pid,
            deadline.saturating_duration_since(Instant::now()),
        );
    }
    loop {
        let left = left_now(bed);
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        std::thread::sleep(AGAIN);
    }
}

fn left_now(bed: &Bed) -> Vec<String> {
    let mut left = Vec::new();
    left.extend(
        bed.processes()
            .iter()
            .map(|p| format!("process {} {}", p.pid, p.command)),
    );
    left.extend(
        mounts::below(bed.dir())
            .iter()
            .map(|at| format!("mount {}", at.display())),
    );
    left.extend(bed.machine_mounts().changes());
    left.extend(
        state(bed)
            .iter()
            .map(|at| format!("state {}", at.display())),
    );
    left.extend(
        bundles(bed)
            .iter()
            .map(|at| format!("bundle {}", at.display())),
    );
    left.extend(sockets(bed).iter().map(|at| format!("socket {at}")));
    left.extend(
        netns(bed)
            .iter()
            .map(|at| format!("netns {}", at.display())),
    );
    left.extend(
        cgroups(bed)
            .iter()
            .map(|at| format!("cgroup {}", at.display())),
    );
    left
}

/// What is in rust-kata's state root, the folders that all pods share aside,
/// and what it made where no configuration sent it.
fn state(bed: &Bed) -> Vec<PathBuf> {
    let kept = [
        bed.state().join(bed.namespace()),
        bed.state().join(".vm"),
        bed.state().join(".owners"),
        bed.data().join("pods"),
        bed.data().join("pods/local"),
        bed.data().join("images"),
        bed.data().join("images/lock"),
        bed.data().join("images/names"),
        bed.data().join("images/records"),
        bed.data().join("images/layers"),
        bed.data().join("images/pulls"),
        bed.data().join("volumes"),
        bed.data().join("volumes/.lock"),
        // What happened is told when what it happened to is gone.
        bed.data().join("events"),
        bed.data().join("events/lock"),
        bed.data().join("events/log"),
        bed.data().join("events/log.1"),
    ];
    let mut found: Vec<PathBuf> = tree(&bed.state())
        .into_iter()
        .chain(tree(&bed.data()))
        .map(|(path, _)| path)
        .filter(|path| !kept.contains(path))
        .collect();
    let astray = Path::new("/run/rust-kata").join(bed.namespace());
    found.extend(astray.exists().then_some(astray));
    found
}

fn bundles(bed: &Bed) -> Vec<PathBuf> {
    let tasks = Path::new("io.containerd.runtime.v2.task").join(bed.namespace());
    ["root", "state"]
        .iter()
        .flat_map(|part| list(&bed.dir().join(part).join(&tasks)))
        .collect()
}

/// Sockets of containerd's naming scheme for shims, and all that the kernel
/// knows under the bed's folder.
fn sockets(bed: &Bed) -> Vec<String> {
    let mut found: Vec<String> = bed
        .ids()
        .iter()
        .map(|id| shim_socket(bed, id))
        .filter(|path| path.exists())
        .map(|p| p.display().to_string())
        .collect();
    let table = fs::read_to_string("/proc/net/unix").expect("/proc is mounted");
    let folder = bed.dir().to_str().expect("an ASCII path");
    let own = bed.socket().display().to_string();
    let open = table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7));
    found.extend(
        open.filter(|path| path.contains(folder) && !path.starts_with(&own))
            .map(str::to_owned),
    );
    found.sort();
    found.dedup();
    found
}

/// Where containerd 1.6's shims listen (`pkg/…/shim/util_unix.go`,
/// `SocketAddress`).
pub fn shim_socket(bed: &Bed, id: &str) -> PathBuf {
    let name = bed.socket().join(bed.namespace()).join(id);
    Path::new("/run/containerd/s").join(hex(&Sha256::digest(name.to_str().expect("ASCII"))))
}

/// Named network namespaces: those of tests bear the bed's name. Taps go with
/// the namespace they are in.
fn netns(bed: &Bed) -> Vec<PathBuf> {
    let mut found = list(Path::new("/var/run/netns"));
    found.retain(|path| path.to_string_lossy().contains(bed.namespace()));
    found
}

/// Containers' cgroups: `ctr` puts them at `/<namespace>/<id>`.
fn cgroups(bed: &Bed) -> Vec<PathBuf> {
    let parents = cgroup_parents(bed);
    parents
        .iter()
        .flat_map(|parent| list(parent))
        .filter(|path| path.is_dir())
        .collect()
}

fn cgroup_parents(bed: &Bed) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let mut parents: Vec<PathBuf> = list(root)
        .iter()
        .map(|controller| controller.join(bed.namespace()))
        .collect();
    parents.push(root.join(bed.namespace()));
    parents.retain(|path| path.is_dir());
    parents
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

/// All paths below `folder`, each with whether it is a folder.
pub fn tree(folder: &Path) -> Vec<(PathBuf, bool)> {
    let mut found = Vec::new();
    for path in list(folder) {
        let is_dir = path.symlink_metadata().is_ok_and(|data| data.is_dir());
        // What is mounted there is named as a mount; its contents are no state.
        let inside = if is_dir && !is_mount(&path) {
            tree(&path)
        } else {
            Vec::new()
        };
        found.push((path, is_dir));
        found.extend(inside);
    }
    found
}

fn is_mount(path: &Path) -> bool {
    mounts::below(path).iter().any(|point| point == path)
}

/// Unmounts whatever is mounted at or below `folder`.
pub fn unmount(folder: &Path) {
    for point in mounts::below(folder).iter().rev() {
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
}

/// Undoes what must not outlive the bed whether or not the test passed.
pub fn remove_traces(bed: &Bed) {
    unmount(bed.dir());
    for parent in cgroup_parents(bed) {
        remove_cgroups(&parent);
    }
    for id in bed.ids() {
        let _ = fs::remove_file(shim_socket(bed, &id));
    }
}

fn remove_cgroups(group: &Path) {
    for child in list(group).iter().filter(|path| path.is_dir()) {
        remove_cgroups(child);
    }
    let _ = fs::remove_dir(group);
}
