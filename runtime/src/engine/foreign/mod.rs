//! Pods of other managers than the engine, read from their state files, for the engine to list
//! them.

mod container;
mod find;
pub mod owner;
#[cfg(test)]
mod tests;

pub use container::ForeignContainer;
pub use find::{find_container, find_pod};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::engine::{self, status::ContainerStatus};
use crate::error::{Error, ErrorKind, Result};
use crate::events::Exit;
use crate::pod::recovery;
use crate::state::Status;
use crate::state_dir;
use crate::state_dir::lock::{self, OwnerProcess};
use crate::state_dir::paths::RunPaths;
pub use crate::state_dir::record::{
    ContainerRecord, ContainerRunState, ManagedBy, PodConfig, PodRunState, PodRunStatus,
    ProcessRecord,
};

/// A pod that has a VM, or had one and is not removed yet.
#[derive(Debug)]
pub struct ListedPod {
    dir: RunPaths,
    /// The request that it was made from.
    pub config: PodConfig,
    /// Its state.
    pub state: PodRunState,
    /// Its containers, by id; an error for those whose files cannot be read.
    pub containers: BTreeMap<String, Result<ListedContainer>>,
    /// The process that owns it, if it lives.
    pub owner: Option<OwnerProcess>,
}

/// A container of such a pod.
#[derive(Debug)]
pub struct ListedContainer {
    /// Its record.
    pub record: ContainerRecord,
    /// Its state.
    pub state: ContainerRunState,
}

/// The CRI plugins' annotations for Kubernetes' names of sandboxes and containers (containerd,
/// `pkg/cri/annotations`).
const SANDBOX_NAME: &str = "io.kubernetes.cri.sandbox-name";
const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
const IMAGE_NAME: &str = "io.kubernetes.cri.image-name";

impl ListedPod {
    /// The name for display: Kubernetes' name, or the id. It may not be unique.
    pub fn name(&self) -> &str {
        let name = self.config.labels.get(SANDBOX_NAME);
        name.unwrap_or(&self.config.id)
    }

    /// Reads a pod without waiting for locks.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::BadFile`].
    pub fn read(root: &Path, namespace: &str, pod: &str) -> Result<Self> {
        let dir = RunPaths::new(root, namespace, pod)?;
        lock::read_consistent(&dir, &lock::hold(&dir)?, |_, owner| Self::of(&dir, owner))
    }

    fn of(dir: &RunPaths, owner: Option<OwnerProcess>) -> Result<Self> {
        let mut containers = BTreeMap::new();
        for id in crate::state_dir::record::container_ids(dir)? {
            let path = dir.container(&id);
            let container = read_container(&path, owner.is_some());
            // One that was removed between the two looks is left out.
            if container.is_ok() || path.try_exists().unwrap_or(true) {
                containers.insert(id, container);
            }
        }
        Ok(Self {
            config: state_dir::read(&dir.config())?,
            state: state_dir::read(&dir.state())?,
            containers,
            owner,
            dir: dir.clone(),
        })
    }

    /// The socket on which its owner serves `management.proto`.
    pub fn management(&self) -> PathBuf {
        self.dir.management()
    }

    /// Its status.
    pub fn status(&self) -> engine::status::PodStatus {
        let containers = self.containers.values();
        let states =
            containers.map(|container| container.as_ref().ok().map(ListedContainer::status));
        engine::status::PodStatus::of(states, false)
    }

    /// The error for an attempt to change it from here.
    pub fn refusal(&self) -> Error {
        refusal(&self.config, "pod", &self.config.id)
    }

    /// The error for an attempt to change a container of it from here.
    pub fn container_refusal(&self, container: &str) -> Error {
        refusal(&self.config, "container", container)
    }

    /// Its directory.
    pub fn path(&self) -> PathBuf {
        self.dir.path()
    }
}

impl ListedContainer {
    /// Its status.
    pub fn status(&self) -> ContainerStatus {
        match self.state.init.status {
            Status::Creating => ContainerStatus::Configured,
            Status::Created => ContainerStatus::Initialized,
            Status::Starting | Status::Running => ContainerStatus::Running,
            Status::Paused => ContainerStatus::Paused,
            Status::Stopped => ContainerStatus::Exited,
        }
    }

    /// The information in its bundle; empty if the bundle is gone.
    pub fn bundle_info(&self) -> BundleInfo {
        let spec = crate::load_spec(&self.record.bundle).ok();
        let annotations = spec.as_ref().and_then(|spec| spec.annotations().clone());
        let annotations = annotations.unwrap_or_default();
        let process = spec.and_then(|spec| spec.process().clone());
        BundleInfo {
            name: annotations.get(CONTAINER_NAME).cloned(),
            image: annotations.get(IMAGE_NAME).cloned().unwrap_or_default(),
            command: process.and_then(|p| p.args().clone()).unwrap_or_default(),
            labels: annotations.into_iter().collect(),
        }
    }
}

/// The information in the bundle of a [`ListedContainer`].
#[derive(Debug)]
pub struct BundleInfo {
    /// Its name in Kubernetes. Several containers of a pod, one after the other, may have it.
    pub name: Option<String>,
    /// The image that it was made from, if it is known.
    pub image: String,
    /// Its command.
    pub command: Vec<String>,
    /// Its annotations.
    pub labels: BTreeMap<String, String>,
}

/// The error for an attempt to change a pod, or a container, that another program manages.
fn refusal(pod: &PodConfig, what: &str, id: &str) -> Error {
    let namespace = &pod.namespace;
    let message = match pod.managed_by {
        ManagedBy::Run => format!(
            "{what} {id:?} is managed by `containerd-shim-rust-kata-v2 run`: it ends when that is sent SIGTERM"
        ),
        _ => format!(
            "{what} {id:?} is managed by containerd: change it by the client that made it, as with \
             `ctr -n {namespace} task kill|pause|resume|delete {id}`"
        ),
    };
    Error::Remote {
        kind: ErrorKind::Unimplemented,
        message,
    }
}

fn read_container(dir: &Path, owned: bool) -> Result<ListedContainer> {
    let mut container = ListedContainer {
        record: state_dir::read(&dir.join("config.json"))?,
        state: state_dir::read(&dir.join("state.json"))?,
    };
    let init = &mut container.state.init;
    if !owned && init.status != Status::Stopped {
        // All processes of a pod end with its owner.
        *init = ProcessRecord {
            status: Status::Stopped,
            pid: 0,
            exit: Some(Exit {
                status: Exit::KILLED,
                at: container.record.created,
            }),
        };
    }
    Ok(container)
}

/// A pod that could not be read, and why.
#[derive(Debug)]
pub struct UnreadableForeignPod {
    /// Its namespace.
    pub namespace: String,
    /// Its id.
    pub pod: String,
    /// The error.
    pub error: Error,
}

/// The pods of other managers below a state directory, of one namespace or of all. Each entry
/// is a pod, or the error of reading it.
///
/// # Errors
/// [`Error::Io`] if a directory cannot be read.
pub fn foreign(
    root: &Path,
    namespace: Option<&str>,
) -> Result<Vec<Result<ListedPod, UnreadableForeignPod>>> {
    let namespaces = match namespace {
        Some(one) => vec![one.to_owned()],
        None => crate::engine::records::names_in(root)?,
    };
    let mut found = Vec::new();
    for namespace in namespaces {
        for pod in recovery::pods(root, &namespace)? {
            let config = RunPaths::new(root, &namespace, &pod)
                .and_then(|dir| state_dir::read::<PodConfig>(&dir.config()));
            if config.is_ok_and(|config| config.managed_by == ManagedBy::RustKata) {
                continue;
            }
            match ListedPod::read(root, &namespace, &pod) {
                Ok(listed) => found.push(Ok(listed)),
                // The pod was removed meanwhile, or is just being made.
                Err(Error::NotFound { .. }) => {}
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => found.push(Err(UnreadableForeignPod {
                    namespace: namespace.clone(),
                    pod,
                    error,
                })),
            }
        }
    }
    Ok(found)
}
