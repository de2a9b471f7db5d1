//! Restarting containers on request.

use std::sync::Arc;

use super::Owner;
use super::stop::Locking;
use crate::engine::status::{ContainerStatus, Outcome};
use crate::error::Result;

impl Owner {
    /// Stops the running ones of the containers, and starts them all. If none is named, paused
    /// ones are ignored. A container is refused before it is stopped if it cannot be started
    /// again: if a dependency of it does not run and is not restarted, too.
    ///
    /// # Errors
    /// As [`Owner::stop`] and [`Owner::start`].
    pub async fn restart(
        self: &Arc<Self>,
        names: &[String],
        seconds: Option<u32>,
    ) -> Result<Outcome> {
        let outcome = self
            .restart_containers(names, seconds, Locking::Steps)
            .await;
        let _op = self.op.lock().await;
        self.end_if_unused_locked().await;
        outcome
    }

    pub(in crate::engine) async fn restart_containers(
        self: &Arc<Self>,
        names: &[String],
        seconds: Option<u32>,
        locking: Locking,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut again = Vec::new();
        {
            let _op = self.step(locking).await;
            for container in self.chosen(names)? {
                let name = container.name().to_owned();
                if names.is_empty() && container.now().status == ContainerStatus::Paused {
                    outcome.ignored.push(name);
                } else {
                    again.push(name);
                }
            }
            // In their order: a dependent of a container that is refused is refused, too.
            let graph = self.graph();
            for name in graph.order() {
                if again.contains(name)
                    && let Err(error) = self.check_startable(&graph, name, &again)
                {
                    again.retain(|other| other != name);
                    outcome.errors.insert(name.clone(), error);
                }
            }
        }
        if again.is_empty() {
            return Ok(outcome);
        }
        let stopped = self.stop_containers(&again, seconds, locking).await?;
        again.retain(|name| !stopped.errors.contains_key(name));
        outcome.errors.extend(stopped.errors);
        if again.is_empty() {
            return Ok(outcome);
        }
        let _op = self.step(locking).await;
        let started = self.start_locked(&again, false).await?;
        for name in &started.done {
            let container = self.tracked(name)?;
            self.append_container_event(&container, |event| event.action("restart"));
        }
        if names.is_empty() {
            self.append_event("restart");
        }
        outcome.add_all(started);
        Ok(outcome)
    }
}
