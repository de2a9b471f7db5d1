//! The pod: the mounts, namespaces and clock that its containers share, and the table of
//! containers.

pub(crate) mod pid_namespace;
pub(crate) mod share;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use protos::GUEST_NAMESPACES;
use protos::agent::{CreatePodRequest, Storage};

use crate::container::{Container, Environment, check_id};
use crate::error::{Context, Error, Result};
use crate::sync::lock;

/// The entry of a name in the table: a container, or its reservation during the creation.
enum Slot {
    Creating,
    Made(Arc<Container>),
}

pub struct Pod {
    pub environment: Environment,
    /// The directories of the share that each container uses.
    pub share: share::Uses,
    containers: Mutex<HashMap<String, Slot>>,
    set_up: Mutex<bool>,
    /// The mount points of storages of containers.
    mounted: Mutex<HashSet<String>>,
}

impl Pod {
    pub fn new(environment: Environment) -> Pod {
        Pod {
            environment,
            share: share::Uses::default(),
            containers: Mutex::default(),
            set_up: Mutex::new(false),
            mounted: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        lock(&self.containers)
    }

    /// Makes the shared resources of the containers. Blocks.
    pub fn create(&self, request: &CreatePodRequest) -> Result<()> {
        let mut set_up = lock(&self.set_up);
        if *set_up {
            return Err(Error::State {
                what: format!("pod {}", request.pod_id),
                state: "set up already",
                wanted: "new",
            });
        }
        if request.realtime_ns != 0 {
            let now = TimeSpec::from_duration(Duration::from_nanos(request.realtime_ns));
            clock_settime(ClockId::CLOCK_REALTIME, now).what("set the clock")?;
        }
        for storage in &request.storages {
            mount_storage(storage)?;
        }
        make_namespaces(request)?;
        if request.share_pid {
            pid_namespace::make(&Path::new(GUEST_NAMESPACES).join("pid"))?;
        }
        *set_up = true;
        Ok(())
    }

    /// Mounts the storages that the containers share, unless they are mounted. Blocks.
    pub fn mount_once(&self, storages: &[Storage]) -> Result<()> {
        let mut mounted = lock(&self.mounted);
        for storage in storages {
            if !mounted.contains(&storage.target) {
                mount_storage(storage)?;
                mounted.insert(storage.target.clone());
            }
        }
        Ok(())
    }

    /// Reserves the name of a container for its creation.
    pub fn reserve(&self, id: &str) -> Result<()> {
        check_id(id)?;
        let mut table = self.table();
        if table.contains_key(id) {
            return Err(Error::ContainerExists(id.to_owned()));
        }
        table.insert(id.to_owned(), Slot::Creating);
        Ok(())
    }

    /// Replaces a reservation by the container; `None` removes the reservation.
    pub fn finish_create(&self, id: &str, container: Option<Arc<Container>>) {
        match container {
            Some(container) => self.table().insert(id.to_owned(), Slot::Made(container)),
            None => self.table().remove(id),
        };
    }

    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        match self.table().get(id) {
            Some(Slot::Made(container)) => Ok(container.clone()),
            Some(Slot::Creating) => Err(Error::State {
                what: format!("container {id}"),
                state: "being created",
                wanted: "created",
            }),
            None => Err(Error::NoContainer(id.to_owned())),
        }
    }

    pub fn forget(&self, id: &str) {
        self.table().remove(id);
    }

    /// Kills and removes every container.
    pub async fn destroy(&self) {
        let containers: Vec<Arc<Container>> = self
            .table()
            .drain()
            .filter_map(|(_, slot)| match slot {
                Slot::Made(container) => Some(container),
                Slot::Creating => None,
            })
            .collect();
        let all = containers.iter().map(|container| container.destroy());
        for result in futures::future::join_all(all).await {
            if let Err(e) = result {
                log::warn!("destroy: {e}");
            }
        }
    }
}

fn mount_storage(storage: &Storage) -> Result<()> {
    let target = Path::new(&storage.target);
    if !target.is_absolute() {
        let expected = "an absolute path";
        return Err(Error::invalid("storage target", &storage.target, expected));
    }
    fs::create_dir_all(target).path(target)?;
    let (flags, data) = mount_options(&storage.options);
    mount(
        Some(storage.source.as_str()),
        target,
        Some(storage.fstype.as_str()),
        flags,
        Some(data.as_str()),
    )
    .what(format!(
        "mount {} {} on {}",
        storage.fstype, storage.source, storage.target
    ))
}

fn mount_options(options: &[String]) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in options {
        match option.as_str() {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "rw" | "defaults" => {}
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "relatime" => flags |= MsFlags::MS_RELATIME,
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

/// Makes the pod's ipc and uts namespaces: a thread enters new ones and sets them up; bind
/// mounts keep them after its end.
fn make_namespaces(request: &CreatePodRequest) -> Result<()> {
    let folder = Path::new(GUEST_NAMESPACES);
    fs::create_dir_all(folder).path(folder)?;
    // New UTS namespaces inherit it: the pod's, and those of single containers.
    if !request.hostname.is_empty() {
        nix::unistd::sethostname(&request.hostname)
            .what(format!("set the hostname {:?}", request.hostname))?;
    }
    let inside = || -> Result<()> {
        unshare(CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)
            .what("make the pod's namespaces")?;
        for (key, value) in &request.sysctls {
            let path = Path::new("/proc/sys").join(key.replace('.', "/"));
            fs::write(&path, value).map_err(|e| Error::Io {
                what: format!("sysctl {key} = {value:?}"),
                source: e,
            })?;
        }
        for name in ["ipc", "uts"] {
            let kept = folder.join(name);
            fs::File::create(&kept).path(&kept)?;
            let namespace = format!("/proc/thread-self/ns/{name}");
            let no = None::<&str>;
            mount(Some(namespace.as_str()), &kept, no, MsFlags::MS_BIND, no)
                .what(format!("keep the {name} namespace"))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| scope.spawn(inside).join())
        .unwrap_or_else(|_| Err(Error::Panicked("making the namespaces")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::testing::alone;
    use test_support::{require, root};

    #[test]
    fn flags_and_data_are_distinguished() {
        let options = ["ro", "nosuid", "size=1m", "dax"].map(String::from);
        let (flags, data) = mount_options(&options);
        assert_eq!(flags, MsFlags::MS_RDONLY | MsFlags::MS_NOSUID);
        assert_eq!(data, "size=1m,dax");
    }

    #[test]
    fn each_option_has_its_flag() {
        for (option, flag) in [
            ("ro", MsFlags::MS_RDONLY),
            ("rw", MsFlags::empty()),
            ("defaults", MsFlags::empty()),
            ("nosuid", MsFlags::MS_NOSUID),
            ("nodev", MsFlags::MS_NODEV),
            ("noexec", MsFlags::MS_NOEXEC),
            ("noatime", MsFlags::MS_NOATIME),
            ("relatime", MsFlags::MS_RELATIME),
            ("bind", MsFlags::MS_BIND),
            ("rbind", MsFlags::MS_BIND | MsFlags::MS_REC),
        ] {
            // With itself: it adds to what is there.
            let twice = [option.to_owned(), option.to_owned()];
            assert_eq!(mount_options(&twice), (flag, String::new()), "{option}");
        }
    }

    /// Runs `work` in namespaces of its own, with an empty `/run`, and without the right to set
    /// the clock of this machine.
    fn apart(work: impl FnOnce() + Send) {
        let inside = || {
            let no = None::<&str>;
            let flags =
                CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
            unshare(flags).unwrap();
            mount(no, "/", no, MsFlags::MS_PRIVATE | MsFlags::MS_REC, no).unwrap();
            mount(no, "/run", Some("tmpfs"), MsFlags::empty(), no).unwrap();
            let clock = caps::Capability::CAP_SYS_TIME;
            caps::drop(None, caps::CapSet::Effective, clock).unwrap();
            work();
        };
        std::thread::scope(|scope| scope.spawn(inside).join()).unwrap();
    }

    fn storage(source: &str, target: &str) -> Storage {
        Storage {
            source: source.into(),
            target: target.into(),
            fstype: "tmpfs".into(),
            options: vec!["nodev".into(), "size=64k".into()],
            ..Default::default()
        }
    }

    #[test]
    fn a_pod_is_set_up_once_with_its_name_sysctls_and_storages() {
        require!(root());
        apart(|| {
            let pod = Pod::new(crate::container::testing::environment());
            let request = CreatePodRequest {
                pod_id: "p".into(),
                hostname: "of-the-pod".into(),
                storages: vec![storage("one", "/run/one")],
                sysctls: [("kernel.msgmax".to_owned(), "4097".to_owned())].into(),
                ..Default::default()
            };
            pod.create(&request).unwrap();

            assert_eq!(nix::unistd::gethostname().unwrap(), "of-the-pod");
            let ours = |name: &str| fs::read_link(format!("/proc/thread-self/ns/{name}")).unwrap();
            for name in ["ipc", "uts"] {
                let kept = fs::metadata(Path::new(GUEST_NAMESPACES).join(name)).unwrap();
                let kept = std::os::unix::fs::MetadataExt::ino(&kept);
                assert!(
                    !ours(name).to_str().unwrap().contains(&format!("[{kept}]")),
                    "{name}"
                );
            }
            let entered = || {
                for (name, flag) in [
                    ("ipc", CloneFlags::CLONE_NEWIPC),
                    ("uts", CloneFlags::CLONE_NEWUTS),
                ] {
                    let kept = fs::File::open(Path::new(GUEST_NAMESPACES).join(name)).unwrap();
                    nix::sched::setns(kept, flag).unwrap();
                }
                assert_eq!(nix::unistd::gethostname().unwrap(), "of-the-pod");
                fs::read_to_string("/proc/sys/kernel/msgmax").unwrap()
            };
            let inside = std::thread::scope(|scope| scope.spawn(entered).join()).unwrap();
            assert_eq!(inside, "4097\n");
            let again = pod.create(&request).unwrap_err();
            assert!(matches!(
                again,
                Error::State {
                    state: "set up already",
                    ..
                }
            ));

            let unknown = CreatePodRequest {
                sysctls: [("kernel.no_such".to_owned(), "1".to_owned())].into(),
                ..Default::default()
            };
            let pod = Pod::new(crate::container::testing::environment());
            let refused = pod.create(&unknown).unwrap_err().to_string();
            assert!(
                refused.starts_with("sysctl kernel.no_such = \"1\": "),
                "{refused}"
            );
        });
    }

    #[test]
    fn the_clock_is_set_where_the_host_tells_the_time() {
        require!(root());
        apart(|| {
            let request = CreatePodRequest {
                realtime_ns: 1,
                ..Default::default()
            };
            let pod = Pod::new(crate::container::testing::environment());
            let refused = pod.create(&request).unwrap_err();
            assert!(matches!(&refused, Error::Io { what, .. } if what == "set the clock"));
        });
    }

    #[test]
    fn storages_are_mounted_once() {
        require!(root());
        apart(|| {
            let pod = Pod::new(crate::container::testing::environment());
            let storages = [storage("one", "/run/one"), storage("two", "/run/two")];
            for _ in 0..2 {
                pod.mount_once(&storages).unwrap();
            }
            let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            for target in ["/run/one", "/run/two"] {
                let at = |line: &&str| line.split(' ').nth(4) == Some(target);
                let mounts: Vec<&str> = table.lines().filter(at).collect();
                assert_eq!(mounts.len(), 1, "{mounts:?}");
                assert!(mounts[0].contains("nodev") && mounts[0].contains("size=64k"));
            }
            let relative = pod.mount_once(&[storage("x", "run/x")]).unwrap_err();
            assert!(matches!(&relative, Error::InvalidValue { value, .. } if value == "run/x"));
        });
    }

    #[test]
    fn a_shared_pid_namespace_has_a_process_that_reaps() {
        alone!();
        require!(root());
        apart(|| {
            fs::create_dir_all(GUEST_NAMESPACES).unwrap();
            let kept = Path::new(GUEST_NAMESPACES).join("pid");
            pid_namespace::make(&kept).unwrap();
            let first = first_process_of(&kept);
            let namespace = fs::File::open(&kept).unwrap();
            crate::launch::testing::forked_well(|| {
                nix::sched::setns(namespace, CloneFlags::CLONE_NEWPID).unwrap();
                // Its child leaves an orphan that ends.
                let script = "(exit 0) & exit 0";
                let child = std::process::Command::new("/bin/sh")
                    .args(["-c", script])
                    .status();
                assert!(child.unwrap().success());
            });
            let children = format!("/proc/{first}/task/{first}/children");
            let end = std::time::Instant::now() + Duration::from_secs(20);
            while !fs::read_to_string(&children).unwrap().trim().is_empty() {
                assert!(std::time::Instant::now() < end, "an orphan is left");
                std::thread::yield_now();
            }
            // SAFETY: no memory is involved; it is our child.
            unsafe {
                libc::kill(first, libc::SIGKILL);
                libc::waitpid(first, std::ptr::null_mut(), 0);
            }
        });
    }

    /// The process of ours that is in this pid namespace.
    fn first_process_of(kept: &Path) -> i32 {
        let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(kept).unwrap());
        let pids = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let inside = |pid: &i32| {
            fs::read_link(format!("/proc/{pid}/ns/pid"))
                .is_ok_and(|link| link.to_str() == Some(&format!("pid:[{inode}]")))
        };
        pids.into_iter().find(inside).unwrap()
    }
}
