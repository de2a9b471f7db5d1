//! A pod and its VM, as its owner holds them.
//!
//! Operations that change the pod are serialised by one async lock (`op`). Queries read
//! published state and never wait for it; neither do signals, waits and stdio. Every change
//! runs in a task of its own: if the caller goes away, the change still completes.

pub(crate) mod block;
pub(crate) mod boot;
pub(crate) mod console;
pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod exit;
pub(crate) mod lifecycle;
pub(crate) mod recovery;
pub(crate) mod resize;
pub(crate) mod share;
pub(crate) mod stall;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod update;
pub(crate) mod vm;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};

use hypervisor::text::one_line;
use protos::agent as api;
use tokio::sync::mpsc;

use crate::blocking::blocking;
use crate::container::Container;
use crate::container::process::{Process, ProcessState};
use crate::error::{Error, Result};
use crate::events::{Events, Exit, PodEvent};
use crate::host::cgroup::HostCgroup;
use crate::pod::block::Disks;
use crate::pod::resize::{Bounds, VmSize};
use crate::pod::share::ShareTree;
use crate::pod::vm::GuestVm;
use crate::state_dir::lock::{Guarded, OwnerLock};
use crate::state_dir::paths::RunPaths;
use crate::state_dir::record::PodConfig;
use crate::stdio::Streams;
use crate::sync::lock;

/// How many bytes of a process's command line are listed.
const MAX_COMMAND: usize = 4096;

/// The pid proxy of a process in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PidInfo {
    /// Its pid.
    pub pid: u32,
    /// Its exec id; `None` for the init.
    pub exec: Option<String>,
}

/// A pod with a VM, made by [`crate::Runtime::create_pod`].
pub struct Pod {
    pub(crate) dir: RunPaths,
    pub(crate) spec: PodConfig,
    pub(crate) share: ShareTree,
    pub(crate) cgroup: HostCgroup,
    /// Its VM, with the agent in it.
    pub(crate) guest: Arc<GuestVm>,
    pub(crate) streams: Streams,
    pub(crate) op: tokio::sync::Mutex<()>,
    pub(crate) containers: Mutex<BTreeMap<String, Arc<Container>>>,
    pub(crate) size: VmSize,
    pub(crate) disks: Disks,
    pub(crate) events: Events,
    /// Released last.
    _owner: OwnerLock,
}

/// The parts of a started VM, for [`Pod::new`].
pub(crate) struct Booted {
    pub(crate) guest: GuestVm,
    pub(crate) bounds: Bounds,
    pub(crate) streams: Streams,
    pub(crate) cgroup: HostCgroup,
}

impl std::fmt::Debug for Pod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pod")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl Pod {
    pub(crate) fn new(
        dir: RunPaths,
        spec: PodConfig,
        owner: OwnerLock,
        booted: Booted,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<PodEvent>) {
        let (events, receiver) = Events::new();
        let pod = Arc::new(Self {
            share: ShareTree::new(dir.shared()),
            dir,
            spec,
            cgroup: booted.cgroup,
            guest: Arc::new(booted.guest),
            streams: booted.streams,
            op: tokio::sync::Mutex::default(),
            containers: Mutex::default(),
            size: VmSize::new(booted.bounds),
            disks: Disks::default(),
            events,
            _owner: owner,
        });
        let watched = pod.clone();
        tokio::spawn(async move {
            let guest = watched.guest.clone();
            guest.watch(|event| watched.handle_agent_event(event)).await;
        });
        (pod, receiver)
    }

    /// The pod's id.
    pub fn id(&self) -> &str {
        self.dir.pod()
    }

    /// The pid of the container that represents the pod: the sandbox, or the only one. 0 if
    /// there is none.
    pub fn sandbox_pid(&self) -> u32 {
        let containers = self.containers();
        let sandbox = containers.iter().find(|c| c.record.sandbox);
        sandbox.map_or(0, |c| c.init.pid())
    }

    /// The hypervisor and the reason for its choice.
    pub fn hypervisor(&self) -> String {
        self.guest.hypervisor()
    }

    /// The resource usage of the VM's processes on the host: memory in bytes and CPU time in
    /// nanoseconds.
    pub fn vm_usage(&self) -> (u64, u64) {
        self.guest.usage()
    }

    /// The ids of all containers.
    pub fn container_ids(&self) -> Vec<String> {
        lock(&self.containers).keys().cloned().collect()
    }

    /// Whether the pod has no container.
    pub fn is_empty(&self) -> bool {
        lock(&self.containers).is_empty()
    }

    /// The state of a process. Never waits.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn state(&self, container: &str, exec: Option<&str>) -> Result<ProcessState> {
        let found = self.container(container)?;
        Ok(found.process(exec)?.state(found.record.bundle.clone()))
    }

    /// The host pids of a container: its init and its running execs.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn pids(&self, container: &str) -> Result<Vec<PidInfo>> {
        let found = self.container(container)?;
        let live = |p: &Process| {
            (!p.status().is_stopped() && p.pid() != 0).then(|| PidInfo {
                pid: p.pid(),
                exec: p.exec().map(ToOwned::to_owned),
            })
        };
        let execs = found.execs();
        Ok(live(&found.init)
            .into_iter()
            .chain(execs.iter().filter_map(|p| live(p)))
            .collect())
    }

    /// Waits for a process to end; returns at once if it has.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn wait(&self, container: &str, exec: Option<&str>) -> Result<Exit> {
        let process = self.container(container)?.process(exec)?;
        process.ended().await
    }

    /// The agent's statistics of a container.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the agent's.
    pub async fn stats(&self, container: &str) -> Result<api::StatsResponse> {
        let found = self.container(container)?;
        if found.init.status().is_stopped() {
            return Err(found.init.wrong_state(found.init.status(), "measure"));
        }
        self.guest
            .unless_gone(self.guest.agent.stats(crate::agent::container(container)))
            .await
    }

    /// The processes of a container, with the guest's pids and command lines.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the agent's.
    pub async fn processes(&self, container: &str) -> Result<api::ListProcessesResponse> {
        self.container(container)?;
        let request = crate::agent::container(container);
        let mut listed = self
            .guest
            .unless_gone(self.guest.agent.list_processes(request))
            .await?;
        for process in &mut listed.processes {
            process.command = one_line(&process.command, MAX_COMMAND);
        }
        Ok(listed)
    }

    /// Makes the guest drop its caches of files, after changes on the host.
    ///
    /// # Errors
    /// The agent's.
    pub async fn forget_files(&self) -> Result<()> {
        let forgotten = self.guest.agent.forget_files(api::Empty::new());
        self.guest.unless_gone(forgotten).await.map(drop)
    }

    /// Ends the pod: its VM if it runs, all its containers, and its files. Idempotent.
    ///
    /// # Errors
    /// The first step that failed; it can be called again.
    pub async fn shutdown(self: &Arc<Self>) -> Result<()> {
        self.detached(|pod| async move {
            let _op = pod.op.lock().await;
            pod.guest.stop("the pod was shut down").await;
            for container in pod.containers() {
                container.release_processes().await;
            }
            blocking(|| {
                crate::pod::recovery::remove(&pod.dir, &pod.share, &pod.guest.cgroup_paths())
            })
        })
        .await
    }

    /// Runs a change to its end, even if the caller goes away.
    pub(crate) async fn detached<T, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let done = tokio::spawn(work(self.clone())).await;
        done.map_err(Error::task("an operation on a pod"))?
    }

    /// A container by id.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>> {
        let containers = lock(&self.containers);
        containers
            .get(id)
            .cloned()
            .ok_or_else(|| Error::not_found("container", id))
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        lock(&self.containers).values().cloned().collect()
    }

    /// Whether a container other than `id` is alive or being made.
    pub(crate) fn others_live(&self, id: &str) -> bool {
        self.containers()
            .iter()
            .any(|c| c.record.id != id && c.is_live())
    }

    /// Handles an event of the agent.
    fn handle_agent_event(&self, event: api::Event) {
        match event.kind {
            Some(api::event::Kind::Oom(oom)) => {
                if let Ok(container) = self.container(&oom.container_id) {
                    container.report_oom();
                }
            }
            _ => log::warn!("Pod {}: the agent sent an unknown event", self.id()),
        }
    }
}
