//! Stopping containers, dependents first.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use tokio::sync::MutexGuard;
use tokio::time::timeout;

use super::{Owner, Tracked};
use crate::engine::status::{ContainerStatus, Operation, Outcome};
use crate::error::{Error, ErrorKind, Result};
use crate::pod::Pod;

/// How long a container may take to be gone after SIGKILL: the agent's deadline, the end of its
/// output, its cleanup.
pub(super) const KILLED: Duration = Duration::from_secs(30);

/// How an operation of several steps holds `op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Locking {
    /// The caller holds it all the time.
    Held,
    /// Each step takes it. Nobody holds it while a process is waited for: other operations run
    /// meanwhile, and a kill or a shorter time-out overtakes.
    Steps,
}

impl Owner {
    /// Stops containers: sends the stop signal of each, and SIGKILL when its time is over.
    /// `seconds` overrides each container's own time; 0 kills at once. Containers that depend
    /// on others in the list are stopped before these. If none is named, paused ones are
    /// ignored.
    ///
    /// # Errors
    /// [`Error::NotFound`]; errors of single containers are in the outcome.
    pub async fn stop(self: &Arc<Self>, names: &[String], seconds: Option<u32>) -> Result<Outcome> {
        let outcome = self.stop_containers(names, seconds, Locking::Steps).await;
        let _op = self.op.lock().await;
        self.end_if_unused_locked().await;
        outcome
    }

    /// Begins a step of an operation, which ends when the guard is dropped.
    pub(super) async fn step(&self, locking: Locking) -> Option<MutexGuard<'_, ()>> {
        match locking {
            Locking::Held => None,
            Locking::Steps => Some(self.op.lock().await),
        }
    }

    pub(in crate::engine) async fn stop_containers(
        &self,
        names: &[String],
        seconds: Option<u32>,
        locking: Locking,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let (mut left, graph) = {
            let _op = self.step(locking).await;
            // A container that waits for its restart has stopped, and must stay stopped.
            for container in self.chosen(names)? {
                if container.now().status == ContainerStatus::Exited {
                    self.change(&container, |state| state.stopped_by_user = true)?;
                }
            }
            (
                self.fitting(Operation::Stop, names, &mut outcome)?,
                self.graph(),
            )
        };
        while !left.is_empty() {
            let names = left.iter().map(|c| c.name().to_owned()).collect();
            let (free, _) = graph.split_free(&names);
            let (now, later): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|c| free.contains(c.name()));
            let stopping = now.iter().map(|c| self.stop_one(c, seconds, locking));
            for (container, result) in now.iter().zip(join_all(stopping).await) {
                if result.is_ok() {
                    self.append_container_event(container, |event| event.action("stop"));
                }
                outcome.add(container.name(), result);
            }
            left = later;
        }
        Ok(outcome)
    }

    /// Stops one container; it has ended when this returns.
    async fn stop_one(
        &self,
        container: &Arc<Tracked>,
        seconds: Option<u32>,
        locking: Locking,
    ) -> Result<()> {
        let name = container.name();
        let patience =
            Duration::from_secs(seconds.unwrap_or(container.definition.stop_timeout).into());
        let run = container.now().started;
        {
            let _op = self.step(locking).await;
            if let Some(pod) = self.live_in(container, run) {
                self.begin_stop(&pod, container, patience.is_zero()).await?;
            }
        }
        if !patience.is_zero() && self.ends_within(container, run, patience).await {
            return Ok(());
        }
        {
            let _op = self.step(locking).await;
            if let Some(pod) = self.live_in(container, run) {
                if !patience.is_zero() {
                    ::log::warn!("Container {name} does not end on its stop signal: it is killed");
                }
                ignore_ended(pod.kill(name, None, libc::SIGKILL as u32, true).await)?;
            }
        }
        self.killed(container, run, "stop").await
    }

    /// The VM, while this run of a container is in it.
    fn live_in(&self, container: &Tracked, run: Option<SystemTime>) -> Option<Arc<Pod>> {
        let now = container.now();
        let same = now.status.is_live() && now.started == run;
        same.then(|| self.live()).flatten()
    }

    /// Records that a container stops, and sends it its stop signal unless it is killed at
    /// once.
    async fn begin_stop(&self, pod: &Arc<Pod>, container: &Tracked, at_once: bool) -> Result<()> {
        let name = container.name();
        let before = container.now().status;
        if before == ContainerStatus::Initialized {
            // It ends as exited, as with podman, though it has not run.
            self.record_change(container, |state| state.stopped_by_user = true);
            return ignore_ended(pod.kill(name, None, libc::SIGKILL as u32, true).await);
        }
        // It is stopped even if the disk is full.
        self.record_change(container, |state| {
            if state.status.is_running() {
                state.status = ContainerStatus::Stopping;
            }
            state.stopped_by_user = true;
        });
        if before == ContainerStatus::Paused {
            // A frozen process does not handle a signal.
            ignore_ended(pod.resume(name).await)?;
        }
        match at_once {
            true => Ok(()),
            false => {
                let signal = container.definition.stop_signal as u32;
                ignore_ended(pod.kill(name, None, signal, false).await)
            }
        }
    }

    /// Waits until a run of a container is out of the VM, and the journal has its end. Returns
    /// false if it is not within `patience`.
    async fn ends_within(
        &self,
        container: &Tracked,
        run: Option<SystemTime>,
        patience: Duration,
    ) -> bool {
        let mut state = container.state.subscribe();
        // It may have been started again meanwhile.
        let ended = state.wait_for(|state| !state.status.is_live() || state.started != run);
        let ended = timeout(patience, ended).await.is_ok();
        if let Some(code) = container.now().exit_code.filter(|_| ended) {
            self.record_end(container, code);
        }
        ended
    }

    /// Waits until a run of a container that was killed is out of the VM.
    pub(super) async fn killed(
        &self,
        container: &Tracked,
        run: Option<SystemTime>,
        operation: &'static str,
    ) -> Result<()> {
        if self.ends_within(container, run, KILLED).await {
            return Ok(());
        }
        Err(Error::WrongState {
            what: "container",
            id: container.name().to_owned(),
            operation,
            state: "still running after SIGKILL".into(),
        })
    }
}

/// Ignores errors that say that a process has ended already.
fn ignore_ended(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Unavailable) => Ok(()),
        Err(Error::WrongState { .. }) => Ok(()),
        other => other,
    }
}
