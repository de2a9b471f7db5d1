//! The choice of the hypervisor for a VM on this machine, with the reason.

use crate::Error;
use crate::kvm::KvmVmm;
use crate::probe::{self, KvmSupport};
use crate::qemu::{Accelerator, Qemu};
use crate::spec::{HypervisorKind, ValidSpec};
use crate::vm::{Choice, Vmm};

/// Chooses the hypervisor for `spec`.
///
/// # Errors
/// The errors of [`choice`].
pub fn select(spec: &ValidSpec) -> Result<Choice, Error> {
    choice(spec.hypervisor)
}

/// Chooses the hypervisor on this machine for a request of `kind`.
///
/// # Errors
/// [`Error::Unsupported`] if KVM is requested but cannot be used.
pub fn choice(kind: HypervisorKind) -> Result<Choice, Error> {
    choose(kind, probe::probe())
}

fn choose(kind: HypervisorKind, kvm: KvmSupport) -> Result<Choice, Error> {
    let (vmm, reason): (Box<dyn Vmm>, _) = match (kind, kvm) {
        (HypervisorKind::Auto | HypervisorKind::Kvm, KvmSupport::Hardware(flag)) => (
            Box::new(KvmVmm),
            format!("rust-kata-vmm on KVM: /dev/kvm is backed by hardware ({flag})"),
        ),
        (HypervisorKind::Kvm, KvmSupport::Unusable(why)) => {
            return Err(Error::Unsupported {
                kind,
                reason: format!("{why}; use auto or qemu, which emulates"),
            });
        }
        (HypervisorKind::Qemu, KvmSupport::Hardware(flag)) => (
            Box::new(Qemu::new(Accelerator::Kvm)),
            format!("QEMU with KVM: /dev/kvm is backed by hardware ({flag})"),
        ),
        (HypervisorKind::Auto | HypervisorKind::Qemu, KvmSupport::Unusable(why)) => (
            Box::new(Qemu::new(Accelerator::Tcg)),
            format!("QEMU with TCG (software emulation): {why}"),
        ),
    };
    Ok(Choice { vmm, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_qemu_and_says_why() {
        let choice = choose(
            HypervisorKind::Auto,
            KvmSupport::Unusable("no device".into()),
        )
        .unwrap();

        assert_eq!(choice.vmm.name(), "qemu");
        assert!(!choice.vmm.can_resize() && !choice.vmm.can_attach());
        assert!(choice.reason.contains("TCG"));
        assert!(choice.reason.contains("no device"));
    }

    #[test]
    fn hardware_is_for_the_built_in_vmm() {
        for kind in [HypervisorKind::Auto, HypervisorKind::Kvm] {
            let choice = choose(kind, KvmSupport::Hardware("vmx")).unwrap();

            assert_eq!(choice.vmm.name(), "kvm");
            assert!(choice.vmm.can_resize() && choice.vmm.can_attach());
            assert!(choice.reason.contains("vmx"));
        }
    }

    #[test]
    fn qemu_uses_hardware_when_it_is_there() {
        let choice = choose(HypervisorKind::Qemu, KvmSupport::Hardware("vmx")).unwrap();

        assert_eq!(choice.vmm.name(), "qemu");
        assert!(choice.reason.contains("vmx"));
    }

    #[test]
    fn kvm_that_cannot_serve_is_refused_with_the_reason() {
        let refused = choose(
            HypervisorKind::Kvm,
            KvmSupport::Unusable("no device".into()),
        );

        let text = refused.err().unwrap().to_string();
        assert!(text.contains("no device"), "{text}");
    }
}
