//! The host cgroup of a pod's processes, for accounting by operators and the CRI, and for the
//! pod's limits as a whole. The guest enforces the containers' own limits.

mod hierarchies;
mod limits;

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
    fn a_parent_that_goes_while_the_cgroup_is_made_is_made_again() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let root = tempfile::tempdir().unwrap();
        let [parent, other] = ["pods/deep", "pods/deep/other"].map(|dir| root.path().join(dir));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Another pod of the parent is created and removed all the time.
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = fs::create_dir_all(&other);
                    remove(&[root.path().join("pods"), parent.clone(), other.clone()]);
                }
            });
            for n in 0..2000 {
                let dir = parent.join(n.to_string());
                let mut cgroup = HostCgroup {
                    dirs: vec![dir.clone()],
                    ..HostCgroup::default()
                };
                cgroup.look();
                let intended = std::cell::RefCell::new(cgroup.new_dirs().to_vec());
                let created = cgroup.create(|dirs| {
                    *intended.borrow_mut() = dirs.to_vec();
                    Ok(())
                });
                let made = dir.is_dir();
                if created.is_err() || !made || *intended.borrow() != cgroup.new_dirs() {
                    over.store(true, Ordering::Relaxed);
                    panic!("{created:?}, made: {made}, intended: {intended:?}");
                }
                remove(cgroup.new_dirs());
                assert!(!dir.exists());
            }
            over.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_cgroup_that_went_before_its_first_process_is_made_again() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("pods/a");
        let mut cgroup = HostCgroup {
            dirs: vec![dir.clone()],
            ..HostCgroup::default()
        };
        cgroup.look();
        cgroup.create(|_| Ok(())).unwrap();
        fs::remove_dir_all(root.path().join("pods")).unwrap();

        cgroup.enter(&dir, 42).unwrap();

        assert_eq!(fs::read_to_string(dir.join("cgroup.procs")).unwrap(), "42");
    }

    #[test]
    fn paths_of_systemd_are_slices_within_each_other() {
        let of = |path: &str| relative_path(Path::new(path)).map(|path| path.display().to_string());
        for (path, expected) in [
            ("system.slice:p:n", Some("system.slice/p-n.scope")),
            ("system.slice::n.service", Some("system.slice/n.service")),
            (
                "a-b-c.slice:p:n",
                Some("a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
            ),
            ("-.slice:p:n", Some("p-n.scope")),
            ("a", Some("a")),
            ("//a//b/", Some("a/b")),
            ("./a", None),
            ("", None),
            ("..", None),
        ] {
            assert_eq!(of(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn directories_that_are_missing_are_those_to_be_removed_parents_first() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("cpu/there")).unwrap();
        fs::create_dir(at("memory")).unwrap();
        let mut cgroup = HostCgroup {
            dirs: vec![at("cpu/there/a/b"), at("memory/a/b")],
            ..HostCgroup::default()
        };
        assert!(cgroup.look());
        let missing = [
            at("memory/a"),
            at("cpu/there/a"),
            at("memory/a/b"),
            at("cpu/there/a/b"),
        ];
        assert_eq!(cgroup.new_dirs(), missing);
        assert!(cgroup.look());
        assert_eq!(cgroup.new_dirs(), missing, "each once");
        // Without the files that the kernel's directories have.
        missing.iter().for_each(|dir| fs::create_dir(dir).unwrap());
        assert!(!cgroup.look());
        // A directory that others use stays.
        fs::create_dir(at("memory/a/other")).unwrap();
        remove(cgroup.new_dirs());
        assert!(!at("cpu/there/a").exists() && at("cpu/there").exists());
        assert!(!at("memory/a/b").exists() && at("memory/a/other").exists());
        // Nothing is left to remove, which is fine.
        remove(&[at("cpu/there/a")]);
    }

    #[test]
    fn a_child_gets_the_controllers_of_its_parent() {
        for (cpuset, expected) in [(None, "+cpu +memory +pids +io"), (Some("0"), "+cpuset")] {
            let root = tempfile::tempdir().unwrap();
            let cgroup = HostCgroup {
                limits: CpuLimits {
                    cpuset: cpuset.map(str::to_owned),
                    ..CpuLimits::default()
                },
                ..HostCgroup::default()
            };
            cgroup.make_one(&root.path().join("a")).unwrap();
            let control = root.path().join("cgroup.subtree_control");
            assert_eq!(fs::read_to_string(control).unwrap(), expected);
            // It may be there already.
            cgroup.make_one(&root.path().join("a")).unwrap();
        }
    }

    #[test]
    fn a_cgroup_that_cannot_be_made_is_an_error_that_names_it() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let mut cgroup = HostCgroup {
            dirs: vec![file.join("a")],
            ..HostCgroup::default()
        };
        cgroup.look();
        match cgroup.create(|_| Ok(())).unwrap_err() {
            Error::Io {
                action: "create the cgroup",
                path,
                ..
            } => {
                assert_eq!(path, file.join("a"));
            }
            other => panic!("{other:?}"),
        }
        let none = HostCgroup::plan(None, &CpuLimits::default());
        assert!(none.dirs.is_empty() && none.new_dirs().is_empty());
        let unsafe_path = HostCgroup::plan(Some(Path::new("/a/../b")), &CpuLimits::default());
        assert!(unsafe_path.dirs.is_empty());
    }

    #[test]
    fn the_last_process_of_a_cgroup_is_waited_for_a_while() {
        let root = tempfile::tempdir().unwrap();
        let waited = |events: &str| {
            fs::write(root.path().join("cgroup.events"), events).unwrap();
            let start = Instant::now();
            wait_until_empty(root.path());
            start.elapsed() >= LEAVE
        };
        assert!(!waited("populated 0\n"));
        assert!(!waited("frozen 0\npopulated 0\n"));
        assert!(waited("populated 1\nfrozen 0\n"));
        fs::remove_file(root.path().join("cgroup.events")).unwrap();
        let start = Instant::now();
        wait_until_empty(root.path());
        assert!(start.elapsed() < LEAVE, "v1 does not have the file");
    }
}
