//! Leak checks: processes, mounts, state folders, bundles, sockets and cgroups of a bed. Only
//! objects with the bed's name count, since other tests run on the same machine. Mounts are an
//! exception: the machine's own must be the same as before.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use sha2::{Digest, Sha256};

use crate::bed::Bed;
use crate::capture::hex;
use crate::mounts;
use crate::process;

/// The poll interval for objects without events (mounts, cgroups and files of other processes).
const AGAIN: Duration = Duration::from_millis(50);

/// Lists everything that is left. Returns as soon as nothing is, and after `limit` at the
/// latest.
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

/// The contents of rust-kata's state root without the folders that all pods share, and of its
/// default directories.
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
        // The journal reports the last events when their objects are gone, so it may stay.
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

/// Sockets with containerd's names for shims, and all sockets below the bed's folder.
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

/// The address of containerd 1.6's shims (`pkg/…/shim/util_unix.go`, `SocketAddress`).
pub fn shim_socket(bed: &Bed, id: &str) -> PathBuf {
    let name = bed.socket().join(bed.namespace()).join(id);
    Path::new("/run/containerd/s").join(hex(&Sha256::digest(name.to_str().expect("ASCII"))))
}

/// Network namespaces with a name; those of tests have the bed's name. Taps are removed with
/// their namespace.
fn netns(bed: &Bed) -> Vec<PathBuf> {
    let mut found = list(Path::new("/var/run/netns"));
    found.retain(|path| path.to_string_lossy().contains(bed.namespace()));
    found
}

/// Containers' cgroups: `ctr` uses `/<namespace>/<id>`.
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
        // A mount is listed as one; its contents are not state.
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

/// Unmounts everything at or below `folder`.
pub fn unmount(folder: &Path) {
    for point in mounts::below(folder).iter().rev() {
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
}

/// Removes what must not outlive the bed, even if the test failed.
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
