//! The values that `CPUID` returns in the guest.
//!
//! They are those that KVM supports on this host, without features that the guests do not use,
//! and with a topology of one socket with one thread per core.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::MachineError;

/// Intel SDM 2A, CPUID, leaf 1.
mod leaf1 {
    pub const ECX_MONITOR: u32 = 1 << 3;
    pub const ECX_VMX: u32 = 1 << 5;
    pub const ECX_TSC_DEADLINE: u32 = 1 << 24;
    pub const ECX_HYPERVISOR: u32 = 1 << 31;
    pub const EDX_HTT: u32 = 1 << 28;
    pub const EBX_APIC_ID: u32 = 24;
    pub const EBX_LOGICAL: u32 = 16;
    pub const EBX_KEEP: u32 = 0xffff;
}
/// AMD APM 3, leaf 8000_0001.
const EXT1_ECX_SVM: u32 = 1 << 2;
/// Level types of leaf 0xb (Intel SDM 2A).
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// The CPUID of vCPU `id` of `count`.
pub(super) fn for_vcpu(supported: &CpuId, id: u32, count: u32) -> Result<CpuId, MachineError> {
    // Topology leaves are rebuilt.
    let mut entries: Vec<_> = supported
        .as_slice()
        .iter()
        .filter(|entry| !matches!(entry.function, 0xb | 0x1f))
        .copied()
        .collect();
    for entry in &mut entries {
        adapt(entry, id, count);
    }
    let has_extended_topology = entries
        .iter()
        .any(|entry| entry.function == 0 && entry.eax >= 0xb);
    if has_extended_topology {
        entries.extend(topology(id, count));
    }
    CpuId::from_entries(&entries).map_err(|_| MachineError::Cpuid(entries.len()))
}

fn adapt(entry: &mut kvm_cpuid_entry2, id: u32, count: u32) {
    match entry.function {
        0x1 => {
            entry.ebx = entry.ebx & leaf1::EBX_KEEP
                | id << leaf1::EBX_APIC_ID
                | count.next_power_of_two().min(128) << leaf1::EBX_LOGICAL;
            // No nested virtual machines, and no sleep states that KVM cannot see.
            entry.ecx &= !(leaf1::ECX_VMX | leaf1::ECX_MONITOR);
            entry.ecx |= leaf1::ECX_TSC_DEADLINE | leaf1::ECX_HYPERVISOR;
            if count > 1 {
                entry.edx |= leaf1::EDX_HTT;
            } else {
                entry.edx &= !leaf1::EDX_HTT;
            }
        }
        // Intel's caches: [25:14] ids of the CPUs that share one, [31:26] cores of a socket.
        0x4 if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 0x7;
            let sharing = if level >= 3 { count - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing.min(0xfff) << 14 | (count - 1).min(0x3f) << 26;
        }
        // The guest has no access to the host's performance counters.
        0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        0x8000_0001 => entry.ecx &= !EXT1_ECX_SVM,
        // AMD: [7:0] cores less one, [15:12] bits of the APIC id for them.
        0x8000_0008 => entry.ecx = (count - 1).min(0xff) | core_bits(count) << 12,
        // AMD's caches, as Intel's.
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 0x7;
            let sharing = if level >= 3 { count - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing.min(0xfff) << 14;
        }
        // AMD: APIC id, core id (with one thread each), node.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id & 0xff, 0),
        _ => {}
    }
}

/// Leaf 0xb: one thread in each core, all cores in one socket.
fn topology(id: u32, count: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |index, shift, cpus, kind| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: cpus,
        ecx: index | kind << 8,
        edx: id,
        ..Default::default()
    };
    [
        level(0, 0, 1, LEVEL_THREAD),
        level(1, core_bits(count), count, LEVEL_CORE),
        level(2, 0, 0, 0),
    ]
}

/// The number of bits that distinguish `count` cores.
fn core_bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests;
