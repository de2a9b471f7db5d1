//! Removes the remains of a container's last run, for [`PodHandle::cleanup`].
//!
//! [`PodHandle::cleanup`]: crate::engine::PodHandle::cleanup

use std::sync::Arc;

use super::Owner;
use super::stop::Locking;
use crate::engine::records::cleanup::{clean, may_clean};
use crate::engine::records::record::ContainerState;
use crate::engine::status::{ContainerStatus, Outcome};
use crate::error::Result;

impl Owner {
    /// Removes the remains of containers that do not run.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`]; errors of single containers are in the outcome.
    pub async fn cleanup(self: &Arc<Self>, names: &[String]) -> Result<Outcome> {
        let _op = self.op.lock().await;
        let mut outcome = Outcome::default();
        for container in self.chosen(names)? {
            let cleaned = async {
                may_clean(container.name(), &container.now())?;
                if container.now().status == ContainerStatus::Initialized {
                    let before = ContainerState {
                        status: ContainerStatus::Configured,
                        pid: 0,
                        ..container.now()
                    };
                    let name = [container.name().to_owned()];
                    let stopped = self.stop_containers(&name, Some(0), Locking::Held).await?;
                    stopped.errors.into_values().next().map_or(Ok(()), Err)?;
                    // As before it was built.
                    self.change(&container, |state| *state = before.clone())?;
                }
                clean(&self.paths().container(container.name())?)
            };
            let cleaned = cleaned.await;
            if cleaned.is_ok() {
                self.append_container_event(&container, |event| event.action("cleanup"));
            }
            outcome.add(container.name(), cleaned);
        }
        self.end_if_unused_locked().await;
        Ok(outcome)
    }
}
