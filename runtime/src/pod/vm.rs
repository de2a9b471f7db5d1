//! The VM of a pod and the agent in it, until both are gone. Disks and resizing need only this
//! part of a pod.

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

/// How long a guest may take for its last writes before its end.
const SYNC_DEADLINE: Duration = Duration::from_secs(2);

/// How long the end of a VM may take to be noticed after its agent has hung up.
const NOTICED: Duration = Duration::from_secs(10);

/// How long to wait for the end of a VM whose agent has hung up, since it says more about the
/// cause.
const CAUSE: Duration = Duration::from_millis(500);

/// The pause between two requests for events, since the guest decides how many there are.
const EVENT_PAUSE: Duration = Duration::from_millis(20);

/// A VM that has booted, and its agent.
pub(crate) struct GuestVm {
    pub(super) dir: RunPaths,
    vm: Box<dyn Vm>,
    pub(crate) agent: Agent,
    /// Whether devices can be attached to it.
    pub(crate) can_attach: bool,
    state: Mutex<PodRunState>,
    /// Whether its end was requested.
    ending: AtomicBool,
    /// The reason why it is gone; `None` while it runs.
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

    /// Attaches a device to the VM; returns its slot.
    pub(crate) async fn attach(&self, device: Extra) -> Result<u32> {
        Ok(self.vm.attach(device).await?)
    }

    /// Detaches a device from the VM.
    pub(crate) async fn detach(&self, slot: u32) -> Result<()> {
        Ok(self.vm.detach(slot).await?)
    }

    /// The hypervisor and the reason for its choice.
    pub(crate) fn hypervisor(&self) -> String {
        lock(&self.state).hypervisor.clone()
    }

    /// Its host processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let state = lock(&self.state);
        state.processes.iter().map(|process| process.pid).collect()
    }

    /// The resource usage of its processes on the host: memory in bytes and CPU time in
    /// nanoseconds.
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

    /// The reason why it is gone, if its end was not requested.
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

    /// Runs a call to the agent until the end of the VM.
    pub(crate) async fn unless_gone<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            answer = call => match answer {
                // The connection ended before the end of the VM was noticed; or the guest sends
                // an invalid answer, and stays.
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

    /// Ends the VM: lets the guest write its cached data, then kills it. Returns when its
    /// processes have ended.
    pub(crate) async fn stop(&self, reason: &str) {
        self.expect_end();
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
        self.expect_end();
        self.vm.kill().await;
        self.mark_gone(reason.to_owned());
    }

    /// Records that the end was requested, unless the VM has already ended.
    fn expect_end(&self) {
        if self.gone.borrow().is_none() {
            self.ending.store(true, Ordering::Relaxed);
        }
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

    /// Notices the end of the VM, for any cause: one of its processes ended, or the agent hung
    /// up. This is the only place that does. Until then the agent's events go to `on_event`.
    pub(crate) async fn watch(&self, on_event: impl Fn(api::Event)) {
        let reason = tokio::select! {
            exit = self.vm.wait() => exit.to_string(),
            reason = self.watch_agent(on_event) => reason,
        };
        // Both are ended: neither can work without the other.
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
