//! What all operations on several containers have in common: each container
//! gets its turn, whatever happens to the others.

use std::sync::Arc;

use futures::future::join_all;

use super::{Owner, Tracked};
use crate::engine::status::{Fit, Operation, Outcome};
use crate::error::{Error, Result};

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
            match operation.fits(status) {
                Fit::Applies => fitting.push(container),
                Fit::Nothing { fine } if fine || asked.is_empty() => outcome.ignored.push(name),
                Fit::Nothing { .. } => {
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
        self.freeze(Operation::Pause, names).await
    }

    /// Thaws containers that are paused.
    ///
    /// # Errors
    /// As [`Owner::pause`].
    pub async fn unpause(&self, names: &[String]) -> Result<Outcome> {
        self.freeze(Operation::Unpause, names).await
    }

    async fn freeze(&self, operation: Operation, names: &[String]) -> Result<Outcome> {
        use crate::engine::status::ContainerStatus::{Paused, Running};
        let _op = self.op.lock().await;
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
            outcome.add(name, result);
        }
        Ok(outcome)
    }

    /// Sends a signal to containers that run. Who is killed by a user is not
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
            pod.kill(container.name(), None, signal, all).await
        }));
        for (container, result) in fitting.iter().zip(sent.await) {
            outcome.add(container.name(), result);
        }
        Ok(outcome)
    }

    /// Changes the resource limits of a container: OCI `LinuxResources` as
    /// JSON.
    ///
    /// # Errors
    /// [`Error::WrongState`] unless it is in a VM; the VM's.
    pub async fn update(&self, name: &str, resources: &[u8]) -> Result<()> {
        let _op = self.op.lock().await;
        self.tracked(name)?;
        let pod = self.live_or("update")?;
        pod.update(name, resources).await
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
