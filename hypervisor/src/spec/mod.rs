//! The description of a virtual machine, and its validation.
//!
//! The owner fills in a [`VmSpec`]. [`VmSpec::validate`] turns it into a [`ValidSpec`].
//! Backends accept only this type, so every mistake is reported before a process is started.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

mod check;
#[cfg(test)]
pub(crate) use check::tests::fixture;

/// The hypervisor that runs the VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HypervisorKind {
    /// The best one for this machine.
    #[default]
    Auto,
    /// The built-in VMM on `/dev/kvm`.
    Kvm,
    /// QEMU, with KVM if the hardware supports it, else emulated.
    Qemu,
}

impl fmt::Display for HypervisorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HypervisorKind::Auto => "auto",
            HypervisorKind::Kvm => "kvm",
            HypervisorKind::Qemu => "qemu",
        })
    }
}

impl FromStr for HypervisorKind {
    type Err = SpecError;

    fn from_str(name: &str) -> Result<Self, SpecError> {
        match name {
            "auto" => Ok(HypervisorKind::Auto),
            "kvm" => Ok(HypervisorKind::Kvm),
            "qemu" => Ok(HypervisorKind::Qemu),
            _ => Err(SpecError::Hypervisor(name.to_owned())),
        }
    }
}

/// A host directory that the guest sees by virtio-fs. The guest can write to mounts in the
/// directory, as far as these allow it, but not to the directory itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The name for mounting it in the guest.
    pub tag: String,
    /// The directory.
    pub dir: PathBuf,
    /// The most files of it that the guest may know at a time; each costs the host memory.
    pub files: u32,
}

impl Share {
    /// Enough for a guest of usual size; at most 150 MiB of the host's memory.
    pub const FILES: u32 = 400_000;
}

/// The description of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// Name of the VM, for process lists and logs.
    pub id: String,
    /// Existing directory for the VM's sockets, logs and console.
    pub dir: PathBuf,
    /// Guest kernel: an uncompressed ELF `vmlinux` with a PVH entry.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: PathBuf,
    /// Words added to the kernel command line.
    pub cmdline: Vec<String>,
    /// Number of virtual CPUs from the start.
    pub vcpus: u32,
    /// Number of virtual CPUs that the guest can have later, including those. VMs of QEMU keep
    /// their number.
    pub max_vcpus: u32,
    /// Guest memory from the start.
    pub memory_mib: u32,
    /// Memory that can be plugged later in addition, a multiple of 128 MiB. VMs of QEMU keep
    /// their memory.
    pub hotplug_mib: u32,
    /// Whether guest memory uses the host's reserved huge pages.
    pub hugepages: bool,
    /// Network namespace in which the VM's processes run.
    pub netns: Option<PathBuf>,
    /// Directory of the cgroup (v2) in which they start, if the host supports this.
    pub cgroup: Option<PathBuf>,
    /// The directory shared with the guest.
    pub share: Share,
    /// Unix socket through which host programs connect to the guest's vsock ports; with
    /// `_<port>` appended, the socket for connections from the guest. `rust-kata-vmm` can
    /// access its directory, so no other files should be there.
    pub vsock_uds: PathBuf,
    /// The hypervisor to use.
    pub hypervisor: HypervisorKind,
    /// The `rust-kata-vmm` binary: a path, or a name looked up in `PATH`.
    pub vmm_binary: PathBuf,
    /// The QEMU binary: a path, or a name looked up in `PATH`.
    pub qemu_binary: PathBuf,
    /// Verbose kernel and VMM logs.
    pub debug: bool,
}

impl VmSpec {
    /// A VM with one CPU and 256 MiB of memory, without network, with programs from `PATH`. Its
    /// vsock sockets are in `sockets` below `dir`. The fields can be changed.
    pub fn new(dir: &Path, kernel: &Path, initrd: &Path, share: &Path) -> VmSpec {
        VmSpec {
            id: "vm".into(),
            dir: dir.to_owned(),
            kernel: kernel.to_owned(),
            initrd: initrd.to_owned(),
            cmdline: Vec::new(),
            vcpus: 1,
            max_vcpus: 1,
            memory_mib: 256,
            hotplug_mib: 0,
            hugepages: false,
            netns: None,
            cgroup: None,
            share: Share {
                tag: "rust-kata".into(),
                dir: share.to_owned(),
                files: Share::FILES,
            },
            vsock_uds: dir.join("sockets/vsock"),
            hypervisor: HypervisorKind::Auto,
            vmm_binary: "rust-kata-vmm".into(),
            qemu_binary: "qemu-system-x86_64".into(),
            debug: false,
        }
    }

    /// Makes all checks that are possible before a process is started.
    pub fn validate(self) -> Result<ValidSpec, SpecError> {
        check::validate(self)
    }
}

/// A checked [`VmSpec`]: paths exist, binaries are absolute, numbers are valid for this
/// machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidSpec(VmSpec);

impl ValidSpec {
    /// Guest memory in bytes.
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.0.memory_mib) << 20
    }

    /// The directory of the vsock sockets.
    pub fn sockets(&self) -> PathBuf {
        let dir = self.0.vsock_uds.parent().map(PathBuf::from);
        dir.unwrap_or_default()
    }

    /// The kernel's command line: the words of every guest, `words`, and the words of the spec.
    pub fn kernel_command_line(&self, words: Vec<String>) -> String {
        let mut line = vec![
            "console=ttyS0".to_owned(),
            // A panic resets the machine at once, which ends the VM.
            "panic=-1".into(),
            // Without this, a prebuilt kernel spends most of its boot testing its ciphers
            // (guest/README.md).
            "cryptomgr.notests".into(),
            // To move a process to a cgroup, the kernel waits for an RCU grace period, which
            // takes several ticks unless it is expedited.
            "rcupdate.rcu_expedited=1".into(),
        ];
        line.extend(words);
        if !self.0.debug {
            line.push("quiet".into());
        }
        line.extend(self.0.cmdline.iter().cloned());
        line.join(" ")
    }

    /// A file in the VM's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.dir.join(name)
    }
}

impl Deref for ValidSpec {
    type Target = VmSpec;

    fn deref(&self) -> &VmSpec {
        &self.0
    }
}

/// The reason why a [`VmSpec`] cannot be used, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Not the name of a hypervisor.
    #[error("invalid hypervisor {0:?}: expected auto, kvm or qemu")]
    Hypervisor(String),

    /// The name of the VM cannot be used in a process list or on a command line.
    #[error("invalid VM id {0:?}: expected 1 to 128 characters of A-Z a-z 0-9 . _ -")]
    Id(String),

    /// A file or directory cannot be used.
    #[error("{what} {path}: {source}; {cure}")]
    Path {
        /// Its part in the VM.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
        /// The remedy.
        cure: &'static str,
    },

    /// The kernel cannot be booted.
    #[error(
        "guest kernel {path} {reason}: expected an uncompressed x86-64 ELF vmlinux with a PVH entry (`make guest` makes one)"
    )]
    Kernel {
        /// The file.
        path: PathBuf,
        /// The problem with it.
        reason: &'static str,
    },

    /// The path of a Unix socket is too long.
    #[error(
        "socket path {path} is too long: {len} bytes of at most {max}; use a shorter state directory"
    )]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// Its length.
        len: usize,
        /// The limit (unix(7) `sun_path`, less the port suffix).
        max: usize,
    },

    /// Too little or too much memory.
    #[error("invalid guest memory of {given} MiB: expected {min} to {max} MiB on this host")]
    Memory {
        /// The requested memory.
        given: u32,
        /// The least memory for the boot; depends on the sizes of the images.
        min: u32,
        /// The memory of this host.
        max: u32,
    },

    /// Memory that cannot be plugged.
    #[error("invalid hot-plug memory of {0} MiB: expected a multiple of 128 MiB, or 0 for none")]
    Hotplug(u32),

    /// The maximum of CPUs is below the number at the start, or too high.
    #[error("invalid maximum of {given} vCPUs: expected {min} to {max}")]
    MaxVcpus {
        /// The requested maximum.
        given: u32,
        /// The number of CPUs from the start.
        min: u32,
        /// The most that a guest can have.
        max: u32,
    },

    /// Too few or too many CPUs.
    #[error("invalid number of vCPUs {given}: expected 1 to {max} on this host")]
    Vcpus {
        /// The requested number.
        given: u32,
        /// The highest useful number on this host.
        max: u32,
    },

    /// A word with characters that the kernel command line does not allow.
    #[error("invalid kernel command line word {0:?}: expected printable characters without spaces")]
    Cmdline(String),

    /// The kernel command line is too long.
    #[error("kernel command line is too long: {len} bytes of at most {max}")]
    CmdlineLength {
        /// Its length.
        len: usize,
        /// The longest line that the kernel accepts (x86 `COMMAND_LINE_SIZE`).
        max: usize,
    },

    /// The share's tag does not fit into the device's configuration.
    #[error("invalid share tag {0:?}: expected 1 to 36 characters of A-Z a-z 0-9 . _ -")]
    Tag(String),

    /// A program does not exist.
    #[error("{name} not found{place}: {cure}")]
    Binary {
        /// The program.
        name: String,
        /// The place where it was searched.
        place: &'static str,
        /// The remedy.
        cure: &'static str,
    },
}
