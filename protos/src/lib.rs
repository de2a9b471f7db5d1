//! The messages between host and guest, and the constants that both sides use. The message
//! types are generated from `src/proto/*.proto`.
#![deny(missing_docs)]

/// `agent.proto`: the host's calls to the agent in the guest.
#[allow(warnings, missing_docs, clippy::all)]
#[rustfmt::skip]
pub mod agent {
    include!(concat!(env!("OUT_DIR"), "/agent.rs"));
}

/// The ttrpc client and server of `agent.proto`.
#[allow(warnings, missing_docs, clippy::all)]
#[rustfmt::skip]
pub mod agent_ttrpc {
    use super::agent;
    include!(concat!(env!("OUT_DIR"), "/agent_ttrpc.rs"));
}

/// `management.proto`: calls to the owner of a pod.
#[allow(warnings, missing_docs, clippy::all)]
#[rustfmt::skip]
pub mod management {
    include!(concat!(env!("OUT_DIR"), "/management.rs"));
}

/// The ttrpc client and server of `management.proto`.
#[allow(warnings, missing_docs, clippy::all)]
#[rustfmt::skip]
pub mod management_ttrpc {
    use super::management;
    include!(concat!(env!("OUT_DIR"), "/management_ttrpc.rs"));
}

/// Vsock port of the host on which the agent's one ttrpc connection arrives.
pub const AGENT_PORT: u32 = 1024;

/// Vsock port of the guest on which the agent accepts stdio streams. The host opens each with
/// an 8-byte little-endian token (see `Stdio` in `agent.proto`).
pub const STDIO_PORT: u32 = 1025;

/// How long, in seconds, each side may take for its part in opening a stream.
pub const STREAM_DEADLINE: u64 = 10;

/// The largest number of descriptors of a process beside stdin, stdout and stderr, each a
/// stream of its own (see `Descriptor` in `agent.proto`).
pub const MAX_DESCRIPTORS: usize = 64;

/// The lowest number of such a descriptor.
pub const FIRST_DESCRIPTOR: u32 = 3;

/// The highest number of such a descriptor: a shell's usual limit allows it.
pub const HIGHEST_DESCRIPTOR: u32 = 1023;

/// The longest text of an agent's error, in bytes; the host cuts it there, too.
pub const MAX_ERROR: usize = 4096;

/// The longest answer to `ListProcesses`, in bytes; commands are cut to fit.
pub const MAX_PROCESS_LIST: usize = 512 << 10;

/// `type_url` of the `Status.details` entry of an agent's INVALID_ARGUMENT error for a command
/// that cannot be run. Its value is one byte, a shell's exit code for that:
/// [`COMMAND_NOT_FOUND`] or [`COMMAND_NOT_EXECUTABLE`].
pub const COMMAND_FAILURE: &str = "rust-kata/command-failure";

/// A shell's exit code for a command that does not exist (POSIX, sh, 2.8.2).
pub const COMMAND_NOT_FOUND: u8 = 127;

/// A shell's exit code for a command that cannot be executed (POSIX, sh, 2.8.2).
pub const COMMAND_NOT_EXECUTABLE: u8 = 126;

/// The virtio-fs tag of the pod's share tree.
pub const SHARE_TAG: &str = "rust-kata";

/// The guest's mount point of the share tree.
pub const GUEST_SHARE: &str = "/run/rust-kata/shared";

/// The guest's directory of mounts for `/dev/shm` of the pod.
pub const GUEST_SHM: &str = "/run/rust-kata/shm";

/// The agent's directory of the pod's namespaces (`ipc`, `uts`), which containers join by path.
pub const GUEST_NAMESPACES: &str = "/run/rust-kata/ns";

/// The word of the kernel command line for the agent's boot mark: its value is a hexadecimal
/// I/O port, as in `rust_kata_boot_mark=3f0`. The name has no dot, so that the kernel passes it
/// to the agent in its environment, before anything is mounted.
pub const BOOT_MARK_WORD: &str = "rust_kata_boot_mark";

/// The I/O port on which rust-kata-vmm waits for the boot mark (as in Firecracker).
pub const BOOT_MARK_PORT: u16 = 0x3f0;

/// The byte that is the boot mark (as in Firecracker).
pub const BOOT_MARK_VALUE: u8 = 123;

/// The word of the kernel command line that makes the agent end the VM by an ACPI power-off
/// instead of a reset. Only for machines that can power off.
pub const POWER_OFF_WORD: &str = "rust_kata.poweroff=1";
