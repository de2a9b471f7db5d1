//! The host cgroup of a pod's processes, for accounting by operators and the CRI, and for the
//! pod's limits as a whole. The guest enforces the containers' own limits.

mod hierarchies;
mod limits;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use self::limits::CpuLimits;
pub(crate) use self::limits::is_cpu_list;
use crate::error::{Context, Error, Result};

/// How often creating the cgroup is tried again because a directory was removed meanwhile, such
/// as a parent with its last pod.
const TRIES: usize = 1000;

/// The cgroup of one pod, in every hierarchy.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostCgroup {
    dirs: Vec<PathBuf>,
    /// The cgroup's and its parents' directories that did not exist, parents first.
    missing: Vec<PathBuf>,
    limits: CpuLimits,
}

impl HostCgroup {
    /// Plans the cgroup for an OCI `cgroupsPath`; none without a path.
    pub(crate) fn plan(path: Option<&Path>, limits: &CpuLimits) -> Self {
        let Some(relative) = path.and_then(relative_path) else {
            return Self::default();
        };
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut planned = Self {
            dirs: hierarchies::directories(&mounts, &relative, limits.cpuset.is_some()),
            missing: Vec::new(),
            limits: limits.clone(),
        };
        planned.look();
        planned
    }

    /// The directories that [`HostCgroup::create`] makes, and that must be removed.
    pub(crate) fn new_dirs(&self) -> &[PathBuf] {
        &self.missing
    }

    /// Looks for missing directories; returns whether there are new ones.
    fn look(&mut self) -> bool {
        let mut found = false;
        for dir in &self.dirs {
            for new in dir.ancestors().take_while(|dir| !dir.exists()) {
                found = true;
                if !self.missing.iter().any(|dir| dir == new) {
                    self.missing.push(new.to_owned());
                }
            }
        }
        // Sorted by depth: parents first.
        self.missing.sort_by_key(|dir| dir.components().count());
        found
    }

    /// Makes the cgroup. A parent may be removed at any time, with its last pod: it is made
    /// again, after `intend` has recorded that it must be removed later.
    pub(crate) fn create(&mut self, intend: impl Fn(&[PathBuf]) -> Result<()>) -> Result<()> {
        for _ in 0..TRIES {
            let made = self.make().and_then(|()| self.limits.apply(&self.dirs));
            let before = self.missing.len();
            match &made {
                Err(Error::Io { source, .. }) if source.kind() != ErrorKind::NotFound => {
                    return made;
                }
                Err(_) if self.look() => {}
                _ => return made,
            }
            if self.missing.len() > before {
                intend(&self.missing)?;
            }
        }
        self.make()
    }

    fn make(&self) -> Result<()> {
        self.missing.iter().try_for_each(|dir| self.make_one(dir))
    }

    fn make_one(&self, dir: &Path) -> Result<()> {
        match fs::create_dir(dir) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                return Err(e).on("create the cgroup", dir);
            }
            _ => {}
        }
        // In v2 a child has only the controllers that its parent enables for it.
        if let Some(parent) = dir.parent() {
            let handed_on = parent.join("cgroup.subtree_control");
            let _ = fs::write(&handed_on, "+cpu +memory +pids +io");
            if self.limits.cpuset.is_some() {
                let _ = fs::write(&handed_on, "+cpuset");
            }
        }
        limits::inherit_cpuset(dir);
        Ok(())
    }

    /// The directory into which processes can be cloned, if there is only one.
    pub(crate) fn birthplace(&self) -> Option<&Path> {
        match &self.dirs[..] {
            [dir] => Some(dir),
            _ => None,
        }
    }

    /// Moves a process in, unless it is there already: the kernel would wait for all processors
    /// even then. A failure is only logged, since it affects only accounting.
    pub(crate) fn add(&self, pid: u32) {
        for dir in &self.dirs {
            if holds(dir, pid) {
                continue;
            }
            if let Err(e) = self.enter(dir, pid) {
                log::warn!("Cannot move process {pid} to {}: {e}", dir.display());
            }
        }
    }

    /// Moves a process into one directory. As long as the cgroup is empty, another process may
    /// remove it; a directory made here is then made again.
    fn enter(&self, dir: &Path, pid: u32) -> std::io::Result<()> {
        let enter = || fs::write(dir.join("cgroup.procs"), pid.to_string());
        match enter() {
            Err(e) if e.kind() == ErrorKind::NotFound && self.missing.iter().any(|d| d == dir) => {
                if let Err(e) = self.make() {
                    log::debug!("The cgroup is not made again: {e}");
                }
                enter()
            }
            entered => entered,
        }
    }
}

fn holds(dir: &Path, pid: u32) -> bool {
    let processes = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    processes.lines().any(|line| line.parse() == Ok(pid))
}

/// How long processes that were killed may take to leave a cgroup.
const LEAVE: Duration = Duration::from_secs(2);

/// Removes the cgroup directories of a pod, except those that others use.
pub(crate) fn remove(dirs: &[PathBuf]) {
    for dir in dirs.iter().rev() {
        let mut removed = fs::remove_dir(dir);
        if removed
            .as_ref()
            .is_err_and(|e| e.kind() == ErrorKind::ResourceBusy)
        {
            // Processes that died with the owner may not have left yet.
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

/// Waits a while for the last process to leave a cgroup: POLLPRI reports a change of
/// `cgroup.events` (cgroup-v2.rst). v1 does not have this file.
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

/// An OCI `cgroupsPath` relative to the mount point of a hierarchy: a cgroupfs path, or
/// systemd's `slice:prefix:name`.
pub(crate) fn relative_path(path: &Path) -> Option<PathBuf> {
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
    if name == "-" {
        // The root slice.
        return PathBuf::new();
    }
    let ends = name
        .match_indices('-')
        .map(|(at, _)| at)
        .chain([name.len()]);
    ends.filter(|end| *end > 0)
        .map(|end| format!("{}.slice", &name[..end]))
        .collect()
}
