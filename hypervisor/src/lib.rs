//! Virtual machines for rust-kata: their description, choice, start and end, and their virtio
//! devices.
//!
//! With KVM, one process runs the vCPUs and serves the devices:
//!
//! ```text
//!  owner ── control socket, fds by SCM_RIGHTS ──▶ rust-kata-vmm: machine, devices ══ guest
//! ```
//!
//! Without KVM, or on request, QEMU runs the vCPUs, and `rust-kata-vmm` serves vsock and
//! virtio-fs:
//!
//! ```text
//!  owner ── control socket, fds by SCM_RIGHTS ──▶ rust-kata-vmm: vsock, virtio-fs
//!    │                                                ║ vhost-user
//!    └────── QMP over an inherited socket ──────▶ qemu-system-x86_64 ══ guest
//! ```
//!
//! The owner's side is [`VmSpec`] → [`VmSpec::validate`] → [`select()`] → [`Vmm::create`] →
//! [`Vm::boot`]. The device side ([`virtio`], [`transport`]) does not depend on the owner: a
//! device implements [`virtio::Device`], and a transport drives it.

#![deny(missing_docs)]

pub mod control;
mod error;
pub mod event;
mod fixed;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub mod jail;
mod kvm;
pub mod machine;
mod probe;
mod process;
mod qemu;
mod select;
pub mod spec;
mod sync;
pub mod text;
pub mod transport;
pub mod virtio;
mod vm;
mod vm_process;

pub use error::{Error, LayoutError};
pub use fixed::open_read_only;
pub use process::{
    KillRecordedError, ThreadState, Usage, kill_recorded, spawn, start_time, threads, usage,
};
pub use qemu::{FIRMWARE, Installed};
pub use select::{choice, select};
pub use spec::{HypervisorKind, Share, SpecError, ValidSpec, VmSpec};
pub use vm::{Choice, Extra, Vm, Vmm};
pub use vm_process::{ExitStatus, Role, VmExit, VmProcess};
