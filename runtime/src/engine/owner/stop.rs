//! Stopping containers, dependents first, and starting them again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use super::{Owner, Tracked};
use crate::engine::records::remove;
use crate::engine::status::{ContainerStatus, Operation, Outcome};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::lock;

/// How long a container may take to be gone after SIGKILL: the agent's deadline, the end of its
/// output, its cleanup.
const KILLED: Duration = Duration::from_secs(30);

impl Owner {
    /// Stops containers: sends the stop signal of each, and SIGKILL when its time is over.
    /// `seconds` overrides each container's own time; 0 kills at once. Containers that depend
    /// on others in the list are stopped before these.
    ///
    /// # Errors
    /// [`Error::NotFound`]; errors of single containers are in the outcome.
    pub async fn stop(self: &Arc<Self>, names: &[String], seconds: Option<u32>) -> Result<Outcome> {
        let _op = self.op.lock().await;
        let outcome = self.stop_locked(names, seconds).await;
        self.end_if_unused_locked().await;
        outcome
    }

    pub(in crate::engine) async fn stop_locked(
        self: &Arc<Self>,
        names: &[String],
        seconds: Option<u32>,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        // A container that waits for its restart has stopped, and must stay stopped.
        for container in self.chosen(names)? {
            if container.now().status == ContainerStatus::Exited {
                self.change(&container, |state| state.stopped_by_user = true)?;
            }
        }
        let mut left = self.fitting(Operation::Stop, names, &mut outcome)?;
        let graph = self.graph()?;
        while !left.is_empty() {
            let waiting: BTreeSet<String> = left.iter().map(|c| c.name().to_owned()).collect();
            let free = |container: &Arc<Tracked>| {
                let dependents = graph.dependents(container.name());
                !dependents
                    .iter()
                    .any(|dependent| waiting.contains(dependent))
            };
            let (now, later): (Vec<_>, Vec<_>) = left.into_iter().partition(free);
            let stopped = join_all(now.iter().map(|c| self.stop_one(c, seconds))).await;
            for (container, result) in now.iter().zip(stopped) {
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
    async fn stop_one(&self, container: &Arc<Tracked>, seconds: Option<u32>) -> Result<()> {
        let name = container.name();
        let before = container.now().status;
        let Some(pod) = self.live() else {
            return self.ended_within(container, KILLED).await;
        };
        if before == ContainerStatus::Initialized {
            let _ = pod.kill(name, None, libc::SIGKILL as u32, true).await;
            return self.ended_within(container, KILLED).await;
        }
        self.change(container, |state| {
            if state.status.is_running() {
                state.status = ContainerStatus::Stopping;
            }
            state.stopped_by_user = true;
        })?;
        if before == ContainerStatus::Paused {
            // A frozen process does not handle a signal.
            ignore_ended(pod.resume(name).await)?;
        }
        let seconds = seconds.unwrap_or(container.definition.stop_timeout);
        if seconds > 0 {
            let signal = container.definition.stop_signal as u32;
            ignore_ended(pod.kill(name, None, signal, false).await)?;
            let patience = Duration::from_secs(seconds.into());
            if self.ended_within(container, patience).await.is_ok() {
                return Ok(());
            }
            ::log::warn!(
                "Container {name} does not end on signal {signal} within {seconds} s: it is killed"
            );
        }
        ignore_ended(pod.kill(name, None, libc::SIGKILL as u32, true).await)?;
        self.ended_within(container, KILLED).await
    }

    /// Waits until a container is out of the VM, and the journal has its end.
    async fn ended_within(&self, container: &Tracked, patience: Duration) -> Result<()> {
        let mut state = container.state.subscribe();
        match timeout(patience, state.wait_for(|state| !state.status.is_live())).await {
            Ok(_) => {
                if let Some(code) = container.now().exit_code {
                    self.record_end(container, code);
                }
                Ok(())
            }
            Err(_) => Err(Error::WrongState {
                what: "container",
                id: container.name().to_owned(),
                operation: "stop",
                state: "still running after SIGKILL".into(),
            }),
        }
    }

    /// Stops the running ones of the containers, and starts them all.
    ///
    /// # Errors
    /// As [`Owner::stop`] and [`Owner::start`].
    pub async fn restart(
        self: &Arc<Self>,
        names: &[String],
        seconds: Option<u32>,
    ) -> Result<Outcome> {
        let _op = self.op.lock().await;
        let outcome = self.restart_locked(names, seconds).await;
        self.end_if_unused_locked().await;
        outcome
    }

    pub(in crate::engine) async fn restart_locked(
        self: &Arc<Self>,
        names: &[String],
        seconds: Option<u32>,
    ) -> Result<Outcome> {
        let mut stopped = self.stop_locked(names, seconds).await?;
        let again: Vec<String> = self
            .chosen(names)?
            .iter()
            .map(|container| container.name().to_owned())
            .filter(|name| !stopped.errors.contains_key(name))
            .collect();
        if again.is_empty() {
            return Ok(stopped);
        }
        let mut outcome = self.start_locked(&again, false).await?;
        for name in &outcome.done {
            let container = self.tracked(name)?;
            self.append_container_event(&container, |event| event.action("restart"));
        }
        if names.is_empty() {
            self.append_event("restart");
        }
        outcome.errors.append(&mut stopped.errors);
        Ok(outcome)
    }

    /// Stops all containers, then the VM, then the owner.
    ///
    /// # Errors
    /// As [`Owner::stop`]; the VM ends in any case.
    pub async fn stop_pod(self: &Arc<Self>, seconds: Option<u32>) -> Result<Outcome> {
        let _op = self.op.lock().await;
        let outcome = self.stop_locked(&[], seconds).await;
        self.end("the pod was stopped").await;
        outcome
    }

    /// As [`Owner::stop_pod`], for a pod without containers.
    ///
    /// # Errors
    /// [`Error::WrongState`] if it has any.
    pub async fn stop_empty_pod(self: &Arc<Self>) -> Result<Outcome> {
        let _op = self.op.lock().await;
        let count = lock(&self.containers).len();
        remove::check_empty(self.paths.name(), count)?;
        self.end("the pod is removed").await;
        Ok(Outcome::default())
    }

    /// Waits until a container has ended; answers at once if it has. One that never ran
    /// has not.
    ///
    /// # Errors
    /// [`Error::NotFound`], also when it is removed meanwhile.
    pub(super) async fn wait_for(&self, name: &str) -> Result<crate::Exit> {
        self.end_of(&self.tracked(name)?, None).await
    }

    /// The end of the container that has the name now, or of a further process of it: it
    /// is known even if that is removed before it is asked for.
    ///
    /// # Errors
    /// [`Error::NotFound`], at once if there is no such container.
    pub fn watch_end(
        self: &Arc<Self>,
        name: &str,
        exec: Option<&str>,
    ) -> Result<impl Future<Output = Result<crate::Exit>> + Send + use<>> {
        let container = self.tracked(name)?;
        let (owner, exec) = (self.clone(), exec.map(str::to_owned));
        Ok(async move { owner.end_of(&container, exec.as_deref()).await })
    }

    async fn end_of(&self, container: &Arc<Tracked>, exec: Option<&str>) -> Result<crate::Exit> {
        let mut state = container.state.subscribe();
        let missing = || Error::not_found("exec", exec.unwrap_or_default());
        loop {
            let now = state.borrow_and_update().clone();
            let ended = match exec {
                None => now.exit_code.zip(now.finished),
                Some(exec) => {
                    let session = now.execs.get(exec).ok_or_else(missing)?;
                    session.exit_code.zip(session.finished)
                }
            };
            if let Some((status, at)) = ended
                && !(exec.is_none() && now.status.is_live())
            {
                return Ok(crate::Exit { status, at });
            }
            // Checked last: a container that is removed as it ends has ended, too.
            if !self.has(container) {
                return Err(Error::not_found("container", container.name()));
            }
            // This cannot fail: the sender lives in `container`.
            let _ = state.changed().await;
        }
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
