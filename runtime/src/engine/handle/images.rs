//! Removing images that no container uses.

use std::collections::BTreeMap;

use crate::blocking::on_thread;
use crate::engine::image::ImageError;
use crate::engine::image::names_for;
use crate::engine::image::{ImageView, Images, StoreLock};
use crate::engine::records::definition::Rootfs;
use crate::engine::{Engine, PodHandle};
use crate::error::{Error, Result};

/// The result of a removal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// The names that were removed.
    pub untagged: Vec<String>,
    /// The ids of the images that were removed.
    pub deleted: Vec<String>,
    /// The size of the removed images in bytes. Layers that other images share stay on the
    /// disk.
    pub bytes: u64,
}

impl Removed {
    fn append_events(&self, images: &Images) {
        for name in &self.untagged {
            images.append_event("untag", name, "");
        }
        for id in &self.deleted {
            images.append_event("remove", id, id);
        }
    }
}

/// The reason why an image cannot be removed.
enum Hindrance {
    Users(Vec<(PodHandle, String)>),
    Other(Error),
}

impl From<Error> for Hindrance {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Engine {
    /// Opens the image store.
    ///
    /// # Errors
    /// [`Error::Io`] if its directories cannot be made.
    pub fn images(&self) -> Result<Images> {
        Images::new(&self.config().data_root)
    }

    /// The containers of each image, by the image's id.
    ///
    /// # Errors
    /// [`Error::BadFile`] if a container cannot be read: it may use any image.
    pub fn image_users(&self) -> Result<BTreeMap<String, Vec<(PodHandle, String)>>> {
        let mut users: BTreeMap<String, Vec<(PodHandle, String)>> = BTreeMap::new();
        for (pod, container) in self.all_definitions()? {
            if let Rootfs::Image { id, .. } = container.rootfs {
                users.entry(id).or_default().push((pod, container.name));
            }
        }
        Ok(users)
    }

    /// Removes an image; if it has several names, only the given name. With `force` removes the
    /// image's containers and all of its names.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`ImageError::InUse`]; [`ImageError::ManyNames`].
    pub async fn remove_image(&self, wanted: &str, force: bool) -> Result<Removed> {
        let images = self.images()?;
        loop {
            let (engine, images, wanted) = (self.clone(), images.clone(), wanted.to_owned());
            let remove = move || images.remove_unused(&engine, &wanted, force);
            match on_thread("removing an image", remove).await? {
                Ok(removed) => {
                    removed.append_events(&self.images()?);
                    return Ok(removed);
                }
                Err(Hindrance::Other(e)) => return Err(e),
                // The lock is not held here: stopping a container may take a while.
                Err(Hindrance::Users(users)) => {
                    for (pod, name) in users {
                        pod.remove_with_own(&name).await?;
                    }
                }
            }
        }
    }

    /// Removes images without a name; with `all`, all images not used by a container.
    ///
    /// # Errors
    /// [`Error::BadFile`] if a container cannot be read.
    pub fn prune_images(&self, all: bool) -> Result<Removed> {
        let images = self.images()?;
        let held = images.exclusive()?;
        let mut removed = Removed::default();
        let leases = images.leases(&held)?;
        let users = self.image_users()?;
        for view in images.read(&held)?.0 {
            let id = &view.image.id;
            let leased = leases.iter().any(|lease| lease.image.as_ref() == Some(id));
            if leased || !(all || view.names.is_empty()) || users.contains_key(id) {
                continue;
            }
            images.delete(view, &mut removed, &held)?;
        }
        let hidden = images.collect(&held)?;
        drop(held);
        Images::remove_hidden(&hidden);
        removed.append_events(&images);
        Ok(removed)
    }
}

impl Images {
    fn remove_unused(
        &self,
        engine: &Engine,
        wanted: &str,
        force: bool,
    ) -> std::result::Result<Removed, Hindrance> {
        let held = self.exclusive()?;
        let mut removed = Removed::default();
        let view = match self.find_locked(wanted, &held) {
            Err(Error::BadFile { path, .. }) if force => {
                self.forget_damaged(wanted, &held)?;
                log::warn!("{} was damaged, and is gone", path.display());
                removed.deleted.push(wanted.to_owned());
                return Ok(removed);
            }
            other => other?,
        };
        let called = names_for(wanted)
            .into_iter()
            .find(|n| view.names.contains(n));
        if let Some(name) = called.as_ref().filter(|_| !force && view.names.len() > 1) {
            self.forget_name(name, &held)?;
            removed.untagged.push(name.clone());
            return Ok(removed);
        }
        if called.is_none() && view.names.len() > 1 && !force {
            let error = ImageError::ManyNames {
                image: wanted.to_owned(),
                names: view.names,
            };
            return Err(Hindrance::Other(error.into()));
        }
        let id = &view.image.id;
        if let Some(users) = engine.image_users()?.remove(id) {
            if force {
                return Err(Hindrance::Users(users));
            }
            let full = |(pod, name): &(PodHandle, String)| format!("{}/{name}", pod.name());
            let error = ImageError::InUse {
                image: wanted.to_owned(),
                users: users.iter().map(full).collect(),
            };
            return Err(Hindrance::Other(error.into()));
        }
        let leases = self.leases(&held)?;
        if leases.iter().any(|lease| lease.image.as_ref() == Some(id)) {
            let error = ImageError::InUse {
                image: wanted.to_owned(),
                users: vec!["one that is just being made".into()],
            };
            return Err(Hindrance::Other(error.into()));
        }
        self.delete(view, &mut removed, &held)?;
        let hidden = self.collect(&held)?;
        drop(held);
        Self::remove_hidden(&hidden);
        Ok(removed)
    }

    /// Names go first: `prune` finds an image without a name.
    fn delete(&self, view: ImageView, removed: &mut Removed, held: &StoreLock) -> Result<()> {
        for name in &view.names {
            self.forget_name(name, held)?;
        }
        self.forget(&view.image.id, held)?;
        removed.bytes += view.image.size();
        removed.untagged.extend(view.names);
        removed.deleted.push(view.image.id);
        Ok(())
    }
}
