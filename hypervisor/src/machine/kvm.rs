//! `/dev/kvm` and a virtual machine in it, without vCPUs.

use std::os::fd::{IntoRawFd, OwnedFd};

use kvm_bindings::{KvmIrqRouting, kvm_enable_cap, kvm_irq_routing_entry};
use kvm_ioctls::{Cap, Kvm, VmFd};

use super::MachineError;
use super::io_apic::{self, Message};
use super::layout;

/// The version of the API, fixed since Linux 2.6.22 (Documentation/virt/kvm/api.rst §4.1).
const API_VERSION: i32 = 12;

/// The used features of KVM, with their names in its documentation.
const NEEDED: [(Cap, &str); 11] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
];

/// Takes a descriptor of `/dev/kvm` and checks that it has the required features.
pub(super) fn open(device: OwnedFd) -> Result<Kvm, MachineError> {
    // SAFETY: the descriptor is owned and passed on; the ioctls below fail for another device.
    let kvm = unsafe { <Kvm as std::os::fd::FromRawFd>::from_raw_fd(device.into_raw_fd()) };
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(MachineError::ApiVersion(version));
    }
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(cap, _)| !kvm.check_extension(*cap))
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        Ok(kvm)
    } else {
        Err(MachineError::Missing(missing.join(", ")))
    }
}

/// Makes a VM whose vCPUs will have local APICs, in the order that KVM requires. The I/O APIC
/// is [the VMM's](io_apic); the VM has no legacy interrupt controller or timer.
pub(super) fn create_vm(kvm: &Kvm) -> Result<VmFd, MachineError> {
    let vm = loop {
        match kvm.create_vm() {
            // A signal; or, on some kernels, a short lack of memory.
            Err(err) if err.errno() == libc::EINTR => {}
            other => break other.map_err(MachineError::kvm("KVM_CREATE_VM"))?,
        }
    };
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
        .map_err(MachineError::kvm("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.set_tss_address(layout::KVM_TSS)
        .map_err(MachineError::kvm("KVM_SET_TSS_ADDR"))?;
    let split = kvm_enable_cap {
        cap: kvm_bindings::KVM_CAP_SPLIT_IRQCHIP,
        args: [io_apic::LINES as u64, 0, 0, 0],
        ..Default::default()
    };
    vm.enable_cap(&split)
        .map_err(MachineError::kvm("KVM_ENABLE_CAP of KVM_CAP_SPLIT_IRQCHIP"))?;
    Ok(vm)
}

/// Routes each interrupt line to its message; lines without a message have no effect.
pub(super) fn route(vm: &VmFd, messages: &[Message]) -> Result<(), MachineError> {
    let entries: Vec<_> = messages
        .iter()
        .map(|message| {
            let mut entry = kvm_irq_routing_entry {
                gsi: message.line,
                type_: kvm_bindings::KVM_IRQ_ROUTING_MSI,
                ..Default::default()
            };
            entry.u.msi.address_lo = message.address;
            entry.u.msi.data = message.data;
            entry
        })
        .collect();
    let routing = KvmIrqRouting::from_entries(&entries)
        .map_err(|_| MachineError::Missing("KVM_CAP_IRQ_ROUTING".into()))?;
    vm.set_gsi_routing(&routing)
        .map_err(MachineError::kvm("KVM_SET_GSI_ROUTING"))
}
