//! The management service of a pod of the engine.

use std::sync::Arc;

use async_trait::async_trait;
use protos::management as api;
use protos::management_ttrpc::Management;
use runtime::engine::owner::{Owner, Starter};
use runtime::engine::rootfs::RootfsUser;
use runtime::engine::time::nanos;
use runtime::engine::wire::changes::parse_resources;
use runtime::engine::wire::errors::to_results;
use ttrpc::asynchronous::TtrpcContext;

use crate::manage::answer;

/// The service.
pub(super) struct Service(pub(super) Arc<Owner>);

type Answer<T> = ttrpc::Result<T>;

#[async_trait]
impl Management for Service {
    async fn status(&self, _: &TtrpcContext, _: api::Empty) -> Answer<api::StatusResponse> {
        let containers = self.0.containers().into_iter();
        let containers = containers.map(|(container, state)| api::ContainerStatus {
            container,
            status: state.status.to_string(),
            pid: state.pid,
            has_exited: state.exit_code.is_some(),
            exit_code: state.exit_code.unwrap_or(0),
            execs: state.execs.into_keys().collect(),
            ..Default::default()
        });
        Ok(api::StatusResponse {
            owner_pid: std::process::id(),
            hypervisor: self.0.hypervisor(),
            containers: containers.collect(),
            ..Default::default()
        })
    }

    async fn init(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        let owner = self.0.clone();
        answer(async move { owner.init(&req.containers).await.map(to_results) }).await
    }

    async fn start(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        let owner = self.0.clone();
        answer(async move {
            let started = owner.start(&req.containers, req.dependencies).await;
            started.map(to_results)
        })
        .await
    }

    async fn stop(&self, _: &TtrpcContext, req: api::StopRequest) -> Answer<api::Results> {
        let owner = self.0.clone();
        answer(async move {
            owner
                .stop(&req.containers, req.timeout)
                .await
                .map(to_results)
        })
        .await
    }

    async fn restart(&self, _: &TtrpcContext, req: api::StopRequest) -> Answer<api::Results> {
        let owner = self.0.clone();
        answer(async move {
            let restarted = owner.restart(&req.containers, req.timeout).await;
            restarted.map(to_results)
        })
        .await
    }

    async fn pause(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        let owner = self.0.clone();
        answer(async move { owner.pause(&req.containers).await.map(to_results) }).await
    }

    async fn unpause(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        let owner = self.0.clone();
        answer(async move { owner.unpause(&req.containers).await.map(to_results) }).await
    }

    async fn kill(&self, _: &TtrpcContext, req: api::KillRequest) -> Answer<api::Results> {
        let owner = self.0.clone();
        answer(async move {
            let killed = owner.kill(&req.containers, req.signal, req.all).await;
            killed.map(to_results)
        })
        .await
    }

    async fn remove(&self, _: &TtrpcContext, req: api::RemoveRequest) -> Answer<api::Results> {
        let owner = self.0.clone();
        answer(async move {
            let removed = owner.remove(&req.containers, req.force, req.timeout).await;
            removed.map(to_results)
        })
        .await
    }

    async fn adopt(&self, _: &TtrpcContext, req: api::ContainerRequest) -> Answer<api::Empty> {
        let owner = self.0.clone();
        answer(async move { owner.adopt(&req.container).map(|()| api::Empty::new()) }).await
    }

    async fn update(&self, _: &TtrpcContext, req: api::UpdateRequest) -> Answer<api::Empty> {
        let owner = self.0.clone();
        answer(async move {
            let resources = parse_resources(&req.resources)?;
            let updated = owner.update(&req.container, &resources).await;
            updated.map(|()| api::Empty::new())
        })
        .await
    }

    async fn batch(&self, _: &TtrpcContext, req: api::BatchRequest) -> Answer<api::BatchResponse> {
        let owner = self.0.clone();
        answer(async move { owner.batch(req.operations).await }).await
    }

    async fn sync(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        let owner = self.0.clone();
        answer(async move { owner.sync(&req.containers).await.map(to_results) }).await
    }

    async fn cleanup(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        let owner = self.0.clone();
        answer(async move { owner.cleanup(&req.containers).await.map(to_results) }).await
    }

    async fn shutdown(&self, _: &TtrpcContext, req: api::StopRequest) -> Answer<api::Results> {
        let owner = self.0.clone();
        answer(async move {
            let stopped = match req.if_empty {
                true => owner.stop_empty_pod().await,
                false => owner.stop_pod(req.timeout).await,
            };
            stopped.map(to_results)
        })
        .await
    }

    async fn wait(&self, _: &TtrpcContext, req: api::ProcessRequest) -> Answer<api::WaitResponse> {
        let exec = Some(req.exec.as_str()).filter(|exec| !exec.is_empty());
        let exit = self.0.wait(&req.container, exec).await;
        let exit = exit.map_err(super::status)?;
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
        let owner = self.0.clone();
        answer(async move { owner.stats(&req.containers).await }).await
    }

    async fn processes(
        &self,
        _: &TtrpcContext,
        req: api::ContainerRequest,
    ) -> Answer<api::ProcessesResponse> {
        let owner = self.0.clone();
        answer(async move { owner.processes(&req.container).await }).await
    }

    async fn create_exec(
        &self,
        _: &TtrpcContext,
        req: api::CreateExecRequest,
    ) -> Answer<api::ProcessRequest> {
        let owner = self.0.clone();
        answer(async move {
            let container = req.container.clone();
            let exec = owner.create_exec(&container, super::exec_request(req))?;
            Ok(api::ProcessRequest {
                container,
                exec,
                ..Default::default()
            })
        })
        .await
    }

    async fn start_exec(&self, _: &TtrpcContext, req: api::ProcessRequest) -> Answer<api::Empty> {
        let owner = self.0.clone();
        answer(async move {
            let started = owner.start_exec(&req.container, &req.exec, Starter::default());
            started.await.map(|_| api::Empty::new())
        })
        .await
    }

    async fn remove_exec(
        &self,
        _: &TtrpcContext,
        req: api::RemoveExecRequest,
    ) -> Answer<api::Empty> {
        let owner = self.0.clone();
        answer(async move {
            let removed = owner
                .remove_exec(&req.container, &req.exec, req.force)
                .await;
            removed.map(|()| api::Empty::new())
        })
        .await
    }

    async fn resize(&self, _: &TtrpcContext, req: api::ResizeRequest) -> Answer<api::Empty> {
        let owner = self.0.clone();
        answer(async move {
            let exec = Some(req.exec.as_str()).filter(|exec| !exec.is_empty());
            let size = (req.width, req.height);
            let resized = owner.resize(&req.container, exec, size).await;
            resized.map(|()| api::Empty::new())
        })
        .await
    }

    async fn mount(&self, _: &TtrpcContext, req: api::MountRequest) -> Answer<api::MountResponse> {
        let owner = self.0.clone();
        answer(async move {
            let path = owner.mount(&req.container, user(req.visitor)).await?;
            Ok(api::MountResponse {
                path: path.display().to_string(),
                ..Default::default()
            })
        })
        .await
    }

    async fn unmount(&self, _: &TtrpcContext, req: api::UnmountRequest) -> Answer<api::Empty> {
        let owner = self.0.clone();
        answer(async move {
            let user = user(req.visitor);
            let unmounted = owner.unmount(&req.container, user, req.force).await;
            unmounted.map(|()| api::Empty::new())
        })
        .await
    }

    async fn files_changed(&self, _: &TtrpcContext, _: api::Empty) -> Answer<api::Empty> {
        let owner = self.0.clone();
        answer(async move { owner.files_changed().await.map(|()| api::Empty::new()) }).await
    }
}

fn user(visitor: bool) -> RootfsUser {
    if visitor {
        RootfsUser::Lease
    } else {
        RootfsUser::Mount
    }
}
