//! The service `Management`: the calls that the owner of any pod serves.

use std::sync::Arc;

use async_trait::async_trait;
use protos::management as api;
use protos::management_ttrpc::Management;
use runtime::engine::owner::exec::{self, Starter};
use runtime::engine::owner::service::PodService;
use runtime::engine::wire::errors::to_results;
use runtime::engine::wire::exec::of_create;
use runtime::engine::wire::usage::{to_processes, to_stats};
use runtime::{Error, Result};
use ttrpc::asynchronous::TtrpcContext;

use super::status;

/// The answer to a call.
pub(super) type Answer<T> = ttrpc::Result<T>;

/// The service of a pod.
pub(super) struct Service<P>(pub(super) Arc<P>);

impl<P: PodService> Service<P> {
    /// Executes a request to its end, even if the client goes away.
    pub(super) async fn answer<T, F>(&self, work: impl FnOnce(Arc<P>) -> F) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let done = tokio::spawn(work(self.0.clone())).await;
        let done = done.unwrap_or_else(|e| Err(Error::task("serving a call")(e)));
        done.map_err(status)
    }
}

/// The answer of a call without a result.
pub(super) fn done((): ()) -> api::Empty {
    api::Empty::new()
}

#[async_trait]
impl<P: PodService> Management for Service<P> {
    async fn status(&self, _: &TtrpcContext, _: api::Empty) -> Answer<api::Empty> {
        Ok(api::Empty::new())
    }

    /// The wait ends with the client, since it has no other effect.
    async fn wait(
        &self,
        _: &TtrpcContext,
        req: api::ContainerRequest,
    ) -> Answer<api::WaitResponse> {
        let exit = self.0.wait(&req.container).await.map_err(status)?;
        Ok(api::WaitResponse {
            exit_code: exit.status,
            ..Default::default()
        })
    }

    async fn kill(&self, _: &TtrpcContext, req: api::KillRequest) -> Answer<api::Results> {
        self.answer(|pod| async move {
            let sent = pod.kill(&req.containers, req.signal, req.all).await;
            sent.map(to_results)
        })
        .await
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        req: api::ContainersRequest,
    ) -> Answer<api::StatsResponse> {
        self.answer(|pod| async move { pod.usage(&req.containers).await.map(to_stats) })
            .await
    }

    async fn processes(
        &self,
        _: &TtrpcContext,
        req: api::ContainerRequest,
    ) -> Answer<api::ProcessesResponse> {
        self.answer(|pod| async move { pod.processes(&req.container).await.map(to_processes) })
            .await
    }

    async fn create_exec(
        &self,
        _: &TtrpcContext,
        req: api::CreateExecRequest,
    ) -> Answer<api::ProcessRequest> {
        self.answer(|pod| async move {
            let (container, request) = of_create(req);
            let exec = exec::create(&*pod, &container, request)?;
            Ok(api::ProcessRequest {
                container,
                exec,
                ..Default::default()
            })
        })
        .await
    }

    async fn start_exec(&self, _: &TtrpcContext, req: api::ProcessRequest) -> Answer<api::Empty> {
        self.answer(|pod| async move {
            let started = exec::start(&pod, &req.container, &req.exec, Starter::default());
            started.await.map(|_| api::Empty::new())
        })
        .await
    }

    async fn remove_exec(
        &self,
        _: &TtrpcContext,
        req: api::RemoveExecRequest,
    ) -> Answer<api::Empty> {
        self.answer(|pod| async move {
            let removed = exec::remove(&pod, &req.container, &req.exec, req.force);
            removed.await.map(done)
        })
        .await
    }

    async fn signal_exec(
        &self,
        _: &TtrpcContext,
        req: api::SignalExecRequest,
    ) -> Answer<api::Empty> {
        self.answer(|pod| async move {
            let sent = exec::signal(&*pod, &req.container, &req.exec, req.signal);
            sent.await.map(done)
        })
        .await
    }
}
