//! The errors of building and driving a machine.

use std::io;
use std::time::Duration;

/// An error of a machine.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// An ioctl of KVM failed.
    #[error("{call}: {source}")]
    Kvm {
        /// The ioctl, with its name in the documentation of KVM.
        call: &'static str,
        /// KVM's error.
        source: io::Error,
    },
    /// `/dev/kvm` is too old, or another device.
    #[error("/dev/kvm has API version {0}: expected version 12")]
    ApiVersion(i32),
    /// KVM lacks a required feature.
    #[error("KVM on this host lacks {0}: use a newer kernel, or hypervisor = \"qemu\"")]
    Missing(String),
    /// An MSR that every x86-64 CPU has was refused.
    #[error("KVM refuses to set MSR {0:#x}")]
    Msr(u32),
    /// There are more CPUID entries than KVM supports.
    #[error("too many CPUID entries: {0}")]
    Cpuid(usize),
    /// Too many or too few vCPUs.
    #[error("invalid number of vCPUs {given} (at most {max}): expected 1 to {limit}")]
    Vcpus {
        /// vCPUs at boot.
        given: u32,
        /// The most vCPUs.
        max: u32,
        /// The limit of KVM and the tables.
        limit: u32,
    },
    /// Guest memory cannot be made or written.
    #[error("cannot {what} guest memory: {reason}")]
    Memory {
        /// The failed action.
        what: &'static str,
        /// The reason.
        reason: String,
    },
    /// The size of memory does not fit.
    #[error("{mib} MiB of memory: {why}")]
    MemorySize {
        /// The requested size.
        mib: u32,
        /// The problem with it.
        why: &'static str,
    },
    /// The kernel cannot be loaded.
    #[error("cannot load the kernel: {reason}")]
    Kernel {
        /// The reason.
        reason: String,
    },
    /// The initrd cannot be loaded.
    #[error("cannot load the initrd: {reason}")]
    Initrd {
        /// The reason.
        reason: String,
    },
    /// The command line is too long or broken.
    #[error(
        "invalid kernel command line of {0} bytes: expected at most 2047 bytes, none of them zero"
    )]
    Cmdline(usize),
    /// All slots for devices are taken.
    #[error("all {0} device slots are in use")]
    NoSlot(usize),
    /// The slot is empty.
    #[error("device slot {0} is empty")]
    EmptySlot(usize),
    /// A device cannot be connected.
    #[error("cannot connect a {kind} device: {source}")]
    Device {
        /// Its kind.
        kind: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a vCPU thread: {0}")]
    Thread(#[source] io::Error),
    /// An event descriptor cannot be made.
    #[error("cannot create an event descriptor: {0}")]
    Event(#[source] io::Error),
    /// A vCPU did not leave the guest.
    #[error("a vCPU did not stop within {0:?}")]
    Stuck(Duration),
}

impl MachineError {
    /// The error of an ioctl, for `map_err`.
    pub(super) fn kvm(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> MachineError {
        move |err| MachineError::Kvm {
            call,
            source: io::Error::from_raw_os_error(err.errno()),
        }
    }
}
