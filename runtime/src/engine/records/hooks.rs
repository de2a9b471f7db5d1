//! Programs on the host that are told of a pod's start and stop.

use serde::{Deserialize, Serialize};

use oci_spec::runtime::Hook;

/// The hooks of a pod: OCI hooks, with the pod's state on stdin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PodHooks {
    /// Run when the VM is up, before the first container is. A failure is the
    /// pod's.
    pub post_start: Vec<Hook>,
    /// Run when the VM is gone. A failure is a line in the log.
    pub post_stop: Vec<Hook>,
}
