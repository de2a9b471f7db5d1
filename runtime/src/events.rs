//! The events of a pod's processes, in order. The shim converts them to containerd's events
//! (the `/tasks/*` topics).

use std::time::SystemTime;

use tokio::sync::mpsc;

/// How a process ended, on the host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Exit {
    /// The exit code, or 128 + the signal. With a lost VM it is [`Exit::KILLED`]. An unknown exit code is
    /// never 0.
    pub status: u32,
    /// The time at which the host learnt of it.
    pub at: SystemTime,
}

impl Exit {
    /// The status of a process that SIGKILL ended, and of one whose end nobody saw.
    pub const KILLED: u32 = 128 + libc::SIGKILL as u32;
}

/// One event of a pod. `exec` is `None` for the container's init.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PodEvent {
    /// A container's init waits to be started.
    Created { container: String, pid: u32 },
    /// A container's init was released.
    Started { container: String, pid: u32 },
    /// A further process was recorded.
    ExecAdded { container: String, exec: String },
    /// A further process runs.
    ExecStarted {
        container: String,
        exec: String,
        pid: u32,
    },
    /// A process ended, and its output has been handed over. Sent exactly once for each process
    /// that was created (init) or started (exec).
    Exited {
        container: String,
        exec: Option<String>,
        pid: u32,
        exit: Exit,
    },
    /// A stopped container was removed.
    Deleted {
        container: String,
        pid: u32,
        exit: Exit,
    },
    /// A container is frozen.
    Paused { container: String },
    /// A container was thawed.
    Resumed { container: String },
    /// The kernel of the guest killed a process of the container for memory.
    Oom { container: String },
}

impl PodEvent {
    /// The exec id, if the event is about one.
    pub fn exec(&self) -> Option<&str> {
        match self {
            Self::ExecAdded { exec, .. } | Self::ExecStarted { exec, .. } => Some(exec),
            Self::Exited { exec, .. } => exec.as_deref(),
            _ => None,
        }
    }
}

/// The sending end of a pod's events, in order. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Events(mpsc::UnboundedSender<PodEvent>);

impl Events {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<PodEvent>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Appends an event.
    pub(crate) fn emit(&self, event: PodEvent) {
        // The receiver is gone: the shim is ending.
        let _ = self.0.send(event);
    }
}
