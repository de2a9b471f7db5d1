//! The end of a guest's run, reported by the first thread that notices it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::event::EventFd;

/// The end of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "exit", rename_all = "snake_case", deny_unknown_fields)]
pub enum GuestExit {
    /// It switched the machine off.
    PowerOff,
    /// It reset the machine, which a panicking kernel does too.
    Reset,
    /// A vCPU met a fault that it could not handle: the kernel has no tables, or resets in this
    /// way on purpose (`reboot=t`).
    TripleFault,
    /// KVM could not continue to run a vCPU.
    Failed {
        /// The vCPU.
        vcpu: u32,
        /// KVM's error.
        reason: String,
    },
}

impl fmt::Display for GuestExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GuestExit::PowerOff => f.write_str("the guest powered off"),
            GuestExit::Reset => f.write_str("the guest reset the machine"),
            GuestExit::TripleFault => f.write_str("the guest caused a triple fault"),
            GuestExit::Failed { vcpu, reason } => write!(f, "vCPU {vcpu} failed: {reason}"),
        }
    }
}

/// Holds the first reported end, and wakes its waiters.
#[derive(Clone)]
pub struct Ending {
    shared: Arc<(OnceLock<GuestExit>, EventFd)>,
}

impl Ending {
    /// A reporter without a report.
    pub fn new() -> io::Result<Ending> {
        let event = EventFd::new()?;
        Ok(Ending {
            shared: Arc::new((OnceLock::new(), event)),
        })
    }

    /// Reports the end of the guest. Later reports are ignored, since they are not the cause.
    pub fn report(&self, exit: GuestExit) {
        if self.shared.0.set(exit).is_ok() {
            let _ = self.shared.1.write(1);
        }
    }

    /// The reported end, if any.
    pub fn taken(&self) -> Option<GuestExit> {
        self.shared.0.get().cloned()
    }
}

impl AsFd for Ending {
    /// Readable once the guest has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.1.as_fd()
    }
}
