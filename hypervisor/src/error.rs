//! The errors of virtual machines, for their owner.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::control::ControlError;
use crate::spec::{HypervisorKind, SpecError};
use crate::vm_process::{Role, VmExit};

/// An error of the hypervisor library.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The specification does not describe a VM that can be started here.
    #[error(transparent)]
    Spec(#[from] SpecError),

    /// The requested hypervisor cannot be used.
    #[error("cannot use hypervisor {kind}: {reason}")]
    Unsupported {
        /// The requested hypervisor.
        kind: HypervisorKind,
        /// The reason and the remedy.
        reason: String,
    },

    /// Kernel, initrd and firmware do not fit into the guest's memory together.
    #[error(transparent)]
    Layout(#[from] LayoutError),

    /// QEMU lacks the firmware that its VMs boot with.
    #[error(
        "QEMU has no firmware {name} ({reason}): install it, on Debian by apt install qemu-system-data"
    )]
    Firmware {
        /// The file's name in QEMU's data directories.
        name: &'static str,
        /// The text of QEMU's error.
        reason: String,
    },

    /// A process of the VM could not be started.
    #[error("cannot start {role} ({path}): {source}")]
    Spawn {
        /// The process.
        role: Role,
        /// Its binary.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },

    /// A file, socket or other resource of the VM could not be made or used.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The verb of the failed action.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },

    /// `rust-kata-vmm` refused a request, or the communication with it failed.
    #[error("cannot control rust-kata-vmm: {0}")]
    Control(#[from] ControlError),

    /// QEMU refused a command, or the communication with it failed.
    #[error("QEMU command {command} failed: {reason}")]
    Qmp {
        /// The QMP command.
        command: &'static str,
        /// QEMU's answer.
        reason: String,
    },

    /// A step took too long: the process lives but does not answer.
    #[error("{what} did not finish within {limit:?}")]
    Timeout {
        /// The step.
        what: &'static str,
        /// The deadline.
        limit: Duration,
    },

    /// A process of the VM ended during a request.
    #[error("the virtual machine ended: {0}")]
    Exited(VmExit),
}

/// The reason why a kernel and an initrd cannot be placed in a VM's memory.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Kernel or initrd cannot be read.
    #[error("{what} {path}: {source}; run `make guest`")]
    Unreadable {
        /// "kernel" or "initrd".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },

    /// The kernel's address range overlaps the firmware and its ACPI tables.
    #[error(
        "guest kernel {path} overlaps QEMU's firmware and the ACPI tables at {start:#x}: expected one that is linked at 1 MiB or above"
    )]
    Low {
        /// The kernel.
        path: PathBuf,
        /// Its lowest address.
        start: u64,
    },

    /// Kernel and initrd do not fit side by side.
    #[error(
        "guest memory of {memory_mib} MiB is too small: kernel {kernel} ends at {kernel_end:#x} and initrd {initrd} would begin at {initrd_start:#x}; raise memory_mib"
    )]
    Overlap {
        /// The VM's memory.
        memory_mib: u32,
        /// The kernel.
        kernel: PathBuf,
        /// The end of the kernel, its zeroed memory included.
        kernel_end: u64,
        /// The initrd.
        initrd: PathBuf,
        /// The address where QEMU would put it.
        initrd_start: i64,
    },
}
