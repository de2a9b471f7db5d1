//! The paths of the engine's files, which outlive VMs, crashes and reboots.
//!
//! ```text
//! <data_root>/pods/<namespace>/<pod>/  lock owner config.json state.json
//!     containers/<name>/               config.json state.json
//!                                      bundle/               of the last start
//!                                      upper/ work/ rootfs/  of an image's container
//!                                      log log.1             its output
//!                                      artifacts/
//! <data_root>/images/  volumes/  events/
//! ```
//!
//! Pods and containers are created and removed atomically (`state_dir/staging.rs`): they are
//! created as `.new-…` and removed as `.gone-…`, in `<data_root>` and in the pod's directory.

use std::path::{Path, PathBuf};

use crate::engine::journal::Journal;
use crate::error::Result;
use crate::state_dir::id::check_id;
use crate::state_dir::lock::Guarded;

/// The paths of one pod of the engine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DataPaths {
    data_root: PathBuf,
    namespace: String,
    name: String,
    path: PathBuf,
}

impl DataPaths {
    /// The paths of a pod.
    ///
    /// # Errors
    /// [`crate::Error::InvalidValue`] if a name is not a plain identifier.
    pub fn new(data_root: &Path, namespace: &str, name: &str) -> Result<Self> {
        check_id("namespace", namespace)?;
        check_id("pod name", name)?;
        Ok(Self {
            data_root: data_root.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            path: pods(data_root).join(namespace).join(name),
        })
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pod's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory in which the pod's directory is created and removed.
    pub(crate) fn staging_dir(&self) -> &Path {
        &self.data_root
    }

    /// The journal of the pod's events.
    pub fn journal(&self) -> Journal {
        Journal::of(&self.data_root)
    }

    /// The pod's definition.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.json")
    }

    /// The pod's state.
    pub fn state(&self) -> PathBuf {
        self.path.join("state.json")
    }

    /// The directory of all containers.
    pub fn containers(&self) -> PathBuf {
        self.path.join("containers")
    }

    /// The paths of one container.
    ///
    /// # Errors
    /// [`crate::Error::InvalidValue`] if the name is not a plain identifier.
    pub fn container(&self, name: &str) -> Result<ContainerPaths> {
        check_id("container name", name)?;
        Ok(ContainerPaths(self.containers().join(name)))
    }
}

impl Guarded for DataPaths {
    fn pod(&self) -> &str {
        &self.name
    }

    fn dir(&self) -> PathBuf {
        self.path.clone()
    }
}

/// The directory of all namespaces.
pub fn pods(data_root: &Path) -> PathBuf {
    data_root.join("pods")
}

/// The paths of one container of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPaths(PathBuf);

impl ContainerPaths {
    /// The container's directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The container's definition.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.json")
    }

    /// The container's state.
    pub fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// The OCI bundle of its last start.
    pub fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }

    /// The files that it changed in its image: overlayfs's upper directory.
    pub fn upper(&self) -> PathBuf {
        self.0.join("upper")
    }

    /// Overlayfs's work directory.
    pub fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    /// The mount point of its root file system for `mount`.
    pub fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }

    /// Locked, shared, by every process that copies from or to its root file system.
    pub fn lease_lock(&self) -> PathBuf {
        self.0.join("visitors")
    }

    /// Its output; the older half is in `log.1`.
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Both halves of its output.
    pub(crate) fn logs(&self) -> [PathBuf; 2] {
        [self.log(), self.0.join("log.1")]
    }

    /// Files that a user keeps with it.
    pub fn artifacts(&self) -> PathBuf {
        self.0.join("artifacts")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    /// The layout on disk: pods of earlier builds are found in it.
    #[test]
    fn each_file_of_a_pod_has_its_place() {
        let pod = DataPaths::new(Path::new("/data"), "local", "web").unwrap();
        assert_eq!((pod.namespace(), pod.name()), ("local", "web"));
        assert_eq!(Guarded::pod(&pod), "web");
        assert_eq!(pod.staging_dir(), Path::new("/data"));
        assert_eq!(pod.path(), pods(Path::new("/data")).join("local/web"));
        assert_eq!(pod.journal(), Journal::of(Path::new("/data")));
        let web = Path::new("/data/pods/local/web");
        for (path, expected) in [
            (pod.path().to_owned(), ""),
            (pod.dir(), ""),
            (pod.lock(), "lock"),
            (pod.owner(), "owner"),
            (pod.config(), "config.json"),
            (pod.state(), "state.json"),
            (pod.containers(), "containers"),
        ] {
            assert_eq!(path, web.join(expected));
        }
        let container = pod.container("db").unwrap();
        let db = web.join("containers/db");
        for (path, expected) in [
            (container.path().to_owned(), ""),
            (container.config(), "config.json"),
            (container.state(), "state.json"),
            (container.bundle(), "bundle"),
            (container.upper(), "upper"),
            (container.work(), "work"),
            (container.rootfs(), "rootfs"),
            (container.lease_lock(), "visitors"),
            (container.log(), "log"),
            (container.artifacts(), "artifacts"),
        ] {
            assert_eq!(path, db.join(expected));
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        let refused = |result: Result<PathBuf>, what: &str| match result {
            Err(Error::InvalidValue { field, .. }) => assert_eq!(field, what),
            other => panic!("{other:?}"),
        };
        let of = |namespace: &str, name: &str| {
            let paths = DataPaths::new(Path::new("/data"), namespace, name);
            paths.map(|paths| paths.path().to_owned())
        };
        refused(of("..", "web"), "namespace");
        refused(of("local", "a/b"), "pod name");
        let pod = DataPaths::new(Path::new("/data"), "local", "web").unwrap();
        let container = pod.container("../db");
        refused(
            container.map(|paths| paths.path().to_owned()),
            "container name",
        );
    }
}
