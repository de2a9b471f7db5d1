//! Adding containers to an owned pod, and removing them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Owner, Tracked};
use crate::engine::records::remove;
use crate::engine::records::view::PodView;
use crate::engine::status::Outcome;
use crate::error::{Error, Result};
use crate::state_dir::lock::PodLock;
use crate::sync::lock;

impl Owner {
    /// Takes in a container that was added to the pod's directory.
    ///
    /// # Errors
    /// [`Error::NotFound`]; errors of its files.
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
    /// [`Error::NotFound`]; errors of single containers are in the outcome.
    pub async fn remove(
        self: &Arc<Self>,
        names: &[String],
        force: bool,
        seconds: Option<u32>,
    ) -> Result<Outcome> {
        let _op = self.op.lock().await;
        let outcome = self.remove_locked(names, force, seconds).await;
        self.end_if_unused_locked().await;
        outcome
    }

    pub(in crate::engine) async fn remove_locked(
        self: &Arc<Self>,
        names: &[String],
        force: bool,
        seconds: Option<u32>,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let graph = self.graph()?;
        let (unread, names): (Vec<String>, Vec<String>) = names
            .iter()
            .cloned()
            .partition(|name| force && self.is_unread(name));
        for name in &unread {
            let held = PodLock::exclusive(&self.paths)?;
            outcome.add(name, remove::container(&self.paths, name, &held));
        }
        let chosen = match (names.is_empty(), unread.is_empty()) {
            (true, false) => Vec::new(),
            _ => self.chosen(&names)?,
        };
        let going: BTreeSet<String> = chosen.iter().map(|c| c.name().to_owned()).collect();
        // Dependents go first: a container that stays keeps its dependencies.
        let ordered = graph.order().iter().rev();
        for name in ordered.filter(|name| going.contains(*name)) {
            let container = &self.tracked(name)?;
            let dependents = graph.dependents(name);
            let stays = |d: &&String| !going.contains(*d) || outcome.errors.contains_key(*d);
            let blocked_by = dependents.iter().find(stays);
            let result = match blocked_by {
                Some(dependent) => Err(Error::WrongState {
                    what: "container",
                    id: name.clone(),
                    operation: "remove",
                    state: format!("needed by {dependent}"),
                }),
                None => self.remove_one(container, force, seconds).await,
            };
            outcome.add(name, result);
        }
        Ok(outcome)
    }

    /// Whether the container is in the pod's directory and could not be read when this process
    /// became the pod's owner.
    fn is_unread(&self, name: &str) -> bool {
        let paths = self.paths.container(name);
        self.tracked(name).is_err()
            && paths.is_ok_and(|paths| paths.path().symlink_metadata().is_ok())
    }

    async fn remove_one(
        self: &Arc<Self>,
        container: &Arc<Tracked>,
        force: bool,
        seconds: Option<u32>,
    ) -> Result<()> {
        if container.now().status.is_live() {
            if !force {
                return Err(self.wrong_state(container, "remove"));
            }
            let name = [container.name().to_owned()];
            let mut stopped = self.stop_locked(&name, seconds).await?;
            if let Some(error) = stopped.errors.remove(container.name()) {
                return Err(error);
            }
        }
        self.forget(container)
    }

    /// Removes a container that was created with the option to remove it at its end.
    pub(super) async fn remove_ended(self: &Arc<Self>, container: &Arc<Tracked>) -> Result<()> {
        let _op = self.op.lock().await;
        if container.now().status.is_live() || !self.has(container) {
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
