//! Adding containers to an owned pod, and removing them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::stop::Locking;
use super::{Owner, Tracked};
use crate::engine::records::remove::{self, needed_by, still_running};
use crate::engine::records::view::PodView;
use crate::engine::status::{ContainerStatus, Outcome};
use crate::error::Result;
use crate::state_dir::lock::PodLock;
use crate::sync::lock;

impl Owner {
    /// Takes in a container that was added to the pod's directory.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`]; errors of its files.
    pub fn adopt(&self, name: &str) -> Result<()> {
        let view = PodView::read(&self.paths)?;
        let files = view.container(name)?;
        let mut containers = lock(&self.containers);
        containers
            .entry(name.to_owned())
            .or_insert_with(|| Tracked::new(files.definition.clone(), files.state.clone()));
        Ok(())
    }

    /// Removes containers. Running ones are stopped first with `force`, else refused. A
    /// container is also refused if another one that stays depends on it.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`]; errors of single containers are in the outcome.
    pub async fn remove(
        self: &Arc<Self>,
        names: &[String],
        force: bool,
        seconds: Option<u32>,
    ) -> Result<Outcome> {
        let outcome = self
            .remove_containers(names, force, seconds, Locking::Steps)
            .await;
        let _op = self.op.lock().await;
        self.end_if_unused_locked().await;
        outcome
    }

    pub(in crate::engine) async fn remove_containers(
        self: &Arc<Self>,
        names: &[String],
        force: bool,
        seconds: Option<u32>,
        locking: Locking,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let (unread, names): (Vec<String>, Vec<String>) = names
            .iter()
            .cloned()
            .partition(|name| force && self.is_unread(name));
        for name in &unread {
            // Nothing can be done with it, so that it may go even if others depend on it.
            let held = PodLock::exclusive(&self.paths)?;
            outcome.add(name, remove::container(&self.paths, name, &held));
        }
        let chosen = match (names.is_empty(), unread.is_empty()) {
            (true, false) => Vec::new(),
            _ => self.chosen(&names)?,
        };
        let going: BTreeSet<String> = chosen.iter().map(|c| c.name().to_owned()).collect();
        let graph = self.graph();
        let needed = graph.needed(&going);
        let mut left: BTreeSet<String> = {
            // Not within a start: what is about to run must be stopped, too.
            let _op = self.step(locking).await;
            // One that waits for its start has run nothing.
            let is_live = |c: &&Arc<Tracked>| match c.now().status {
                ContainerStatus::Initialized => true,
                status => force && status.is_live(),
            };
            let live = chosen.iter().filter(is_live).map(|c| c.name().to_owned());
            live.filter(|n| !needed.contains_key(n)).collect()
        };
        while !left.is_empty() {
            let (now, later) = graph.split_free(&left);
            let now: Vec<String> = now.into_iter().collect();
            let stopped = self.stop_containers(&now, seconds, locking).await?;
            outcome.errors.extend(stopped.errors);
            // One that is not stopped keeps what it needs.
            let fails = |n: &String| {
                graph
                    .dependents(n)
                    .iter()
                    .any(|d| outcome.errors.contains_key(d))
            };
            left = later.into_iter().filter(|n| !fails(n)).collect();
        }
        // A container that stays keeps its dependencies.
        for name in graph.dependents_first(&going) {
            if outcome.errors.contains_key(name) {
                continue;
            }
            let dependents = graph.dependents(name);
            let failed = dependents.iter().find(|d| outcome.errors.contains_key(*d));
            let result = match needed.get(name).or(failed) {
                Some(dependent) => Err(needed_by(name, dependent)),
                None => {
                    let _op = self.step(locking).await;
                    match chosen.iter().find(|c| c.name() == name) {
                        Some(container) if self.has(container) => self.remove_one(container),
                        // It was removed meanwhile.
                        _ => Ok(()),
                    }
                }
            };
            outcome.add(name, result);
        }
        Ok(outcome)
    }

    /// Whether the container is in the pod's directory and could not be read when this process
    /// became the pod's owner.
    pub(super) fn is_unread(&self, name: &str) -> bool {
        let paths = self.paths.container(name);
        self.tracked(name).is_err()
            && paths.is_ok_and(|paths| paths.path().symlink_metadata().is_ok())
    }

    fn remove_one(&self, container: &Arc<Tracked>) -> Result<()> {
        let status = container.now().status;
        if status.is_live() {
            return Err(still_running(container.name(), status));
        }
        self.forget(container)
    }

    /// Removes a container that was created with the option to remove it at its end. It stays
    /// while others depend on it.
    pub(super) async fn remove_ended(self: &Arc<Self>, container: &Arc<Tracked>) -> Result<()> {
        let _op = self.op.lock().await;
        self.remove_ended_locked(container)
    }

    /// Removes a container that could not be started, if it was to be removed at its end.
    pub(super) fn remove_failed(&self, name: &str) {
        let container = self.tracked(name).ok();
        let Some(container) = container.filter(|c| c.definition.remove_at_exit) else {
            return;
        };
        if let Err(e) = self.remove_ended_locked(&container) {
            ::log::error!("Container {name} is not removed: {e}");
        }
    }

    fn remove_ended_locked(&self, container: &Arc<Tracked>) -> Result<()> {
        if container.now().status.is_live() || !self.has(container) {
            return Ok(());
        }
        let dependents = self.graph().dependents(container.name());
        if let Some(dependent) = dependents.first() {
            ::log::info!(
                "Container {} stays: {dependent} depends on it",
                container.name()
            );
            return Ok(());
        }
        self.forget(container)
    }

    fn forget(&self, container: &Arc<Tracked>) -> Result<()> {
        let held = PodLock::exclusive(&self.paths)?;
        remove::container(&self.paths, container.name(), &held)?;
        lock(&self.containers).remove(container.name());
        // Wakes waiting calls, which see that it is gone.
        container.state.send_modify(|_| {});
        Ok(())
    }
}
