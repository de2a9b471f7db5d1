//! Undoing what the last run of a container left on the host and in its VM,
//! without removing the container.

use std::sync::Arc;

use super::client;
use crate::engine::handle::{PodHandle, request};
use crate::engine::journal::Event;
use crate::engine::owner::Owner;
use crate::engine::records::paths::ContainerHome;
use crate::engine::records::record::ContainerState;
use crate::engine::records::view::PodView;
use crate::engine::status::{ContainerStatus, Outcome};
use crate::error::{Context, Error, Result};
use crate::host::mount::unmount_below;

impl PodHandle {
    /// Undoes what containers that do not run have left: mounts, the bundle of
    /// the last start, a place in the VM of one that was never started.
    ///
    /// # Errors
    /// [`Error::NotFound`]; what went wrong for one container is in the outcome.
    pub async fn cleanup(&self, containers: &[String]) -> Result<Outcome> {
        let cleaned = self.ask(async |owner| owner.cleanup(request(containers, false)).await);
        let held = match cleaned.await? {
            Ok(results) => return Ok(client::to_outcome(results)),
            Err(held) => held,
        };
        let mut view = PodView::read_locked(&self.home, &held)?;
        view.settle(&held)?;
        let mut outcome = Outcome::default();
        for name in view.chosen(containers)? {
            let files = view.container(&name)?;
            let cleaned =
                may_clean(&name, &files.state).and_then(|()| clean(&self.home.container(&name)?));
            if cleaned.is_ok() {
                let event = Event::container(&view.definition, &files.definition, "cleanup");
                self.home.journal().tell(event);
            }
            outcome.add(&name, cleaned);
        }
        Ok(outcome)
    }
}

impl Owner {
    /// As [`PodHandle::cleanup`].
    ///
    /// # Errors
    /// [`Error::NotFound`]; what went wrong for one container is in the outcome.
    pub async fn cleanup(self: &Arc<Self>, names: &[String]) -> Result<Outcome> {
        let _op = self.op.lock().await;
        let mut outcome = Outcome::default();
        for container in self.chosen(names)? {
            let cleaned = async {
                may_clean(container.name(), &container.now())?;
                if container.now().status == ContainerStatus::Initialized {
                    let name = [container.name().to_owned()];
                    let stopped = self.stop_locked(&name, Some(0)).await?;
                    stopped.errors.into_values().next().map_or(Ok(()), Err)?;
                }
                clean(&self.home().container(container.name())?)
            };
            let cleaned = cleaned.await;
            if cleaned.is_ok() {
                self.tell_of(&container, |event| event.action("cleanup"));
            }
            outcome.add(container.name(), cleaned);
        }
        self.end_if_unused_locked().await;
        Ok(outcome)
    }
}

/// Refuses what is in use.
fn may_clean(name: &str, state: &ContainerState) -> Result<()> {
    let refused = |state: String| {
        Err(Error::WrongState {
            what: "container",
            id: name.to_owned(),
            operation: "clean up",
            state,
        })
    };
    if state.status.is_running() {
        return refused(state.status.to_string());
    }
    if state.mounts > 0 {
        return refused(format!(
            "mounted {} time(s): unmount it first",
            state.mounts
        ));
    }
    Ok(())
}

fn clean(home: &ContainerHome) -> Result<()> {
    unmount_below(home.path())?;
    let bundle = home.bundle();
    match std::fs::remove_dir_all(&bundle) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).on("remove", &bundle),
        _ => Ok(()),
    }
}
