//! What the owner of a pod serves to other processes, be the pod the engine's or foreign
//! (the service `Management`, and attachments).

use std::sync::Arc;

use super::Owner;
use super::exec::{Connected, ExecHost, Starter};
use crate::engine::records::exec::PreservedFd;
use crate::engine::status::{ContainerStatus, Outcome};
use crate::engine::usage::{ContainerProcess, PodUsage};
use crate::error::{DescriptorError, Error, ErrorKind, Result};
use crate::events::Exit;

/// The owner of a pod.
pub trait PodService: ExecHost {
    /// Sends a signal to containers that run; to all if none is named.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`]; what went wrong for one container is in the outcome.
    fn kill(
        &self,
        containers: &[String],
        signal: u32,
        all: bool,
    ) -> impl Future<Output = Result<Outcome>> + Send;

    /// Waits until a container has ended.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`], also when it is removed meanwhile.
    fn wait(&self, container: &str) -> impl Future<Output = Result<Exit>> + Send;

    /// What containers use; all that run, if none is named.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`]; [`crate::Error::WrongState`] for one that was asked for and
    /// does not run.
    fn usage(&self, containers: &[String]) -> impl Future<Output = Result<PodUsage>> + Send;

    /// The processes of a container, as the guest numbers them.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`]; [`crate::Error::WrongState`] unless it runs.
    fn processes(
        &self,
        container: &str,
    ) -> impl Future<Output = Result<Vec<ContainerProcess>>> + Send;

    /// Connects to the init of a container, which is started if asked for.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`]; [`crate::Error::WrongState`]; what kept it from starting;
    /// [`crate::Error::Remote`] for a foreign pod.
    fn attach(
        self: &Arc<Self>,
        container: &str,
        how: InitAttach,
        starter: Starter,
    ) -> impl Future<Output = Result<Connected>> + Send;
}

/// How to attach to the init of a container.
#[derive(Debug, Default)]
pub struct InitAttach {
    /// Start it once the streams are connected.
    pub start: bool,
    /// What the descriptors are that it gets when it is started.
    pub preserve_fds: Vec<PreservedFd>,
}

impl PodService for Owner {
    async fn kill(&self, containers: &[String], signal: u32, all: bool) -> Result<Outcome> {
        let _between_batches = self.batch.read().await;
        self.send_signal(containers, signal, all).await
    }

    async fn wait(&self, container: &str) -> Result<Exit> {
        self.wait_for(container).await
    }

    async fn usage(&self, containers: &[String]) -> Result<PodUsage> {
        self.measure(containers).await
    }

    async fn processes(&self, container: &str) -> Result<Vec<ContainerProcess>> {
        self.list_processes(container).await
    }

    async fn attach(
        self: &Arc<Self>,
        name: &str,
        how: InitAttach,
        mut starter: Starter,
    ) -> Result<Connected> {
        self.attached(name);
        let ends = std::mem::take(&mut starter.ends);
        // As with podman, the start of a container that runs attaches to it.
        if !how.start || self.tracked(name)?.now().status == ContainerStatus::Running {
            if !ends.is_empty() {
                let process = name.to_owned();
                return Err(DescriptorError::Running { process }.into());
            }
            self.fit(name, starter.size).await;
            return self.connected(name);
        }
        if !(how.preserve_fds.is_empty() && ends.is_empty()) {
            self.pass_fds(name, &how.preserve_fds, ends)?;
        }
        // Held from the boot to the start, so that what a client asks for after it has left
        // comes after them.
        let _op = self.op.lock().await;
        let connected = self.start_attached_locked(name, &starter).await;
        if connected.is_err() {
            let _ = self.pass_fds(name, &[], Vec::new());
            self.remove_failed(name);
        }
        self.end_if_unused_locked().await;
        connected
    }
}

impl Owner {
    /// Starts a container with a client attached; not if the client has left before it runs.
    async fn start_attached_locked(
        self: &Arc<Self>,
        name: &str,
        starter: &Starter,
    ) -> Result<Connected> {
        let names = [name.to_owned()];
        let container = self.tracked(name)?;
        if container.now().status != ContainerStatus::Initialized {
            one(self.init_locked(&names).await?)?;
        }
        // Its terminal is there, and it has not begun.
        self.fit(name, starter.size).await;
        let connected = self.connected(name)?;
        if starter.client_left() {
            let left = Error::Remote {
                kind: ErrorKind::Unavailable,
                message: format!("the client of container {name} left before its start"),
            };
            self.unbuild(&self.live_or("start")?, &container, &left)
                .await;
            return Err(left);
        }
        one(self.start_locked(&names, false).await?)?;
        Ok(connected)
    }

    fn connected(self: &Arc<Self>, name: &str) -> Result<Connected> {
        let streams = self.streams(name)?;
        Ok(Connected {
            output: streams.listen(),
            streams,
            // It may have ended and removed itself before all its output is read.
            exit: Box::pin(self.watch_end(name, None)?),
        })
    }

    /// Gives the terminal of a container's init the size of a client's.
    async fn fit(&self, name: &str, size: Option<(u32, u32)>) {
        let Some((width, height)) = size else { return };
        let resized = match self.vm("resize the terminal of") {
            Ok(pod) => pod.resize_pty(name, None, width, height).await,
            Err(e) => Err(e),
        };
        resized.unwrap_or_else(|e| ::log::debug!("The terminal of {name} keeps its size: {e}"));
    }
}

/// The error of an operation on one container.
fn one(outcome: Outcome) -> Result<()> {
    outcome.errors.into_values().next().map_or(Ok(()), Err)
}
