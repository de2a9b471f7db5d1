//! One pod, for those who do not own it: every operation finds out whether
//! somebody does, and asks the owner or changes the files itself.

use std::io::ErrorKind::{ConnectionRefused, NotFound};
use std::time::{Duration, Instant};

use protos::management as api;
use tokio::net::UnixStream;

use super::client::{self, OwnerClient};
use super::definition::ContainerDefinition;
use super::home::PodHome;
use super::spawn::start_owner;
use super::status::{Fit, Operation, Outcome};
use super::view::PodView;
use super::{Engine, add_container, attachment, store};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::lock::PodLock;

/// An owner that is about to end may be met this often before one is there.
pub(super) const TRIES: usize = 20;

/// For an owner that takes no more calls to be gone.
const LEAVING: Duration = Duration::from_secs(20);

/// After so long it is looked whether another owner answers already.
const NEXT: Duration = Duration::from_secs(1);

/// After so long it is looked whether who changes a pod's files goes on at all.
const STOPPED: Duration = Duration::from_secs(2);

/// A pod of the engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PodHandle {
    pub(super) engine: Engine,
    pub(super) home: PodHome,
}

/// Who answers for a pod.
pub(super) enum Authority {
    /// Its living owner.
    Owner(OwnerClient),
    /// Nobody: its files may be changed by who holds this.
    Files(PodLock),
}

impl PodHandle {
    pub(crate) fn new(engine: &Engine, home: PodHome) -> Self {
        Self {
            engine: engine.clone(),
            home,
        }
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        self.home.name()
    }

    /// Where it is.
    pub fn home(&self) -> &PodHome {
        &self.home
    }

    /// The pod as it is now. Never waits for its VM. If its owner has died, what follows
    /// is written down.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::BadFile`].
    pub fn view(&self) -> Result<PodView> {
        PodView::notice(&self.home)
    }

    /// Its owner, if it has one.
    ///
    /// # Errors
    /// [`Error::Remote`] if the owner lives and does not answer.
    pub async fn owner(&self) -> Result<Option<OwnerClient>> {
        Ok(match self.authority().await? {
            Authority::Owner(owner) => Some(owner),
            Authority::Files(_) => None,
        })
    }

    /// Its owner, which is started if there is none.
    ///
    /// # Errors
    /// What kept the owner from its work.
    pub async fn ensure_owner(&self) -> Result<OwnerClient> {
        for _ in 0..TRIES {
            if let Authority::Owner(owner) = self.authority().await? {
                return Ok(owner);
            }
            let engine = self.engine.clone();
            let home = self.home.clone();
            tokio::task::spawn_blocking(move || start_owner(&engine, &home))
                .await
                .map_err(|e| Error::Internal(format!("Starting an owner broke off: {e}")))??;
        }
        Err(self.restless())
    }

    /// Asks the owner, again if it ends meanwhile: what is asked for must be
    /// such that twice does no harm. Without an owner: the lock under which the
    /// files may be changed instead.
    pub(super) async fn ask<T>(
        &self,
        call: impl AsyncFn(&OwnerClient) -> Result<T>,
    ) -> Result<std::result::Result<T, PodLock>> {
        for _ in 0..TRIES {
            match self.authority().await? {
                Authority::Files(held) => return Ok(Err(held)),
                Authority::Owner(owner) => match call(&owner).await {
                    Err(Error::OwnerGone(_) | Error::OwnerLeaving) => self.owner_ended().await?,
                    other => return other.map(Ok),
                },
            }
        }
        Err(self.restless())
    }

    /// As [`PodHandle::ask`], of an owner that is started if there is none.
    async fn command<T>(&self, call: impl AsyncFn(&OwnerClient) -> Result<T>) -> Result<T> {
        for _ in 0..TRIES {
            let owner = self.ensure_owner().await?;
            match call(&owner).await {
                Err(Error::OwnerGone(_) | Error::OwnerLeaving) => self.owner_ended().await?,
                other => return other,
            }
        }
        Err(self.restless())
    }

    /// Waits until an owner that is on its way out has gone, or the next one is there.
    ///
    /// # Errors
    /// [`Error::Remote`] if it stays.
    pub async fn owner_ended(&self) -> Result<()> {
        let home = self.home.clone();
        let mut waiting = tokio::task::spawn_blocking(move || crate::lock::wait_for_owner(&home));
        let end = Instant::now() + LEAVING;
        while Instant::now() < end {
            match tokio::time::timeout(NEXT, &mut waiting).await {
                Ok(Ok(left)) => return left,
                Ok(Err(e)) => {
                    let problem = format!("Waiting for an owner broke off: {e}");
                    return Err(Error::Internal(problem));
                }
                Err(_) => {}
            }
            // On a busy machine the lock may have gone from one to the next before we
            // were woken: this one is not on its way out.
            let address = self.engine.owner_address(&self.home);
            if OwnerClient::connect(&address).await.is_some() {
                return Ok(());
            }
        }
        let message = format!(
            "The owner of pod {} lives, but nobody answers for it: `pod rm --force` ends it",
            self.name()
        );
        Err(Error::Remote {
            kind: ErrorKind::Unavailable,
            message,
        })
    }

    pub(super) fn restless(&self) -> Error {
        Error::Internal(format!("The owner of pod {} ends each time", self.name()))
    }

    /// Connects to the owner for the streams of a process; to none if there is
    /// no owner, unless one is to be started. The owner may go before it answers.
    ///
    /// # Errors
    /// Those of [`PodHandle::owner`] or [`PodHandle::ensure_owner`].
    pub async fn attachment(&self, start: bool) -> Result<Option<UnixStream>> {
        let address = attachment::address_of(&self.engine.owner_address(&self.home));
        for _ in 0..TRIES {
            if start {
                self.ensure_owner().await?;
            } else if self.owner().await?.is_none() {
                return Ok(None);
            }
            match UnixStream::connect(&address).await {
                // It is leaving, and has answered somebody else meanwhile.
                Err(e) if matches!(e.kind(), NotFound | ConnectionRefused) => {
                    self.owner_ended().await?;
                }
                other => return other.map(Some).on("connect to", &address),
            }
        }
        Err(self.restless())
    }

    /// Who answers for the pod now.
    pub(super) async fn authority(&self) -> Result<Authority> {
        let address = self.engine.owner_address(&self.home);
        for _ in 0..TRIES {
            let held = self.locked().await?;
            if crate::lock::OwnerLock::holder_unlocked(&self.home)?.is_none() {
                return Ok(Authority::Files(held));
            }
            drop(held);
            // An owner listens before it is one: this one has left its socket
            // and is about to leave its lock.
            if let Some(client) = OwnerClient::connect(&address).await {
                return Ok(Authority::Owner(client));
            }
            self.owner_ended().await?;
        }
        Err(self.restless())
    }

    /// The pod's lock, for changes. Who holds it works on files alone: one that
    /// keeps it has been stopped.
    async fn locked(&self) -> Result<PodLock> {
        let home = self.home.clone();
        let mut waiting = tokio::task::spawn_blocking(move || PodLock::exclusive(&home));
        loop {
            match tokio::time::timeout(STOPPED, &mut waiting).await {
                Ok(Ok(locked)) => return locked.map_err(|e| store::explain(&self.home, e)),
                Ok(Err(e)) => {
                    let problem = format!("Waiting for a lock broke off: {e}");
                    return Err(Error::Internal(problem));
                }
                // Many may be at it, one after the other.
                Err(_) => {}
            }
            if let Some(pid) = crate::lock::stopped_holder(&self.home)? {
                let message = format!(
                    "The files of pod {} are being changed by process {pid}, which is stopped: \
                     continue it, or end it; `pod rm --force` ends the pod's owner",
                    self.name()
                );
                return Err(Error::Remote {
                    kind: ErrorKind::Unavailable,
                    message,
                });
            }
        }
    }

    /// Creates a container in the pod.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::Invalid`] naming what is wrong;
    /// [`Error::WrongState`] if the pod is being removed.
    pub async fn create_container(&self, definition: &ContainerDefinition) -> Result<()> {
        let name = definition.name.clone();
        {
            let held = self.locked().await?;
            // Who has this lock takes no further one.
            let _volumes = self.engine.volumes().prepare(&definition.volumes)?;
            add_container(&self.home, definition, &held)?;
            if crate::lock::OwnerLock::holder_unlocked(&self.home)?.is_none() {
                // One that comes later finds it.
                return Ok(());
            }
        }
        let adopted = self.ask(async |owner| {
            let container = api::ContainerRequest {
                container: name.clone(),
                ..Default::default()
            };
            owner.adopt(container).await
        });
        adopted.await.map(drop)
    }

    /// Builds containers up to the point where their inits wait.
    ///
    /// # Errors
    /// What kept all of them; the rest is in the outcome.
    pub async fn init(&self, containers: &[String]) -> Result<Outcome> {
        let built = self.command(async |owner| owner.init(request(containers, false)).await);
        built.await.map(client::to_outcome)
    }

    /// Starts containers, all if none is named; with `dependencies` those that
    /// they depend on first.
    ///
    /// # Errors
    /// What kept all of them; the rest is in the outcome.
    pub async fn start(&self, containers: &[String], dependencies: bool) -> Result<Outcome> {
        let view = self.view()?;
        for name in view
            .chosen(containers)?
            .iter()
            .filter(|_| !containers.is_empty())
        {
            view.container(name)?;
        }
        let started =
            self.command(async |owner| owner.start(request(containers, dependencies)).await);
        let mut outcome = started.await.map(client::to_outcome)?;
        // One that cannot be read is none that the owner knows of.
        for (name, files) in self.view()?.containers {
            if let Err(error) = files
                && containers.is_empty()
            {
                outcome.errors.insert(name, error);
            }
        }
        Ok(outcome)
    }

    /// Stops containers; all, and the VM with them, if none is named.
    ///
    /// # Errors
    /// What kept all of them; the rest is in the outcome.
    pub async fn stop(&self, containers: &[String], seconds: Option<u32>) -> Result<Outcome> {
        let stopped = self.ask(async |owner| {
            let request = stop_request(containers, seconds);
            match containers {
                [] => owner.shutdown(request).await,
                _ => owner.stop(request).await,
            }
        });
        let held = match stopped.await? {
            Ok(results) => return Ok(client::to_outcome(results)),
            Err(held) => held,
        };
        // Nothing runs; and nothing is to be started again by itself.
        let mut view = PodView::read_locked(&self.home, &held)?;
        view.settle(&held)?;
        let mut outcome = Outcome::default();
        for name in view.chosen(containers)? {
            let files = view.container(&name)?;
            let mut state = files.state.clone();
            if !state.stopped_by_user && state.exit_code.is_some() {
                state.stopped_by_user = true;
                store::write_container(&self.home.container(&name)?, &state, &held)?;
            }
            outcome.ignored.push(name);
        }
        Ok(outcome)
    }

    /// Stops containers that run, and starts them all.
    ///
    /// # Errors
    /// As [`PodHandle::stop`] and [`PodHandle::start`].
    pub async fn restart(&self, containers: &[String], seconds: Option<u32>) -> Result<Outcome> {
        self.view()?.chosen(containers)?;
        let restarted =
            self.command(async |owner| owner.restart(stop_request(containers, seconds)).await);
        restarted.await.map(client::to_outcome)
    }

    /// Freezes containers that run.
    ///
    /// # Errors
    /// What kept all of them; the rest is in the outcome.
    pub async fn pause(&self, containers: &[String]) -> Result<Outcome> {
        let paused = self.ask(async |owner| owner.pause(request(containers, false)).await);
        match paused.await? {
            Ok(results) => Ok(client::to_outcome(results)),
            Err(held) => self.nothing_to(Operation::Pause, containers, &held),
        }
    }

    /// Thaws containers that are paused.
    ///
    /// # Errors
    /// What kept all of them; the rest is in the outcome.
    pub async fn unpause(&self, containers: &[String]) -> Result<Outcome> {
        let unpaused = self.ask(async |owner| owner.unpause(request(containers, false)).await);
        match unpaused.await? {
            Ok(results) => Ok(client::to_outcome(results)),
            Err(held) => self.nothing_to(Operation::Unpause, containers, &held),
        }
    }

    /// Sends a signal to containers that run: to their inits, or with `all` to
    /// all of their processes.
    ///
    /// # Errors
    /// What kept all of them; the rest is in the outcome.
    pub async fn kill(&self, containers: &[String], signal: u32, all: bool) -> Result<Outcome> {
        let killed = self.ask(async |owner| {
            let request = api::KillRequest {
                containers: containers.to_vec(),
                signal,
                all,
                ..Default::default()
            };
            owner.kill(request).await
        });
        match killed.await? {
            Ok(results) => Ok(client::to_outcome(results)),
            Err(held) => self.nothing_to(Operation::Kill, containers, &held),
        }
    }

    /// What an operation comes to that needs a VM, where there is none.
    /// The caller holds the lock.
    fn nothing_to(
        &self,
        operation: Operation,
        asked: &[String],
        held: &PodLock,
    ) -> Result<Outcome> {
        let view = PodView::read_locked(&self.home, held)?;
        let mut outcome = Outcome::default();
        for name in view.chosen(asked)? {
            let status = view.container(&name)?.state.status;
            let fine = matches!(operation.fits(status), Fit::Nothing { fine: true });
            if fine || asked.is_empty() {
                outcome.ignored.push(name);
                continue;
            }
            let error = Error::WrongState {
                what: "container",
                id: name.clone(),
                operation: operation.name(),
                state: status.to_string(),
            };
            outcome.errors.insert(name, error);
        }
        Ok(outcome)
    }

    /// Waits until a container has ended; answers at once if it has. Its exit
    /// code.
    ///
    /// # Errors
    /// [`Error::WrongState`] for one that never ran and that nobody is about to
    /// start.
    pub async fn wait(&self, container: &str) -> Result<u32> {
        for _ in 0..TRIES {
            if let Some(owner) = self.owner().await? {
                let process = api::ProcessRequest {
                    container: container.to_owned(),
                    ..Default::default()
                };
                match owner.wait(process).await {
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
        Err(Error::Internal(format!(
            "The owner of pod {} ends each time",
            self.name()
        )))
    }

    /// The processes of a container, as the guest numbers them.
    ///
    /// # Errors
    /// [`Error::WrongState`] unless it runs.
    pub async fn processes(&self, container: &str) -> Result<Vec<protos::agent::Process>> {
        let Some(owner) = self.owner().await? else {
            let view = self.view()?;
            return Err(Error::WrongState {
                what: "container",
                id: container.to_owned(),
                operation: "list the processes of",
                state: view.container(container)?.state.status.to_string(),
            });
        };
        owner.list_processes(container).await
    }
}

pub(super) fn request(containers: &[String], dependencies: bool) -> api::ContainersRequest {
    api::ContainersRequest {
        containers: containers.to_vec(),
        dependencies,
        ..Default::default()
    }
}

pub(super) fn stop_request(containers: &[String], seconds: Option<u32>) -> api::StopRequest {
    api::StopRequest {
        containers: containers.to_vec(),
        timeout: seconds,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixListener;

    use fs2::FileExt;

    use super::*;
    use crate::config::Config;
    use crate::engine::definition::PodDefinition;
    use crate::lock::Guarded;

    #[tokio::test(flavor = "multi_thread")]
    async fn who_waits_for_an_owner_to_go_sees_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            root: dir.path().join("run"),
            data_root: dir.path().join("data"),
            ..Config::default()
        };
        let engine = Engine::new(config, None).unwrap();
        let pod = engine.create_pod(PodDefinition::new("local", "p")).unwrap();
        // The lock goes from one to the next while nobody is awake to take it.
        let lock = File::create(pod.home().owner()).unwrap();
        lock.lock_exclusive().unwrap();
        let address = engine.owner_address(pod.home());
        std::fs::create_dir_all(address.parent().unwrap()).unwrap();
        let _next = UnixListener::bind(&address).unwrap();

        pod.owner_ended().await.unwrap();

        // Or it is free.
        drop(lock);
        pod.owner_ended().await.unwrap();
    }
}
