//! A client for a pod's owner.

use std::path::Path;
use std::time::Duration;

use protobuf::Message;
use protos::management as api;
use protos::management_ttrpc::ManagementClient;
use tokio::net::UnixStream;
use ttrpc::asynchronous::Client;
use ttrpc::context::{self, Context};

use crate::engine::wire::errors::remote;
use crate::error::{OwnerError, Result};

/// The deadline of calls that only the owner itself must answer.
const SOON: Duration = Duration::from_secs(10);

/// A connection to the owner of a pod.
#[derive(Clone)]
pub struct OwnerClient(ManagementClient);

impl std::fmt::Debug for OwnerClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OwnerClient")
    }
}

/// Defines one method per call: name, request, response. Calls that may start a VM or wait for
/// a container have no deadline here: the owner has its own.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ident) -> $response:ident, $deadline:expr;)*) => {
        impl OwnerClient {
            $($(#[$doc])*
            ///
            /// # Errors
            /// The owner's; [`crate::Error::OwnerGone`] if the owner ended first.
            pub async fn $name(&self, request: api::$request) -> Result<api::$response> {
                self.0.$name($deadline, &request).await.map_err(remote)
            })*
        }
    };
}

calls! {
    /// The states of the pod's containers.
    status(Empty) -> StatusResponse, soon();
    /// Builds containers.
    init(ContainersRequest) -> Results, patiently();
    /// Starts containers.
    start(ContainersRequest) -> Results, patiently();
    /// Stops containers.
    stop(StopRequest) -> Results, patiently();
    /// Stops and starts containers.
    restart(StopRequest) -> Results, patiently();
    /// Freezes containers.
    pause(ContainersRequest) -> Results, patiently();
    /// Thaws containers.
    unpause(ContainersRequest) -> Results, patiently();
    /// Sends a signal.
    kill(KillRequest) -> Results, patiently();
    /// Removes containers.
    remove(RemoveRequest) -> Results, patiently();
    /// Takes a new container into the running pod.
    adopt(ContainerRequest) -> Empty, soon();
    /// Changes resource limits.
    update(UpdateRequest) -> Empty, patiently();
    /// Makes changes one after the other.
    batch(BatchRequest) -> BatchResponse, patiently();
    /// Removes the remains of the last run of containers.
    cleanup(ContainersRequest) -> Results, patiently();
    /// Compares the records of containers with the guest.
    sync(ContainersRequest) -> Results, patiently();
    /// Stops all containers, the VM and the owner.
    shutdown(StopRequest) -> Results, patiently();
    /// Waits for a process.
    wait(ProcessRequest) -> WaitResponse, patiently();
    /// The resource usage of containers.
    stats(ContainersRequest) -> StatsResponse, patiently();
    /// The processes of a container.
    processes(ContainerRequest) -> ProcessesResponse, patiently();
    /// Records a further process.
    create_exec(CreateExecRequest) -> ProcessRequest, soon();
    /// Runs a recorded process.
    start_exec(ProcessRequest) -> Empty, patiently();
    /// Removes a recorded process.
    remove_exec(RemoveExecRequest) -> Empty, patiently();
    /// Sets the size of a pty.
    resize(ResizeRequest) -> Empty, patiently();
    /// Mounts the root file system of a container.
    mount(MountRequest) -> MountResponse, patiently();
    /// Undoes one mount of it.
    unmount(UnmountRequest) -> Empty, patiently();
    /// Announces that files of containers were changed on the host.
    files_changed(Empty) -> Empty, patiently();
}

impl OwnerClient {
    /// Connects; `None` if no process listens.
    pub async fn connect(address: &Path) -> Option<Self> {
        let stream = UnixStream::connect(address).await.ok()?;
        Some(Self(ManagementClient::new(Client::new(stream.into()))))
    }

    /// The processes of a container, with the guest's pids.
    ///
    /// # Errors
    /// The owner's; [`crate::Error::OwnerGone`] if the owner ended first.
    pub async fn list_processes(&self, container: &str) -> Result<Vec<protos::agent::Process>> {
        let request = api::ContainerRequest {
            container: container.to_owned(),
            ..Default::default()
        };
        let answer = self.processes(request).await?;
        let listed = protos::agent::ListProcessesResponse::parse_from_bytes(&answer.processes);
        let listed = listed.map_err(|e| OwnerError::Answer(e.into()))?;
        Ok(listed.processes)
    }
}

fn soon() -> Context {
    context::with_duration(SOON)
}

fn patiently() -> Context {
    context::with_timeout(0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use ttrpc::asynchronous::{Server, Service};

    use super::*;
    use crate::error::{Error, ErrorKind};

    /// An owner of an earlier build, whose service lacks the method.
    #[tokio::test]
    async fn what_an_owner_of_an_earlier_build_does_not_know_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("owner");
        let service = Service {
            methods: HashMap::new(),
            streams: HashMap::new(),
        };
        let name = "rust_kata.management.v1.Management".to_owned();
        let mut server = Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .unwrap()
            .register_service(HashMap::from([(name, service)]));
        server.start().await.unwrap();
        let owner = OwnerClient::connect(&socket).await.unwrap();

        let refused = owner.sync(api::ContainersRequest::new()).await.unwrap_err();

        assert_eq!(refused.kind(), ErrorKind::Unimplemented);
        assert!(
            matches!(
                &refused,
                Error::Owner(OwnerError::EarlierBuild { method }) if method.ends_with("Sync")
            ),
            "{refused}"
        );
        server.shutdown().await.unwrap();
    }
}
