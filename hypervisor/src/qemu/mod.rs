//! QEMU as the hypervisor.

use async_trait::async_trait;

use crate::Error;
use crate::spec::ValidSpec;
use crate::vm::{Vm, Vmm};

/// What runs the guest's instructions.
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
}

impl Qemu {
    /// A maker of VMs that use `accelerator`.
    pub fn new(accelerator: Accelerator) -> Qemu {
        Qemu { accelerator }
    }
}

#[async_trait]
impl Vmm for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    async fn create(&self, spec: ValidSpec) -> Result<Box<dyn Vm>, Error> {
        let _ = (self.accelerator, spec);
        Err(Error::Unsupported {
            kind: crate::HypervisorKind::Qemu,
            reason: "being written".into(),
        })
    }
}
