//! Creating containers in a pod that is there.

use protos::management as api;

use super::PodHandle;
use crate::engine::journal::Event;
use crate::engine::records;
use crate::engine::records::definition::ContainerDefinition;
use crate::engine::records::paths::DataPaths;
use crate::error::{DependencyError, Error, Result};
use crate::state_dir::lock::{OwnerLock, PodLock};

impl PodHandle {
    /// Creates a container in the pod.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::InvalidValue`] naming what is wrong;
    /// [`Error::WrongState`] if the pod is being removed.
    pub async fn create_container(&self, definition: &ContainerDefinition) -> Result<()> {
        let name = definition.name.clone();
        self.engine.check_not_anonymous(&definition.volumes)?;
        {
            let held = self.locked().await?;
            // No other lock is taken under this one.
            let _volumes = self.engine.volumes().prepare(&definition.volumes)?;
            add_container(&self.paths, definition, &held)?;
            if OwnerLock::holder_unlocked(&self.paths)?.is_none() {
                // An owner that starts later finds it.
                return Ok(());
            }
        }
        let adopted = self.ask(|owner| {
            let container = api::ContainerRequest {
                container: name.clone(),
                ..Default::default()
            };
            owner.adopt(container)
        });
        adopted.await.map(drop)
    }
}

/// Adds a container to a pod's directory. The caller holds the pod's lock.
fn add_container(
    paths: &DataPaths,
    definition: &ContainerDefinition,
    held: &PodLock,
) -> Result<()> {
    definition.check()?;
    // The files of its containers are not read: there may be many, and others wait for the
    // lock.
    let (pod, state) = records::read_own(paths)?;
    if state.removing {
        return Err(Error::WrongState {
            what: "pod",
            id: paths.name().to_owned(),
            operation: "create a container in",
            state: records::record::REMOVING.into(),
        });
    }
    for on in &definition.depends_on {
        if !paths.container(on)?.path().is_dir() {
            return Err(DependencyError::Missing {
                container: definition.name.clone(),
                on: on.clone(),
            }
            .into());
        }
    }
    records::create_container(paths, definition, held)?;
    let created = Event::container(&pod, definition, "create");
    paths.journal().append_or_warn(created);
    Ok(())
}
