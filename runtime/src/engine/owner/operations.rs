//! Common parts of operations on several containers: a failure of one container does not keep
//! the others.

use std::sync::Arc;

use futures::future::join_all;
use oci_spec::runtime::LinuxResources;

use super::{Owner, Tracked};
use crate::engine::records::limits::put_over;
use crate::engine::status::{Applicability, Operation, Outcome};
use crate::error::{Error, Result};
use crate::pod::Pod;
use crate::state::Status;

impl Owner {
    /// The containers that an operation applies to. A named container to which it does not apply
    /// gets an error; if none is named, such containers are skipped.
    pub(super) fn fitting(
        &self,
        operation: Operation,
        asked: &[String],
        outcome: &mut Outcome,
    ) -> Result<Vec<Arc<Tracked>>> {
        let mut fitting = Vec::new();
        for container in self.chosen(asked)? {
            let status = container.now().status;
            let name = container.name().to_owned();
            let applicability = match asked.is_empty() {
                true => operation.applicability_in_pod(status),
                false => operation.applicability(status),
            };
            match applicability {
                Applicability::Applies => fitting.push(container),
                Applicability::NoOp => outcome.ignored.push(name),
                Applicability::Invalid if asked.is_empty() => outcome.ignored.push(name),
                Applicability::Invalid => {
                    let error = operation.refusal(&name, status);
                    outcome.errors.insert(name, error);
                }
            }
        }
        Ok(fitting)
    }

    /// Freezes running containers.
    ///
    /// # Errors
    /// [`Error::NotFound`]; errors of single containers are in the outcome.
    pub async fn pause(&self, names: &[String]) -> Result<Outcome> {
        let _op = self.op.lock().await;
        self.freeze_locked(Operation::Pause, names).await
    }

    /// Thaws paused containers.
    ///
    /// # Errors
    /// As [`Owner::pause`].
    pub async fn unpause(&self, names: &[String]) -> Result<Outcome> {
        let _op = self.op.lock().await;
        self.freeze_locked(Operation::Unpause, names).await
    }

    pub(in crate::engine) async fn freeze_locked(
        &self,
        operation: Operation,
        names: &[String],
    ) -> Result<Outcome> {
        use crate::engine::status::ContainerStatus::{Paused, Running};
        let mut outcome = Outcome::default();
        let fitting = self.fitting(operation, names, &mut outcome)?;
        if fitting.is_empty() {
            return Ok(outcome);
        }
        let pod = self.live_or(operation.name())?;
        for container in fitting {
            let name = container.name();
            let (result, after) = match operation {
                Operation::Pause => (pod.pause(name).await, Paused),
                _ => (pod.resume(name).await, Running),
            };
            let result = result.and_then(|()| {
                self.change(&container, |state| {
                    // The container may have ended meanwhile.
                    if state.status.is_running() {
                        state.status = after;
                    }
                })
            });
            if result.is_ok() {
                self.append_container_event(&container, |event| event.action(operation.name()));
            }
            outcome.add(name, result);
        }
        if names.is_empty() && !outcome.done.is_empty() {
            self.append_event(operation.name());
        }
        Ok(outcome)
    }

    /// Sends a signal to running containers, and waits for the end of those that SIGKILL ends.
    /// The restart policy does not start a container again that a user has killed. If none is
    /// named, paused ones are ignored.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::InvalidValue`] for a number that is not a signal's; errors
    /// of single containers are in the outcome.
    pub(in crate::engine) async fn send_signal(
        &self,
        names: &[String],
        signal: u32,
        all: bool,
    ) -> Result<Outcome> {
        if !(1..=libc::SIGRTMAX() as u32).contains(&signal) {
            return Err(Error::invalid("signal", signal, "1 to 64"));
        }
        let mut outcome = Outcome::default();
        let fitting = self.fitting(Operation::Kill, names, &mut outcome)?;
        if fitting.is_empty() {
            return Ok(outcome);
        }
        let pod = self.live_or("kill")?;
        let sent = join_all(
            fitting
                .iter()
                .map(|container| async { self.kill_one(&pod, container, signal, all).await }),
        );
        for (container, result) in fitting.iter().zip(sent.await) {
            outcome.add(container.name(), result);
        }
        if names.is_empty() {
            self.append_event("kill");
        }
        Ok(outcome)
    }

    async fn kill_one(
        &self,
        pod: &Arc<Pod>,
        container: &Tracked,
        signal: u32,
        all: bool,
    ) -> Result<()> {
        let before = container.now();
        // Even if the disk is full.
        self.record_change(container, |state| state.stopped_by_user = true);
        // Reported before its consequences.
        self.append_container_event(container, |event| {
            event.action("kill").with("signal", signal)
        });
        let sent = pod.kill(container.name(), None, signal, all).await;
        if sent.is_err() {
            self.record_change(container, |state| {
                state.stopped_by_user &= before.stopped_by_user || state.started != before.started;
            });
        }
        sent?;
        match signal == libc::SIGKILL as u32 {
            true => self.killed(container, before.started, "kill").await,
            false => Ok(()),
        }
    }

    /// Changes limits of a container: at once if it is in the VM, and for every later start.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the VM's.
    pub async fn update(&self, name: &str, resources: &LinuxResources) -> Result<()> {
        let _op = self.op.lock().await;
        self.update_locked(name, resources).await
    }

    pub(in crate::engine) async fn update_locked(
        &self,
        name: &str,
        resources: &LinuxResources,
    ) -> Result<()> {
        let container = self.tracked(name)?;
        if container.now().status.is_live() {
            let json = serde_json::to_vec(resources).map_err(Error::encode("OCI resources"))?;
            self.live_or("update")?.update(name, &json).await?;
        }
        self.change(&container, |state| {
            put_over(state.limits.get_or_insert_default(), resources);
        })?;
        self.append_container_event(&container, |event| event.action("update"));
        Ok(())
    }

    /// Asks the guest for the state of containers and corrects their records; the outcome lists
    /// the corrected containers as done.
    ///
    /// # Errors
    /// [`Error::NotFound`]; errors of single containers are in the outcome.
    pub async fn sync(&self, names: &[String]) -> Result<Outcome> {
        let _op = self.op.lock().await;
        let mut outcome = Outcome::default();
        for container in self.chosen(names)? {
            let before = container.now();
            let synced = self.sync_one(&container).await;
            if synced.is_ok() && container.now() == before {
                outcome.ignored.push(container.name().to_owned());
            } else {
                outcome.add(container.name(), synced);
            }
        }
        Ok(outcome)
    }

    async fn sync_one(&self, container: &Tracked) -> Result<()> {
        let name = container.name();
        if !container.now().status.is_live() {
            return Ok(());
        }
        let pod = self.live_or("ask")?;
        // Ask the guest; do not rely on its last event.
        pod.processes(name).await?;
        let found = pod.state(name, None)?;
        self.change(container, |state| {
            use crate::engine::status::ContainerStatus::{Paused, Running};
            match found.status {
                Status::Paused if state.status == Running => state.status = Paused,
                Status::Running if state.status == Paused => state.status = Running,
                // An end is reported by its own event.
                _ => {}
            }
            if state.status.is_live() {
                state.pid = found.pid;
            }
        })
    }
}

impl Outcome {
    /// Adds another outcome of the same operation.
    pub fn add_all(&mut self, other: Self) {
        self.done.extend(other.done);
        self.ignored.extend(other.ignored);
        self.errors.extend(other.errors);
        // What an earlier round has done needs no change in a later one.
        self.done.sort();
        self.done.dedup();
        self.ignored.sort();
        self.ignored.dedup();
        self.ignored.retain(|name| !self.done.contains(name));
    }

    /// Adds the result for one container.
    pub fn add(&mut self, name: &str, result: Result<()>) {
        match result {
            Ok(()) => self.done.push(name.to_owned()),
            Err(error) => {
                self.errors.insert(name.to_owned(), error);
            }
        }
    }
}
