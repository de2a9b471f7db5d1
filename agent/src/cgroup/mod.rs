//! The cgroup (v2) of one container: its creation and removal, its processes and the freezer.
//! The files are described in the kernel's Documentation/admin-guide/cgroup-v2.rst.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Context, Error, Result};

pub mod devices;
pub(crate) mod oom;
pub mod resources;
pub mod stats;

/// The mount point of the hierarchy.
pub const ROOT: &str = "/sys/fs/cgroup";

/// The deadline for freezing and killing. Both take milliseconds, unless a process hangs in the
/// kernel.
const PATIENCE: Duration = Duration::from_secs(10);

/// The cgroup of a container.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup at `path` below the root of the hierarchy.
    pub fn new(path: &Path) -> Result<Cgroup> {
        let mut full = PathBuf::from(ROOT);
        for component in path.components() {
            match component {
                Component::Normal(name) => full.push(name),
                Component::RootDir | Component::CurDir => {}
                _ => {
                    let expected = "a path within the cgroup hierarchy";
                    return Err(Error::invalid("cgroupsPath", path.display(), expected));
                }
            }
        }
        if full == Path::new(ROOT) {
            let expected = "a path below the root of the hierarchy";
            return Err(Error::invalid("cgroupsPath", path.display(), expected));
        }
        Ok(Cgroup { path: full })
    }

    /// The cgroup, or what is to be taken for it, in this folder.
    #[cfg(test)]
    pub fn within(path: &Path) -> Cgroup {
        let path = path.to_owned();
        Cgroup { path }
    }

    /// Its path, relative to the root of the hierarchy.
    pub fn below_root(&self) -> PathBuf {
        let below = self.path.strip_prefix(ROOT).unwrap_or(&self.path);
        Path::new("/").join(below)
    }

    /// Makes the cgroup and its ancestors, with every controller.
    pub fn create(&self) -> Result<()> {
        let mut path = PathBuf::from(ROOT);
        let below = self.path.strip_prefix(ROOT).unwrap_or(&self.path);
        let mut names = below.components().peekable();
        while let Some(name) = names.next() {
            path.push(name);
            match fs::create_dir(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.path(&path)?,
            }
            if names.peek().is_some() {
                enable_controllers(&path)?;
            }
        }
        Ok(())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.file(name);
        fs::read_to_string(&path).path(path)
    }

    fn write(&self, name: &str, value: &str) -> Result<()> {
        let path = self.file(name);
        fs::write(&path, value).map_err(|e| Error::File {
            path: format!("{} = {value:?}", path.display()).into(),
            source: e,
        })
    }

    /// All processes in the cgroup and below it.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        collect_processes(&self.path, &mut pids)?;
        Ok(pids)
    }

    /// Sends a signal to all processes.
    pub fn signal(&self, signal: i32) -> Result<()> {
        if signal == Signal::SIGKILL as i32 {
            return self.write("cgroup.kill", "1");
        }
        for pid in self.processes()? {
            // SAFETY: no memory is involved. nix knows no real-time signals.
            if unsafe { libc::kill(pid as i32, signal) } != 0 {
                match Errno::last() {
                    Errno::ESRCH => {}
                    e => return Err(e).what(format!("signal {signal} to {pid}")),
                }
            }
        }
        Ok(())
    }

    /// Kills all processes in it and waits for their end.
    pub async fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1")?;
        self.wait_event("populated", false).await
    }

    /// Freezes or thaws all processes; returns when this is done.
    pub async fn freeze(&self, frozen: bool) -> Result<()> {
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })?;
        self.wait_event("frozen", frozen).await
    }

    async fn wait_event(&self, key: &str, wanted: bool) -> Result<()> {
        let events = EventsFile::open(self.file("cgroup.events"))?;
        let wait = async {
            loop {
                let now = events.read()?;
                if (now.get(key).copied() == Some(1)) == wanted {
                    return Ok(());
                }
                events.changed().await?;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(done) => done,
            Err(_) => Err(Error::Deadline {
                what: format!("{key} = {wanted} of {}", self.path.display()),
                seconds: PATIENCE.as_secs(),
            }),
        }
    }

    /// The counts of memory.events; can be watched for changes.
    pub fn memory_events(&self) -> Result<EventsFile> {
        EventsFile::open(self.file("memory.events"))
    }

    /// The number of its processes that the OOM killer has killed.
    pub fn oom_kills(&self) -> u64 {
        let events = fs::read_to_string(self.file("memory.events")).unwrap_or_default();
        parse_flat(&events).get("oom_kill").copied().unwrap_or(0)
    }

    /// Kills the remaining processes, and removes the cgroup and those below it. Succeeds if
    /// the cgroup does not exist.
    pub async fn remove(&self) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        self.kill().await?;
        remove_tree(&self.path).path(&self.path)?;
        // The pod's own cgroup is removed with its last container.
        if let Some(parent) = self.path.parent()
            && parent != Path::new(ROOT)
        {
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }
}

/// Enables every available controller for the children of a cgroup.
pub fn enable_controllers(path: &Path) -> Result<()> {
    let available = path.join("cgroup.controllers");
    let available = fs::read_to_string(&available).path(available)?;
    let control = path.join("cgroup.subtree_control");
    for controller in available.split_ascii_whitespace() {
        // One by one: a controller that cannot be delegated must not prevent the others. A
        // limit that needs it fails, and names its file.
        if let Err(e) = fs::write(&control, format!("+{controller}")) {
            log::warn!("{}: +{controller}: {e}", control.display());
        }
    }
    Ok(())
}

fn subfolders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

fn collect_processes(path: &Path, pids: &mut Vec<u32>) -> Result<()> {
    let procs = path.join("cgroup.procs");
    match fs::read_to_string(&procs) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
        // It was removed meanwhile, or is threaded.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::EOPNOTSUPP)) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).path(procs),
    }
    for child in subfolders(path).unwrap_or_default() {
        collect_processes(&child, pids)?;
    }
    Ok(())
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for child in subfolders(path)? {
        remove_tree(&child)?;
    }
    fs::remove_dir(path)
}

/// Parses "key value" lines.
pub fn parse_flat(text: &str) -> HashMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// A "key value" file of a cgroup that can be watched for changes: the kernel signals POLLPRI
/// after a change until the file is read again.
pub struct EventsFile {
    path: PathBuf,
    file: AsyncFd<OwnedFd>,
}

impl EventsFile {
    fn open(path: PathBuf) -> Result<EventsFile> {
        let file = File::open(&path).path(&path)?;
        let file =
            crate::stdio::stream::register(OwnedFd::from(file), Interest::PRIORITY).path(&path)?;
        Ok(EventsFile { path, file })
    }

    /// Reads the file.
    pub fn read(&self) -> Result<HashMap<String, u64>> {
        let mut text = [0; 4096];
        let n = nix::sys::uio::pread(self.file.get_ref(), &mut text, 0).path(&self.path)?;
        Ok(parse_flat(&String::from_utf8_lossy(&text[..n])))
    }

    /// Waits until the file has changed since `read`.
    pub async fn changed(&self) -> Result<()> {
        let mut ready = self.file.ready(Interest::PRIORITY).await.path(&self.path)?;
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_support::Reason;

    #[test]
    fn paths_stay_below_the_root() {
        let cgroup = Cgroup::new(Path::new("/pod/container")).unwrap();
        assert_eq!(cgroup.path, Path::new("/sys/fs/cgroup/pod/container"));
        let cgroup = Cgroup::new(Path::new("pod")).unwrap();
        assert_eq!(cgroup.path, Path::new("/sys/fs/cgroup/pod"));
        for bad in ["/", "/a/../../b"] {
            let refused = Cgroup::new(Path::new(bad)).unwrap_err();
            assert!(
                matches!(&refused, Error::InvalidValue { value, .. } if value == bad),
                "{refused}"
            );
        }
    }

    #[test]
    fn flat_files_are_parsed() {
        let events = parse_flat("low 0\noom 1\noom_kill 3\n");
        assert_eq!(events["oom_kill"], 3);
        assert_eq!(events.len(), 3);
    }

    #[test]
    fn a_path_is_given_to_libcontainer_below_the_root() {
        for path in ["/pod/container", "pod/./container"] {
            let cgroup = Cgroup::new(Path::new(path)).unwrap();
            assert_eq!(cgroup.below_root(), Path::new("/pod/container"));
        }
    }

    #[test]
    fn processes_are_found_below_and_what_is_gone_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let cgroup = Cgroup::within(folder.path());
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("cgroup.procs", "1\n22\n");
        write("below/cgroup.procs", "333\n");
        write("gone/deep/cgroup.procs", "4\n");
        let mut found = cgroup.processes().unwrap();
        found.sort_unstable();
        assert_eq!(found, [1, 4, 22, 333]);

        fs::create_dir_all(folder.path().join("bad/cgroup.procs")).unwrap();
        let unreadable = cgroup.processes().unwrap_err();
        assert!(
            matches!(&unreadable, Error::File { path, .. } if path.ends_with("bad/cgroup.procs"))
        );
    }

    #[test]
    fn a_threaded_cgroup_has_no_processes_of_its_own() {
        use nix::sys::stat::{Mode, SFlag, mknod};

        test_support::require!(test_support::root());
        let folder = tempfile::tempdir().unwrap();
        // The device has no driver: ENODEV.
        let device = libc::makedev(10, 250);
        let procs = folder.path().join("cgroup.procs");
        mknod(&procs, SFlag::S_IFCHR, Mode::S_IRWXU, device).unwrap();
        fs::create_dir(folder.path().join("below")).unwrap();
        fs::write(folder.path().join("below/cgroup.procs"), "5\n").unwrap();
        assert_eq!(Cgroup::within(folder.path()).processes().unwrap(), [5]);
    }

    #[test]
    fn a_signal_misses_only_what_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let cgroup = Cgroup::within(folder.path());
        let procs = |pid: u32| fs::write(folder.path().join("cgroup.procs"), pid.to_string());
        // More than the kernel's largest pid.
        procs(1 << 29).unwrap();
        cgroup.signal(libc::SIGTERM).unwrap();
        procs(std::process::id()).unwrap();
        let invalid = cgroup.signal(999).unwrap_err();
        assert!(matches!(&invalid, Error::Io { source, .. }
            if source.raw_os_error() == Some(libc::EINVAL)));
        cgroup.signal(libc::SIGKILL).unwrap();
        let killed = fs::read_to_string(folder.path().join("cgroup.kill"));
        assert_eq!(killed.unwrap(), "1");
    }

    #[test]
    fn every_controller_is_enabled_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let missing = enable_controllers(folder.path()).unwrap_err();
        assert!(
            matches!(&missing, Error::File { path, .. } if path.ends_with("cgroup.controllers"))
        );
        fs::write(folder.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        enable_controllers(folder.path()).unwrap();
        let control = folder.path().join("cgroup.subtree_control");
        assert_eq!(fs::read_to_string(&control).unwrap(), "+memory");
        // One that cannot be enabled does not matter.
        fs::remove_file(&control).unwrap();
        fs::create_dir(&control).unwrap();
        enable_controllers(folder.path()).unwrap();
    }

    #[tokio::test]
    async fn what_is_not_there_is_removed_and_has_no_kills() {
        let folder = tempfile::tempdir().unwrap();
        let none = Cgroup::within(&folder.path().join("none"));
        none.remove().await.unwrap();
        assert_eq!(none.oom_kills(), 0);
        fs::write(folder.path().join("memory.events"), "oom 9\noom_kill 3\n").unwrap();
        let cgroup = Cgroup::within(folder.path());
        assert_eq!(cgroup.oom_kills(), 3);
        // It has no cgroup.kill that can be written.
        fs::create_dir(folder.path().join("cgroup.kill")).unwrap();
        assert!(cgroup.remove().await.is_err());
        assert!(folder.path().exists());
    }

    #[test]
    fn a_cgroup_is_made_with_its_ancestors_and_removed_with_its_parent() {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};

        test_support::require!(test_support::root());
        let inside = || {
            let none = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(none, "/", none, private, none).unwrap();
            let v2 = Some("cgroup2");
            mount(none, ROOT, v2, MsFlags::empty(), none).map_err(|_| Reason::CgroupV2)?;
            let name = format!("rust-kata-create-{}", std::process::id());
            let cgroup = Cgroup::new(&Path::new(&name).join("c")).unwrap();
            for _ in 0..2 {
                cgroup.create().unwrap();
            }
            assert!(cgroup.processes().unwrap().is_empty());
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(cgroup.remove()).unwrap();
            assert!(!Path::new(ROOT).join(&name).exists());

            let of_two_lines = Cgroup::new(Path::new("a\nb")).unwrap();
            assert!(of_two_lines.create().is_err());
            Ok(())
        };
        test_support::require!(std::thread::scope(|scope| scope.spawn(inside).join()).unwrap());
    }
}
