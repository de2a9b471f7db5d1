//! Resource usage and processes of containers and their VM.

use std::time::SystemTime;

use protobuf::Message;
use protos::management as api;

use super::Owner;
use crate::engine::time::nanos;
use crate::error::{Error, Result};
use crate::pod::Pod;

/// The resource usage of one container.
pub(crate) async fn measure(pod: &Pod, name: &str) -> Result<api::ContainerStats> {
    let stats = pod.stats(name).await?;
    Ok(api::ContainerStats {
        container: name.to_owned(),
        stats: stats
            .write_to_bytes()
            .map_err(Error::encode("statistics"))?,
        read_at: nanos(SystemTime::now()),
        ..Default::default()
    })
}

/// The processes of one container.
pub(crate) async fn list(pod: &Pod, name: &str) -> Result<api::ProcessesResponse> {
    let listed = pod.processes(name).await?;
    Ok(api::ProcessesResponse {
        processes: listed
            .write_to_bytes()
            .map_err(Error::encode("processes"))?,
        ..Default::default()
    })
}

impl Owner {
    /// The resource usage of running containers: of `names`, or of all if that is empty.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] for a container in `names` that does not run.
    pub async fn stats(&self, names: &[String]) -> Result<api::StatsResponse> {
        let mut response = api::StatsResponse::default();
        let Some(pod) = self.live() else {
            return match names.first() {
                Some(name) => Err(self.wrong_state(&*self.tracked(name)?, "measure")),
                None => Ok(response),
            };
        };
        for container in self.chosen(names)? {
            if !container.now().status.is_running() {
                if names.is_empty() {
                    continue;
                }
                return Err(self.wrong_state(&container, "measure"));
            }
            let measured = measure(&pod, container.name()).await?;
            response.containers.push(measured);
        }
        let (memory, cpu) = pod.vm_usage();
        response.vm_memory = memory;
        response.vm_cpu_ns = cpu;
        Ok(response)
    }

    /// The processes of a container, with the guest's pids.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] unless it runs.
    pub async fn processes(&self, name: &str) -> Result<api::ProcessesResponse> {
        let container = self.tracked(name)?;
        if !container.now().status.is_running() {
            return Err(self.wrong_state(&container, "list the processes of"));
        }
        list(&*self.live_or("list the processes of")?, name).await
    }
}
