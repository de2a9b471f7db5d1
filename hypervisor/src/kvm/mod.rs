//! The hypervisor with the built-in VMM: `rust-kata-vmm` also runs the vCPUs, by
//! [`machine`](crate::machine).
//!
//! The process is jailed and opens no files: `/dev/kvm`, kernel and initrd are opened here and
//! passed to it.

mod vm;

use async_trait::async_trait;

use crate::Error;
use crate::spec::ValidSpec;
use crate::vm::{Vm, Vmm};
use vm::KvmVm;

/// Makes VMs with `rust-kata-vmm`.
pub(crate) struct KvmVmm;

#[async_trait]
impl Vmm for KvmVmm {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn can_resize(&self) -> bool {
        true
    }

    fn can_attach(&self) -> bool {
        true
    }

    async fn create(&self, spec: ValidSpec) -> Result<Box<dyn Vm>, Error> {
        Ok(Box::new(KvmVm::create(spec).await?))
    }
}
