//! Volumes and the containers that use them: a volume in use is not removed.

use std::fs;

use fs2::FileExt;

use super::PodHandle;
use crate::engine::Engine;
use crate::engine::records as files;
use crate::engine::records::definition::ContainerDefinition;
use crate::engine::volume::{Volume, VolumeDir, VolumeView, Volumes};
use crate::error::{Context, Error, Result};
use crate::state_dir::staging;

impl Engine {
    /// The named volumes.
    pub fn volumes(&self) -> Volumes {
        Volumes::new(&self.config().data_root)
    }

    /// All volumes, the anonymous ones of containers included.
    ///
    /// # Errors
    /// [`Error::Io`] if the directories cannot be read. What is wrong with one
    /// volume is in its place.
    pub fn list_volumes(&self) -> Result<Vec<Result<VolumeView>>> {
        let volumes = self.volumes();
        let _held = volumes.locked(FileExt::lock_shared)?;
        let (containers, bad) = self.definitions()?;
        let mut shown: Vec<Result<VolumeView>> = bad.into_iter().map(Err).collect();
        for name in files::names_in(&volumes.root)? {
            let dir = volumes.dir(&name)?;
            shown.push(dir.read().map(|volume| {
                VolumeView {
                    users: users(&containers, &volume.name)
                        .map(|(pod, container)| format!("{}/{}", pod.name(), container.name))
                        .collect(),
                    volume,
                    path: dir.data(),
                    anonymous: false,
                }
            }));
        }
        for (pod, container) in &containers {
            let home = pod.home().container(&container.name)?;
            for used in container.volumes.iter().filter(|used| used.anonymous) {
                let dir = VolumeDir::of_container(home.path(), &used.name)?;
                // It is made when its container is first built.
                let volume = dir.read().unwrap_or_else(|_| Volume {
                    created: container.created,
                    ..Volume::new(&used.name)
                });
                shown.push(Ok(VolumeView {
                    volume,
                    path: dir.data(),
                    anonymous: true,
                    users: vec![format!("{}/{}", pod.name(), container.name)],
                }));
            }
        }
        Ok(shown)
    }

    /// Removes a volume. With `force` the containers that use it go first.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] naming its users.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        loop {
            let (engine, wanted) = (self.clone(), name.to_owned());
            let tried = tokio::task::spawn_blocking(move || engine.try_remove_volume(&wanted));
            let tried = tried
                .await
                .map_err(|e| Error::Internal(format!("Removing a volume broke off: {e}")))??;
            if tried.is_empty() {
                return Ok(());
            }
            if !force {
                let full = |(pod, name): &(PodHandle, String)| format!("{}/{name}", pod.name());
                let users: Vec<String> = tried.iter().map(full).collect();
                return Err(Error::WrongState {
                    what: "volume",
                    id: name.to_owned(),
                    operation: "remove",
                    state: format!(
                        "in use by container(s) {}: remove them first, or use --force, which removes them",
                        users.join(", ")
                    ),
                });
            }
            // Not under the lock: a container may take a while to stop.
            for (pod, container) in tried {
                pod.remove_with_own(&container).await?;
            }
        }
    }

    /// Removes a volume unless it is used; answers its users.
    fn try_remove_volume(&self, name: &str) -> Result<Vec<(PodHandle, String)>> {
        let volumes = self.volumes();
        let dir = volumes.dir(name)?;
        let held = volumes.exclusive()?;
        let containers = self.all_definitions()?;
        let of = |(pod, container): (&PodHandle, &ContainerDefinition)| {
            (pod.clone(), container.name.clone())
        };
        if !dir.path().is_dir() {
            let anonymous = containers.iter().find(|(_, container)| {
                let mut used = container.volumes.iter();
                used.any(|used| used.anonymous && used.name == name)
            });
            // It goes with its container, and not before.
            let (pod, container) = anonymous.ok_or_else(|| Error::not_found("volume", name))?;
            return Ok(vec![of((pod, container))]);
        }
        let users: Vec<_> = users(&containers, name).map(of).collect();
        if !users.is_empty() {
            return Ok(users);
        }
        let gone = staging::hide(dir.path(), &volumes.root)?;
        volumes.append_event("remove", name);
        drop(held);
        fs::remove_dir_all(&gone).on("remove", &gone)?;
        Ok(Vec::new())
    }

    /// Removes the named volumes that no container uses; answers their names.
    ///
    /// # Errors
    /// [`Error::BadFile`] for a container that cannot be read: it may use any.
    pub fn prune_volumes(&self) -> Result<Vec<String>> {
        let volumes = self.volumes();
        let held = volumes.exclusive()?;
        let containers = self.all_definitions()?;
        let mut removed = Vec::new();
        let mut gone = Vec::new();
        for name in files::names_in(&volumes.root)? {
            if users(&containers, &name).next().is_none() {
                let dir = volumes.dir(&name)?;
                gone.push(staging::hide(dir.path(), &volumes.root)?);
                volumes.append_event("remove", &name);
                removed.push(name);
            }
        }
        drop(held);
        for path in gone {
            fs::remove_dir_all(&path).on("remove", &path)?;
        }
        Ok(removed)
    }
}

/// The containers that use a named volume.
fn users<'a>(
    containers: &'a [(PodHandle, ContainerDefinition)],
    name: &'a str,
) -> impl Iterator<Item = (&'a PodHandle, &'a ContainerDefinition)> {
    let uses = move |container: &ContainerDefinition| {
        let mut used = container.volumes.iter();
        used.any(|used| !used.anonymous && used.name == name)
    };
    let all = containers.iter().map(|(pod, container)| (pod, container));
    all.filter(move |(_, container)| uses(container))
}
