//! What can go wrong with a virtual machine, as its owner sees it.

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

    /// The wanted hypervisor cannot be used.
    #[error("cannot use hypervisor {kind}: {reason}")]
    Unsupported {
        /// The hypervisor that was asked for.
        kind: HypervisorKind,
        /// Why not, and what to do about it.
        reason: String,
    },

    /// Kernel, initrd and firmware have no room beside each other in the guest's memory.
    #[error(transparent)]
    Layout(#[from] LayoutError),

    /// QEMU lacks the firmware that its VMs boot with.
    #[error(
        "QEMU has no firmware {name} ({reason}): install it, on Debian by apt install qemu-system-data"
    )]
    Firmware {
        /// The file's name in QEMU's data directories.
        name: &'static str,
        /// What QEMU said.
        reason: String,
    },

    /// A process of the VM could not be started.
    #[error("cannot start {role} ({path}): {source}")]
    Spawn {
        /// The process.
        role: Role,
        /// Its binary.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A file, socket or other resource of the VM could not be made or used.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The verb: what was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// `rust-kata-vmm` refused a request or could not be talked to.
    #[error("cannot control rust-kata-vmm: {0}")]
    Control(#[from] ControlError),

    /// QEMU refused a command or could not be talked to.
    #[error("QEMU command {command} failed: {reason}")]
    Qmp {
        /// The QMP command.
        command: &'static str,
        /// What QEMU answered.
        reason: String,
    },

    /// A step took too long: the process lives but does not answer.
    #[error("{what} did not finish within {limit:?}")]
    Timeout {
        /// The step.
        what: &'static str,
        /// The time it was given.
        limit: Duration,
    },

    /// A process of the VM ended while something was asked of it.
    #[error("the virtual machine ended: {0}")]
    Exited(VmExit),
}

/// Why a kernel and an initrd cannot lie in a VM's memory.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Kernel or initrd cannot be read.
    #[error("{what} {path}: {source}; run `make guest`")]
    Unreadable {
        /// Which of the two.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The kernel wants to lie where the firmware and its ACPI tables are.
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
        /// Where QEMU would put it.
        initrd_start: i64,
    },
}
