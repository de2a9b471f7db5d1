//! Calls to the owner of a foreign pod: exec, signals, usage.

use std::path::Path;

use protos::management as api;
use tokio::net::UnixStream;

use super::ListedPod;
use crate::engine::handle::attach::{self, Attached, ClientStreams};
use crate::engine::handle::client::OwnerClient;
use crate::engine::records::exec::ExecRequest;
use crate::engine::status::Outcome;
use crate::engine::usage::{ContainerProcess, PodUsage};
use crate::engine::wire::attach::address_of;
use crate::engine::wire::errors::to_outcome;
use crate::engine::wire::usage::{of_processes, of_stats};
use crate::error::{Context, Error, ErrorKind, Result};

/// A container in a foreign pod.
#[derive(Debug)]
pub struct ForeignContainer {
    /// The pod.
    pub pod: ListedPod,
    /// Its id.
    pub container: String,
}

impl ListedPod {
    /// The pod's current usage; zero without an owner.
    ///
    /// # Errors
    /// The owner's error.
    pub async fn usage(&self) -> Result<PodUsage> {
        match self.client().await {
            Some(owner) => Ok(of_stats(owner.stats(Default::default()).await?)),
            None => Ok(PodUsage::default()),
        }
    }

    /// A client of the owner, if the owner answers.
    async fn client(&self) -> Option<OwnerClient> {
        self.owner.as_ref()?;
        OwnerClient::connect(&self.management()).await
    }
}

impl ForeignContainer {
    /// The error for an operation that only the pod's manager may execute.
    pub fn refusal(&self) -> Error {
        self.pod.container_refusal(&self.container)
    }

    /// Runs a further process in the container, and attaches to it.
    ///
    /// # Errors
    /// As [`crate::engine::PodHandle::exec`].
    pub async fn exec(&self, request: &ExecRequest, streams: ClientStreams) -> Result<Attached> {
        let address = self.pod.management();
        let connect = || async { connect(&address_of(&address)).await };
        // Otherwise the error would only be a missing socket.
        drop(self.client().await?);
        attach::exec(connect, &address, &self.container, request, streams).await
    }

    /// Runs a further process in the container, detached. Returns its id.
    ///
    /// # Errors
    /// As [`ForeignContainer::exec`].
    pub async fn exec_detached(&self, request: &ExecRequest) -> Result<String> {
        attach::check_detached(&self.container, request)?;
        let attached = self.exec(request, ClientStreams::default());
        Ok(attached.await?.exec.unwrap_or_default())
    }

    /// Sends a signal to the container: to its init, or with `all` to all of its processes.
    ///
    /// # Errors
    /// The owner's error; an error of the container is in the outcome.
    pub async fn kill(&self, signal: u32, all: bool) -> Result<Outcome> {
        let request = api::KillRequest {
            containers: vec![self.container.clone()],
            signal,
            all,
            ..Default::default()
        };
        Ok(to_outcome(self.client().await?.kill(request).await?))
    }

    /// Sends a signal to a further process of the container.
    ///
    /// # Errors
    /// The owner's error.
    pub async fn signal_exec(&self, exec: &str, signal: u32) -> Result<()> {
        let request = attach::signal_request(&self.container, exec, signal);
        self.client().await?.signal_exec(request).await.map(drop)
    }

    /// Waits for the container to end. Returns its exit code.
    ///
    /// # Errors
    /// The owner's error.
    pub async fn wait(&self) -> Result<u32> {
        let ended = self.pod.containers.get(&self.container);
        let ended = ended.and_then(|files| files.as_ref().ok()?.state.init.exit);
        if let Some(exit) = ended {
            return Ok(exit.status);
        }
        let waited = self.client().await?.wait(self.request()).await;
        Ok(waited?.exit_code)
    }

    /// The processes of the container, with their pids in the guest.
    ///
    /// # Errors
    /// The owner's error.
    pub async fn processes(&self) -> Result<Vec<ContainerProcess>> {
        let answer = self.client().await?.processes(self.request()).await;
        Ok(of_processes(answer?))
    }

    fn request(&self) -> api::ContainerRequest {
        api::ContainerRequest {
            container: self.container.clone(),
            ..Default::default()
        }
    }

    async fn client(&self) -> Result<OwnerClient> {
        let config = &self.pod.config;
        self.pod.client().await.ok_or_else(|| Error::Remote {
            kind: ErrorKind::Unavailable,
            message: format!(
                "the shim of pod {:?} of {} does not answer: it has ended, or is of an older version",
                config.id, config.managed_by
            ),
        })
    }
}

async fn connect(address: &Path) -> Result<UnixStream> {
    UnixStream::connect(address).await.on("connect to", address)
}
