//! Finding pods and removing their remains, by their files alone. Every step may be repeated,
//! and may run in several processes at once.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Context, Error, Result};
use crate::events::Exit;
use crate::host::cgroup;
use crate::pod::share::ShareTree;
use crate::state_dir;
use crate::state_dir::Stored;
use crate::state_dir::dir::names;
use crate::state_dir::id::check_id;
use crate::state_dir::lock::{self, Guarded, OwnerLock, OwnerProcess, PodLock};
use crate::state_dir::paths::RunPaths;
use crate::state_dir::record::{self, ContainerRecord, ContainerRunState, PodRunState};

/// A container or pod that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLocation {
    /// Its pod.
    pub pod: String,
    /// Whether the container is the pod's sandbox, or alone in it.
    pub sandbox: bool,
    /// The pod's living owner; `None` if it is dead.
    pub owner: Option<OwnerProcess>,
    /// How the container ended, if that is recorded.
    pub exit: Option<Exit>,
    /// The container's pid on the host; 0 if it is not recorded.
    pub pid: u32,
}

/// Searches all pods of a namespace for a container.
pub(crate) fn find_container(
    root: &Path,
    namespace: &str,
    id: &str,
) -> Result<Option<PodLocation>> {
    check_id("container id", id)?;
    let mut unknown = None;
    for pod in pods(root, namespace)? {
        let dir = RunPaths::new(root, namespace, &pod)?;
        match is_there(&dir.container(id)) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(e) => {
                // It may be in that pod, or in one of the others.
                unknown.get_or_insert(e);
                continue;
            }
        }
        let record = read::<ContainerRecord>(&dir, &dir.container(id).join("config.json"));
        let state = read::<ContainerRunState>(&dir, &dir.container(id).join("state.json"));
        return Ok(Some(PodLocation {
            // The record is unreadable. With the CRI, a sandbox's id is its pod's.
            sandbox: record.map_or(pod == id, |r| r.sandbox),
            owner: OwnerLock::holder(&dir)?,
            exit: state.as_ref().and_then(|s| s.init.exit),
            pid: state.map_or(0, |s| s.init.pid),
            pod,
        }));
    }
    unknown.map_or(Ok(None), Err)
}

/// Searches for a pod.
pub(crate) fn find_pod(root: &Path, namespace: &str, pod: &str) -> Result<Option<PodLocation>> {
    let dir = RunPaths::new(root, namespace, pod)?;
    if !is_there(&dir.path())? {
        return Ok(None);
    }
    Ok(Some(PodLocation {
        pod: pod.to_owned(),
        sandbox: true,
        owner: OwnerLock::holder(&dir)?,
        exit: None,
        pid: 0,
    }))
}

/// The pods of a namespace, sorted. Skips names that are not valid for a pod.
pub(crate) fn pods(root: &Path, namespace: &str) -> Result<Vec<String>> {
    check_id("namespace", namespace)?;
    let mut pods = names(&root.join(namespace))?;
    pods.retain(|pod| check_id("pod id", pod).is_ok());
    Ok(pods)
}

/// Whether a directory entry with this name exists; a dangling link counts. A path below a file
/// does not exist.
fn is_there(path: &Path) -> Result<bool> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match fs::symlink_metadata(path) {
        Err(e) if matches!(e.kind(), NotFound | NotADirectory) => Ok(false),
        data => data.on("look at", path).map(|_| true),
    }
}

/// The pods of a namespace whose owners have died. A pod that is just being made does not have
/// an owner file yet, and is not included.
pub(crate) fn abandoned(root: &Path, namespace: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for pod in pods(root, namespace)? {
        let dir = RunPaths::new(root, namespace, &pod)?;
        let is_owned = || OwnerLock::holder(&dir).is_ok_and(|owner| owner.is_some());
        if is_there(&dir.owner()).unwrap_or(true) && !is_owned() {
            found.push(pod);
        }
    }
    Ok(found)
}

/// Removes the remains of a pod. With `force`, kills a living owner first.
pub(crate) fn reap(
    root: &Path,
    namespace: &str,
    pod: &str,
    force: bool,
) -> Result<HashMap<String, Exit>> {
    let dir = RunPaths::new(root, namespace, pod)?;
    lock::clear(&dir)?;
    if let Some(owner) = OwnerLock::holder(&dir)? {
        if !force {
            return Err(Error::WrongState {
                what: "pod",
                id: pod.to_owned(),
                operation: "remove",
                state: format!("owned by process {}", owner.pid),
            });
        }
        kill_owner(dir.pod(), &owner)?;
    }
    let _lock = match PodLock::exclusive(&dir) {
        Ok(lock) => Some(lock),
        // The pod did not get a lock yet, or is gone already.
        Err(Error::NotFound { .. }) => None,
        Err(e) => return Err(e),
    };
    let exits = exits(&dir);
    let state = read_unlocked::<PodRunState>(&dir.state());
    if let Some(state) = &state {
        kill(pod, &state.processes)?;
    }
    let cgroups = state.map(|s| s.cgroups).unwrap_or_default();
    remove_locked(&dir, &ShareTree::new(dir.shared()), &cgroups)?;
    Ok(exits)
}

/// Removes the remains of a pod, its directory last. Its processes must have ended.
pub(crate) fn remove(dir: &RunPaths, share: &ShareTree, cgroups: &[PathBuf]) -> Result<()> {
    let _lock = match PodLock::exclusive(dir) {
        Ok(lock) => lock,
        Err(Error::NotFound { .. }) => return Ok(()),
        Err(e) => return Err(e),
    };
    remove_locked(dir, share, cgroups)
}

fn remove_locked(dir: &RunPaths, share: &ShareTree, cgroups: &[PathBuf]) -> Result<()> {
    share.remove()?;
    cgroup::remove(cgroups);
    remove_dir(&dir.vm())?;
    remove_dir(&dir.path())?;
    // This fails while the namespace has other pods; the last one's removal succeeds.
    let _ = fs::remove_dir(dir.namespace_dir());
    let _ = dir.vm().parent().map(fs::remove_dir);
    Ok(())
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).on("remove", path),
        _ => Ok(()),
    }
}

/// How the containers of a dead pod ended, as far as it is recorded.
fn exits(dir: &RunPaths) -> HashMap<String, Exit> {
    let lost = Exit {
        status: Exit::KILLED,
        at: SystemTime::now(),
    };
    let ids = record::container_ids(dir).unwrap_or_default();
    ids.into_iter()
        .map(|id| {
            let state = read_unlocked::<ContainerRunState>(&dir.container(&id).join("state.json"));
            let exit = state.and_then(|s| s.init.exit).unwrap_or(lost);
            (id, exit)
        })
        .collect()
}

/// Kills an owner that does not answer, and waits until its lock is free: its children are
/// killed with it.
pub(crate) fn kill_owner(pod: &str, owner: &OwnerProcess) -> Result<()> {
    if owner.pid == 0 || owner.pid == std::process::id() {
        return Err(Error::WrongState {
            what: "pod",
            id: pod.to_owned(),
            operation: "remove",
            state: "being created".into(),
        });
    }
    let process = hypervisor::VmProcess {
        role: hypervisor::Role::Vmm,
        pid: owner.pid,
        start_time: owner.start_time,
    };
    kill(pod, &[process])
}

fn kill(pod: &str, processes: &[hypervisor::VmProcess]) -> Result<()> {
    let pod = pod.to_owned();
    hypervisor::kill_recorded(processes).map_err(|source| Error::Kill { pod, source })
}

fn read<T: Stored>(dir: &RunPaths, path: &Path) -> Option<T> {
    let _lock = PodLock::shared(dir).ok()?;
    read_unlocked(path)
}

/// Reads a file; an unreadable one counts as missing, since removal must work with any remains.
fn read_unlocked<T: Stored>(path: &Path) -> Option<T> {
    match state_dir::read(path) {
        Ok(value) => Some(value),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => {
            log::warn!("{e}");
            None
        }
    }
}
