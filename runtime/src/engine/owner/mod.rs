//! The owner of a started pod: one process that holds its VM, its containers' streams and its
//! `owner` lock, and executes the requests of others.
//!
//! Operations that change the pod run one after the other (`op`), but for the time in which one
//! waits for a process to end. Signals, waits, streams and state queries never wait for them. Changes are recorded before they are reported.

mod batch;
mod build;
mod cleanup;
mod ending;
pub mod exec;
mod files;
pub mod log;
mod measure;
mod operations;
mod remove;
mod restart;
pub mod service;
mod shutdown;
mod start;
mod stop;
pub mod streams;
#[cfg(test)]
mod tests;
mod wait;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use self::streams::ProcessStreams;
use super::Engine;
use super::journal::Event;
use super::records;
use super::records::definition::{ContainerDefinition, PodDefinition};
use super::records::paths::DataPaths;
use super::records::record::{self, ContainerState, PodState};
use super::records::view::PodView;
use crate::blocking::blocking;
use crate::error::{Context, Error, Result};
use crate::pod::Pod;
use crate::state_dir::lock::{self, OwnerLock, PodLock};
use crate::stdio::descriptor::Descriptor;
use crate::sync::lock;

/// A pod, as its owner has it.
#[derive(Debug)]
pub struct Owner {
    engine: Engine,
    paths: DataPaths,
    definition: PodDefinition,
    state: Mutex<PodState>,
    containers: Mutex<BTreeMap<String, Arc<Tracked>>>,
    /// Changed under `op`; readers need only this lock.
    vm: Mutex<Option<Arc<Pod>>>,
    /// Whether the journal has the start of the VM, and not its end.
    vm_reported: AtomicBool,
    /// Whether a VM has run whose post-stop hooks have not.
    stop_hooks_due: tokio::sync::Mutex<bool>,
    /// Held by each operation that changes the pod, but not while it waits for a process.
    pub(super) op: tokio::sync::Mutex<()>,
    /// Held by a batch for writing, so that no signal gets in between, which takes no `op`.
    batch: tokio::sync::RwLock<()>,
    /// The number of pending restarts; they keep the pod up.
    pending: watch::Sender<usize>,
    /// Whether there is nothing left to own.
    ended: watch::Sender<bool>,
    /// Released last.
    _lock: OwnerLock,
}

/// A container, as the owner has it.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) definition: ContainerDefinition,
    /// The state, as on disk.
    pub(crate) state: watch::Sender<ContainerState>,
    /// The streams of its init, while it is in the VM.
    pub(crate) streams: Mutex<Option<Arc<ProcessStreams>>>,
    /// The streams of its further processes.
    pub(crate) execs: Mutex<BTreeMap<String, Arc<ProcessStreams>>>,
    /// Descriptors that its init gets beside its stdio when it is created next.
    pub(crate) passed_fds: Mutex<Vec<Descriptor>>,
    /// Whether the journal has its start, and not its end. Locked while either is appended, so
    /// that consequences of an end are appended after it.
    start_recorded: Mutex<bool>,
    /// The number of restarts by its policy since it last ran well, or a user started it.
    pub(crate) in_a_row: AtomicU32,
}

impl Tracked {
    pub(crate) fn new(definition: ContainerDefinition, state: ContainerState) -> Arc<Self> {
        Arc::new(Self {
            definition,
            state: watch::Sender::new(state),
            streams: Mutex::default(),
            execs: Mutex::default(),
            passed_fds: Mutex::default(),
            start_recorded: Mutex::new(false),
            in_a_row: AtomicU32::new(0),
        })
    }

    pub(crate) fn now(&self) -> ContainerState {
        self.state.borrow().clone()
    }

    pub(crate) fn name(&self) -> &str {
        &self.definition.name
    }
}

impl Owner {
    /// Becomes the owner of a pod that is served at `address`. `listen` runs before the pod is
    /// owned: a client that finds an owner can connect.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if another process owns it; [`Error::NotFound`];
    /// [`Error::WrongState`] for a pod that is being removed; errors of its files; those of
    /// `listen`.
    pub fn claim<L, E: From<Error>>(
        engine: &Engine,
        paths: &DataPaths,
        address: &Path,
        listen: impl FnOnce() -> Result<L, E>,
    ) -> Result<(Arc<Self>, L), E> {
        let held = PodLock::exclusive(paths)?;
        let mut view = PodView::read_locked(paths, &held)?;
        if view.owner.is_some() {
            return Err(Error::AlreadyExists {
                what: "owner of pod",
                id: paths.name().to_owned(),
            }
            .into());
        }
        if view.state.removing {
            return Err(Error::WrongState {
                what: "pod",
                id: paths.name().to_owned(),
                operation: "start",
                state: record::REMOVING.into(),
            }
            .into());
        }
        // The files are corrected while there is no owner.
        view.record_losses(&held)?;
        let pid = std::process::id();
        let owner = lock::OwnerProcess {
            pid,
            start_time: hypervisor::start_time(pid).on("read", "/proc/self/stat")?,
            address: address.to_string_lossy().into_owned(),
        };
        let listening = listen()?;
        let mut state = view.state.clone();
        state.boot = records::boot_id()?;
        state.problem = None;
        records::write_pod(paths, &state, &held)?;
        let lock = OwnerLock::take_locked(paths, &owner, &held)?;
        let mut containers = BTreeMap::new();
        for (name, files) in view.containers {
            match files {
                Ok(files) => {
                    containers.insert(name, Tracked::new(files.definition, files.state));
                }
                // The other containers can still be used.
                Err(e) => ::log::warn!("Container {name}: {e}"),
            }
        }
        let owner = Arc::new(Self {
            engine: engine.clone(),
            paths: paths.clone(),
            definition: view.definition,
            state: Mutex::new(state),
            containers: Mutex::new(containers),
            vm: Mutex::default(),
            vm_reported: AtomicBool::new(false),
            stop_hooks_due: tokio::sync::Mutex::default(),
            op: tokio::sync::Mutex::default(),
            batch: tokio::sync::RwLock::default(),
            pending: watch::Sender::new(0),
            ended: watch::Sender::new(false),
            _lock: lock,
        });
        Ok((owner, listening))
    }

    /// Where the pod is.
    pub fn paths(&self) -> &DataPaths {
        &self.paths
    }

    /// Resolves when no VM was requested for `limit`. From then on none is started.
    pub async fn idle(&self, limit: Duration) {
        loop {
            tokio::time::sleep(limit).await;
            let Ok(_op) = self.op.try_lock() else {
                continue;
            };
            if lock(&self.vm).is_none() && *self.pending.borrow() == 0 {
                self.ended.send_replace(true);
                return;
            }
        }
    }

    /// The pod's definition.
    pub fn definition(&self) -> &PodDefinition {
        &self.definition
    }

    /// Resolves when there is nothing left to own.
    pub async fn ended(&self) {
        // This cannot fail: the sender lives in `self`.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Fails once this process is about to give up the pod. The caller holds `op`.
    ///
    /// # Errors
    /// [`Error::OwnerLeaving`].
    pub(crate) fn ensure_not_leaving(&self) -> Result<()> {
        match *self.ended.borrow() {
            true => Err(Error::OwnerLeaving),
            false => Ok(()),
        }
    }

    /// The VM, if it runs.
    pub(crate) fn live(&self) -> Option<Arc<Pod>> {
        let vm = lock(&self.vm);
        vm.as_ref().filter(|pod| pod.guest.check().is_ok()).cloned()
    }

    pub(crate) fn live_or(&self, operation: &'static str) -> Result<Arc<Pod>> {
        self.live().ok_or_else(|| Error::WrongState {
            what: "pod",
            id: self.paths.name().to_owned(),
            operation,
            state: "without a running VM".into(),
        })
    }

    pub(crate) fn tracked(&self, name: &str) -> Result<Arc<Tracked>> {
        let containers = lock(&self.containers);
        let found = containers.get(name).cloned();
        found.ok_or_else(|| Error::not_found("container", name))
    }

    /// The named containers; all if the list is empty.
    pub(crate) fn chosen(&self, names: &[String]) -> Result<Vec<Arc<Tracked>>> {
        if names.is_empty() {
            return Ok(lock(&self.containers).values().cloned().collect());
        }
        names.iter().map(|name| self.tracked(name)).collect()
    }

    /// Changes a container's state: on disk, then for all watchers.
    pub(crate) fn change<T>(
        &self,
        container: &Tracked,
        change: impl FnOnce(&mut ContainerState) -> T,
    ) -> Result<T> {
        let held = PodLock::exclusive(&self.paths)?;
        let mut state = container.now();
        let changed = change(&mut state);
        if state == *container.state.borrow() {
            return Ok(changed);
        }
        let paths = self.paths.container(container.name())?;
        let written = records::write_container(&paths, &state, &held);
        container.state.send_replace(state);
        written.map(|()| changed)
    }

    /// As [`Owner::change`], for a change that has happened already: a failure to write it
    /// is only logged.
    pub(crate) fn record_change(
        &self,
        container: &Tracked,
        change: impl FnOnce(&mut ContainerState),
    ) {
        if let Err(e) = self.change(container, change) {
            ::log::error!("Container {}: {e}", container.name());
        }
    }

    /// Appends an event of the pod to the journal.
    pub(crate) fn append_event(&self, action: &str) {
        let event = Event::pod(&self.definition, action);
        self.paths.journal().append_or_warn(event);
    }

    /// Appends an event of a container to the journal.
    pub(crate) fn append_container_event(
        &self,
        container: &Tracked,
        event: impl FnOnce(Event) -> Event,
    ) {
        let about = Event::container(&self.definition, &container.definition, "");
        self.paths.journal().append_or_warn(event(about));
    }

    /// Appends the start of a container to the journal, once for each start.
    pub(crate) fn record_start(&self, container: &Tracked) {
        blocking(|| {
            let mut recorded = lock(&container.start_recorded);
            if !std::mem::replace(&mut recorded, true) {
                self.append_container_event(container, |event| event.action("start"));
            }
        });
    }

    /// Appends the end of a container to the journal, if its start is there. When this
    /// returns the journal has it, even if another task appended it.
    pub(crate) fn record_end(&self, container: &Tracked, exit_code: u32) {
        blocking(|| {
            let mut recorded = lock(&container.start_recorded);
            if std::mem::replace(&mut recorded, false) {
                let died = |event: Event| event.action("died").with("exit_code", exit_code);
                self.append_container_event(container, died);
            }
        });
    }

    /// Records that a client is about to be attached to a container.
    pub fn attached(&self, name: &str) {
        if let Ok(container) = self.tracked(name) {
            self.append_container_event(&container, |event| event.action("attach"));
        }
    }

    /// Changes the pod's state, on disk first.
    pub(crate) fn change_pod(&self, change: impl FnOnce(&mut PodState)) -> Result<()> {
        let held = PodLock::exclusive(&self.paths)?;
        let mut state = lock(&self.state).clone();
        change(&mut state);
        records::write_pod(&self.paths, &state, &held)?;
        *lock(&self.state) = state;
        Ok(())
    }
}
