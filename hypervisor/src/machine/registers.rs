//! The initial registers of vCPUs: 64-bit mode for Linux' `startup_64`
//! (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
//!
//! The other vCPUs wait for the guest to start them (INIT, SIPI), and need only the constant
//! part: MSRs and the local interrupt pins.

use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::MachineError;
use super::layout;

/// Model-specific registers (Intel SDM 4).
const MSR_IA32_TSC: u32 = 0x10;
const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, with write-back as the default.
const MTRR_ENABLE_WRITE_BACK: u64 = 1 << 11 | 6;

/// Control registers (Intel SDM 3A §2.5).
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Page table entries (Intel SDM 3A §4.5): present, writable, and a 2 MiB page.
const PAGE_PRESENT_WRITE: u64 = 0b11;
const PAGE_LARGE: u64 = 1 << 7;

/// Local vector table (Intel SDM 3A §11.5.1): the second interrupt pin delivers NMIs.
const APIC_LVT1: usize = 0x360;
const MODE_NMI: u32 = 0b100 << 8;

/// Flags of a segment descriptor: type, S, DPL, P, and AVL, L, D/B, G.
const CODE64: u16 = 0xa09b;
const DATA: u16 = 0xc093;
const TSS: u16 = 0x808b;

/// Sets the initial state that all vCPUs have.
pub(super) fn common(vcpu: &VcpuFd) -> Result<(), MachineError> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let wanted = [
        entry(MSR_IA32_TSC, 0),
        entry(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLE_WRITE_BACK),
    ];
    let msrs = Msrs::from_entries(&wanted).map_err(|_| MachineError::Msr(0))?;
    let set = vcpu
        .set_msrs(&msrs)
        .map_err(MachineError::kvm("KVM_SET_MSRS"))?;
    if let Some(refused) = wanted.get(set) {
        return Err(MachineError::Msr(refused.index));
    }
    let mut lapic = vcpu
        .get_lapic()
        .map_err(MachineError::kvm("KVM_GET_LAPIC"))?;
    for (byte, value) in lapic.regs[APIC_LVT1..]
        .iter_mut()
        .zip(MODE_NMI.to_le_bytes())
    {
        *byte = value as _;
    }
    vcpu.set_lapic(&lapic)
        .map_err(MachineError::kvm("KVM_SET_LAPIC"))?;
    let fpu = kvm_fpu {
        fcw: 0x37f,    // the state after FNINIT (Intel SDM 1 §8.1.5)
        mxcsr: 0x1f80, // after reset (Intel SDM 1 §10.2.3)
        ..Default::default()
    };
    vcpu.set_fpu(&fpu).map_err(MachineError::kvm("KVM_SET_FPU"))
}

/// Points the boot CPU at a kernel's 64-bit entry, and writes the tables for it.
pub(super) fn boot(vcpu: &VcpuFd, mem: &GuestMemoryMmap, entry: u64) -> Result<(), MachineError> {
    write_tables(mem).map_err(|err| MachineError::Memory {
        what: "write boot tables into",
        reason: err.to_string(),
    })?;
    let mut sregs = vcpu
        .get_sregs()
        .map_err(MachineError::kvm("KVM_GET_SREGS"))?;
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = (gdt().len() * 8 - 1) as u16;
    sregs.idt.base = layout::IDT;
    sregs.idt.limit = 7;
    sregs.cs = segment(1, CODE64);
    let data = segment(2, DATA);
    (sregs.ds, sregs.es, sregs.fs) = (data, data, data);
    (sregs.gs, sregs.ss) = (data, data);
    sregs.tr = segment(3, TSS);
    sregs.cr3 = layout::PML4;
    sregs.cr4 |= CR4_PAE;
    sregs.cr0 |= CR0_PE | CR0_ET | CR0_PG;
    sregs.efer |= EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs)
        .map_err(MachineError::kvm("KVM_SET_SREGS"))?;
    let regs = kvm_regs {
        rflags: 1 << 1, // always one
        rip: entry,
        rsi: layout::ZERO_PAGE,
        ..Default::default()
    };
    vcpu.set_regs(&regs)
        .map_err(MachineError::kvm("KVM_SET_REGS"))
}

/// A null entry, code, data, task state; flat, as the boot protocol requires.
fn gdt() -> [u64; 4] {
    let entry = |flags: u16| {
        let limit = 0xf_ffffu64;
        let (low, high) = (u64::from(flags & 0xff), u64::from(flags >> 12));
        limit & 0xffff | low << 40 | (limit >> 16) << 48 | high << 52
    };
    [0, entry(CODE64), entry(DATA), entry(TSS)]
}

/// Entry `index` of the table, in the CPU's internal format.
fn segment(index: u16, flags: u16) -> kvm_segment {
    let bit = |at: u16| (flags >> at & 1) as u8;
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: index * 8,
        type_: (flags & 0xf) as u8,
        s: bit(4),
        dpl: (flags >> 5 & 3) as u8,
        present: bit(7),
        avl: bit(12),
        l: bit(13),
        db: bit(14),
        g: bit(15),
        ..Default::default()
    }
}

/// Writes the descriptor tables, and page tables that map the first 4 GiB to themselves.
fn write_tables(mem: &GuestMemoryMmap) -> Result<(), vm_memory::GuestMemoryError> {
    let at = GuestAddress;
    for (index, entry) in gdt().into_iter().enumerate() {
        mem.write_obj(entry, at(layout::GDT + index as u64 * 8))?;
    }
    mem.write_obj(0u64, at(layout::IDT))?;
    mem.write_obj(layout::PDPT | PAGE_PRESENT_WRITE, at(layout::PML4))?;
    for gib in 0..4 {
        let directory = layout::PAGE_DIRECTORIES + gib * 0x1000;
        mem.write_obj(directory | PAGE_PRESENT_WRITE, at(layout::PDPT + gib * 8))?;
        let mut pages = [0; 0x1000];
        for (index, page) in (0u64..).zip(pages.chunks_exact_mut(8)) {
            let address = gib << 30 | index << 21;
            page.copy_from_slice(&(address | PAGE_LARGE | PAGE_PRESENT_WRITE).to_le_bytes());
        }
        mem.write_slice(&pages, at(directory))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_support::require;

    #[test]
    fn descriptors_are_those_of_the_boot_protocol() {
        // The values that `lgdt` would load for flat 64-bit code and flat data.
        assert_eq!(
            gdt()[..3],
            [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]
        );
    }

    #[test]
    fn tables_do_not_touch_each_other() {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();

        write_tables(&mem).unwrap();

        let last: u64 = mem
            .read_obj(GuestAddress(layout::PAGE_DIRECTORIES + 4 * 0x1000 - 8))
            .unwrap();
        assert_eq!(last, 0xffe0_0000 | PAGE_LARGE | PAGE_PRESENT_WRITE);
        const {
            assert!(layout::PAGE_DIRECTORIES + 4 * 0x1000 <= layout::CMDLINE);
            assert!(layout::IDT + 8 <= layout::ZERO_PAGE);
        }
    }

    #[test]
    fn segments_are_cached_as_their_descriptors_say() {
        let cached = |segment: kvm_segment| {
            let bits = [segment.type_, segment.s, segment.dpl, segment.present];
            let more = [segment.avl, segment.l, segment.db, segment.g];
            (segment.base, segment.limit, segment.selector, bits, more)
        };
        // Type, S, DPL, P; AVL, L, D/B, G (Intel SDM 3A §3.4.5).
        let code = (0, 0xffff_ffff, 8, [11, 1, 0, 1], [0, 1, 0, 1]);
        assert_eq!(cached(segment(1, CODE64)), code);
        let data = (0, 0xffff_ffff, 16, [3, 1, 0, 1], [0, 0, 1, 1]);
        assert_eq!(cached(segment(2, DATA)), data);
        let task = (0, 0xffff_ffff, 24, [11, 0, 0, 1], [0, 0, 0, 1]);
        assert_eq!(cached(segment(3, TSS)), task);
        let user = (0, 0xffff_ffff, 32, [2, 1, 3, 1], [1, 0, 1, 0]);
        assert_eq!(cached(segment(4, 0x50f2)), user);
        assert_eq!(gdt()[3], 0x008f_8b00_0000_ffff);
    }

    #[test]
    fn the_first_four_gibibytes_are_mapped_to_themselves() {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        let read = |at: u64| mem.read_obj::<u64>(GuestAddress(at)).unwrap();

        write_tables(&mem).unwrap();

        assert_eq!(read(layout::IDT), 0);
        for (index, entry) in (0..).zip(gdt()) {
            assert_eq!(read(layout::GDT + index * 8), entry);
        }
        // The walk of Intel SDM 3A, figure 4-9: 9, 9 and 9 bits; 2 MiB pages.
        let entry = |table: u64, address: u64, shift: u32| {
            let entry = read(table + (address >> shift & 0x1ff) * 8);
            assert_eq!(entry & 0b11, 0b11, "present and writable");
            entry
        };
        for address in (0..4u64 << 30).step_by(2 << 20) {
            let directories = entry(layout::PML4, address, 39) & !0xfff;
            let directory = entry(directories, address, 30) & !0xfff;
            let page = entry(directory, address, 21);
            assert_eq!(page, address | 0x83, "a large page");
        }
    }

    #[test]
    fn a_vcpu_has_what_it_was_given() {
        let kvm = super::super::kvm::open(require!(test_support::kvm())).unwrap();
        let vm = super::super::kvm::create_vm(&kvm).unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        // KVM refuses EFER.LMA to a vCPU that has no long mode.
        let cpuid = kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES);
        vcpu.set_cpuid2(&cpuid.unwrap()).unwrap();
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();

        common(&vcpu).unwrap();
        boot(&vcpu, &mem, 0x12_3456).unwrap();

        let regs = vcpu.get_regs().unwrap();
        let found = (regs.rip, regs.rsi, regs.rflags, regs.rsp);
        assert_eq!(found, (0x12_3456, layout::ZERO_PAGE, 2, 0));
        let sregs = vcpu.get_sregs().unwrap();
        assert_eq!((sregs.gdt.base, sregs.gdt.limit), (layout::GDT, 31));
        assert_eq!((sregs.idt.base, sregs.idt.limit), (layout::IDT, 7));
        let selectors = [
            sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss, sregs.tr,
        ];
        assert_eq!(selectors.map(|s| s.selector), [8, 16, 16, 16, 16, 16, 24]);
        assert_eq!(sregs.cr3, layout::PML4);
        // PE, ET, PG; PAE; LME, LMA.
        assert_eq!(sregs.cr0 & 0x8000_0011, 0x8000_0011);
        assert_eq!(sregs.cr4 & 0x20, 0x20);
        assert_eq!(sregs.efer & 0x500, 0x500);
        // KVM_GET_FPU does not tell MXCSR.
        assert_eq!(vcpu.get_fpu().unwrap().fcw, 0x37f);
        let lapic = vcpu.get_lapic().unwrap();
        let lvt1 = [0, 1, 2, 3].map(|byte| lapic.regs[0x360 + byte] as u8);
        assert_eq!(u32::from_le_bytes(lvt1) & 0x700, 0x400, "NMI");
        let wanted = [MSR_IA32_MISC_ENABLE, MSR_MTRR_DEF_TYPE].map(|index| kvm_msr_entry {
            index,
            ..Default::default()
        });
        let mut msrs = Msrs::from_entries(&wanted).unwrap();
        assert_eq!(vcpu.get_msrs(&mut msrs).unwrap(), 2);
        let [misc, mtrr] = [0, 1].map(|at| msrs.as_slice()[at].data);
        assert_eq!((misc & 1, mtrr & 0xcff), (1, 0x806));
    }
}
