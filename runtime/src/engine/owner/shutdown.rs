//! Stopping a pod: its containers, then its VM, then this process.

use std::sync::Arc;

use super::Owner;
use super::stop::Locking;
use crate::engine::records::remove;
use crate::engine::status::{ContainerStatus, Outcome};
use crate::error::Result;
use crate::sync::lock;

/// How often the containers are stopped that others start meanwhile, before these are killed.
const ROUNDS: usize = 3;

impl Owner {
    /// Stops all containers, then the VM, then the owner. With `keep_paused` paused containers
    /// are ignored, and the VM stays with them.
    ///
    /// # Errors
    /// As [`Owner::stop`]; the VM ends in any case.
    pub async fn stop_pod(
        self: &Arc<Self>,
        seconds: Option<u32>,
        keep_paused: bool,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for _ in 0..ROUNDS {
            let round = self.stop_all(seconds, keep_paused, Locking::Steps).await?;
            outcome.add_all(round);
            let _op = self.op.lock().await;
            if self.stays_paused(keep_paused) {
                return Ok(outcome);
            }
            if self.in_vm().is_empty() || !outcome.errors.is_empty() {
                self.end("the pod was stopped").await;
                return Ok(outcome);
            }
            // Some were started meanwhile.
        }
        let _op = self.op.lock().await;
        let last = self.stop_all(Some(0), keep_paused, Locking::Held).await?;
        outcome.add_all(last);
        if !self.stays_paused(keep_paused) {
            self.end("the pod was stopped").await;
        }
        Ok(outcome)
    }

    async fn stop_all(
        &self,
        seconds: Option<u32>,
        keep_paused: bool,
        locking: Locking,
    ) -> Result<Outcome> {
        let all = match keep_paused {
            // As an operation on the pod.
            true => Vec::new(),
            false => lock(&self.containers).keys().cloned().collect(),
        };
        self.stop_containers(&all, seconds, locking).await
    }

    /// Whether all that is left in the VM is paused, and is to stay there.
    fn stays_paused(&self, keep_paused: bool) -> bool {
        let left = self.in_vm();
        let paused = |status: &ContainerStatus| *status == ContainerStatus::Paused;
        keep_paused && !left.is_empty() && left.iter().all(paused)
    }

    /// The states of the containers in the VM.
    pub(super) fn in_vm(&self) -> Vec<ContainerStatus> {
        let containers = lock(&self.containers);
        let states = containers.values().map(|container| container.now().status);
        states.filter(|status| status.is_live()).collect()
    }

    /// As [`Owner::stop_pod`], for a pod without containers.
    ///
    /// # Errors
    /// [`crate::Error::WrongState`] if it has any.
    pub async fn stop_empty_pod(self: &Arc<Self>) -> Result<Outcome> {
        let _op = self.op.lock().await;
        let count = lock(&self.containers).len();
        remove::check_empty(self.paths.name(), count)?;
        self.end("the pod is removed").await;
        Ok(Outcome::default())
    }
}
