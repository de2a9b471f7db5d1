//! The two traits that a hypervisor backend implements, and what they exchange.
//!
//! A [`Vmm`] makes virtual machines of one kind, a [`Vm`] is one of them. The owner
//! drives it through `create` → `boot` → `kill`; `wait` may be called at any time by
//! any number of callers, and reports the end and its cause.

use std::os::fd::OwnedFd;
use std::time::Duration;

use async_trait::async_trait;

use crate::Error;
use crate::spec::ValidSpec;
use crate::vm_process::{VmExit, VmProcess};

/// Each VM has its own vsock device, so all guests can have the first free id
/// (virtio 1.2 §5.10.4).
pub(crate) const GUEST_CID: u64 = 3;

/// Makes virtual machines.
#[async_trait]
pub trait Vmm: Send + Sync {
    /// A short name for logs and the state on disk.
    fn name(&self) -> &'static str;

    /// Whether its VMs can grow beyond what they start with.
    fn can_resize(&self) -> bool;

    /// Whether its VMs can be given devices while they run.
    fn can_attach(&self) -> bool;

    /// Starts the processes of a VM and connects its devices. The guest does not
    /// run before [`Vm::boot`]. On error nothing is left running.
    async fn create(&self, spec: ValidSpec) -> Result<Box<dyn Vm>, Error>;
}

/// One virtual machine.
#[async_trait]
pub trait Vm: Send + Sync {
    /// The host processes that make up this VM, for the record that lets another
    /// process find and kill them.
    fn processes(&self) -> Vec<VmProcess>;

    /// Lets the vCPUs run for the first time.
    async fn boot(&self) -> Result<(), Error>;

    /// Stops the vCPUs.
    async fn pause(&self) -> Result<(), Error>;

    /// Lets the vCPUs run again.
    async fn resume(&self) -> Result<(), Error>;

    /// Asks the guest for this much plugged memory in MiB, beyond the memory at boot; returns
    /// the memory plugged so far, since the guest may refuse or take longer.
    async fn plug_memory(&self, mib: u32) -> Result<u32, Error>;

    /// Gives the VM a device while it runs; returns the slot, in which the guest finds it
    /// when it looks there again.
    async fn attach(&self, device: Extra) -> Result<u32, Error>;

    /// Takes a device that was attached away. The guest should have released it before.
    async fn detach(&self, slot: u32) -> Result<(), Error>;

    /// How long after the start of the VM's process the guest's user space began to
    /// run; `None` if it has not reported it, or this VM has no boot mark.
    async fn boot_mark(&self) -> Result<Option<Duration>, Error>;

    /// Kills all processes of the VM and returns when they are gone. Idempotent.
    async fn kill(&self);

    /// Resolves when the first of the processes is gone. Any number of callers may
    /// wait, and a wait may be dropped.
    async fn wait(&self) -> VmExit;
}

/// A device that a VM is given while it runs.
#[derive(Debug)]
pub enum Extra {
    /// A disk.
    Block {
        /// A raw image or a block device, open for what the guest may do.
        file: OwnedFd,
        /// Whether the guest may only read it.
        read_only: bool,
        /// Its serial number in the guest; at most 20 bytes.
        id: String,
    },
    /// A network device.
    Net {
        /// The open queues of one tap.
        taps: Vec<OwnedFd>,
        /// Its hardware address.
        mac: [u8; 6],
        /// The longest packet, if not left to the guest.
        mtu: Option<u16>,
    },
}

/// The hypervisor picked for a VM.
pub struct Choice {
    /// Makes the VM.
    pub vmm: Box<dyn Vmm>,
    /// What was chosen and why, for people.
    pub reason: String,
}
