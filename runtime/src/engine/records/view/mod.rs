//! A pod as readers see it: its files, corrected if its owner has died.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::definition::PodDefinition;
use super::paths::DataPaths;
use super::record::{ContainerState, PodState};
use crate::engine::graph::Graph;
use crate::engine::journal::Event;
use crate::engine::records;
use crate::engine::records::{ContainerFiles, remove};
use crate::engine::status::{ContainerStatus, PodStatus};
use crate::error::{Error, Result};
use crate::events::Exit;
use crate::state_dir::dir::Dir;
use crate::state_dir::lock::{self, OwnerLock, OwnerProcess, PodLock};

/// The problem of containers whose end was not recorded.
const LOST: &str = "the pod's owner ended without a word";

/// The problem of containers that ran before the host was rebooted.
const REBOOTED: &str = "the host was started again";

/// A consistent snapshot of a pod.
#[derive(Debug)]
pub struct PodView {
    /// Its paths.
    pub paths: DataPaths,
    /// Its definition.
    pub definition: PodDefinition,
    /// Its state.
    pub state: PodState,
    /// Its containers, by name; an error for those whose files cannot be read.
    pub containers: BTreeMap<String, Result<ContainerFiles>>,
    /// The process that owns it, if any.
    pub owner: Option<OwnerProcess>,
    /// Containers whose state differs from their files because their owner has died, and which
    /// of their processes ended with it.
    changed: BTreeMap<String, Lost>,
    /// Containers that were to be removed at their end, and whose owner has died before.
    spent: Vec<String>,
}

/// The processes of a container that ran when its owner died.
#[derive(Debug)]
struct Lost {
    /// Whether its init ran.
    ran: bool,
    /// Its further processes.
    execs: Vec<String>,
}

impl PodView {
    /// Reads a pod without waiting and without changing files. If its owner has died, the view
    /// shows the consequences; the next change of the pod records them.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::BadFile`] if the pod's own files cannot be read.
    pub fn read(paths: &DataPaths) -> Result<Self> {
        Self::read_held(paths, lock::hold(paths))
    }

    /// As [`PodView::read`], for reading many pods: `parent` is the open directory of theirs,
    /// so that the kernel does not resolve its path for each.
    pub(crate) fn read_in(parent: &Dir, paths: &DataPaths) -> Result<Self> {
        Self::read_held(paths, lock::hold_in(parent, paths.name(), paths))
    }

    fn read_held(paths: &DataPaths, held: Result<Dir>) -> Result<Self> {
        held.and_then(|held| {
            lock::read_consistent(paths, &held, |held, owner| Self::of(paths, held, owner))
        })
        .map_err(|e| records::explain(paths, e))
    }

    /// As [`PodView::read`], but also records the losses if the pod's owner has died and
    /// nothing has recorded them yet.
    pub(crate) fn read_and_record(paths: &DataPaths) -> Result<Self> {
        let view = Self::read(paths)?;
        if view.is_recorded() {
            return Ok(view);
        }
        // If another process holds the lock, it records the same or more.
        if let Ok(Some(held)) = PodLock::try_exclusive(paths) {
            let mut view = Self::read_locked(paths, &held)?;
            if let Err(e) = view.record_losses(&held) {
                ::log::warn!("Pod {}: {e}", paths.name());
            }
            return Ok(view);
        }
        Ok(view)
    }

    /// The containers whose state in this view differs from their files.
    pub(crate) fn lost_containers(&self) -> Vec<String> {
        self.changed.keys().cloned().collect()
    }

    /// Whether the files say what the view says.
    pub(crate) fn is_recorded(&self) -> bool {
        self.changed.is_empty()
            && self.spent.is_empty()
            && (self.owner.is_some() || !self.state.started)
    }

    /// As [`PodView::read`], under the pod's lock: the view stays current.
    pub(crate) fn read_locked(paths: &DataPaths, _held: &PodLock) -> Result<Self> {
        let owner = OwnerLock::holder_unlocked(paths).map_err(|e| records::explain(paths, e))?;
        Self::of(paths, &records::hold(paths)?, owner)
    }

    /// As [`PodView::read_locked`], with the losses recorded: for changes of files.
    pub(crate) fn read_for_change(paths: &DataPaths, held: &PodLock) -> Result<Self> {
        let mut view = Self::read_locked(paths, held)?;
        view.record_losses(held)?;
        Ok(view)
    }

    fn of(paths: &DataPaths, held: &Dir, owner: Option<OwnerProcess>) -> Result<Self> {
        let files = records::read_pod(paths, held)?;
        let mut view = Self {
            paths: paths.clone(),
            definition: files.definition?,
            state: files.state?,
            containers: files.containers,
            owner,
            changed: BTreeMap::new(),
            spent: Vec::new(),
        };
        if view.owner.is_none() {
            view.without_owner()?;
        }
        Ok(view)
    }

    /// Corrects the state: processes of a pod without an owner have ended, whatever its files
    /// say.
    fn without_owner(&mut self) -> Result<()> {
        let why = self.why_lost()?;
        for (name, files) in &mut self.containers {
            if let Ok(files) = files
                && let Some(after) = files.state.lost(why)
            {
                let sessions = files.state.execs.iter();
                let lost = Lost {
                    ran: files.state.status.is_running(),
                    execs: sessions
                        .filter(|(_, session)| session.status.is_running())
                        .map(|(id, _)| id.clone())
                        .collect(),
                };
                files.state = after;
                self.changed.insert(name.clone(), lost);
            }
        }
        self.spent = self.spent_containers();
        Ok(())
    }

    fn spent_containers(&self) -> Vec<String> {
        let graph = self.graph();
        let is_spent = |(name, files): &(&String, &Result<ContainerFiles>)| {
            files.as_ref().is_ok_and(|files| {
                files.definition.remove_at_exit && files.state.status == ContainerStatus::Exited
            }) && graph.dependents(name).is_empty()
        };
        let containers = self.containers.iter().filter(is_spent);
        containers.map(|(name, _)| name.clone()).collect()
    }

    /// Whether `run` made the pod for a container, which has gone.
    pub(crate) fn is_spent(&self) -> bool {
        self.owner.is_none() && self.definition.single && self.containers.is_empty()
    }

    fn why_lost(&self) -> Result<&'static str> {
        let same = self.state.boot.is_empty() || self.state.boot == records::boot_id()?;
        Ok(if same { LOST } else { REBOOTED })
    }

    /// The status of the pod.
    pub fn status(&self) -> PodStatus {
        let containers = self.containers.values();
        let states = containers.map(|files| files.as_ref().ok().map(|files| files.state.status));
        PodStatus::of(states, self.infra_runs())
    }

    /// Whether the infra container, that is, the VM itself, is up.
    pub fn infra_runs(&self) -> bool {
        self.owner.is_some() && self.definition.infra && self.state.started
    }

    /// A container by its name.
    ///
    /// # Errors
    /// [`Error::NotFound`]; errors of its files.
    pub fn container(&self, name: &str) -> Result<&ContainerFiles> {
        match self.containers.get(name) {
            None => Err(Error::not_found("container", name)),
            Some(Ok(files)) => Ok(files),
            Some(Err(e)) => Err(Error::bad_file(self.paths.containers().join(name), e)),
        }
    }

    /// The given names, or those of all containers if none are given.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown name.
    pub fn chosen(&self, asked: &[String]) -> Result<Vec<String>> {
        if asked.is_empty() {
            return Ok(self.containers.keys().cloned().collect());
        }
        if let Some(missing) = asked
            .iter()
            .find(|name| !self.containers.contains_key(*name))
        {
            return Err(Error::not_found("container", missing));
        }
        Ok(asked.to_vec())
    }

    /// The dependencies of its containers. A container whose files cannot be read counts as one
    /// without dependencies.
    pub fn graph(&self) -> Graph {
        let depends_on = |files: &Result<ContainerFiles>| {
            let files = files.as_ref().ok();
            files
                .map(|f| f.definition.depends_on.clone())
                .unwrap_or_default()
        };
        Graph::new(
            self.containers
                .iter()
                .map(|(name, files)| (name.clone(), depends_on(files)))
                .collect(),
        )
    }

    /// The containers in one of these states.
    pub fn in_state(&self, fits: impl Fn(ContainerStatus) -> bool) -> Vec<String> {
        let names = self.containers.iter();
        names
            .filter(|(_, files)| files.as_ref().is_ok_and(|f| fits(f.state.status)))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Writes the consequences of the owner's death to the state files and the journal, and
    /// removes the containers that were to be removed at their end. The caller holds the pod's
    /// lock exclusively.
    pub(crate) fn record_losses(&mut self, lock: &PodLock) -> Result<()> {
        let journal = self.paths.journal();
        for (name, lost) in std::mem::take(&mut self.changed) {
            let files = self.container(&name)?;
            let state: &ContainerState = &files.state;
            records::write_container(&self.paths.container(&name)?, state, lock)?;
            let event = |what| Event::container(&self.definition, &files.definition, what);
            for exec in lost.execs {
                let died = event("exec_died").with("exec", exec);
                journal.append_or_warn(died.with("exit_code", Exit::KILLED));
            }
            if let Some(code) = state.exit_code.filter(|_| lost.ran) {
                journal.append_or_warn(event("died").with("exit_code", code));
            }
        }
        for name in std::mem::take(&mut self.spent) {
            remove::container(&self.paths, &name, lock)?;
            self.containers.remove(&name);
        }
        if self.owner.is_none() && self.state.started {
            self.state.started = false;
            records::write_pod(&self.paths, &self.state, lock)?;
            journal.append_or_warn(
                Event::pod(&self.definition, "died").with("reason", self.why_lost()?),
            );
        }
        Ok(())
    }
}
