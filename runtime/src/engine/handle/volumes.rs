//! Volumes and the containers that use them: a volume in use is not removed.

use std::fs;

use fs2::FileExt;

use super::PodHandle;
use crate::blocking::on_thread;
use crate::engine::Engine;
use crate::engine::find::is_id;
use crate::engine::records as files;
use crate::engine::records::definition::{ContainerDefinition, VolumeUse};
use crate::engine::volume::{Volume, VolumeDir, VolumeView, Volumes};
use crate::error::{Context, Error, Result};
use crate::state_dir::staging;

impl Engine {
    /// Opens the store of named volumes.
    pub fn volumes(&self) -> Volumes {
        Volumes::new(&self.config().data_root)
    }

    /// All volumes, including the anonymous ones of containers. Each entry is a volume, or the
    /// error of reading it.
    ///
    /// # Errors
    /// [`Error::Io`] if the directories cannot be read.
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
            let paths = pod.paths().container(&container.name)?;
            for used in container.volumes.iter().filter(|used| used.anonymous) {
                let dir = VolumeDir::of_container(paths.path(), &used.name)?;
                // The volume is made when its container is first built.
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

    /// Refuses the name of another container's anonymous volume: that volume goes with its
    /// container, so it cannot be shared, and a new one of its name would be empty.
    pub(crate) fn check_not_anonymous(&self, uses: &[VolumeUse]) -> Result<()> {
        let named = uses.iter().filter(|wanted| !wanted.anonymous);
        // Only ids are names of anonymous volumes.
        let mut named = named
            .filter(|wanted| wanted.name.len() == 64 && is_id(&wanted.name))
            .peekable();
        if named.peek().is_none() {
            return Ok(());
        }
        let (containers, _) = self.definitions()?;
        for wanted in named {
            let of = containers.iter().find(|(_, container)| {
                let mut used = container.volumes.iter();
                used.any(|used| used.anonymous && used.name == wanted.name)
            });
            if let Some((pod, container)) = of {
                return Err(Error::WrongState {
                    what: "volume",
                    id: wanted.name.clone(),
                    operation: "mount",
                    state: format!(
                        "the anonymous volume of container {}/{}, with which it is removed: give that container a volume with a name",
                        pod.name(),
                        container.name
                    ),
                });
            }
        }
        Ok(())
    }

    /// Removes a volume. With `force` removes the containers that use it first.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] naming its users.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        let mut users_removed = false;
        loop {
            let (engine, wanted) = (self.clone(), name.to_owned());
            let remove = move || engine.try_remove_volume(&wanted);
            let tried = match on_thread("removing a volume", remove).await? {
                // An anonymous volume goes with its container.
                Err(Error::NotFound { .. }) if users_removed => return Ok(()),
                tried => tried?,
            };
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
            // The lock is not held here: stopping a container may take a while.
            for (pod, container) in tried {
                pod.remove_with_own(&container).await?;
            }
            users_removed = true;
        }
    }

    /// Removes a volume unless it is used; returns its users.
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
            // An anonymous volume goes with its container, and not before.
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

    /// Removes the named volumes that no container uses; returns their names.
    ///
    /// # Errors
    /// [`Error::BadFile`] if a container cannot be read: it may use any volume.
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
