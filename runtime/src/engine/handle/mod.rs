//! One pod, for callers that do not own it: every operation asks the owner or, if the pod has
//! no owner, changes the files (`access.rs`).

pub(crate) mod access;
pub mod attach;
pub mod batch;
pub(crate) mod cleanup;
pub(in crate::engine) mod client;
mod create;
pub(crate) mod images;
pub mod mount;
pub mod remove;
pub(crate) mod spawn;
#[cfg(test)]
pub(in crate::engine) mod tests;
pub(crate) mod update;
pub(crate) mod uses;
pub(crate) mod volumes;
pub(crate) mod wait;

use std::sync::Arc;

use protos::management as api;

use self::access::TRIES;
use super::Engine;
use super::journal::Event;
use super::records;
use super::records::paths::DataPaths;
use super::records::view::PodView;
use super::restart::RestartPolicy;
use super::status::{Operation, Outcome};
use crate::engine::usage::{ContainerProcess, PodUsage};
use crate::engine::wire::changes::{request, stop_request};
use crate::engine::wire::errors;
use crate::engine::wire::usage::{of_processes, of_stats};
use crate::error::{Error, ErrorKind, Result};
use crate::state_dir::lock::PodLock;

/// A pod of the engine. Cheap to clone. Once the pod is removed all calls fail, also if there
/// is another pod of its name.
#[derive(Debug, Clone)]
pub struct PodHandle {
    pub(super) engine: Engine,
    pub(super) paths: DataPaths,
    /// The pod's id; `None` if it could not be read.
    id: Option<Arc<str>>,
}

impl PodHandle {
    pub(crate) fn new(engine: &Engine, paths: DataPaths) -> Self {
        let id = records::id_of(&paths).map(Arc::from);
        Self {
            engine: engine.clone(),
            paths,
            id,
        }
    }

    /// Checks that the pod of this name is still the one that the handle was made for.
    ///
    /// # Errors
    /// [`Error::Removed`].
    pub(in crate::engine) fn check_same(&self, id: &str) -> Result<()> {
        match self.id.as_deref() {
            Some(ours) if ours != id => Err(Error::Removed {
                what: "pod",
                name: self.name().to_owned(),
                id: ours.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        self.paths.name()
    }

    /// The paths of its files.
    pub fn paths(&self) -> &DataPaths {
        &self.paths
    }

    /// Reads the pod's current state. Never waits for its VM. If its owner has died, records
    /// that its containers have ended, and removes what was to be removed at its end.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::BadFile`].
    pub fn view(&self) -> Result<PodView> {
        let view = PodView::read(&self.paths)?;
        self.check_same(&view.definition.id)?;
        if view.is_recorded() {
            return Ok(view);
        }
        let view = PodView::read_and_record(&self.paths)?;
        if view.is_spent() && self.remove_spent()? {
            return Err(Error::not_found("pod", self.name()));
        }
        Ok(view)
    }

    /// Builds containers up to the point where their inits wait.
    ///
    /// # Errors
    /// An error that concerns all of them; errors of single containers are in the outcome.
    pub async fn init(&self, containers: &[String]) -> Result<Outcome> {
        let built = self.command(|owner| owner.init(request(containers, false)));
        built.await.map(errors::to_outcome)
    }

    /// Starts containers, or all if the list is empty; with `dependencies`, starts the
    /// containers that they depend on first.
    ///
    /// # Errors
    /// An error that concerns all of them; errors of single containers are in the outcome.
    pub async fn start(&self, containers: &[String], dependencies: bool) -> Result<Outcome> {
        let view = self.view()?;
        for name in view
            .chosen(containers)?
            .iter()
            .filter(|_| !containers.is_empty())
        {
            view.container(name)?;
        }
        let started = self.command(|owner| owner.start(request(containers, dependencies)));
        let mut outcome = started.await.map(errors::to_outcome)?;
        // The owner does not know of a container that cannot be read.
        for (name, files) in self.view()?.containers {
            if let Err(error) = files
                && containers.is_empty()
            {
                outcome.errors.insert(name, error);
            }
        }
        Ok(outcome)
    }

    /// Stops containers; if the list is empty, stops all and the VM.
    ///
    /// # Errors
    /// An error that concerns all of them; errors of single containers are in the outcome.
    pub async fn stop(&self, containers: &[String], seconds: Option<u32>) -> Result<Outcome> {
        let request = api::StopRequest {
            keep_paused: containers.is_empty(),
            ..stop_request(containers, seconds)
        };
        let stopped = self.ask(|owner| {
            let request = request.clone();
            let whole_pod = containers.is_empty();
            async move {
                match whole_pod {
                    true => owner.shutdown(request).await,
                    false => owner.stop(request).await,
                }
            }
        });
        let held = match stopped.await? {
            Ok(results) => return Ok(errors::to_outcome(results)),
            Err(held) => held,
        };
        // Nothing runs, which may not be recorded yet if the disk is full.
        let mut view = PodView::read_locked(&self.paths, &held)?;
        if let Err(e) = view.record_losses(&held) {
            log::warn!("Pod {}: {e}", self.name());
        }
        // Restart policies must not start a container again.
        let mut outcome = Outcome::default();
        for name in view.chosen(containers)? {
            let files = view.container(&name)?;
            let mut state = files.state.clone();
            if !state.stopped_by_user && state.exit_code.is_some() {
                state.stopped_by_user = true;
                let paths = self.paths.container(&name)?;
                match records::write_container(&paths, &state, &held) {
                    // The disk may be full, and no policy depends on it.
                    Err(e) if files.definition.restart == RestartPolicy::No => {
                        log::warn!("Container {name}: {e}");
                    }
                    written => written?,
                }
            }
            outcome.ignored.push(name);
        }
        Ok(outcome)
    }

    /// Stops the running ones of the containers, and starts them all.
    ///
    /// # Errors
    /// As [`PodHandle::stop`] and [`PodHandle::start`].
    pub async fn restart(&self, containers: &[String], seconds: Option<u32>) -> Result<Outcome> {
        self.view()?.chosen(containers)?;
        let restarted = self.command(|owner| owner.restart(stop_request(containers, seconds)));
        restarted.await.map(errors::to_outcome)
    }

    /// Freezes running containers.
    ///
    /// # Errors
    /// An error that concerns all of them; errors of single containers are in the outcome.
    pub async fn pause(&self, containers: &[String]) -> Result<Outcome> {
        let paused = self.ask(|owner| owner.pause(request(containers, false)));
        match paused.await? {
            Ok(results) => Ok(errors::to_outcome(results)),
            Err(held) => self.nothing_to(Operation::Pause, containers, &held),
        }
    }

    /// Thaws paused containers.
    ///
    /// # Errors
    /// An error that concerns all of them; errors of single containers are in the outcome.
    pub async fn unpause(&self, containers: &[String]) -> Result<Outcome> {
        let unpaused = self.ask(|owner| owner.unpause(request(containers, false)));
        match unpaused.await? {
            Ok(results) => Ok(errors::to_outcome(results)),
            Err(held) => self.nothing_to(Operation::Unpause, containers, &held),
        }
    }

    /// Sends a signal to running containers: to their inits, or with `all` to all of their
    /// processes.
    ///
    /// # Errors
    /// An error that concerns all of them; errors of single containers are in the outcome.
    pub async fn kill(&self, containers: &[String], signal: u32, all: bool) -> Result<Outcome> {
        let killed = self.ask(|owner| {
            let request = api::KillRequest {
                containers: containers.to_vec(),
                signal,
                all,
                ..Default::default()
            };
            owner.kill(request)
        });
        match killed.await? {
            Ok(results) => Ok(errors::to_outcome(results)),
            Err(held) => self.nothing_to(Operation::Kill, containers, &held),
        }
    }

    /// Appends an event of a container to the journal.
    pub(in crate::engine) fn append_event(&self, container: &str, action: &str) {
        let pod = records::pod_definition_of(&self.paths);
        let paths = self.paths.container(container);
        // A container with damaged files has no events.
        if let (Ok(pod), Ok(container)) = (pod, paths.and_then(|p| records::definition_of(&p))) {
            let event = Event::container(&pod, &container, action);
            self.paths.journal().append_or_warn(event);
        }
    }

    /// The outcome of an operation that needs a VM, if there is none. The caller holds the
    /// lock.
    fn nothing_to(
        &self,
        operation: Operation,
        asked: &[String],
        held: &PodLock,
    ) -> Result<Outcome> {
        let view = PodView::read_locked(&self.paths, held)?;
        let mut outcome = Outcome::default();
        for name in view.chosen(asked)? {
            if asked.is_empty() {
                outcome.ignored.push(name);
                continue;
            }
            let status = view.container(&name)?.state.status;
            let error = operation.refusal(&name, status);
            outcome.errors.insert(name, error);
        }
        Ok(outcome)
    }

    /// Waits until a container has ended, and returns its exit code; returns at once if it has
    /// ended before.
    ///
    /// # Errors
    /// [`Error::WrongState`] for a container that never ran and is not about to start.
    pub async fn wait(&self, container: &str) -> Result<u32> {
        for _ in 0..TRIES {
            if let Some(owner) = self.owner().await? {
                let request = api::ContainerRequest {
                    container: container.to_owned(),
                    ..Default::default()
                };
                match owner.wait(request).await {
                    // It ended with the owner, which had nothing else to do.
                    Err(e) if e.kind() == ErrorKind::Unavailable => {}
                    other => return other.map(|answer| answer.exit_code),
                }
            }
            let view = self.view()?;
            if view.owner.is_some() {
                continue;
            }
            let state = &view.container(container)?.state;
            return state.exit_code.ok_or_else(|| Error::WrongState {
                what: "container",
                id: container.to_owned(),
                operation: "wait for",
                state: state.status.to_string(),
            });
        }
        Err(self.owner_keeps_exiting())
    }

    /// The processes of a container, with the guest's pids.
    ///
    /// # Errors
    /// [`Error::WrongState`] unless it runs.
    pub async fn processes(&self, container: &str) -> Result<Vec<ContainerProcess>> {
        let Some(owner) = self.owner().await? else {
            let view = self.view()?;
            return Err(Error::WrongState {
                what: "container",
                id: container.to_owned(),
                operation: "list the processes of",
                state: view.container(container)?.state.status.to_string(),
            });
        };
        let request = api::ContainerRequest {
            container: container.to_owned(),
            ..Default::default()
        };
        Ok(of_processes(owner.processes(request).await?))
    }

    /// What the pod uses now: nothing without an owner.
    ///
    /// # Errors
    /// The owner's.
    pub async fn usage(&self) -> Result<PodUsage> {
        match self.owner().await? {
            Some(owner) => Ok(of_stats(owner.stats(Default::default()).await?)),
            None => Ok(PodUsage::default()),
        }
    }
}

/// Ignores errors that say that something is in use or gone.
fn ignore_in_use_or_gone(result: Result<()>) -> Result<()> {
    match result {
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::FailedPrecondition | ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Compiles only if any task of a runtime with several threads may await these.
#[cfg(test)]
#[expect(dead_code, reason = "it is compiled, and not run")]
fn futures_are_send(pod: &PodHandle, names: &[String]) {
    use std::time::Duration;

    use self::remove::RemoveOptions;
    use super::records::definition::ContainerDefinition;

    fn is_send(_: impl Send) {}
    let root = super::records::definition::Rootfs::Directory(Default::default());
    let container = ContainerDefinition::new("c", root, Default::default());
    is_send(pod.create_container(&container));
    is_send(pod.init(names));
    is_send(pod.start(names, true));
    is_send(pod.stop(names, None));
    is_send(pod.restart(names, None));
    is_send(pod.pause(names));
    is_send(pod.unpause(names));
    is_send(pod.kill(names, 15, false));
    is_send(pod.wait("c"));
    is_send(pod.wait_for("c", &[], Duration::ZERO));
    is_send(pod.processes("c"));
    is_send(pod.usage());
    is_send(pod.update("c", &Default::default()));
    is_send(pod.batch(&[]));
    is_send(pod.sync(names));
    is_send(pod.cleanup(names));
    is_send(pod.mount("c"));
    is_send(pod.unmount("c", false));
    is_send(pod.files_changed());
    is_send(pod.remove_containers(names, true, None));
    is_send(pod.remove(RemoveOptions::default()));
    is_send(pod.remove_if_spent());
    is_send(pod.attach("c", &Default::default()));
    is_send(pod.exec("c", &Default::default(), Default::default()));
    is_send(pod.exec_detached("c", &Default::default()));
}
