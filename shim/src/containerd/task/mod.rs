//! containerd's task API on one pod, call by call.
//!
//! Every call that changes something runs in a task of its own: ttrpc drops the handler when
//! the client goes away or its deadline passes, and the change still has to complete.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
    StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::{Task, create_task};
use protobuf::MessageField;
use protobuf::well_known_types::empty::Empty;
use runtime::Pod;
use runtime::engine::foreign::owner::is_foreign_exec;
use tokio::sync::oneshot;
use ttrpc::Code;
use ttrpc::r#async::{Service, TtrpcContext};
use ttrpc::error::get_rpc_status;

use crate::containerd::metrics;
use crate::containerd::owner::PodOwner;
use crate::containerd::proto;
use crate::containerd::proto::{any, io, text, timestamp};
use crate::containerd::status;

/// The version in the answer to `Connect`.
const API_VERSION: &str = "v2";

/// The name under which containerd 1.6 calls the service; the generated code knows only
/// containerd 2's.
const TASK_V2: &str = "containerd.task.v2.Task";

/// The service.
pub struct TaskService(Arc<PodOwner>);

impl TaskService {
    /// The methods, under both names of the service.
    pub fn services(owner: Arc<PodOwner>) -> HashMap<String, Service> {
        let service = Arc::new(Self(owner));
        let mut services = create_task(service.clone());
        let v2 = create_task(service).into_values();
        services.extend(v2.map(|methods| (TASK_V2.to_owned(), methods)));
        services
    }

    /// The pod, if it has been created. Before that every id is unknown.
    fn pod(&self, id: &str) -> ttrpc::Result<Arc<Pod>> {
        self.0
            .pod()
            .ok_or_else(|| status::of(runtime::Error::not_found("container", id)))
    }
}

/// The exec id; containerd's empty exec id stands for the container's init process.
fn exec(id: &str) -> Option<&str> {
    (!id.is_empty()).then_some(id)
}

/// Runs a change to its end, even if the caller goes away.
async fn change<T: Send + 'static>(
    work: impl Future<Output = runtime::Result<T>> + Send + 'static,
) -> ttrpc::Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result.map_err(status::of),
        Err(error) => Err(get_rpc_status(Code::INTERNAL, error)),
    }
}

fn encoding(error: protobuf::Error) -> ttrpc::Error {
    get_rpc_status(Code::INTERNAL, error)
}

#[async_trait]
impl Task for TaskService {
    async fn state(&self, _: &TtrpcContext, req: StateRequest) -> ttrpc::Result<StateResponse> {
        let state = self
            .pod(&req.id)?
            .state(&req.id, exec(&req.exec_id))
            .map_err(status::of)?;
        Ok(StateResponse {
            bundle: text(&state.bundle),
            pid: state.pid,
            status: proto::status(state.status).into(),
            stdin: text(&state.stdin),
            stdout: text(&state.stdout),
            stderr: text(&state.stderr),
            terminal: state.terminal,
            exit_status: state.exit.map_or(0, |exit| exit.status),
            exited_at: state
                .exit
                .map_or_else(MessageField::none, |exit| timestamp(exit.at)),
            id: req.id,
            exec_id: req.exec_id,
            ..StateResponse::default()
        })
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        req: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        if !req.checkpoint.is_empty() {
            let problem = "restoring from a checkpoint is not supported";
            return Err(get_rpc_status(Code::UNIMPLEMENTED, problem));
        }
        let io = io(&req.stdin, &req.stdout, &req.stderr, req.terminal).map_err(status::invalid)?;
        let owner = self.0.clone();
        let (caller, created) = oneshot::channel();
        tokio::spawn(async move { owner.create_for(req, io, caller).await });
        let broke_off = |_| get_rpc_status(Code::INTERNAL, "creating the container failed");
        let pid = created.await.map_err(broke_off)?.map_err(status::of)?;
        Ok(CreateTaskResponse {
            pid,
            ..CreateTaskResponse::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, req: StartRequest) -> ttrpc::Result<StartResponse> {
        let pod = self.pod(&req.id)?;
        let pid = change(async move {
            match exec(&req.exec_id) {
                None => pod.start(&req.id).await,
                Some(exec) => pod.start_exec(&req.id, exec).await,
            }
        })
        .await?;
        Ok(StartResponse {
            pid,
            ..StartResponse::default()
        })
    }

    async fn delete(&self, _: &TtrpcContext, req: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let pod = self.pod(&req.id)?;
        let owner = self.0.clone();
        let (pid, exit) = change(async move {
            let deleted = pod.delete(&req.id, exec(&req.exec_id)).await?;
            owner.deleted();
            Ok(deleted)
        })
        .await?;
        Ok(DeleteResponse {
            pid,
            exit_status: exit.status,
            exited_at: timestamp(exit.at),
            ..DeleteResponse::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, req: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let pids = self.pod(&req.id)?.pids(&req.id).map_err(status::of)?;
        let info = |process: runtime::PidInfo| {
            let info = match process.exec {
                None => MessageField::none(),
                // runc's shim names the exec of a process in the same way.
                Some(exec_id) => MessageField::some(any(&ProcessDetails {
                    exec_id,
                    ..ProcessDetails::default()
                })?),
            };
            Ok(ProcessInfo {
                pid: process.pid,
                info,
                ..ProcessInfo::default()
            })
        };
        let processes: protobuf::Result<Vec<_>> = pids.into_iter().map(info).collect();
        Ok(PidsResponse {
            processes: processes.map_err(encoding)?,
            ..PidsResponse::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, req: PauseRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod(&req.id)?;
        change(async move { pod.pause(&req.id).await }).await?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, req: ResumeRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod(&req.id)?;
        change(async move { pod.resume(&req.id).await }).await?;
        Ok(Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        let problem = "checkpoint is not supported";
        Err(get_rpc_status(Code::UNIMPLEMENTED, problem))
    }

    async fn kill(&self, _: &TtrpcContext, req: KillRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod(&req.id)?;
        change(async move {
            pod.kill(&req.id, exec(&req.exec_id), req.signal, req.all)
                .await
        })
        .await?;
        Ok(Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, req: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod(&req.id)?;
        if is_foreign_exec(&req.exec_id) {
            let problem = format!(
                "invalid exec id {:?}: it is reserved for rust-kata",
                req.exec_id
            );
            return Err(status::invalid(problem));
        }
        let io = io(&req.stdin, &req.stdout, &req.stderr, req.terminal).map_err(status::invalid)?;
        let spec = serde_json::from_slice(&req.spec.value).map_err(|e| {
            status::invalid(format!("invalid process of exec {:?}: {e}", req.exec_id))
        })?;
        change(async move { pod.add_exec(&req.id, &req.exec_id, spec, io).await }).await?;
        Ok(Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, req: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod(&req.id)?;
        change(async move {
            pod.resize_pty(&req.id, exec(&req.exec_id), req.width, req.height)
                .await
        })
        .await?;
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, req: CloseIORequest) -> ttrpc::Result<Empty> {
        let pod = self.pod(&req.id)?;
        if req.stdin {
            change(async move { pod.close_stdin(&req.id, exec(&req.exec_id)).await }).await?;
        }
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, req: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod(&req.id)?;
        change(async move { pod.update(&req.id, &req.resources.value).await }).await?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, req: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let pod = self.pod(&req.id)?;
        let exit = pod
            .wait(&req.id, exec(&req.exec_id))
            .await
            .map_err(status::of)?;
        Ok(WaitResponse {
            exit_status: exit.status,
            exited_at: timestamp(exit.at),
            ..WaitResponse::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, req: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let stats = self
            .pod(&req.id)?
            .stats(&req.id)
            .await
            .map_err(status::of)?;
        Ok(StatsResponse {
            stats: MessageField::some(metrics::of(&stats).map_err(encoding)?),
            ..StatsResponse::default()
        })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        req: ConnectRequest,
    ) -> ttrpc::Result<ConnectResponse> {
        let state = self
            .pod(&req.id)?
            .state(&req.id, None)
            .map_err(status::of)?;
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: state.pid,
            version: API_VERSION.to_owned(),
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        let owner = self.0.clone();
        change(async move { owner.shutdown_if_unused().await }).await?;
        Ok(Empty::new())
    }
}

#[cfg(test)]
mod tests;
