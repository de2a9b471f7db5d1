//! The calls of `agent.proto`.
//!
//! Each change runs in a separate task: ttrpc drops a handler at the caller's deadline, and a
//! late change is better than a partial one.

pub(crate) mod connection;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use log::debug;
use oci_spec::runtime::LinuxResources;
use protos::agent::{self, Empty};
use protos::agent_ttrpc;
use tokio::sync::Notify;
use ttrpc::r#async::TtrpcContext;

use crate::blocking::blocking;
use crate::container::Container;
use crate::error::{Context, Error, Result};
use crate::guest::cpu_memory;
use crate::guest::devices;
use crate::launch::spec;
use crate::pod::Pod;
use crate::pod::share;

pub struct Service {
    pub pod: Arc<Pod>,
    /// Notified when the pod has been destroyed.
    pub destroyed: Arc<Notify>,
}

type Reply<T> = ttrpc::Result<T>;

/// Runs a change to its end, even if its caller has gone.
async fn change<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(e) => Err(std::io::Error::other(e)).what("a task of the agent"),
    }
}

fn reply<T>(call: &str, id: &str, result: Result<T>) -> Reply<T> {
    match &result {
        Ok(_) => debug!("{call} {id}: done"),
        Err(e) => debug!("{call} {id}: {e}"),
    }
    result.map_err(Into::into)
}

impl Service {
    fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.pod.container(id)
    }

    /// Runs a change of one container.
    async fn on<F, T>(
        &self,
        call: &str,
        id: &str,
        work: impl FnOnce(Arc<Container>) -> F,
    ) -> Reply<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        let result = match self.container(id) {
            Ok(container) => change(work(container)).await,
            Err(e) => Err(e),
        };
        reply(call, id, result)
    }
}

/// Drops the guest's caches of files; `which` is a number of proc_sys_vm(5).
async fn drop_caches(which: &'static str) -> Result<()> {
    const FILE: &str = "/proc/sys/vm/drop_caches";
    blocking("drop the guest's caches", move || {
        std::fs::write(FILE, which).path(FILE)
    })
    .await
}

fn empty(_: ()) -> Empty {
    Empty::new()
}

#[async_trait]
impl agent_ttrpc::Agent for Service {
    async fn create_pod(
        &self,
        _: &TtrpcContext,
        request: agent::CreatePodRequest,
    ) -> Reply<agent::CreatePodResponse> {
        let pod = self.pod.clone();
        let id = request.pod_id.clone();
        let created = blocking("set the pod up", move || pod.create(&request)).await;
        reply("CreatePod", &id, created)?;
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Ok(agent::CreatePodResponse {
            agent_version: env!("CARGO_PKG_VERSION").into(),
            kernel_release: kernel.trim().into(),
            ..Default::default()
        })
    }

    async fn destroy_pod(&self, _: &TtrpcContext, _: Empty) -> Reply<Empty> {
        self.pod.destroy().await;
        nix::unistd::sync();
        self.destroyed.notify_one();
        Ok(Empty::new())
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: agent::CreateContainerRequest,
    ) -> Reply<agent::CreateContainerResponse> {
        let pod = self.pod.clone();
        let id = request.container_id.clone();
        let created = async {
            pod.reserve(&id)?;
            change(async move {
                let id = &request.container_id;
                let made = async {
                    // Before the plan, which reads the sources of all mounts.
                    let (shared, storages) = (pod.clone(), request.storages);
                    let mount = move || shared.mount_once(&storages);
                    blocking("mount what containers share", mount).await?;
                    let plan = spec::plan(id, &request.spec, &request.stdio)?;
                    let used = share::used_by(&plan.spec);
                    pod.share.begin(id, used, request.submounts).await?;
                    Container::create(&pod.environment, id, plan, &request.stdio).await
                };
                let made = made.await;
                if made.is_err() {
                    pod.share.end(id).await;
                }
                pod.finish_create(id, made.as_ref().ok().cloned());
                made
            })
            .await
        };
        let container = reply("CreateContainer", &id, created.await)?;
        Ok(agent::CreateContainerResponse {
            // The process may have ended already; then its pid is unknown.
            pid: container.init.pid().unwrap_or(0) as u32,
            ..Default::default()
        })
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: agent::ContainerRequest,
    ) -> Reply<Empty> {
        self.on("StartContainer", &request.container_id, |c| async move {
            c.start().await
        })
        .await
        .map(empty)
    }

    async fn remove_container(
        &self,
        _: &TtrpcContext,
        request: agent::ContainerRequest,
    ) -> Reply<Empty> {
        let pod = self.pod.clone();
        let id = request.container_id.clone();
        self.on("RemoveContainer", &request.container_id, |c| async move {
            c.remove().await?;
            pod.forget(&id);
            pod.share.end(&id).await;
            // The host will unmount files that the guest has used: release the inodes of the
            // share.
            if let Err(e) = drop_caches("2").await {
                log::warn!("{e}");
            }
            Ok(())
        })
        .await
        .map(empty)
    }

    async fn update_container(
        &self,
        _: &TtrpcContext,
        request: agent::UpdateContainerRequest,
    ) -> Reply<Empty> {
        let resources = request.resources;
        self.on("UpdateContainer", &request.container_id, |c| async move {
            let resources: LinuxResources =
                serde_json::from_slice(&resources).map_err(Error::document("OCI resources"))?;
            c.update(&resources).await
        })
        .await
        .map(empty)
    }

    async fn pause_container(
        &self,
        _: &TtrpcContext,
        request: agent::ContainerRequest,
    ) -> Reply<Empty> {
        self.on("PauseContainer", &request.container_id, |c| async move {
            c.pause().await
        })
        .await
        .map(empty)
    }

    async fn resume_container(
        &self,
        _: &TtrpcContext,
        request: agent::ContainerRequest,
    ) -> Reply<Empty> {
        self.on("ResumeContainer", &request.container_id, |c| async move {
            c.resume().await
        })
        .await
        .map(empty)
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: agent::ContainerRequest,
    ) -> Reply<agent::StatsResponse> {
        Ok(self.container(&request.container_id)?.stats())
    }

    async fn list_processes(
        &self,
        _: &TtrpcContext,
        request: agent::ContainerRequest,
    ) -> Reply<agent::ListProcessesResponse> {
        let pids = self.container(&request.container_id)?.processes()?;
        Ok(agent::ListProcessesResponse {
            processes: crate::container::process_info::list(&pids)?,
            ..Default::default()
        })
    }

    async fn exec_process(
        &self,
        _: &TtrpcContext,
        request: agent::ExecProcessRequest,
    ) -> Reply<Empty> {
        let id = request.container_id.clone();
        self.on("ExecProcess", &id, |c| async move {
            let ran = c.exec(&request.exec_id, &request.process, &request.stdio);
            ran.await.map(drop)
        })
        .await
        .map(empty)
    }

    async fn remove_process(
        &self,
        _: &TtrpcContext,
        request: agent::ProcessRequest,
    ) -> Reply<Empty> {
        let container = self.container(&request.container_id)?;
        reply(
            "RemoveProcess",
            &request.exec_id,
            container.remove_exec(&request.exec_id),
        )
        .map(empty)
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: agent::SignalProcessRequest,
    ) -> Reply<Empty> {
        let container = self.container(&request.container_id)?;
        let signal = request.signal as i32;
        let sent = match (request.all, request.exec_id.as_str()) {
            (true, "") => container.signal_all(signal),
            (true, exec) => {
                let expected = "none with a signal to all processes";
                Err(Error::invalid("exec_id", exec, expected))
            }
            (false, exec) => container.process(exec).and_then(|p| p.signal(signal)),
        };
        reply("SignalProcess", &request.container_id, sent).map(empty)
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        request: agent::ProcessRequest,
    ) -> Reply<agent::WaitProcessResponse> {
        let container = self.container(&request.container_id)?;
        let process = container.process(&request.exec_id)?;
        let ended = process.wait().await;
        debug!("{} has ended: {ended:?}", process.name());
        Ok(agent::WaitProcessResponse {
            exit_status: ended.status,
            oom_killed: ended.oom_killed,
            stdout_bytes: ended.written.stdout,
            stderr_bytes: ended.written.stderr,
            descriptor_bytes: ended.written.descriptors,
            ..Default::default()
        })
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: agent::ResizePtyRequest) -> Reply<Empty> {
        let container = self.container(&request.container_id)?;
        let process = container.process(&request.exec_id)?;
        let side = |cells: u32| cells.min(u32::from(u16::MAX)) as u16;
        process.resize(side(request.width), side(request.height))?;
        Ok(Empty::new())
    }

    async fn online_cpu_mem(
        &self,
        _: &TtrpcContext,
        request: agent::OnlineCpuMemRequest,
    ) -> Reply<Empty> {
        let resize = move || cpu_memory::resize(Path::new(cpu_memory::SYS), request.cpus as usize);
        let resized = blocking("resize the guest", resize).await;
        reply("OnlineCpuMem", "", resized).map(empty)
    }

    async fn attach_device(
        &self,
        _: &TtrpcContext,
        request: agent::DeviceRequest,
    ) -> Reply<agent::AttachDeviceResponse> {
        let attach = move || devices::attach(Path::new(cpu_memory::SYS), request.slot);
        let attached = blocking("attach a device", attach).await;
        let device = reply("AttachDevice", &request.slot.to_string(), attached)?;
        Ok(agent::AttachDeviceResponse {
            name: device.name,
            major: device.major,
            minor: device.minor,
            ..Default::default()
        })
    }

    async fn detach_device(&self, _: &TtrpcContext, request: agent::DeviceRequest) -> Reply<Empty> {
        let detach = move || devices::detach(Path::new(cpu_memory::SYS), request.slot);
        let detached = blocking("detach a device", detach).await;
        reply("DetachDevice", &request.slot.to_string(), detached).map(empty)
    }

    async fn forget_files(&self, _: &TtrpcContext, _: Empty) -> Reply<Empty> {
        // Drops pages, names and attributes.
        reply("ForgetFiles", "", drop_caches("3").await).map(empty)
    }

    async fn next_event(&self, _: &TtrpcContext, _: Empty) -> Reply<agent::Event> {
        Ok(self.pod.environment.events.next().await)
    }
}

#[cfg(test)]
mod tests;
