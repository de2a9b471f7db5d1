//! Finding images by name or id.

use std::path::PathBuf;

use oci_spec::distribution::Reference;

use super::record::{BadImage, ImageView};
use super::reference::ImageSource;
use super::store::{Images, StoreLock, plain};
use crate::engine::find::only_one;
use crate::error::{Error, Result};

impl Images {
    /// Lists all images, and the errors of those that cannot be read.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be read.
    pub fn list(&self) -> Result<(Vec<ImageView>, Vec<BadImage>)> {
        self.read(&self.shared()?)
    }

    /// Finds an image by its name, its id or the beginning of its id.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Ambiguous`] if several match.
    pub fn find(&self, wanted: &str) -> Result<ImageView> {
        self.find_locked(wanted, &self.shared()?)
    }

    pub(in crate::engine) fn find_locked(
        &self,
        wanted: &str,
        held: &StoreLock,
    ) -> Result<ImageView> {
        let (images, bad) = self.read(held)?;
        let names = names_for(wanted);
        for name in &names {
            if let Some(image) = images.iter().find(|view| view.names.contains(name)) {
                return Ok(image.clone());
            }
        }
        let id = plain(wanted);
        let hex = id.len() >= 3 && id.chars().all(|c| c.is_ascii_hexdigit());
        let found = images.into_iter().filter(|view| {
            let of = |digest: &str| plain(digest).starts_with(id);
            hex && (of(&view.image.id) || of(&view.image.digest))
        });
        let describe = |view: &ImageView| view.image.id.clone();
        match only_one(found.collect(), "image", wanted, describe)? {
            Some(image) => Ok(image),
            None => match bad.into_iter().find(|bad| hex && bad.id.starts_with(id)) {
                Some(bad) => Err(bad.error),
                None => Err(Error::not_found("image", wanted)),
            },
        }
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`super::ImageError::Reference`] for a bad name.
    pub fn tag(&self, wanted: &str, name: &str) -> Result<()> {
        let name = full_name(name)?;
        let held = self.exclusive()?;
        let image = self.find_locked(wanted, &held)?;
        self.write_name(&name, &image.image.id, &held)?;
        self.append_event("tag", &name, &image.image.id);
        Ok(())
    }

    pub(in crate::engine) fn remove_hidden(hidden: &[PathBuf]) {
        for path in hidden {
            // The next cleanup removes what could not be removed now.
            if let Err(e) = std::fs::remove_dir_all(path) {
                log::warn!("{} is removed later: {e}", path.display());
            }
        }
    }
}

/// The full form of a name, with registry and tag. A name without a registry is a local one.
///
/// # Errors
/// [`super::ImageError::Reference`].
pub fn full_name(name: &str) -> Result<String> {
    let full = if has_registry(name) {
        name.to_owned()
    } else {
        format!("localhost/{name}")
    };
    match full.parse()? {
        ImageSource::Registry(reference) => Ok(reference.whole()),
        source => Ok(source.name()),
    }
}

/// Whether the first part of a name is a host, by the rule of docker and podman.
fn has_registry(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(first, _)| first == "localhost" || first.contains(['.', ':']))
}

/// The names that `wanted` may stand for, most likely first.
pub(in crate::engine) fn names_for(wanted: &str) -> Vec<String> {
    let wanted = wanted.strip_prefix("docker://").unwrap_or(wanted);
    let mut names = vec![wanted.to_owned()];
    if !has_registry(wanted) {
        names.extend(full_name(wanted));
    }
    if let Ok(reference) = wanted.parse::<Reference>() {
        names.push(reference.whole());
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_local_ones_first() {
        assert_eq!(
            names_for("busybox"),
            [
                "busybox",
                "localhost/busybox:latest",
                "docker.io/library/busybox:latest"
            ]
        );
        assert_eq!(
            names_for("quay.io/a/b:1"),
            ["quay.io/a/b:1", "quay.io/a/b:1"]
        );
        assert_eq!(full_name("a/b:2").unwrap(), "localhost/a/b:2");
        assert_eq!(full_name("h:1/b").unwrap(), "h:1/b:latest");
        assert!(full_name("A B").is_err());
    }
}
