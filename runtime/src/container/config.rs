//! The request for a container.

use std::path::PathBuf;

use oci_spec::runtime::Spec;

use crate::host::mount::Mount;
use crate::stdio::ProcessIo;

/// The request for a container.
#[derive(Debug)]
pub struct ContainerConfig {
    /// Its id.
    pub id: String,
    /// Its OCI spec, as of [`load_spec`](crate::load_spec): `config.json` is not read again.
    pub spec: Spec,
    /// Its OCI bundle: relative paths of the spec begin in it, and hooks run in it.
    pub bundle: PathBuf,
    /// The mounts that make its rootfs; empty: `root.path` of the spec.
    pub rootfs: Vec<Mount>,
    /// The streams of its init.
    pub io: ProcessIo,
    /// Whether it is the pod's sandbox, or alone in its pod.
    pub sandbox: bool,
}
