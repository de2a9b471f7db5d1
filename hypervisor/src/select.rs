//! Which hypervisor runs a VM on this machine, and why.

use crate::Error;
use crate::kvm_probe::{self, Kvm};
use crate::qemu::{Accelerator, Qemu};
use crate::spec::{HypervisorKind, ValidSpec};
use crate::vm::Choice;

/// Picks the hypervisor for `spec`.
pub fn select(spec: &ValidSpec) -> Result<Choice, Error> {
    choose(spec.hypervisor, kvm_probe::probe())
}

fn choose(kind: HypervisorKind, kvm: Kvm) -> Result<Choice, Error> {
    match kind {
        HypervisorKind::Kvm => Err(Error::Unsupported {
            kind,
            reason: "the built-in VMM is not part of this release; use auto or qemu".into(),
        }),
        HypervisorKind::Auto | HypervisorKind::Qemu => {
            let (accelerator, reason) = match kvm {
                Kvm::Hardware(flag) => (
                    Accelerator::Kvm,
                    format!("QEMU with KVM: /dev/kvm is backed by hardware ({flag})"),
                ),
                Kvm::Unusable(why) => (
                    Accelerator::Tcg,
                    format!("QEMU with TCG (software emulation): {why}"),
                ),
            };
            Ok(Choice {
                vmm: Box::new(Qemu::new(accelerator)),
                reason,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_qemu_and_says_why() {
        let choice = choose(HypervisorKind::Auto, Kvm::Unusable("no device".into())).unwrap();

        assert_eq!(choice.vmm.name(), "qemu");
        assert!(choice.reason.contains("TCG"));
        assert!(choice.reason.contains("no device"));
    }

    #[test]
    fn hardware_is_used_when_it_is_there() {
        let choice = choose(HypervisorKind::Qemu, Kvm::Hardware("vmx")).unwrap();

        assert!(choice.reason.contains("vmx"));
    }

    #[test]
    fn own_vmm_is_refused_for_now() {
        let refused = choose(HypervisorKind::Kvm, Kvm::Hardware("vmx"));

        assert!(matches!(refused, Err(Error::Unsupported { .. })));
    }
}
