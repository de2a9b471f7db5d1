//! The VM of a pod and the agent in it, until both are gone. Disks and sizes need no more of a
//! pod than this.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hypervisor::{Extra, Vm};
use protos::agent as api;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::agent::Agent;
use crate::error::{Error, ErrorKind, Result};
use crate::state_dir::lock::Guarded;
use crate::state_dir::paths::RunPaths;
use crate::state_dir::record::{self, PodRunState, PodRunStatus};
use crate::sync::lock;

/// How long a guest that is about to go has for its last writes.
const SYNC_DEADLINE: Duration = Duration::from_secs(2);

/// How long the end of a VM may go unnoticed after its agent has hung up.
const NOTICED: Duration = Duration::from_secs(10);

/// How long the end of a VM whose agent has hung up is waited for: it says more.
const CAUSE: Duration = Duration::from_millis(500);

/// Between two events that the agent is asked for: it decides how many there are.
const EVENT_PAUSE: Duration = Duration::from_millis(20);

/// A VM that has booted, and its agent.
pub(crate) struct GuestVm {
    pub(super) dir: RunPaths,
    vm: Box<dyn Vm>,
    pub(crate) agent: Agent,
    /// It can be given devices.
    pub(crate) can_attach: bool,
    state: Mutex<PodRunState>,
    /// Its end was asked for.
    ending: AtomicBool,
    /// Why it is gone, once it is.
    gone: watch::Sender<Option<String>>,
}

impl GuestVm {
    pub(crate) fn new(
        dir: RunPaths,
        vm: Box<dyn Vm>,
        agent: Agent,
        can_attach: bool,
        state: PodRunState,
    ) -> Self {
        Self {
            dir,
            vm,
            agent,
            can_attach,
            state: Mutex::new(state),
            ending: AtomicBool::new(false),
            gone: watch::Sender::new(None),
        }
    }

    /// The id of its pod.
    pub(crate) fn pod(&self) -> &str {
        self.dir.pod()
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

    /// The hypervisor and why it was chosen.
    pub(crate) fn hypervisor(&self) -> String {
        lock(&self.state).hypervisor.clone()
    }

    /// Its host processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let state = lock(&self.state);
        state.processes.iter().map(|process| process.pid).collect()
    }

    /// What its processes use on the host: memory in bytes and CPU time in nanoseconds.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let processes = lock(&self.state).processes.clone();
        let usage = processes
            .iter()
            .filter_map(|p| hypervisor::usage(p.pid).ok());
        usage.fold((0, 0), |sum, one| (sum.0 + one.memory, sum.1 + one.cpu_ns))
    }

    /// The cgroups that were made for it.
    pub(crate) fn cgroup_paths(&self) -> Vec<PathBuf> {
        lock(&self.state).cgroups.clone()
    }

    /// Why it is gone, if that was not asked for.
    pub(crate) fn lost(&self) -> Option<String> {
        let asked = self.ending.load(Ordering::Relaxed);
        self.gone.borrow().clone().filter(|_| !asked)
    }

    /// Resolves when it is gone, with the reason.
    pub(crate) async fn gone(&self) -> String {
        let mut gone = self.gone.subscribe();
        let reason = gone
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|g| g.clone());
        reason.unwrap_or_default()
    }

    /// # Errors
    /// [`Error::VmGone`].
    pub(crate) fn check(&self) -> Result<()> {
        match &*self.gone.borrow() {
            None => Ok(()),
            Some(reason) => Err(self.gone_error(reason)),
        }
    }

    fn gone_error(&self, reason: &str) -> Error {
        Error::VmGone {
            pod: self.pod().to_owned(),
            reason: reason.to_owned(),
        }
    }

    /// A call to the agent, cut short by the end of the VM.
    pub(crate) async fn unless_gone<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            answer = call => match answer {
                // The connection went before the end of the VM was noticed; or the
                // guest answers what is no answer, and stays.
                Err(e @ Error::Agent { kind: ErrorKind::Unavailable, .. }) => {
                    match timeout(NOTICED, self.gone()).await {
                        Ok(reason) => Err(self.gone_error(&reason)),
                        Err(_) => Err(e),
                    }
                }
                Err(e @ Error::AgentTimeout { .. }) => {
                    self.log_stall(&e).await;
                    Err(e)
                }
                other => other,
            },
            reason = self.gone() => Err(self.gone_error(&reason)),
        }
    }

    /// Ends the VM: lets the guest write what it holds, then kills. Returns
    /// when its processes are gone.
    pub(crate) async fn stop(&self, reason: &str) {
        self.ending.store(true, Ordering::Relaxed);
        if self.gone.borrow().is_none() {
            let last = self.agent.destroy_pod(api::Empty::new());
            if timeout(SYNC_DEADLINE, last).await.is_err() {
                log::warn!(
                    "Pod {}: the guest did not finish its writes in time",
                    self.pod()
                );
            }
        }
        self.kill(reason).await;
    }

    /// Kills the VM; every process of it ends with 137.
    pub(crate) async fn kill(&self, reason: &str) {
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
                state.status = PodRunStatus::Stopped;
                state.reason = Some(reason);
                state.clone()
            };
            if let Err(e) = record::save(&self.dir, &self.dir.state(), &state) {
                log::warn!("Pod {}: {e}", self.pod());
            }
        }
    }

    /// The one place that notices the end of the VM, whatever its cause: one
    /// of its processes ended, or the agent hung up. Until then `on_event` has what the agent
    /// reports.
    pub(crate) async fn watch(&self, on_event: impl Fn(api::Event)) {
        let reason = tokio::select! {
            exit = self.vm.wait() => exit.to_string(),
            reason = self.watch_agent(on_event) => reason,
        };
        // Both go: neither is of use without the other.
        self.vm.kill().await;
        if !self.ending.load(Ordering::Relaxed) {
            log::error!("Pod {}: its VM is gone: {reason}", self.pod());
        }
        self.mark_gone(reason);
    }

    async fn watch_agent(&self, on_event: impl Fn(api::Event)) -> String {
        loop {
            match self.agent.next_event().await {
                Ok(event) => {
                    on_event(event);
                    tokio::time::sleep(EVENT_PAUSE).await;
                }
                Err(e) => {
                    let exit = timeout(CAUSE, self.vm.wait()).await;
                    return exit.map_or_else(
                        |_| format!("the agent is gone: {e}"),
                        |exit| exit.to_string(),
                    );
                }
            }
        }
    }
}
