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

    #[test]
    fn flags_and_data_are_distinguished() {
        let options = ["ro", "nosuid", "size=1m", "dax"].map(String::from);
        let (flags, data) = mount_options(&options);
        assert_eq!(flags, MsFlags::MS_RDONLY | MsFlags::MS_NOSUID);
        assert_eq!(data, "size=1m,dax");
    }
}
