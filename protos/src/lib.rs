//! The messages between host and guest, and the constants both sides must
//! agree on. The message types are generated from `src/proto/*.proto`.
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

/// `management.proto`: what the owner of a pod does for other processes.
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

/// Vsock port of the guest on which the agent takes stdio streams, each opened by
/// the host with an 8-byte little-endian token (see `Stdio` in `agent.proto`).
pub const STDIO_PORT: u32 = 1025;

/// How long, in seconds, either side has for its part in the opening of a stream.
pub const STREAM_DEADLINE: u64 = 10;

/// The most descriptors that a process can have beside stdin, stdout and stderr,
/// each a stream of its own (see `Descriptor` in `agent.proto`).
pub const MAX_DESCRIPTORS: usize = 64;

/// The first of them.
pub const FIRST_DESCRIPTOR: u32 = 3;

/// The highest number that one can have: what a shell's usual limit allows.
pub const HIGHEST_DESCRIPTOR: u32 = 1023;

/// As much as the agent says of an error, in bytes; the host cuts it there, too.
pub const MAX_ERROR: usize = 4096;

/// The longest answer to `ListProcesses`, in bytes; commands are cut to fit.
pub const MAX_PROCESS_LIST: usize = 512 << 10;

/// `type_url` of the `Status.details` entry of an agent's INVALID_ARGUMENT that
/// means: the command cannot be run. Its value is one byte, the exit code that a
/// shell has for it: [`COMMAND_NOT_FOUND`] or [`COMMAND_NOT_EXECUTABLE`].
pub const COMMAND_FAILURE: &str = "rust-kata/command-failure";

/// A shell's exit code for a command that does not exist (POSIX, sh, 2.8.2).
pub const COMMAND_NOT_FOUND: u8 = 127;

/// A shell's exit code for a command that cannot be executed (POSIX, sh, 2.8.2).
pub const COMMAND_NOT_EXECUTABLE: u8 = 126;

/// The virtio-fs tag of the pod's share tree.
pub const SHARE_TAG: &str = "rust-kata";

/// Where the guest mounts the share tree.
pub const GUEST_SHARE: &str = "/run/rust-kata/shared";

/// Where the guest has what it mounts for `/dev/shm` of the pod.
pub const GUEST_SHM: &str = "/run/rust-kata/shm";

/// Where the agent keeps the pod's namespaces (`ipc`, `uts`) for containers
/// that are to join them by path.
pub const GUEST_NAMESPACES: &str = "/run/rust-kata/ns";

/// The word of the kernel command line whose value, a hexadecimal I/O port, is where
/// the agent leaves its boot mark: `rust_kata_boot_mark=3f0`. Without a dot, so that
/// the kernel hands it to the agent in its environment, before anything is mounted.
pub const BOOT_MARK_WORD: &str = "rust_kata_boot_mark";

/// The I/O port at which rust-kata-vmm listens for the boot mark (Firecracker's).
pub const BOOT_MARK_PORT: u16 = 0x3f0;

/// The byte that is the boot mark (Firecracker's).
pub const BOOT_MARK_VALUE: u8 = 123;

/// The word of the kernel command line that has the agent end the VM by an ACPI
/// power-off instead of a reset. For a machine that can power off, and no other.
pub const POWER_OFF_WORD: &str = "rust_kata.poweroff=1";
