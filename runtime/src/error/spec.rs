//! Errors of OCI specs, and of their hooks.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// The reason why a container's OCI spec is not supported. All are faults of the spec.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The bundle's `config.json` cannot be read.
    #[error("{}: cannot read the bundle's OCI spec: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// `config.json` is not an OCI spec.
    #[error("{}: not a valid OCI spec: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// A field that each container needs is missing or empty.
    #[error("{}: {field} is missing or empty", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// `process`, `process.args`, `root`.
        field: &'static str,
    },
    /// The working directory is relative.
    #[error("{}: invalid process.cwd {cwd:?}: expected an absolute path", path.display())]
    RelativeCwd {
        /// The file.
        path: PathBuf,
        /// The directory.
        cwd: PathBuf,
    },
    /// A bind mount does not have a source.
    #[error("the bind mount on {} has no source", destination.display())]
    NoSource {
        /// The mount's path in the container.
        destination: PathBuf,
    },
    /// A mount, or the root, asks for propagation to the host.
    #[error(
        "{what}: {propagation} (Bidirectional in Kubernetes) is not supported: mounts made in a virtual machine do not reach the host; \
         use rslave (HostToContainer) or rprivate (None)"
    )]
    SharedPropagation {
        /// "mount on /data", "linux.rootfsPropagation".
        what: String,
        /// `shared` or `rshared`.
        propagation: String,
    },
    /// The container asks for a namespace of the host.
    #[error(
        "linux.namespaces {}: the container would share the host's {namespace} namespace ({asked_by}), \
         which is not possible in a virtual machine; leave that out, or use another runtime for this container",
        match path {
            Some(path) => format!("leads by {} to the host's {namespace}", path.display()),
            None => format!("has no entry of type {namespace}"),
        }
    )]
    HostNamespace {
        /// Its word in `linux.namespaces`.
        namespace: &'static str,
        /// The options of Kubernetes, Docker and ctr for it.
        asked_by: &'static str,
        /// The path of the namespace in the spec; `None` if its entry is missing.
        path: Option<PathBuf>,
    },
    /// The container asks to join a namespace that the VM cannot replace.
    #[error(
        "linux.namespaces: a container in a VM cannot join the host's {namespace} namespace {}",
        path.display()
    )]
    JoinsNamespace {
        /// Its type.
        namespace: oci_spec::runtime::LinuxNamespaceType,
        /// Its path on the host.
        path: PathBuf,
    },
    /// The container asks to join a namespace of a sandbox that does not run.
    #[error(
        "linux.namespaces: container {container} is to share the {namespace} namespace, but its pod has no running sandbox"
    )]
    NoSandbox {
        /// The container.
        container: String,
        /// `pid` or `user`.
        namespace: &'static str,
    },
}

/// The reason why a hook failed.
#[derive(Debug, thiserror::Error)]
#[error("hook {}: {failure}", path.display())]
pub struct HookError {
    /// The program.
    pub path: PathBuf,
    /// The failure.
    pub failure: HookFailure,
}

/// The failure of a hook.
#[derive(Debug, thiserror::Error)]
pub enum HookFailure {
    /// It was not started, or could not be waited for.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It exited with a failure.
    #[error("{status}{}{stderr}", if stderr.is_empty() { "" } else { ": " })]
    Status {
        /// Its exit status.
        status: ExitStatus,
        /// The end of its stderr.
        stderr: String,
    },
    /// It ran for too long, and was killed.
    #[error("not done after {seconds} s")]
    Timeout {
        /// The limit.
        seconds: u64,
    },
}
