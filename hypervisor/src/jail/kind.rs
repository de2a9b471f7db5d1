//! The kinds of threads, each with its own system calls and capabilities.

use std::fmt;

/// The work of a thread, which decides on its permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ThreadKind {
    /// The control channel.
    Main,
    /// Sets up a VM on KVM.
    Machine,
    /// Runs a virtual CPU.
    Vcpu,
    /// Answers a vhost-user front end.
    VhostUser,
    /// Serves the file system device.
    Fs,
    /// Serves the socket device.
    Vsock,
    /// Serves a block device.
    Block,
    /// Serves a network device.
    Net,
    /// Serves a device with few needs: entropy, balloon, memory.
    Simple,
    /// Starts all other threads.
    Spawner,
}

impl ThreadKind {
    /// All kinds.
    pub const ALL: [ThreadKind; 10] = [
        ThreadKind::Main,
        ThreadKind::Machine,
        ThreadKind::Vcpu,
        ThreadKind::VhostUser,
        ThreadKind::Fs,
        ThreadKind::Vsock,
        ThreadKind::Block,
        ThreadKind::Net,
        ThreadKind::Simple,
        ThreadKind::Spawner,
    ];
}

impl fmt::Display for ThreadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ThreadKind::Main => "main",
            ThreadKind::Machine => "machine",
            ThreadKind::Vcpu => "vcpu",
            ThreadKind::VhostUser => "vhost-user",
            ThreadKind::Fs => "fs",
            ThreadKind::Vsock => "vsock",
            ThreadKind::Block => "block",
            ThreadKind::Net => "net",
            ThreadKind::Simple => "simple",
            ThreadKind::Spawner => "spawner",
        })
    }
}
