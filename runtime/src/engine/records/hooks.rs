//! Programs of the host that run at a pod's start and stop.

use serde::{Deserialize, Serialize};

use oci_spec::runtime::Hook;

/// The hooks of a pod: OCI hooks, with the pod's state on stdin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PodHooks {
    /// Run when the VM is up, before the first container starts. If one fails, the start of the
    /// pod fails.
    pub post_start: Vec<Hook>,
    /// Run when the VM has ended. A failure is only logged.
    pub post_stop: Vec<Hook>,
}
