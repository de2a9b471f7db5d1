//! Errors of pods' owners, the processes that run their VMs.

use super::ErrorKind;

/// The problem with the owner of a pod.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// It holds its lock, but does not serve.
    #[error("the owner of pod {pod} is alive but does not answer: `pod rm --force` ends it")]
    NoAnswer {
        /// The pod.
        pod: String,
    },
    /// The owner or another process was stopped while it changed the pod's files.
    #[error(
        "the files of pod {pod} are being changed by process {pid}, which is stopped: \
         continue it, or end it; `pod rm --force` ends the pod's owner"
    )]
    Stopped {
        /// The pod.
        pod: String,
        /// The process that holds the pod's lock.
        pid: u32,
    },
    /// The process that was to become the owner ended without an error's text.
    #[error("the owner of pod {pod} exited: {status}")]
    Exited {
        /// The pod.
        pod: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// Each owner that was started ended before it answered.
    #[error("the owner of pod {pod} keeps exiting")]
    KeepsExiting {
        /// The pod.
        pod: String,
    },
    /// The shim of a pod of containerd has ended, or does not serve `rust-kata`.
    #[error(
        "the shim of pod {pod:?} of {manager} does not answer: it has ended, or is of an older version"
    )]
    NoShim {
        /// The pod.
        pod: String,
        /// The manager of the pod, such as containerd.
        manager: String,
    },
    /// It started before an upgrade, and does not have a call.
    #[error(
        "the pod's owner is of an earlier build, which does not know {method}: stop the pod and start it again for that"
    )]
    EarlierBuild {
        /// The call.
        method: String,
    },
    /// Its answer does not have the requested form.
    #[error("cannot read the owner's answer: {0}")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl OwnerError {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoAnswer { .. } | Self::Stopped { .. } | Self::NoShim { .. } => {
                ErrorKind::Unavailable
            }
            Self::EarlierBuild { .. } => ErrorKind::Unimplemented,
            Self::Exited { .. } | Self::KeepsExiting { .. } | Self::Answer(_) => {
                ErrorKind::Internal
            }
        }
    }
}
