//! A pod's owner, as other processes call it.

use std::path::Path;
use std::time::Duration;

use protobuf::Message;
use protos::management as api;
use tokio::net::UnixStream;
use ttrpc::asynchronous::Client;
use ttrpc::{Code, Request};

use crate::engine::wire::errors::remote;
use crate::error::Result;

/// The service of all owners, and the service of owners of the engine's pods
/// (`management.proto`).
const MANAGEMENT: &str = "rust_kata.management.v1.Management";
const ENGINE: &str = "rust_kata.management.v1.Engine";

/// For answers that need nothing but the owner itself.
const SOON: Duration = Duration::from_secs(10);

/// Without a deadline: calls that may start a VM or wait for a container, for which the
/// owner keeps its own.
const PATIENTLY: Duration = Duration::ZERO;

/// A connection to the owner of a pod.
#[derive(Clone)]
pub struct OwnerClient(Client);

impl std::fmt::Debug for OwnerClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OwnerClient")
    }
}

/// Defines one method a call: name, name in the service, request, response, deadline.
macro_rules! calls {
    ($service:ident: $($(#[$doc:meta])* $name:ident $method:literal($request:ident) -> $response:ident, $deadline:expr;)*) => {
        impl OwnerClient {
            $($(#[$doc])*
            ///
            /// # Errors
            /// The owner's; [`crate::Error::OwnerGone`] if it went first.
            pub fn $name(
                &self,
                request: api::$request,
            ) -> impl Future<Output = Result<api::$response>> + Send + use<> {
                let owner = self.clone();
                async move { owner.call($service, $method, $deadline, &request).await }
            })*
        }
    };
}

calls! { MANAGEMENT:
    /// Whether the owner is well.
    status "Status"(Empty) -> Empty, SOON;
    /// Sends a signal.
    kill "Kill"(KillRequest) -> Results, PATIENTLY;
    /// Waits for a container.
    wait "Wait"(ContainerRequest) -> WaitResponse, PATIENTLY;
    /// What containers use.
    stats "Stats"(ContainersRequest) -> StatsResponse, PATIENTLY;
    /// The processes of a container.
    processes "Processes"(ContainerRequest) -> ProcessesResponse, PATIENTLY;
    /// Records a further process.
    create_exec "CreateExec"(CreateExecRequest) -> ProcessRequest, SOON;
    /// Removes a recorded process.
    remove_exec "RemoveExec"(RemoveExecRequest) -> Empty, PATIENTLY;
    /// Sends a signal to a further process.
    signal_exec "SignalExec"(SignalExecRequest) -> Empty, PATIENTLY;
}

calls! { ENGINE:
    /// Builds containers.
    init "Init"(ContainersRequest) -> Results, PATIENTLY;
    /// Starts containers.
    start "Start"(ContainersRequest) -> Results, PATIENTLY;
    /// Stops containers.
    stop "Stop"(StopRequest) -> Results, PATIENTLY;
    /// Stops and starts containers.
    restart "Restart"(StopRequest) -> Results, PATIENTLY;
    /// Freezes containers.
    pause "Pause"(ContainersRequest) -> Results, PATIENTLY;
    /// Thaws containers.
    unpause "Unpause"(ContainersRequest) -> Results, PATIENTLY;
    /// Removes containers.
    remove "Remove"(RemoveRequest) -> Results, PATIENTLY;
    /// Takes in a container.
    adopt "Adopt"(ContainerRequest) -> Empty, SOON;
    /// Changes resource limits.
    update "Update"(UpdateRequest) -> Empty, PATIENTLY;
    /// Makes changes one after the other.
    batch "Batch"(BatchRequest) -> BatchResponse, PATIENTLY;
    /// Undoes what the last run of containers left.
    cleanup "Cleanup"(ContainersRequest) -> Results, PATIENTLY;
    /// Asks the guest how containers stand.
    sync "Sync"(ContainersRequest) -> Results, PATIENTLY;
    /// Stops all containers, the VM and the owner.
    shutdown "Shutdown"(StopRequest) -> Results, PATIENTLY;
    /// The root file system of a container.
    mount "Mount"(MountRequest) -> MountResponse, PATIENTLY;
    /// Ends a use of it.
    unmount "Unmount"(UnmountRequest) -> Empty, PATIENTLY;
    /// Files of containers were changed on the host.
    files_changed "FilesChanged"(Empty) -> Empty, PATIENTLY;
}

impl OwnerClient {
    /// Connects; `None` if nobody listens.
    pub async fn connect(address: &Path) -> Option<Self> {
        let stream = UnixStream::connect(address).await.ok()?;
        Some(Self(Client::new(stream.into())))
    }

    async fn call<R: Message>(
        &self,
        service: &str,
        method: &str,
        deadline: Duration,
        request: &impl Message,
    ) -> Result<R> {
        let mut answer = self.request(service, method, deadline, request).await;
        // Builds before the split of the services have all calls in one.
        if service == ENGINE && answer.as_ref().is_err_and(has_no_engine) {
            answer = self.request(MANAGEMENT, method, deadline, request).await;
        }
        answer.map_err(remote)
    }

    async fn request<R: Message>(
        &self,
        service: &str,
        method: &str,
        deadline: Duration,
        request: &impl Message,
    ) -> ttrpc::Result<R> {
        let broken = |e: protobuf::Error| ttrpc::Error::Others(e.to_string());
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            timeout_nano: i64::try_from(deadline.as_nanos()).unwrap_or(i64::MAX),
            payload: request.write_to_bytes().map_err(broken)?,
            ..Default::default()
        };
        let response = self.0.request(request).await?;
        R::parse_from_bytes(&response.payload).map_err(broken)
    }
}

/// Whether this is ttrpc's answer to a call of a service that is not served.
fn has_no_engine(error: &ttrpc::Error) -> bool {
    let ttrpc::Error::RpcStatus(status) = error else {
        return false;
    };
    let unknown = status.message.strip_suffix(" service does not exist");
    status.code() == Code::INVALID_ARGUMENT && unknown == Some(ENGINE)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use protos::management_ttrpc::{Engine, Management, create_engine, create_management};
    use ttrpc::asynchronous::{Server, Service};

    use super::*;
    use crate::error::ErrorKind;

    /// Refuses each call with the generated error, which names the method.
    struct Nothing;

    impl Management for Nothing {}
    impl Engine for Nothing {}

    async fn serve(dir: &Path, services: HashMap<String, Service>) -> (Server, OwnerClient) {
        let socket = dir.join("owner");
        let mut server = Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .unwrap()
            .register_service(services);
        server.start().await.unwrap();
        let owner = OwnerClient::connect(&socket).await.unwrap();
        (server, owner)
    }

    /// An owner of a build whose service did not have the method yet.
    #[tokio::test]
    async fn what_an_owner_of_an_earlier_build_does_not_know_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        let service = Service {
            methods: HashMap::new(),
            streams: HashMap::new(),
        };
        let services = HashMap::from([(MANAGEMENT.to_owned(), service)]);
        let (mut server, owner) = serve(dir.path(), services).await;

        let refused = owner.sync(api::ContainersRequest::new()).await.unwrap_err();

        assert_eq!(refused.kind(), ErrorKind::Unimplemented);
        let said = refused.to_string();
        assert!(
            said.contains("earlier build") && said.contains("Sync") && said.contains("stop"),
            "{said}"
        );
        server.shutdown().await.unwrap();
    }

    /// Calls reach owners with two services, and owners of builds with one service.
    #[tokio::test]
    async fn calls_reach_owners_of_this_build_and_of_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        for split in [true, false] {
            let mut services = create_management(Arc::new(Nothing));
            let engine = create_engine(Arc::new(Nothing));
            assert!(engine.contains_key(ENGINE) && services.contains_key(MANAGEMENT));
            for (name, service) in engine {
                match split {
                    true => drop(services.insert(name, service)),
                    false => services
                        .get_mut(MANAGEMENT)
                        .unwrap()
                        .methods
                        .extend(service.methods),
                }
            }
            let (mut server, owner) = serve(dir.path(), services).await;
            macro_rules! reaches {
                ($($name:ident $path:literal)*) => {$(
                    let refused = owner.$name(Default::default()).await.unwrap_err();
                    let path = concat!("/rust_kata.management.v1.", $path, " is not supported");
                    assert_eq!(refused.to_string(), path, "{split}");
                )*};
            }
            reaches! {
                status "Management/Status" kill "Management/Kill" wait "Management/Wait"
                stats "Management/Stats" processes "Management/Processes"
                create_exec "Management/CreateExec"
                remove_exec "Management/RemoveExec" signal_exec "Management/SignalExec"
                init "Engine/Init" start "Engine/Start" stop "Engine/Stop"
                restart "Engine/Restart" pause "Engine/Pause" unpause "Engine/Unpause"
                remove "Engine/Remove" adopt "Engine/Adopt" update "Engine/Update"
                batch "Engine/Batch" cleanup "Engine/Cleanup" sync "Engine/Sync"
                shutdown "Engine/Shutdown" mount "Engine/Mount" unmount "Engine/Unmount"
                files_changed "Engine/FilesChanged"
            }
            server.shutdown().await.unwrap();
            std::fs::remove_file(dir.path().join("owner")).unwrap();
        }
    }
}
