//! QEMU as the hypervisor.
//!
//! QEMU runs the vCPUs and little else: its smallest machine, memory that it shares with
//! `rust-kata-vmm`, and two vhost-user devices that `rust-kata-vmm` serves. All its connections
//! are inherited sockets; of rust-kata's files it opens only kernel and initrd.

mod command_line;
mod installed;
mod layout;
mod qmp;
mod tsc;
mod vm;

use async_trait::async_trait;

use crate::Error;
use crate::spec::ValidSpec;
use crate::vm::{Vm, Vmm};
pub use installed::Installed;
pub use layout::FIRMWARE;
use tsc::TscClock;
use vm::QemuVm;

/// The executor of the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The CPU itself.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// Makes VMs with QEMU.
pub(crate) struct Qemu {
    accelerator: Accelerator,
    tsc: TscClock,
}

impl Qemu {
    /// A maker of VMs that use `accelerator`.
    pub fn new(accelerator: Accelerator) -> Qemu {
        Qemu {
            accelerator,
            tsc: TscClock::start(),
        }
    }
}

#[async_trait]
impl Vmm for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn can_resize(&self) -> bool {
        false
    }

    fn can_attach(&self) -> bool {
        false
    }

    async fn create(&self, spec: ValidSpec) -> Result<Box<dyn Vm>, Error> {
        let tsc_khz = match self.accelerator {
            Accelerator::Tcg => Some(self.tsc.khz().await),
            Accelerator::Kvm => None,
        };
        let vm = QemuVm::create(spec, self.accelerator, tsc_khz).await?;
        Ok(Box::new(vm))
    }
}
