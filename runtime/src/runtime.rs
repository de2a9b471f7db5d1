//! The runtime: makes pods, finds them again, removes their remains.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::blocking::blocking;
use crate::blocking::on_thread;
use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::events::{Exit, PodEvent};
use crate::host::cgroup::HostCgroup;
use crate::pod::Pod;
use crate::pod::boot::{BootProgress, boot};
use crate::pod::recovery::{self, PodLocation};
use crate::pod::share::ShareTree;
use crate::state_dir::lock::{self, Guarded, OwnerLock, OwnerProcess};
use crate::state_dir::paths::RunPaths;
use crate::state_dir::private;
use crate::state_dir::record::{self, PodConfig};

/// Makes and finds pods. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    config: Arc<Config>,
}

impl Runtime {
    /// Creates a runtime with this configuration.
    ///
    /// # Errors
    /// [`Error::Io`] if the state directory cannot be made.
    pub fn new(mut config: Config) -> Result<Self> {
        private::make_root(&config.root)?;
        // Resolved, as the kernel shows it in mountinfo.
        config.root = fs::canonicalize(&config.root).on("resolve", &config.root)?;
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Makes a pod and boots its VM; this process owns it from now on. Its events come through
    /// the receiver, in order.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if a pod with a living owner has the id; otherwise the cause of
    /// the failure. Nothing is left of the pod then.
    pub async fn create_pod(
        &self,
        spec: PodConfig,
        progress: BootProgress,
    ) -> Result<(Arc<Pod>, mpsc::UnboundedReceiver<PodEvent>)> {
        let runtime = self.clone();
        // Runs to its end, even if the caller goes away.
        tokio::spawn(async move { runtime.create(spec, progress).await })
            .await
            .map_err(Error::task("creating a pod"))?
    }

    async fn create(
        &self,
        spec: PodConfig,
        progress: BootProgress,
    ) -> Result<(Arc<Pod>, mpsc::UnboundedReceiver<PodEvent>)> {
        let config = (*self.config).clone().with_annotations(&spec.labels)?;
        if let Some(netns) = &spec.netns {
            fs::metadata(netns).map_err(Error::invalid_path("network namespace", netns))?;
        }
        let dir = RunPaths::new(&config.root, &spec.namespace, &spec.id)?;
        let owner = self.claim(&dir, &spec).await?;
        let share = ShareTree::new(dir.shared());
        let mut cgroup = HostCgroup::plan(spec.cgroups_path.as_deref(), &spec.cpu_limits);
        match boot(&config, &spec, &dir, &share, &mut cgroup, &progress).await {
            Ok(booted) => Ok(Pod::new(dir, spec, owner, booted)),
            Err(e) => {
                let remove = || recovery::remove(&dir, &share, cgroup.new_dirs());
                if let Err(left) = blocking(remove) {
                    log::warn!("Pod {}: {left}", dir.pod());
                }
                Err(e)
            }
        }
    }

    /// Takes the pod's directory. Removes a pod of this id first if its owner is dead.
    async fn claim(&self, dir: &RunPaths, spec: &PodConfig) -> Result<OwnerLock> {
        if dir.path().exists() {
            match self.reap(&spec.namespace, &spec.id, false).await {
                Err(Error::WrongState { .. }) => {
                    return Err(Error::AlreadyExists {
                        what: "pod",
                        id: spec.id.clone(),
                    });
                }
                other => drop(other?),
            }
        }
        let path = dir.path();
        private::make(&dir.namespace_dir())?;
        private::make(&path)?;
        let pid = std::process::id();
        let owner = OwnerProcess {
            pid,
            start_time: hypervisor::start_time(pid).on("read", "/proc/self/stat")?,
            address: spec.address.clone(),
        };
        lock::create(dir)?;
        let held = OwnerLock::take(dir, &owner)?;
        record::save(dir, &dir.config(), spec)?;
        Ok(held)
    }

    /// The socket on which the owner of a pod outside the engine serves `management.proto`.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a bad id.
    pub fn management_of(&self, pod: &PodConfig) -> Result<PathBuf> {
        let dir = RunPaths::new(&self.config.root, &pod.namespace, &pod.id)?;
        Ok(dir.management())
    }

    /// Finds the pod of a container. Never waits for a VM.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a bad id; [`Error::Io`].
    pub fn find_container(&self, namespace: &str, id: &str) -> Result<Option<PodLocation>> {
        recovery::find_container(&self.config.root, namespace, id)
    }

    /// Finds a pod. Never waits for a VM.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a bad id; [`Error::Io`].
    pub fn find_pod(&self, namespace: &str, pod: &str) -> Result<Option<PodLocation>> {
        recovery::find_pod(&self.config.root, namespace, pod)
    }

    /// The pods of a namespace whose owners have died, and which can be reaped.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a bad namespace; [`Error::Io`].
    pub fn abandoned(&self, namespace: &str) -> Result<Vec<String>> {
        recovery::abandoned(&self.config.root, namespace)
    }

    /// Removes everything that is left of a pod: processes, mounts, cgroups, sockets, its
    /// directory. Idempotent; several processes may do it at once. Returns how its containers
    /// ended: as recorded, or 137.
    ///
    /// # Errors
    /// [`Error::WrongState`] if its owner lives, unless `force`: then the owner is killed
    /// first.
    pub async fn reap(
        &self,
        namespace: &str,
        pod: &str,
        force: bool,
    ) -> Result<HashMap<String, Exit>> {
        let (root, namespace, pod) = (
            self.config.root.clone(),
            namespace.to_owned(),
            pod.to_owned(),
        );
        let reap = move || recovery::reap(&root, &namespace, &pod, force);
        on_thread("removing a pod", reap).await?
    }
}
