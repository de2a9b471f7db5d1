//! Artifacts: files that a user keeps with a container. The container does not see them. They
//! are removed with it.
//!
//! The path is `containers/<name>/artifacts/<artifact>/data`: the directory is added and
//! removed as a whole.

use std::fs::{self, File};
use std::io::{self, Read};

use crate::engine::handle::PodHandle;
use crate::engine::records;
use crate::error::{Context, Error, Result};
use crate::state_dir::id::check_id;
use crate::state_dir::staging;
use crate::state_dir::sync_dir;

const DATA: &str = "data";

impl PodHandle {
    /// Stores `content` as an artifact of a container.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::NotFound`] for an unknown container;
    /// [`Error::InvalidValue`] for an invalid name.
    pub fn add_artifact(
        &self,
        container: &str,
        artifact: &str,
        content: &mut dyn Read,
    ) -> Result<()> {
        check_id("artifact name", artifact)?;
        let dir = self.artifacts(container)?;
        crate::state_dir::private::make(&dir)?;
        staging::sweep(&dir);
        let placed = staging::place(&dir.join(artifact), &dir, |place| {
            let path = place.join(DATA);
            let mut file = File::create_new(&path).on("create", &path)?;
            io::copy(content, &mut file).on("write", &path)?;
            file.sync_all().on("sync", &path)?;
            sync_dir(place)
        });
        placed.map_err(|e| staging::taken(e, "artifact", artifact))
    }

    /// Opens an artifact of a container for reading.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn artifact(&self, container: &str, artifact: &str) -> Result<File> {
        check_id("artifact name", artifact)?;
        let path = self.artifacts(container)?.join(artifact).join(DATA);
        match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::not_found("artifact", artifact))
            }
            file => file.on("open", &path),
        }
    }

    /// The names of a container's artifacts and their sizes in bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown container.
    pub fn artifact_names(&self, container: &str) -> Result<Vec<(String, u64)>> {
        let dir = self.artifacts(container)?;
        let names = records::names_in(&dir)?.into_iter();
        let sized = names.filter_map(|name| {
            // The artifact was removed meanwhile.
            let data = fs::metadata(dir.join(&name).join(DATA)).ok()?;
            Some((name, data.len()))
        });
        Ok(sized.collect())
    }

    /// Removes an artifact of a container.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn remove_artifact(&self, container: &str, artifact: &str) -> Result<()> {
        self.artifact(container, artifact)?;
        let dir = self.artifacts(container)?;
        staging::remove(&dir.join(artifact), &dir)
    }

    fn artifacts(&self, container: &str) -> Result<std::path::PathBuf> {
        self.view()?.container(container)?;
        Ok(self.paths.container(container)?.artifacts())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::engine::Engine;
    use crate::engine::records::definition::{ContainerDefinition, PodDefinition, Rootfs};

    #[tokio::test]
    async fn artifacts_are_kept_whole_and_removed_by_name() {
        let root = tempfile::tempdir().unwrap();
        let engine = Engine::below(root.path());
        let pod = engine.create_pod(PodDefinition::new("local", "web"));
        let pod = pod.unwrap();
        let rootfs = Rootfs::Directory("/".into());
        let definition = ContainerDefinition::new("c", rootfs, Default::default());
        pod.create_container(&definition).await.unwrap();
        assert!(pod.artifact_names("c").unwrap().is_empty());
        let add = |name: &str, text: &str| pod.add_artifact("c", name, &mut text.as_bytes());
        add("b", "three").unwrap();
        add("a", "").unwrap();
        let sizes = [("a".to_owned(), 0), ("b".to_owned(), 5)];
        assert_eq!(pod.artifact_names("c").unwrap(), sizes);
        let read = |name: &str| io::read_to_string(pod.artifact("c", name)?).on("read", name);
        assert_eq!(read("b").unwrap(), "three");
        match add("b", "other").unwrap_err() {
            Error::AlreadyExists {
                what: "artifact",
                id,
            } => assert_eq!(id, "b"),
            other => panic!("{other:?}"),
        }
        assert_eq!(read("b").unwrap(), "three");
        pod.remove_artifact("c", "b").unwrap();
        assert_eq!(pod.artifact_names("c").unwrap(), sizes[..1]);
        for missing in [
            read("b").unwrap_err(),
            pod.remove_artifact("c", "b").unwrap_err(),
        ] {
            assert!(
                matches!(&missing, Error::NotFound { what: "artifact", id } if id == "b"),
                "{missing:?}"
            );
        }
        for bad in [add("../x", "").unwrap_err(), read("../x").unwrap_err()] {
            assert!(matches!(bad, Error::InvalidValue { .. }), "{bad:?}");
        }
        for missing in [
            pod.artifact_names("none").unwrap_err(),
            pod.add_artifact("none", "a", &mut io::empty()).unwrap_err(),
        ] {
            assert!(matches!(
                missing,
                Error::NotFound {
                    what: "container",
                    ..
                }
            ));
        }
    }
}
