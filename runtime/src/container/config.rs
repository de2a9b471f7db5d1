//! What a container is asked to be.

use std::path::PathBuf;

use crate::host::mount::Mount;
use crate::stdio::ProcessIo;

/// What a container is asked to be.
#[derive(Debug)]
pub struct ContainerConfig {
    /// Its id.
    pub id: String,
    /// Its OCI bundle, with `config.json`.
    pub bundle: PathBuf,
    /// The mounts that make its rootfs; empty: `root.path` of the spec.
    pub rootfs: Vec<Mount>,
    /// Its init's streams.
    pub io: ProcessIo,
    /// It is the pod's sandbox, or alone in its pod.
    pub sandbox: bool,
}
