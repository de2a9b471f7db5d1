//! Removing containers and pods: first the running parts, then the files.

use std::collections::BTreeSet;
use std::time::Duration;
use std::{fs, io};

use protos::management as api;

use super::access::{Access, TRIES};
use super::client::OwnerClient;
use super::ignore_in_use_or_gone;
use crate::engine::handle::PodHandle;
use crate::engine::records;
use crate::engine::records::remove::{self, check_empty, needed_by, still_running};
use crate::engine::records::view::PodView;
use crate::engine::status::{ContainerStatus, Outcome};
use crate::engine::wire::attach;
use crate::engine::wire::changes::stop_request;
use crate::engine::wire::errors;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::state_dir::lock::{self, PodLock};
use crate::state_dir::staging;

/// How long an owner may take to answer a call without work. The call itself has a longer
/// deadline.
const WELL: Duration = Duration::from_secs(9);

/// How a pod is removed, as by libpod's `RemovePod`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Whether to remove its containers, too, unless one of them runs or is paused. Without
    /// this and `force`, a pod with containers is refused.
    pub containers: bool,
    /// Whether to stop and remove all its containers, to kill an owner that does not answer, and
    /// to remove a pod whose files cannot be read.
    pub force: bool,
    /// With `force`: the stop time in place of each container's own; 0: kill at once.
    pub seconds: Option<u32>,
}

impl RemoveOptions {
    /// By force, in each container's own time.
    pub const FORCE: Self = Self {
        containers: true,
        force: true,
        seconds: None,
    };
}

impl PodHandle {
    /// Removes containers from the pod; running ones only with `force`.
    ///
    /// # Errors
    /// An error that concerns all of them; errors of single containers are in the outcome.
    pub async fn remove_containers(
        &self,
        containers: &[String],
        force: bool,
        seconds: Option<u32>,
    ) -> Result<Outcome> {
        let removed = self.ask(|owner| {
            let request = api::RemoveRequest {
                containers: containers.to_vec(),
                force,
                timeout: seconds,
                ..Default::default()
            };
            owner.remove(request)
        });
        let held = match removed.await? {
            Ok(results) => return Ok(errors::to_outcome(results)),
            Err(held) => held,
        };
        let view = PodView::read_locked(&self.paths, &held)?;
        let graph = view.graph();
        let mut outcome = Outcome::default();
        let going: BTreeSet<String> = view.chosen(containers)?.into_iter().collect();
        let needed = graph.needed(&going);
        for name in graph.dependents_first(&going) {
            let dependents = graph.dependents(name);
            let failed = dependents.iter().find(|d| outcome.errors.contains_key(*d));
            let result = match (view.container(name), needed.get(name).or(failed)) {
                // Nothing can be done with it, so that it may go even if others depend on it.
                (Err(_), _) if force => remove::container(&self.paths, name, &held),
                (Err(error), _) => Err(error),
                (Ok(_), Some(dependent)) => Err(needed_by(name, dependent)),
                (Ok(_), None) => remove::container(&self.paths, name, &held),
            };
            outcome.add(name, result);
        }
        Ok(outcome)
    }

    /// Removes the pod. The outcome names its containers; if one of them could not be removed,
    /// the others are removed nevertheless, and the pod stays.
    ///
    /// # Errors
    /// [`Error::WrongState`] for a pod with containers, unless the options say what happens to
    /// them; otherwise the first error on the way, even if the pod is gone.
    pub async fn remove(&self, how: RemoveOptions) -> Result<Outcome> {
        if how.force {
            return self.remove_by_force(how.seconds).await;
        }
        let view = self.view()?;
        if !how.containers {
            // Checked now for an early answer, and again under the lock.
            check_empty(self.name(), view.containers.len())?;
        }
        let mut outcome = Outcome::default();
        // All are looked at before one is removed.
        for name in view.in_state(ContainerStatus::is_running) {
            let state = view.container(&name)?.state.status;
            let running = still_running(&name, state);
            outcome.errors.insert(name, running);
        }
        if !outcome.errors.is_empty() {
            return Ok(outcome);
        }
        let (readable, damaged): (Vec<String>, Vec<String>) = view
            .containers
            .keys()
            .cloned()
            .partition(|name| view.container(name).is_ok());
        if !readable.is_empty() {
            outcome = self.remove_containers(&readable, false, None).await?;
        }
        for name in damaged {
            if let Err(error) = view.container(&name) {
                outcome.errors.insert(name, error);
            }
        }
        if !outcome.errors.is_empty() {
            return Ok(outcome);
        }
        match self.remove_itself(false, None).await {
            // A pod that `run` made goes with its last container.
            Err(e) if e.kind() == ErrorKind::NotFound && !readable.is_empty() => {}
            other => other?,
        }
        Ok(outcome)
    }

    async fn remove_by_force(&self, seconds: Option<u32>) -> Result<Outcome> {
        let there = fs::symlink_metadata(self.paths.path());
        if there.is_ok_and(|data| !data.is_dir()) {
            staging::remove(self.paths.path(), self.paths.staging_dir())?;
            return Ok(Outcome::default());
        }
        self.mend_locks()?;
        let containers = records::names_in(&self.paths.containers()).unwrap_or_default();
        self.remove_itself(true, seconds).await?;
        Ok(Outcome {
            done: containers,
            ..Outcome::default()
        })
    }

    /// Removes the pod, with its containers by `force`.
    async fn remove_itself(&self, force: bool, seconds: Option<u32>) -> Result<()> {
        let mut first = None;
        for _ in 0..TRIES {
            match self.access().await {
                Ok(Access::Files(held)) => {
                    if !force {
                        let containers = records::names_in(&self.paths.containers())?;
                        check_empty(self.name(), containers.len())?;
                    }
                    let removed = self.remove_files(&held);
                    return first.map_or(removed, Err);
                }
                Ok(Access::Owner(owner)) if force && !is_well(&owner, WELL).await => {
                    self.kill_owner()?;
                }
                Ok(Access::Owner(owner)) => {
                    let request = api::StopRequest {
                        if_empty: !force,
                        ..stop_request(&[], seconds)
                    };
                    let stopped = owner.shutdown(request).await;
                    let outcome = stopped.map(errors::to_outcome);
                    match outcome {
                        Ok(outcome) => {
                            let error = outcome.errors.into_values().next();
                            first = first.or(error);
                        }
                        Err(e) if e.kind() == ErrorKind::Unavailable => {}
                        Err(e) if !force => return Err(e),
                        Err(e) => first = Some(e),
                    }
                    match self.owner_ended().await {
                        Err(e) if force => {
                            log::warn!("{e}");
                            self.kill_owner()?;
                        }
                        left => left?,
                    }
                }
                Err(e) if e.kind() == ErrorKind::Unavailable && force => {
                    log::warn!("{e}");
                    if !self.kill_owner()? {
                        // The owner answers, so it is not the cause.
                        return Err(e);
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Err(self.owner_keeps_exiting())
    }

    /// Removes the pod if `run` made it for a container and it has no container left.
    ///
    /// # Errors
    /// As [`PodHandle::remove`].
    pub async fn remove_if_spent(&self) -> Result<()> {
        // `pod rm --force` removes a pod that cannot be read.
        if !self.view().is_ok_and(|view| view.definition.single) {
            return Ok(());
        }
        // The pod has containers again, or was removed meanwhile.
        ignore_in_use_or_gone(self.remove(RemoveOptions::default()).await.map(drop))
    }

    /// Removes the files of a pod that `run` made for a container which has gone, if it has no
    /// owner. Returns whether it did.
    pub(in crate::engine) fn remove_spent(&self) -> Result<bool> {
        let held = PodLock::exclusive(&self.paths)?;
        let mut view = PodView::read_locked(&self.paths, &held)?;
        self.check_same(&view.definition.id)?;
        view.record_losses(&held)?;
        if !view.is_spent() {
            return Ok(false);
        }
        self.remove_files(&held).map(|()| true)
    }

    /// A pod without its lock files could not be removed.
    fn mend_locks(&self) -> Result<()> {
        lock::clear(&self.paths)?;
        match lock::create(&self.paths) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(Error::not_found("pod", self.name()))
            }
            other => other,
        }
    }

    fn remove_files(&self, held: &PodLock) -> Result<()> {
        // Intent: from here on the pod accepts no new container, and another removal continues
        // this one.
        let mut view = PodView::read_locked(&self.paths, held);
        if let Ok(view) = &mut view {
            view.state.removing = true;
            view.state.infra = None;
            let mut written = records::write_pod(&self.paths, &view.state, held);
            if written.as_ref().is_err_and(is_full) {
                // The logs go in any case, and they are what fills disks.
                for name in view.containers.keys() {
                    remove::empty_logs(&self.paths.container(name)?);
                }
                written = records::write_pod(&self.paths, &view.state, held);
            }
            match written {
                // A removal never needs space.
                Err(e) if is_full(&e) => log::warn!("{e}"),
                other => other?,
            }
        }
        self.reap_vm()?;
        self.remove_sockets()?;
        remove::pod(&self.paths, held)
    }

    /// Removes the sockets of a killed owner; nothing else removes them.
    fn remove_sockets(&self) -> Result<()> {
        let address = self.engine.owner_address(&self.paths);
        for path in [attach::address_of(&address), address] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(e).on("remove", &path);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes what a killed owner left of its VM. A living pod of the same name belongs to
    /// another manager, since this pod has no owner.
    fn reap_vm(&self) -> Result<()> {
        let (root, namespace) = (&self.engine.config.root, self.paths.namespace());
        match crate::pod::recovery::reap(root, namespace, self.paths.name(), false) {
            Ok(_) | Err(Error::WrongState { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Kills the owner. Returns whether there was one.
    pub(super) fn kill_owner(&self) -> Result<bool> {
        let Some(mut owner) = lock::OwnerLock::holder_unlocked(&self.paths)? else {
            return Ok(false);
        };
        if owner.pid == 0 {
            // The owner's record is damaged: its socket names the process.
            owner = self.listener(owner)?;
        }
        crate::pod::recovery::kill_owner(self.name(), &owner)?;
        Ok(true)
    }

    /// The process that listens on the owner's socket.
    fn listener(&self, owner: lock::OwnerProcess) -> Result<lock::OwnerProcess> {
        use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
        let address = self.engine.owner_address(&self.paths);
        let Ok(stream) = std::os::unix::net::UnixStream::connect(&address) else {
            return Ok(owner);
        };
        let peer = getsockopt(&stream, PeerCredentials).on("look at", &address)?;
        let pid = peer.pid() as u32;
        Ok(lock::OwnerProcess {
            pid,
            start_time: hypervisor::start_time(pid).on("read", format!("/proc/{pid}/stat"))?,
            ..owner
        })
    }
}

/// Whether the disk, or the user's part of it, is full.
fn is_full(error: &Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    let Error::Io { source, .. } = error else {
        return false;
    };
    matches!(source.kind(), StorageFull | QuotaExceeded)
}

/// Whether an owner answers at all; stopping a pod may take long.
pub(super) async fn is_well(owner: &OwnerClient, within: Duration) -> bool {
    let asked = tokio::time::timeout(within, owner.status(api::Empty::default()));
    // An owner that has ended meanwhile need not be killed.
    asked.await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::engine::records::definition::{ContainerDefinition, PodDefinition, Rootfs};
    use crate::engine::records::record::ContainerState;
    use crate::engine::status::ContainerStatus;

    /// A container of a pod whose owner was killed; `--rm` in its name has the option's meaning.
    async fn add(pod: &PodHandle, name: &str, on: &[&str], status: ContainerStatus) {
        let root = Rootfs::Directory("/".into());
        let mut definition = ContainerDefinition::new(name, root, Default::default());
        definition.remove_at_exit = name.ends_with("--rm");
        definition.depends_on = on.iter().map(|on| (*on).to_owned()).collect();
        pod.create_container(&definition).await.unwrap();
        let state = ContainerState {
            status,
            ..ContainerState::default()
        };
        let held = PodLock::exclusive(pod.paths()).unwrap();
        let paths = pod.paths().container(name).unwrap();
        records::write_container(&paths, &state, &held).unwrap();
    }

    fn pod(engine: &Engine, name: &str, single: bool) -> Result<PodHandle> {
        let mut definition = PodDefinition::new("local", name);
        definition.single = single;
        engine.create_pod(definition)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_killed_owner_was_to_remove_is_removed() {
        use ContainerStatus::*;
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::below(dir.path());
        let several = pod(&engine, "several", false).unwrap();
        for (name, on, status) in [
            ("ended--rm", &[][..], Exited),
            ("ran--rm", &[], Running),
            ("made--rm", &[], Configured),
            ("needed--rm", &[], Running),
            ("needs", &["needed--rm"], Running),
            ("ran", &[], Running),
        ] {
            add(&several, name, on, status).await;
        }
        let left = several.view().unwrap().containers;
        let left: Vec<_> = left.keys().map(String::as_str).collect();
        assert_eq!(left, ["made--rm", "needed--rm", "needs", "ran"]);
        let there = records::names_in(&several.paths().containers()).unwrap();
        assert_eq!(there.len(), 4, "{there:?}");

        for (single, goes) in [(true, true), (false, false)] {
            let name = format!("alone-{single}");
            let alone = pod(&engine, &name, single).unwrap();
            add(&alone, "x--rm", &[], Running).await;
            match alone.view() {
                Err(Error::NotFound { .. }) => assert!(goes),
                other => assert!(!goes && other.unwrap().containers.is_empty()),
            }
            assert_eq!(alone.paths().path().exists(), !goes);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_name_of_a_spent_pod_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::below(dir.path());
        let taken = |pod| matches!(pod, Err(Error::AlreadyExists { .. }));
        for (single, container, is_free) in [
            (true, None, true),
            (true, Some("x--rm"), true),
            (true, Some("x"), false),
            (false, None, false),
            (false, Some("x--rm"), false),
        ] {
            let name = format!("p-{single}-{}", container.unwrap_or_default());
            let first = pod(&engine, &name, single).unwrap();
            if let Some(container) = container {
                add(&first, container, &[], ContainerStatus::Exited).await;
            }
            assert_eq!(taken(pod(&engine, &name, true)), !is_free, "{name}");
        }
    }
}
