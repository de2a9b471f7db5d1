//! The host cgroup of a pod's processes: where operators and the CRI look for
//! what a pod costs, and its limits as a whole. The containers' own limits are
//! the guest's business.

mod limits;

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use self::limits::CpuLimits;
pub(crate) use self::limits::is_cpu_list;
use crate::error::{Context, Result};

/// cgroup v1 hierarchies that the pod's processes join: those that account.
/// (cpuset would need its CPUs and nodes set first.)
const V1_CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "blkio"];

/// The cgroup of one pod, in every hierarchy.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostCgroup {
    dirs: Vec<PathBuf>,
    /// What is not there yet, parents first.
    missing: Vec<PathBuf>,
    limits: CpuLimits,
}

impl HostCgroup {
    /// Plans the cgroup for an OCI `cgroupsPath`; none without one.
    pub(crate) fn plan(path: Option<&Path>, limits: &CpuLimits) -> Self {
        let Some(relative) = path.and_then(relative_path) else {
            return Self::default();
        };
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut dirs: Vec<PathBuf> = hierarchies(&mounts, limits.cpuset.is_some())
            .iter()
            .map(|h| h.join(&relative))
            .collect();
        // cpu and cpuacct are one hierarchy on most hosts.
        dirs.dedup();
        let mut missing: Vec<PathBuf> = Vec::new();
        for dir in &dirs {
            let new: Vec<&Path> = dir.ancestors().take_while(|a| !a.exists()).collect();
            missing.extend(new.into_iter().rev().map(Path::to_owned));
        }
        Self {
            dirs,
            missing,
            limits: limits.clone(),
        }
    }

    /// The directories that [`HostCgroup::create`] makes: what to undo.
    pub(crate) fn new_dirs(&self) -> &[PathBuf] {
        &self.missing
    }

    /// Makes the cgroup.
    pub(crate) fn create(&self) -> Result<()> {
        for dir in &self.missing {
            match fs::create_dir(dir) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(e).on("create the cgroup", dir);
                }
                _ => {}
            }
            // v2 gives a child only the controllers that its parent hands on.
            if let Some(parent) = dir.parent() {
                let _ = fs::write(
                    parent.join("cgroup.subtree_control"),
                    "+cpu +memory +pids +io",
                );
                if self.limits.cpuset.is_some() {
                    let _ = fs::write(parent.join("cgroup.subtree_control"), "+cpuset");
                }
            }
            limits::inherit_cpuset(dir);
        }
        self.limits.apply(&self.dirs)
    }

    /// The directory in which processes can be born, if there is only one.
    pub(crate) fn birthplace(&self) -> Option<&Path> {
        match &self.dirs[..] {
            [dir] => Some(dir),
            _ => None,
        }
    }

    /// Moves a process in that is not there already: even then the kernel would wait
    /// for all processors. Accounting is no reason to fail a pod.
    pub(crate) fn add(&self, pid: u32) {
        for dir in &self.dirs {
            if holds(dir, pid) {
                continue;
            }
            if let Err(e) = fs::write(dir.join("cgroup.procs"), pid.to_string()) {
                log::warn!("Cannot move process {pid} to {}: {e}", dir.display());
            }
        }
    }
}

fn holds(dir: &Path, pid: u32) -> bool {
    let processes = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    processes.lines().any(|line| line.parse() == Ok(pid))
}

/// How long processes that were killed may take to leave a cgroup.
const LEAVE: Duration = Duration::from_secs(2);

/// Removes the cgroup directories of a pod. One that others use stays.
pub(crate) fn remove(dirs: &[PathBuf]) {
    for dir in dirs.iter().rev() {
        let mut removed = fs::remove_dir(dir);
        if removed
            .as_ref()
            .is_err_and(|e| e.kind() == ErrorKind::ResourceBusy)
        {
            // What died with the owner may still be on its way out.
            wait_until_empty(dir);
            removed = fs::remove_dir(dir);
        }
        if let Err(e) = removed
            && e.kind() != ErrorKind::NotFound
        {
            log::debug!("The cgroup {} stays: {e}", dir.display());
        }
    }
}

/// Waits a while for the last process to leave a cgroup: a change of
/// `cgroup.events` is told by POLLPRI (cgroup-v2.rst). v1 has no such file.
fn wait_until_empty(dir: &Path) {
    let Ok(mut events) = File::open(dir.join("cgroup.events")) else {
        return;
    };
    let deadline = Instant::now() + LEAVE;
    loop {
        let mut text = String::new();
        let read = events
            .rewind()
            .and_then(|()| events.read_to_string(&mut text));
        let left = deadline.saturating_duration_since(Instant::now());
        if read.is_err() || text.lines().any(|line| line == "populated 0") || left.is_zero() {
            return;
        }
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut change = [PollFd::new(&events, PollFlags::PRI)];
        match poll(&mut change, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Mount points of the hierarchies to join: the v1 ones, with that of CPU sets
/// if it is wanted, or else v2.
fn hierarchies(mountinfo: &str, cpuset: bool) -> Vec<PathBuf> {
    let mut v1 = Vec::new();
    let mut v2 = Vec::new();
    for line in mountinfo.lines() {
        // proc(5): "... mount-point ... - type source super-options"
        let Some((head, tail)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = head.split(' ').nth(4) else {
            continue;
        };
        let mut tail = tail.split(' ');
        match (tail.next(), tail.nth(1)) {
            (Some("cgroup"), Some(options))
                if options
                    .split(',')
                    .any(|o| V1_CONTROLLERS.contains(&o) || (cpuset && o == "cpuset")) =>
            {
                v1.push(PathBuf::from(point));
            }
            (Some("cgroup2"), _) => v2.push(PathBuf::from(point)),
            _ => {}
        }
    }
    if v1.is_empty() { v2 } else { v1 }
}

/// An OCI `cgroupsPath` below the mount point of a hierarchy: a cgroupfs path,
/// or systemd's `slice:prefix:name`.
fn relative_path(path: &Path) -> Option<PathBuf> {
    if let [slice, prefix, name] = path.to_str()?.split(':').collect::<Vec<_>>()[..] {
        let scope = if prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{prefix}-{name}.scope")
        };
        return Some(slice_path(slice).join(scope));
    }
    let plain: PathBuf = path
        .components()
        .filter(|c| *c != Component::RootDir)
        .collect();
    let safe = plain
        .components()
        .all(|c| matches!(c, Component::Normal(_)));
    (safe && !plain.as_os_str().is_empty()).then_some(plain)
}

/// systemd.slice(5): `a-b.slice` is inside `a.slice`.
fn slice_path(slice: &str) -> PathBuf {
    let name = slice.trim_end_matches(".slice");
    let ends = name
        .match_indices('-')
        .map(|(at, _)| at)
        .chain([name.len()]);
    ends.filter(|end| *end > 0)
        .map(|end| format!("{}.slice", &name[..end]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_both_drivers() {
        let of = |p: &str| relative_path(Path::new(p));
        assert_eq!(of("/kubepods/pod1/c"), Some("kubepods/pod1/c".into()));
        assert_eq!(
            of("kubepods-burstable-pod1.slice:cri-containerd:c"),
            Some("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-c.scope".into())
        );
        assert_eq!(of("/a/../b"), None);
        assert_eq!(of("/"), None);
    }

    #[test]
    fn process_that_is_there_already_is_not_moved() {
        let dir = tempfile::tempdir().unwrap();
        let procs = dir.path().join("cgroup.procs");
        fs::write(&procs, "7\n142\n").unwrap();
        let cgroup = HostCgroup {
            dirs: vec![dir.path().to_owned()],
            ..HostCgroup::default()
        };

        cgroup.add(142);
        let stayed = fs::read_to_string(&procs).unwrap();
        cgroup.add(42);
        let moved = fs::read_to_string(&procs).unwrap();

        assert_eq!((stayed.as_str(), moved.as_str()), ("7\n142\n", "42"));
    }

    #[test]
    fn processes_are_born_in_the_one_hierarchy_or_nowhere() {
        let of = |dirs: &[&str]| {
            let cgroup = HostCgroup {
                dirs: dirs.iter().map(PathBuf::from).collect(),
                ..HostCgroup::default()
            };
            cgroup.birthplace().map(Path::to_owned)
        };

        assert_eq!(of(&["/cg/a"]), Some("/cg/a".into()));
        assert_eq!(of(&["/cg/cpu/a", "/cg/memory/a"]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn v1_is_preferred_to_the_empty_v2_of_a_hybrid_host() {
        let hybrid = "1 0 0:1 / /cg/memory rw - cgroup cgroup rw,memory\n\
                      2 0 0:2 / /cg/systemd rw - cgroup cgroup rw,name=systemd\n\
                      3 0 0:3 / /cg/unified rw - cgroup2 cgroup2 rw";
        assert_eq!(hierarchies(hybrid, false), [PathBuf::from("/cg/memory")]);
        assert_eq!(
            hierarchies("3 0 0:3 / /cg rw - cgroup2 cgroup2 rw", true),
            [PathBuf::from("/cg")]
        );
    }
}
