//! The agent of a fake guest: calls are recorded, and answered as the test says.

use async_trait::async_trait;
use protos::agent as api;
use protos::agent_ttrpc;
use ttrpc::Code;
use ttrpc::r#async::TtrpcContext;

use super::Guest;
use crate::sync::lock;

/// Implements the agent: calls that are only recorded, and calls with their own code.
macro_rules! agent {
    ({ $($call:ident($request:ident) -> $answer:ident;)* } $($own:tt)*) => {
        #[async_trait]
        impl agent_ttrpc::Agent for Guest {
            $(async fn $call(
                &self,
                _: &TtrpcContext,
                request: api::$request,
            ) -> ttrpc::Result<api::$answer> {
                self.hear(stringify!($call), &about(&request)).await?;
                Ok(api::$answer::default())
            })*
            $($own)*
        }
    };
}

/// The fields of a request, as one line of text.
fn about(request: &impl protobuf::MessageFull) -> String {
    protobuf::text_format::print_to_string(request)
}

agent! {
    {
        destroy_pod(Empty) -> Empty;
        start_container(ContainerRequest) -> Empty;
        remove_container(ContainerRequest) -> Empty;
        pause_container(ContainerRequest) -> Empty;
        resume_container(ContainerRequest) -> Empty;
        remove_process(ProcessRequest) -> Empty;
        resize_pty(ResizePtyRequest) -> Empty;
        online_cpu_mem(OnlineCpuMemRequest) -> Empty;
        detach_device(DeviceRequest) -> Empty;
        forget_files(Empty) -> Empty;
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: api::CreateContainerRequest,
    ) -> ttrpc::Result<api::CreateContainerResponse> {
        let id = &request.container_id;
        self.hear("create_container", id).await?;
        *lock(&self.spec) = Some(serde_json::from_slice(&request.spec).unwrap());
        self.connect(id, "", &request.stdio).await;
        self.add(id, "");
        Ok(api::CreateContainerResponse {
            pid: 42,
            ..Default::default()
        })
    }

    async fn exec_process(
        &self,
        _: &TtrpcContext,
        request: api::ExecProcessRequest,
    ) -> ttrpc::Result<api::Empty> {
        let (id, exec) = (&request.container_id, &request.exec_id);
        let process: oci_spec::runtime::Process = serde_json::from_slice(&request.process).unwrap();
        let size = process.console_size();
        let size = size.map(|size| format!(" {}x{}", size.width(), size.height()));
        let heard = format!("{id}/{exec}{}", size.unwrap_or_default());
        self.hear("exec_process", &heard).await?;
        self.connect(id, exec, &request.stdio).await;
        self.add(id, exec);
        Ok(api::Empty::default())
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: api::SignalProcessRequest,
    ) -> ttrpc::Result<api::Empty> {
        self.hear("signal_process", &about(&request)).await?;
        if request.signal == libc::SIGKILL as u32 {
            self.end(&request.container_id, &request.exec_id, 137);
        }
        Ok(api::Empty::default())
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        request: api::ProcessRequest,
    ) -> ttrpc::Result<api::WaitProcessResponse> {
        let id = (request.container_id, request.exec_id);
        let process = lock(&self.processes)
            .get(&id)
            .map(|process| process.subscribe());
        let Some(mut process) = process else {
            let status = ttrpc::get_status(Code::NOT_FOUND, "no such process");
            return Err(ttrpc::Error::RpcStatus(status));
        };
        let end = process.wait_for(Option::is_some).await.unwrap();
        Ok(end.clone().unwrap())
    }

    async fn update_container(
        &self,
        _: &TtrpcContext,
        request: api::UpdateContainerRequest,
    ) -> ttrpc::Result<api::Empty> {
        let resources = String::from_utf8(request.resources).unwrap();
        self.hear("update_container", &resources).await?;
        Ok(api::Empty::default())
    }

    async fn list_processes(
        &self,
        _: &TtrpcContext,
        request: api::ContainerRequest,
    ) -> ttrpc::Result<api::ListProcessesResponse> {
        self.hear("list_processes", &request.container_id).await?;
        let process = api::Process {
            pid: 7,
            parent: 1,
            uid: 8,
            cpu_ms: 9,
            resident_bytes: 10,
            command: "sh\u{1b}[2J\n-c".into(),
            ..Default::default()
        };
        Ok(api::ListProcessesResponse {
            processes: vec![process],
            ..Default::default()
        })
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: api::ContainerRequest,
    ) -> ttrpc::Result<api::StatsResponse> {
        self.hear("stats", &about(&request)).await?;
        let cpu = api::CpuStats {
            usage_usec: 2,
            ..Default::default()
        };
        let memory = api::MemoryStats {
            usage: 3,
            limit: 4,
            ..Default::default()
        };
        let pids = api::PidsStats {
            current: 5,
            ..Default::default()
        };
        let disk = |rbytes, wbytes| api::IoStats {
            rbytes,
            wbytes,
            ..Default::default()
        };
        Ok(api::StatsResponse {
            cpu: Some(cpu).into(),
            memory: Some(memory).into(),
            pids: Some(pids).into(),
            io: vec![disk(6, 70), disk(60, 700)],
            ..Default::default()
        })
    }

    async fn attach_device(
        &self,
        _: &TtrpcContext,
        request: api::DeviceRequest,
    ) -> ttrpc::Result<api::AttachDeviceResponse> {
        self.hear("attach_device", &about(&request)).await?;
        Ok(api::AttachDeviceResponse {
            name: "vda".into(),
            major: 254,
            minor: 0,
            ..Default::default()
        })
    }

    async fn next_event(&self, _: &TtrpcContext, _: api::Empty) -> ttrpc::Result<api::Event> {
        match self.events.lock().await.recv().await {
            Some(event) => Ok(event),
            None => std::future::pending().await,
        }
    }
}
