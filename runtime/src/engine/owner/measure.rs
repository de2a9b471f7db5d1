//! What the containers of a pod of the engine use, and which processes run in them.

use super::Owner;
use crate::engine::status::ContainerStatus;
use crate::engine::usage::{self, ContainerProcess, PodUsage};
use crate::error::Result;

impl Owner {
    pub(super) async fn measure(&self, names: &[String]) -> Result<PodUsage> {
        let mut used = PodUsage::default();
        let Some(pod) = self.live() else {
            return match names.first() {
                Some(name) => Err(self.wrong_state(&*self.tracked(name)?, "measure")),
                None => Ok(used),
            };
        };
        for container in self.chosen(names)? {
            if !container.now().status.is_running() {
                if names.is_empty() {
                    continue;
                }
                return Err(self.wrong_state(&container, "measure"));
            }
            used.containers
                .push(usage::measure(&pod, container.name()).await?);
        }
        (used.vm_memory, used.vm_cpu_ns) = pod.vm_usage();
        Ok(used)
    }

    pub(super) async fn list_processes(&self, name: &str) -> Result<Vec<ContainerProcess>> {
        let container = self.tracked(name)?;
        // As with libpod, not of a paused one.
        let status = container.now().status;
        if !status.is_running() || status == ContainerStatus::Paused {
            return Err(self.wrong_state(&container, "list the processes of"));
        }
        usage::list(&*self.live_or("list the processes of")?, name).await
    }
}
