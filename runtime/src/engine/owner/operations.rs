//! What all operations on several containers have in common: each container
//! gets its turn, whatever happens to the others.

use std::sync::Arc;

use futures::future::join_all;
use oci_spec::runtime::LinuxResources;

use super::{Owner, Tracked};
use crate::engine::records::limits::put_over;
use crate::engine::status::{Applicability, Operation, Outcome};
use crate::error::{Error, Result};
use crate::state::Status;

impl Owner {
    /// Which of these containers an operation has something to do for. One
    /// container that was asked for by name and does not fit is an error; of
    /// all of a pod, those that do not fit are passed over.
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
            match operation.applicability(status) {
                Applicability::Applies => fitting.push(container),
                Applicability::NoOp => outcome.ignored.push(name),
                Applicability::Invalid if asked.is_empty() => outcome.ignored.push(name),
                Applicability::Invalid => {
                    let error = Error::WrongState {
                        what: "container",
                        id: name.clone(),
                        operation: operation.name(),
                        state: status.to_string(),
                    };
                    outcome.errors.insert(name, error);
                }
            }
        }
        Ok(fitting)
    }

    /// Freezes containers that run.
    ///
    /// # Errors
    /// [`Error::NotFound`]; what went wrong for one container is in the outcome.
    pub async fn pause(&self, names: &[String]) -> Result<Outcome> {
        let _op = self.op.lock().await;
        self.freeze_locked(Operation::Pause, names).await
    }

    /// Thaws containers that are paused.
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
                    // It may have ended meanwhile.
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

    /// Sends a signal to containers that run. A container that a user kills is not
    /// started again by its policy.
    ///
    /// # Errors
    /// [`Error::NotFound`]; what went wrong for one container is in the outcome.
    pub async fn kill(&self, names: &[String], signal: u32, all: bool) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let fitting = self.fitting(Operation::Kill, names, &mut outcome)?;
        if fitting.is_empty() {
            return Ok(outcome);
        }
        let pod = self.live_or("kill")?;
        let sent = join_all(fitting.iter().map(|container| async {
            self.change(container, |state| state.stopped_by_user = true)?;
            // Told of before what comes of it.
            self.append_container_event(container, |event| {
                event.action("kill").with("signal", signal)
            });
            pod.kill(container.name(), None, signal, all).await
        }));
        for (container, result) in fitting.iter().zip(sent.await) {
            outcome.add(container.name(), result);
        }
        if names.is_empty() {
            self.append_event("kill");
        }
        Ok(outcome)
    }

    /// Changes limits of a container: at once if it is in the VM, and for every
    /// later start.
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
            let json = serde_json::to_vec(resources).map_err(|e| Error::Internal(e.to_string()))?;
            self.live_or("update")?.update(name, &json).await?;
        }
        self.change(&container, |state| {
            put_over(state.limits.get_or_insert_default(), resources);
        })?;
        self.append_container_event(&container, |event| event.action("update"));
        Ok(())
    }

    /// Asks the guest how containers stand, and writes down where that is not
    /// what is on record: the done ones of the outcome.
    ///
    /// # Errors
    /// [`Error::NotFound`]; what went wrong for one container is in the outcome.
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
        // The guest's word, not what was last heard of it.
        pod.processes(name).await?;
        let found = pod.state(name, None)?;
        self.change(container, |state| {
            use crate::engine::status::ContainerStatus::{Paused, Running};
            match found.status {
                Status::Paused if state.status == Running => state.status = Paused,
                Status::Running if state.status == Paused => state.status = Running,
                // Its end is told of by itself.
                _ => {}
            }
            if state.status.is_live() {
                state.pid = found.pid;
            }
        })
    }
}

impl Outcome {
    /// Adds how it went for one container.
    pub fn add(&mut self, name: &str, result: Result<()>) {
        match result {
            Ok(()) => self.done.push(name.to_owned()),
            Err(error) => {
                self.errors.insert(name.to_owned(), error);
            }
        }
    }
}
