//! The management service of a pod that is not the engine's, beside the task
//! API: `rust-kata` looks into the pod, runs processes in it and sends signals;
//! what else is to change is its front door's business.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use protos::management as api;
use protos::management_ttrpc::Management;
use runtime::engine::foreign::exec::{Execs, is_foreign_exec};
use runtime::engine::owner::Starter;
use runtime::engine::status::Outcome;
use runtime::engine::time::nanos;
use runtime::engine::wire;
use runtime::engine::wire::errors::to_results;
use runtime::{Pod, Status};
use tokio::sync::watch;
use ttrpc::asynchronous::TtrpcContext;

use super::attach;
use super::server;
use super::{answer, status};

type Answer<T> = ttrpc::Result<T>;

/// Serves the clients of a pod that this process owns, until the process ends.
/// The sockets are in the pod's directory, and go with it.
pub(crate) async fn serve_foreign(pod: &Arc<Pod>, address: &Path) -> crate::error::Result<()> {
    let listener = server::listen(address)?;
    let attachments = server::listen(&wire::attach::address_of(address))?;
    let execs = Execs::new(pod.clone());
    let mut server = server::start(listener, Service(execs.clone())).await?;
    let open = Arc::new(watch::Sender::new(0));
    let attachments = server::non_blocking(attachments)?;
    tokio::spawn(async move {
        attach::listen(execs, attachments, open).await;
        // It serves for as long as it is there.
        let _ = server.shutdown().await;
    });
    Ok(())
}

/// The service.
struct Service(Arc<Execs>);

impl Service {
    fn refuse<T>(&self, containers: &[String]) -> Answer<T> {
        let first = containers.first().map(String::as_str);
        Err(status(self.0.refusal(first)))
    }
}

#[async_trait]
impl Management for Service {
    async fn status(&self, _: &TtrpcContext, _: api::Empty) -> Answer<api::StatusResponse> {
        let pod = self.0.pod();
        let containers = pod.container_ids().into_iter();
        let containers = containers.filter_map(|container| {
            let state = pod.state(&container, None).ok()?;
            Some(api::ContainerStatus {
                container,
                status: state.status.to_string(),
                pid: state.pid,
                has_exited: state.exit.is_some(),
                exit_code: state.exit.map_or(0, |exit| exit.status),
                ..Default::default()
            })
        });
        Ok(api::StatusResponse {
            owner_pid: std::process::id(),
            hypervisor: pod.hypervisor(),
            containers: containers.collect(),
            ..Default::default()
        })
    }

    async fn init(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        self.refuse(&req.containers)
    }

    async fn start(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        self.refuse(&req.containers)
    }

    async fn stop(&self, _: &TtrpcContext, req: api::StopRequest) -> Answer<api::Results> {
        self.refuse(&req.containers)
    }

    async fn restart(&self, _: &TtrpcContext, req: api::StopRequest) -> Answer<api::Results> {
        self.refuse(&req.containers)
    }

    async fn pause(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        self.refuse(&req.containers)
    }

    async fn unpause(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        self.refuse(&req.containers)
    }

    /// A signal is no more than any process of the container may send.
    async fn kill(&self, _: &TtrpcContext, req: api::KillRequest) -> Answer<api::Results> {
        let pod = self.0.pod().clone();
        answer(async move {
            let mut outcome = Outcome::default();
            let all = pod.container_ids();
            let asked = if req.containers.is_empty() {
                &all
            } else {
                &req.containers
            };
            for name in asked {
                let ended = pod.state(name, None)?.status == Status::Stopped;
                if ended && req.containers.is_empty() {
                    outcome.ignored.push(name.clone());
                    continue;
                }
                let sent = pod.kill(name, None, req.signal, req.all).await;
                outcome.add(name, sent);
            }
            Ok(to_results(outcome))
        })
        .await
    }

    async fn remove(&self, _: &TtrpcContext, req: api::RemoveRequest) -> Answer<api::Results> {
        self.refuse(&req.containers)
    }

    async fn adopt(&self, _: &TtrpcContext, req: api::ContainerRequest) -> Answer<api::Empty> {
        self.refuse(&[req.container])
    }

    async fn update(&self, _: &TtrpcContext, req: api::UpdateRequest) -> Answer<api::Empty> {
        self.refuse(&[req.container])
    }

    async fn batch(&self, _: &TtrpcContext, _: api::BatchRequest) -> Answer<api::BatchResponse> {
        self.refuse(&[])
    }

    async fn sync(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        self.refuse(&req.containers)
    }

    async fn cleanup(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        self.refuse(&req.containers)
    }

    async fn shutdown(&self, _: &TtrpcContext, req: api::StopRequest) -> Answer<api::Results> {
        self.refuse(&req.containers)
    }

    async fn wait(&self, _: &TtrpcContext, req: api::ProcessRequest) -> Answer<api::WaitResponse> {
        let exit = if is_foreign_exec(&req.exec) {
            self.0.end_of(&req.exec).map_err(status)?.await
        } else {
            let exec = Some(req.exec.as_str()).filter(|exec| !exec.is_empty());
            let exit = self.0.pod().wait(&req.container, exec).await;
            exit.map_err(status)?
        };
        Ok(api::WaitResponse {
            exit_code: exit.status,
            exited_at: nanos(exit.at),
            ..Default::default()
        })
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        req: api::ContainersRequest,
    ) -> Answer<api::StatsResponse> {
        let execs = self.0.clone();
        answer(async move { execs.stats(&req.containers).await }).await
    }

    async fn processes(
        &self,
        _: &TtrpcContext,
        req: api::ContainerRequest,
    ) -> Answer<api::ProcessesResponse> {
        let execs = self.0.clone();
        answer(async move { execs.processes(&req.container).await }).await
    }

    async fn create_exec(
        &self,
        _: &TtrpcContext,
        req: api::CreateExecRequest,
    ) -> Answer<api::ProcessRequest> {
        let execs = self.0.clone();
        answer(async move {
            let container = req.container.clone();
            let exec = execs.create_exec(&container, super::exec_request(req))?;
            Ok(api::ProcessRequest {
                container,
                exec,
                ..Default::default()
            })
        })
        .await
    }

    async fn start_exec(&self, _: &TtrpcContext, req: api::ProcessRequest) -> Answer<api::Empty> {
        let execs = self.0.clone();
        answer(async move {
            let started = execs.start_exec(&req.exec, Starter::default()).await;
            started.map(|_| api::Empty::new())
        })
        .await
    }

    async fn remove_exec(
        &self,
        _: &TtrpcContext,
        req: api::RemoveExecRequest,
    ) -> Answer<api::Empty> {
        let execs = self.0.clone();
        answer(async move {
            let removed = execs.remove_exec(&req.exec, req.force).await;
            removed.map(|()| api::Empty::new())
        })
        .await
    }

    async fn resize(&self, _: &TtrpcContext, req: api::ResizeRequest) -> Answer<api::Empty> {
        let pod = self.0.pod().clone();
        answer(async move {
            let exec = Some(req.exec.as_str()).filter(|exec| !exec.is_empty());
            let resized = pod.resize_pty(&req.container, exec, req.width, req.height);
            resized.await.map(|()| api::Empty::new())
        })
        .await
    }
}
