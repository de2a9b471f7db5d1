//! Pausing and resuming containers, and changing their limits.

use std::sync::Arc;

use oci_spec::runtime::LinuxResources;
use protos::agent as api;

use crate::agent;
use crate::container::guest_spec;
use crate::container::limits::Limits;
use crate::error::{Error, Result};
use crate::events::PodEvent;
use crate::pod::Pod;
use crate::state::Step;
use crate::sync::lock;

impl Pod {
    /// Freezes all processes of a running container.
    ///
    /// # Errors
    /// [`Error::WrongState`] unless it runs; the agent's.
    pub async fn pause(self: &Arc<Self>, container: &str) -> Result<()> {
        self.freeze(container, true).await
    }

    /// Thaws a paused container.
    ///
    /// # Errors
    /// [`Error::WrongState`] unless it is paused; the agent's.
    pub async fn resume(self: &Arc<Self>, container: &str) -> Result<()> {
        self.freeze(container, false).await
    }

    async fn freeze(self: &Arc<Self>, container: &str, pause: bool) -> Result<()> {
        let found = self.container(container)?;
        self.detached(|pod| async move {
            let _op = pod.op.lock().await;
            let id = found.record.id.clone();
            let (step, verb) = if pause {
                (Step::Pause, "pause")
            } else {
                (Step::Resume, "resume")
            };
            if found.init.status().after(step).is_none() {
                return Err(found.init.wrong_state(found.init.status(), verb));
            }
            let request = agent::container(&id);
            if pause {
                pod.guest
                    .unless_gone(pod.guest.agent.pause_container(request))
                    .await?;
            } else {
                pod.guest
                    .unless_gone(pod.guest.agent.resume_container(request))
                    .await?;
            }
            found.init.step(step, verb)?;
            found.save_or_warn();
            pod.events.emit(if pause {
                PodEvent::Paused { container: id }
            } else {
                PodEvent::Resumed { container: id }
            });
            Ok(())
        })
        .await
    }

    /// Changes the resource limits of a container: OCI `LinuxResources` as
    /// JSON.
    ///
    /// # Errors
    /// [`Error::Decode`] for bad JSON; the agent's.
    pub async fn update(self: &Arc<Self>, container: &str, resources: &[u8]) -> Result<()> {
        let found = self.container(container)?;
        let mut resources: LinuxResources =
            serde_json::from_slice(resources).map_err(Error::decode("OCI resources"))?;
        if found.init.status().is_stopped() {
            return Err(found.init.wrong_state(found.init.status(), "update"));
        }
        let asked = resources.clone();
        guest_spec::guest_resources(&mut resources);
        let request = api::UpdateContainerRequest {
            container_id: container.to_owned(),
            resources: serde_json::to_vec(&resources).map_err(Error::encode("OCI resources"))?,
            ..Default::default()
        };
        self.detached(|pod| async move {
            let _op = pod.op.lock().await;
            let before = *lock(&found.limits);
            let after = before.updated(Some(&asked));
            // The VM grows first, then the container may use more.
            let more = Limits {
                cpus: before.cpus.max(after.cpus),
                memory: before.memory.max(after.memory),
            };
            *lock(&found.limits) = more;
            let updated = match pod.fit().await {
                Ok(()) => pod
                    .guest
                    .unless_gone(pod.guest.agent.update_container(request))
                    .await
                    .map(drop),
                Err(e) => Err(e),
            };
            *lock(&found.limits) = if updated.is_ok() { after } else { before };
            // Memory in use cannot be freed at once; a later change tries again.
            if let Err(e) = pod.fit().await {
                log::warn!("Pod {} keeps its size: {e}", pod.id());
            }
            updated
        })
        .await
    }

    /// Resizes the VM to the limits of all containers. The caller holds the operation lock.
    pub(crate) async fn fit(&self) -> Result<()> {
        let containers = self.containers();
        let limits = containers.iter().map(|container| container.limits());
        self.size.fit(&self.guest, limits).await
    }
}
