//! The containers that use images and volumes: all definitions are read before an image or a
//! volume is removed.

use crate::engine::records;
use crate::engine::records::definition::ContainerDefinition;
use crate::engine::{Engine, PodHandle};
use crate::error::{Error, ErrorKind, Result};

/// Containers, and the errors of those that cannot be read.
type Definitions = (Vec<(PodHandle, ContainerDefinition)>, Vec<Error>);

impl Engine {
    /// The definitions of all containers of all pods. They never change, so no lock
    /// is taken.
    pub(in crate::engine) fn definitions(&self) -> Result<Definitions> {
        let (mut found, mut bad) = (Vec::new(), Vec::new());
        for pod in self.pod_names(None)? {
            let containers = pod.paths().containers();
            let names = records::names_in(&containers)?;
            if names.is_empty() {
                continue;
            }
            let held = match records::hold(pod.paths()) {
                Ok(held) => held,
                // The pod was removed meanwhile.
                Err(_) if !pod.paths().path().exists() => continue,
                Err(e) => {
                    bad.push(e);
                    continue;
                }
            };
            for name in names {
                match records::read_definition(pod.paths(), &held, &name) {
                    Ok(definition) => found.push((pod.clone(), definition)),
                    // The container was removed meanwhile.
                    Err(_) if !containers.join(&name).exists() => {}
                    Err(e) => bad.push(e),
                }
            }
        }
        Ok((found, bad))
    }

    /// As [`Engine::definitions`], for callers that need all of them.
    ///
    /// # Errors
    /// [`Error::BadFile`] for the first that cannot be read.
    pub(in crate::engine) fn all_definitions(
        &self,
    ) -> Result<Vec<(PodHandle, ContainerDefinition)>> {
        let (found, bad) = self.definitions()?;
        bad.into_iter().next().map_or(Ok(found), Err)
    }
}

impl PodHandle {
    /// Removes a container, and its pod if that was made for it and has no container left.
    pub(in crate::engine) async fn remove_with_own(&self, container: &str) -> Result<()> {
        let names = [container.to_owned()];
        let removed = match self.remove_containers(&names, true, None).await {
            Ok(outcome) => outcome.errors.into_values().next().map_or(Ok(()), Err),
            Err(e) => Err(e),
        };
        match removed {
            // Another process may have removed it first.
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => self.remove_if_spent().await,
        }
    }
}
