//! The host processes of a VM, as records on disk and reports of their end name them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a process does for its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// `rust-kata-vmm`: serves the virtio devices.
    Vmm,
    /// `qemu-system-x86_64`: runs the vCPUs.
    Qemu,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Vmm => "rust-kata-vmm",
            Role::Qemu => "QEMU",
        })
    }
}

/// A host process of a VM. The start time makes the identity safe against reuse of
/// the process id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmProcess {
    /// What it does.
    pub role: Role,
    /// Its process id.
    pub pid: u32,
    /// When it was started, in clock ticks after boot (proc(5), `/proc/PID/stat`
    /// field 22).
    pub start_time: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// Another process reaped it.
    Unknown,
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(f, "exit code {code}"),
            ExitStatus::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(name) => write!(f, "signal {name}"),
                Err(_) => write!(f, "signal {signal}"),
            },
            ExitStatus::Unknown => f.write_str("unknown status"),
        }
    }
}

/// The end of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmExit {
    /// The process that ended first.
    pub process: Role,
    /// How it ended.
    pub status: ExitStatus,
    /// The cause as text, as far as it is known.
    pub reason: String,
}

impl fmt::Display for VmExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ended with {}", self.process, self.status)?;
        if !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        Ok(())
    }
}
