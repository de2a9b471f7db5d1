//! The paths of a pod's files (see "State and locks" in `docs/architecture.md`).
//!
//! ```text
//! <root>/<namespace>/<pod>/  lock owner config.json state.json
//!                            containers/<id>/{config.json,state.json}
//!                            shared/<id>/{rootfs,mounts/<n>} shared/.sources/<source>
//! <root>/.vm/<hash>/         console log; the VMM sees sockets/
//! ```
//!
//! The VM's directory is separate and named by a hash: namespaces of 76 and ids of 64
//! characters would not fit the 108 bytes of a Unix socket's path. containerd's namespaces do
//! not start with a dot.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::state_dir::id::check_id;
use crate::state_dir::lock::Guarded;

/// The paths of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPaths {
    root: PathBuf,
    namespace: String,
    pod: String,
}

impl RunPaths {
    /// The directory of a pod below the state directory `root`.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if a name is not a plain identifier.
    pub fn new(root: &Path, namespace: &str, pod: &str) -> Result<Self> {
        check_id("namespace", namespace)?;
        check_id("pod id", pod)?;
        Ok(Self {
            root: root.to_owned(),
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
        })
    }

    /// The namespace's directory.
    pub fn namespace_dir(&self) -> PathBuf {
        self.root.join(&self.namespace)
    }

    /// The pod's directory.
    pub fn path(&self) -> PathBuf {
        self.namespace_dir().join(&self.pod)
    }

    /// The pod's configuration, written once.
    pub fn config(&self) -> PathBuf {
        self.path().join("config.json")
    }

    /// The pod's state.
    pub fn state(&self) -> PathBuf {
        self.path().join("state.json")
    }

    /// The directory of all containers.
    pub fn containers(&self) -> PathBuf {
        self.path().join("containers")
    }

    /// The directory of one container.
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// The tree that is exported to the guest.
    pub fn shared(&self) -> PathBuf {
        self.path().join("shared")
    }

    /// The VM's sockets and logs.
    pub fn vm(&self) -> PathBuf {
        let mut hash = Sha256::new();
        hash.update(&self.namespace);
        hash.update([0]);
        hash.update(&self.pod);
        let name = hex::encode(&hash.finalize()[..8]);
        self.root.join(".vm").join(name)
    }

    /// The socket on which the owner serves `management.proto`, for pods outside the engine.
    /// The VMM does not see this directory.
    pub fn management(&self) -> PathBuf {
        self.vm().join("manage")
    }

    /// The directory of the vsock sockets alone: the VMM sees this directory.
    pub fn sockets(&self) -> PathBuf {
        self.vm().join("sockets")
    }

    /// The host end of vsock; port P is at this path plus `_P`.
    pub fn vsock(&self) -> PathBuf {
        self.sockets().join("vsock")
    }
}

impl Guarded for RunPaths {
    fn pod(&self) -> &str {
        &self.pod
    }

    fn dir(&self) -> PathBuf {
        self.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_names_leave_room_for_a_socket() {
        let dir = RunPaths::new(
            Path::new("/run/rust-kata"),
            &"n".repeat(76),
            &"p".repeat(64),
        )
        .unwrap();
        let socket = format!("{}_1024", dir.vsock().display());
        assert!(socket.len() < 70, "{socket}");
    }

    #[test]
    fn each_file_of_a_pod_has_a_place_of_its_own() {
        let dir = RunPaths::new(Path::new("/r"), "ns", "p").unwrap();
        let vm = dir.vm();
        assert_eq!(vm.parent(), Some(Path::new("/r/.vm")));
        assert_eq!(vm.file_name().unwrap().len(), 16, "64 bits of the hash");
        for (path, expected) in [
            (dir.namespace_dir(), PathBuf::from("/r/ns")),
            (dir.path(), "/r/ns/p".into()),
            (dir.dir(), "/r/ns/p".into()),
            (dir.config(), "/r/ns/p/config.json".into()),
            (dir.state(), "/r/ns/p/state.json".into()),
            (dir.containers(), "/r/ns/p/containers".into()),
            (dir.container("c"), "/r/ns/p/containers/c".into()),
            (dir.shared(), "/r/ns/p/shared".into()),
            (Guarded::lock(&dir), "/r/ns/p/lock".into()),
            (dir.owner(), "/r/ns/p/owner".into()),
            (dir.management(), vm.join("manage")),
            (dir.sockets(), vm.join("sockets")),
            (dir.vsock(), vm.join("sockets/vsock")),
        ] {
            assert_eq!(path, expected);
        }
        assert_eq!(dir.pod(), "p");
    }

    #[test]
    fn the_vms_directory_is_of_one_pod() {
        let vm = |namespace: &str, pod: &str| {
            RunPaths::new(Path::new("/r"), namespace, pod).unwrap().vm()
        };
        assert_eq!(vm("a", "b"), vm("a", "b"));
        for other in [
            vm("a", "c"),
            vm("b", "b"),
            vm("ab", "b"),
            vm("a", "bb"),
            vm("b", "a"),
        ] {
            assert_ne!(vm("a", "b"), other);
        }
        for (namespace, pod) in [
            ("..", "p"),
            ("ns", ".."),
            ("a/b", "p"),
            ("ns", "a/b"),
            ("", "p"),
        ] {
            assert!(RunPaths::new(Path::new("/r"), namespace, pod).is_err());
        }
    }
}
