//! A pod and its VM, as its owner holds them.
//!
//! Operations that change the pod are serialised by one async lock (`op`).
//! Queries read published state and never wait for it; neither do signals,
//! waits and stdio. Every change runs in a task of its own, so that a caller
//! that goes away leaves nothing half done.

pub(crate) mod block;
pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod exit;
pub(crate) mod recovery;
#[allow(clippy::module_inception)]
pub(crate) mod resize;
pub(crate) mod share;
pub(crate) mod stall;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hypervisor::text::one_line;
use hypervisor::{Extra, Vm};
use protos::agent as api;
use tokio::sync::{mpsc, watch};

use crate::agent::Agent;
use crate::blocking::blocking;
use crate::container::Container;
use crate::container::process::{Process, ProcessState};
use crate::error::{Error, Result};
use crate::events::{Event, Exit};
use crate::host::cgroup::HostCgroup;
use crate::pod::block::Disks;
use crate::pod::resize::{Bounds, Size};
use crate::pod::share::ShareTree;
use crate::state_dir::lock::{Guarded, OwnerLock};
use crate::state_dir::paths::PodDir;
use crate::state_dir::record::{self, PodConfig, PodState, PodStatus};
use crate::stdio::Streams;

/// How long a guest that is about to go has for its last writes.
const SYNC_DEADLINE: Duration = Duration::from_secs(2);

/// How long the end of a VM may go unnoticed after its agent has hung up.
const NOTICED: Duration = Duration::from_secs(10);

/// Between two events that the agent is asked for: it decides how many there are.
const EVENT_PAUSE: Duration = Duration::from_millis(20);

/// As much of a process's command line as is told.
const MAX_COMMAND: usize = 4096;

/// A process of the host that stands for one of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PidInfo {
    /// Its pid.
    pub pid: u32,
    /// Its exec id; `None` for the init.
    pub exec: Option<String>,
}

/// A pod with a VM. Made by [`crate::Runtime::create_pod`].
pub struct Pod {
    pub(crate) dir: PodDir,
    pub(crate) spec: PodConfig,
    pub(crate) share: ShareTree,
    pub(crate) cgroup: HostCgroup,
    pub(crate) agent: Agent,
    pub(crate) streams: Streams,
    pub(crate) op: tokio::sync::Mutex<()>,
    pub(crate) containers: Mutex<BTreeMap<String, Arc<Container>>>,
    vm: Box<dyn Vm>,
    pub(crate) bounds: Bounds,
    /// The VM can be given devices.
    pub(crate) can_attach: bool,
    pub(crate) disks: Mutex<Disks>,
    size: Mutex<Size>,
    state: Mutex<PodState>,
    /// Its end was asked for.
    ending: AtomicBool,
    /// Why the VM is gone, once it is.
    gone: watch::Sender<Option<String>>,
    events: mpsc::UnboundedSender<Event>,
    /// Freed last.
    _owner: OwnerLock,
}

/// What a started VM consists of, for [`Pod::new`].
pub(crate) struct Booted {
    pub(crate) vm: Box<dyn Vm>,
    pub(crate) bounds: Bounds,
    pub(crate) can_attach: bool,
    pub(crate) agent: Agent,
    pub(crate) streams: Streams,
    pub(crate) cgroup: HostCgroup,
    pub(crate) state: PodState,
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
        dir: PodDir,
        spec: PodConfig,
        owner: OwnerLock,
        booted: Booted,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Event>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let Booted {
            vm,
            bounds,
            can_attach,
            agent,
            streams,
            cgroup,
            state,
        } = booted;
        let pod = Arc::new(Self {
            share: ShareTree::new(dir.shared()),
            dir,
            spec,
            cgroup,
            agent,
            streams,
            op: tokio::sync::Mutex::default(),
            containers: Mutex::default(),
            vm,
            bounds,
            can_attach,
            disks: Mutex::default(),
            size: Mutex::new(bounds.least()),
            state: Mutex::new(state),
            ending: AtomicBool::new(false),
            gone: watch::Sender::new(None),
            events,
            _owner: owner,
        });
        tokio::spawn(pod.clone().watch_vm());
        (pod, receiver)
    }

    /// What its VM has now.
    pub(crate) fn size(&self) -> Size {
        *lock(&self.size)
    }

    pub(crate) fn set_size(&self, size: Size) {
        *lock(&self.size) = size;
    }

    /// Asks the guest for this much plugged memory; returns what it has.
    pub(crate) async fn plug_memory(&self, mib: u32) -> Result<u32> {
        Ok(self.vm.plug_memory(mib).await?)
    }

    /// Gives the VM a device; returns its slot.
    pub(crate) async fn attach(&self, device: Extra) -> Result<u32> {
        Ok(self.vm.attach(device).await?)
    }

    /// Takes a device away from the VM.
    pub(crate) async fn detach(&self, slot: u32) -> Result<()> {
        Ok(self.vm.detach(slot).await?)
    }

    /// The pod's id.
    pub fn id(&self) -> &str {
        self.dir.pod()
    }

    /// The pid of the container that stands for the pod: the sandbox, or the
    /// only one. 0 if there is none.
    pub fn sandbox_pid(&self) -> u32 {
        let containers = self.containers();
        let sandbox = containers.iter().find(|c| c.record.sandbox);
        sandbox.map_or(0, |c| c.init.pid())
    }

    /// The hypervisor and why it was chosen.
    pub fn hypervisor(&self) -> String {
        lock(&self.state).hypervisor.clone()
    }

    /// Why its VM is gone, if that was not asked for.
    pub(crate) fn lost(&self) -> Option<String> {
        let asked = self.ending.load(Ordering::Relaxed);
        self.gone.borrow().clone().filter(|_| !asked)
    }

    /// The ids of all containers.
    pub fn container_ids(&self) -> Vec<String> {
        lock(&self.containers).keys().cloned().collect()
    }

    /// Whether the pod has no container.
    pub fn is_empty(&self) -> bool {
        lock(&self.containers).is_empty()
    }

    /// Where a process stands. Never waits.
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

    /// Waits for a process to end; answers at once if it has.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn wait(&self, container: &str, exec: Option<&str>) -> Result<Exit> {
        let process = self.container(container)?.process(exec)?;
        process.ended().await
    }

    /// The agent's numbers on a container.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the agent's.
    pub async fn stats(&self, container: &str) -> Result<api::StatsResponse> {
        let found = self.container(container)?;
        if found.init.status().is_stopped() {
            return Err(found.init.wrong_state(found.init.status(), "measure"));
        }
        self.unless_gone(self.agent.stats(crate::agent::container(container)))
            .await
    }

    /// The processes of a container, as the guest numbers them and says what they
    /// run.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the agent's.
    pub async fn processes(&self, container: &str) -> Result<api::ListProcessesResponse> {
        self.container(container)?;
        let request = crate::agent::container(container);
        let mut listed = self.unless_gone(self.agent.list_processes(request)).await?;
        for process in &mut listed.processes {
            process.command = one_line(&process.command, MAX_COMMAND);
        }
        Ok(listed)
    }

    /// Has the guest forget what it remembers of files, since some were changed on
    /// the host.
    ///
    /// # Errors
    /// The agent's.
    pub async fn forget_files(&self) -> Result<()> {
        let forgotten = self.agent.forget_files(api::Empty::new());
        self.unless_gone(forgotten).await.map(drop)
    }

    /// The host processes of the VM.
    pub(crate) fn vm_pids(&self) -> Vec<u32> {
        let state = lock(&self.state);
        state.processes.iter().map(|process| process.pid).collect()
    }

    /// What the VM's processes use on the host: memory in bytes and CPU time in
    /// nanoseconds.
    pub fn vm_usage(&self) -> (u64, u64) {
        let processes = lock(&self.state).processes.clone();
        let usage = processes
            .iter()
            .filter_map(|p| hypervisor::usage(p.pid).ok());
        usage.fold((0, 0), |sum, one| (sum.0 + one.memory, sum.1 + one.cpu_ns))
    }

    /// Ends the pod: its VM if it runs, all its containers, and its place on
    /// disk. Idempotent.
    ///
    /// # Errors
    /// What could not be undone; it can be called again.
    pub async fn shutdown(self: &Arc<Self>) -> Result<()> {
        self.detached(|pod| async move {
            let _op = pod.op.lock().await;
            pod.stop_vm("the pod was shut down").await;
            for container in pod.containers() {
                container.settle_after_vm().await;
            }
            blocking(|| crate::pod::recovery::remove(&pod.dir, &pod.share, &pod.cgroup_paths()))
        })
        .await
    }

    /// Runs a change to its end, whether or not the caller waits for it.
    pub(crate) async fn detached<T, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        tokio::spawn(work(self.clone())).await.map_err(|e| {
            Error::Internal(format!("An operation on pod {} broke off: {e}", self.id()))
        })?
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

    pub(crate) fn emit(&self, event: Event) {
        // Nobody listens any more: the front door is on its way out.
        let _ = self.events.send(event);
    }

    /// Resolves when the VM is gone.
    pub(crate) async fn vm_gone(&self) -> String {
        let mut gone = self.gone.subscribe();
        let reason = gone
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|g| g.clone());
        reason.unwrap_or_default()
    }

    pub(crate) fn check_vm(&self) -> Result<()> {
        match &*self.gone.borrow() {
            None => Ok(()),
            Some(reason) => Err(self.gone_error(reason)),
        }
    }

    fn gone_error(&self, reason: &str) -> Error {
        Error::VmGone {
            pod: self.id().to_owned(),
            reason: reason.to_owned(),
        }
    }

    /// A call to the agent, cut short by the end of the VM.
    pub(crate) async fn unless_gone<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            answer = call => match answer {
                // The connection went before the VM's end was noticed; or the
                // guest answers what is no answer, and stays.
                Err(e @ Error::Agent { kind: crate::ErrorKind::Unavailable, .. }) => {
                    match tokio::time::timeout(NOTICED, self.vm_gone()).await {
                        Ok(reason) => Err(self.gone_error(&reason)),
                        Err(_) => Err(e),
                    }
                }
                Err(e @ Error::AgentTimeout { .. }) => {
                    self.tell_stall(&e).await;
                    Err(e)
                }
                other => other,
            },
            reason = self.vm_gone() => Err(self.gone_error(&reason)),
        }
    }

    /// Whether a container other than `id` is alive or being made.
    pub(crate) fn others_live(&self, id: &str) -> bool {
        self.containers()
            .iter()
            .any(|c| c.record.id != id && c.is_live())
    }

    /// Ends the VM: lets the guest write what it holds, then kills. Returns
    /// when its processes are gone.
    pub(crate) async fn stop_vm(&self, reason: &str) {
        self.ending.store(true, Ordering::Relaxed);
        if self.gone.borrow().is_none() {
            let last = self.agent.destroy_pod(api::Empty::new());
            if tokio::time::timeout(SYNC_DEADLINE, last).await.is_err() {
                log::warn!(
                    "Pod {}: the guest did not finish its writes in time",
                    self.id()
                );
            }
        }
        self.kill_vm(reason).await;
    }

    /// Kills the VM; every process of it ends with 137.
    pub(crate) async fn kill_vm(&self, reason: &str) {
        self.ending.store(true, Ordering::Relaxed);
        self.vm.kill().await;
        self.mark_gone(reason.to_owned());
    }

    fn mark_gone(&self, reason: String) {
        let first = self.gone.send_if_modified(|gone| {
            let first = gone.is_none();
            if first {
                *gone = Some(reason.clone());
            }
            first
        });
        if first {
            let state = {
                let mut state = lock(&self.state);
                state.status = PodStatus::Stopped;
                state.reason = Some(reason);
                state.clone()
            };
            if let Err(e) = record::save(&self.dir, &self.dir.state(), &state) {
                log::warn!("Pod {}: {e}", self.id());
            }
        }
    }

    fn cgroup_paths(&self) -> Vec<std::path::PathBuf> {
        lock(&self.state).cgroups.clone()
    }

    /// The one place that notices the end of the VM, whatever its cause: one
    /// of its processes ended, or the agent hung up.
    async fn watch_vm(self: Arc<Self>) {
        let reason = tokio::select! {
            exit = self.vm.wait() => exit.to_string(),
            reason = self.clone().watch_agent() => reason,
        };
        // Both go: neither is of use without the other.
        self.vm.kill().await;
        if !self.ending.load(Ordering::Relaxed) {
            log::error!("Pod {}: its VM is gone: {reason}", self.id());
        }
        self.mark_gone(reason);
    }

    async fn watch_agent(self: Arc<Self>) -> String {
        loop {
            match self.agent.next_event().await {
                Ok(event) => {
                    self.agent_event(event);
                    tokio::time::sleep(EVENT_PAUSE).await;
                }
                Err(e) => {
                    // The VM's own end, if that is the cause, says more.
                    let more =
                        tokio::time::timeout(Duration::from_millis(500), self.vm.wait()).await;
                    return more.map_or_else(
                        |_| format!("the agent is gone: {e}"),
                        |exit| exit.to_string(),
                    );
                }
            }
        }
    }

    fn agent_event(&self, event: api::Event) {
        match event.kind {
            Some(api::event::Kind::Oom(oom)) => {
                if let Ok(container) = self.container(&oom.container_id) {
                    container.report_oom(self);
                }
            }
            _ => log::warn!("Pod {}: the agent sent an unknown event", self.id()),
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
