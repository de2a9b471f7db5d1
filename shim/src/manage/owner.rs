//! The service `Engine`: changes of a pod of the engine.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use protos::management as api;
use protos::management_ttrpc::{Engine, create_engine, create_management};
use runtime::engine::owner::Owner;
use runtime::engine::rootfs::RootfsUser;
use runtime::engine::wire::changes::parse_resources;
use runtime::engine::wire::errors::to_results;
use ttrpc::asynchronous::{self, TtrpcContext};

use super::service::{Answer, Service, done};

/// Both services. `Management` also has the calls of `Engine`, for clients of builds with one
/// service.
pub(super) fn services(owner: &Arc<Owner>) -> HashMap<String, asynchronous::Service> {
    let service = Arc::new(Service(owner.clone()));
    let mut services = create_management(service.clone());
    for management in services.values_mut() {
        let engine = create_engine(service.clone()).into_values();
        management
            .methods
            .extend(engine.flat_map(|engine| engine.methods));
    }
    services.extend(create_engine(service));
    services
}

#[async_trait]
impl Engine for Service<Owner> {
    async fn init(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        self.answer(|owner| async move { owner.init(&req.containers).await.map(to_results) })
            .await
    }

    async fn start(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        self.answer(|owner| async move {
            let started = owner.start(&req.containers, req.dependencies).await;
            started.map(to_results)
        })
        .await
    }

    async fn stop(&self, _: &TtrpcContext, req: api::StopRequest) -> Answer<api::Results> {
        self.answer(|owner| async move {
            let stopped = owner.stop(&req.containers, req.timeout).await;
            stopped.map(to_results)
        })
        .await
    }

    async fn restart(&self, _: &TtrpcContext, req: api::StopRequest) -> Answer<api::Results> {
        self.answer(|owner| async move {
            let restarted = owner.restart(&req.containers, req.timeout).await;
            restarted.map(to_results)
        })
        .await
    }

    async fn pause(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        self.answer(|owner| async move { owner.pause(&req.containers).await.map(to_results) })
            .await
    }

    async fn unpause(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        self.answer(|owner| async move { owner.unpause(&req.containers).await.map(to_results) })
            .await
    }

    async fn remove(&self, _: &TtrpcContext, req: api::RemoveRequest) -> Answer<api::Results> {
        self.answer(|owner| async move {
            let removed = owner.remove(&req.containers, req.force, req.timeout).await;
            removed.map(to_results)
        })
        .await
    }

    async fn adopt(&self, _: &TtrpcContext, req: api::ContainerRequest) -> Answer<api::Empty> {
        self.answer(|owner| async move { owner.adopt(&req.container).map(done) })
            .await
    }

    async fn update(&self, _: &TtrpcContext, req: api::UpdateRequest) -> Answer<api::Empty> {
        self.answer(|owner| async move {
            let resources = parse_resources(&req.resources)?;
            owner.update(&req.container, &resources).await.map(done)
        })
        .await
    }

    async fn batch(&self, _: &TtrpcContext, req: api::BatchRequest) -> Answer<api::BatchResponse> {
        self.answer(|owner| async move { owner.batch(req.operations).await })
            .await
    }

    async fn sync(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        self.answer(|owner| async move { owner.sync(&req.containers).await.map(to_results) })
            .await
    }

    async fn cleanup(&self, _: &TtrpcContext, req: api::ContainersRequest) -> Answer<api::Results> {
        self.answer(|owner| async move { owner.cleanup(&req.containers).await.map(to_results) })
            .await
    }

    async fn shutdown(&self, _: &TtrpcContext, req: api::StopRequest) -> Answer<api::Results> {
        self.answer(|owner| async move {
            let stopped = match req.if_empty {
                true => owner.stop_empty_pod().await,
                false => owner.stop_pod(req.timeout, req.keep_paused).await,
            };
            stopped.map(to_results)
        })
        .await
    }

    async fn mount(&self, _: &TtrpcContext, req: api::MountRequest) -> Answer<api::MountResponse> {
        self.answer(|owner| async move {
            let path = owner.mount(&req.container, user(req.visitor)).await?;
            Ok(api::MountResponse {
                path: path.display().to_string(),
                ..Default::default()
            })
        })
        .await
    }

    async fn unmount(&self, _: &TtrpcContext, req: api::UnmountRequest) -> Answer<api::Empty> {
        self.answer(|owner| async move {
            let unmounted = owner.unmount(&req.container, user(req.visitor), req.force);
            unmounted.await.map(done)
        })
        .await
    }

    async fn files_changed(&self, _: &TtrpcContext, _: api::Empty) -> Answer<api::Empty> {
        self.answer(|owner| async move { owner.files_changed().await.map(done) })
            .await
    }
}

fn user(visitor: bool) -> RootfsUser {
    if visitor {
        RootfsUser::Lease
    } else {
        RootfsUser::Mount
    }
}
