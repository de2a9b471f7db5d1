//! Where everything lies in the guest's physical address space and port space.
//!
//! ```text
//!          0x500  GDT                         one page: what the boot CPU starts with
//!         0x7000  boot parameters             "zero page" of the Linux boot protocol
//!         0x9000  page tables                 first 4 GiB, identity, 2 MiB pages
//!       0x2_0000  command line
//!       0x9_fc00  ── end of low memory
//!       0xe_0000  ACPI: RSDP, then the tables; up to 1 MiB
//!      0x10_0000  memory; the kernel where its ELF headers say
//!                 … the initrd, at the end of the memory below 3 GiB
//!    0xc000_0000  ── gap: no memory
//!    0xd000_0000  virtio-mmio slots, 4 KiB each
//!    0xfec0_0000  I/O APIC
//!    0xfee0_0000  local APICs                 in the kernel (KVM)
//!    0xfffb_c000  KVM's own pages             real-mode identity map, TSS
//!  0x1_0000_0000  memory beyond 3 GiB
//!                 then, on a 128 MiB boundary, memory that can be plugged
//! ```

/// Global descriptor table of the boot CPU.
pub const GDT: u64 = 0x500;
/// Empty interrupt descriptor table of the boot CPU.
pub const IDT: u64 = 0x520;
/// `struct boot_params`; its registers point here (Documentation/arch/x86/boot.rst).
pub const ZERO_PAGE: u64 = 0x7000;
/// Top of the page tables: PML4, then PDPT, then four page directories.
pub const PML4: u64 = 0x9000;
/// First page directory pointer table.
pub const PDPT: u64 = 0xa000;
/// First of four page directories, one for each GiB.
pub const PAGE_DIRECTORIES: u64 = 0xb000;
/// Kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// x86 `COMMAND_LINE_SIZE`, the terminating zero included.
pub const CMDLINE_MAX: usize = 2048;
/// Conventional memory ends where a BIOS keeps its data.
pub const LOW_MEMORY_END: u64 = 0x9_fc00;
/// ACPI 6.4 §5.2.5.1: the root pointer lies between 0xe0000 and 0xfffff.
pub const RSDP: u64 = 0xe_0000;
/// The end of the area for ACPI tables.
pub const ACPI_END: u64 = 0x10_0000;
/// Memory continues here.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// No memory from here…
pub const GAP_START: u64 = 0xc000_0000;
/// … to here: the devices' part of the first 4 GiB.
pub const GAP_END: u64 = 0x1_0000_0000;
/// The smallest block of memory that Linux plugs on x86-64.
pub const HOTPLUG_ALIGN: u64 = 128 << 20;

/// First virtio-mmio slot.
pub const SLOTS: u64 = 0xd000_0000;
/// Interrupt of the first slot.
pub const SLOT_GSI: u32 = 5;
/// The number of slots: the I/O APIC's lines (24) without the legacy ones up to 4. Each slot
/// has its own interrupt, so that a handler need not read the status.
pub const SLOT_COUNT: usize = 19;

/// I/O APIC registers (82093AA §3.0), at the default address.
pub const IO_APIC: u32 = 0xfec0_0000;
/// Local APIC registers (Intel SDM 3A §11.4.1).
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// A page that KVM needs on Intel for real mode without EPT support.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that KVM needs on Intel for a task state segment.
pub const KVM_TSS: usize = 0xfffb_d000;

/// First serial port (COM1) …
pub const COM1: u16 = 0x3f8;
/// … its registers …
pub const COM1_LEN: u16 = 8;
/// … and interrupt.
pub const COM1_GSI: u32 = 4;
/// A byte written to this port marks a point in the guest's boot. Firecracker uses the same
/// port and byte.
pub const BOOT_MARK: u16 = 0x3f0;
/// Keyboard controller's command port: Linux' last method to reset a machine.
pub const I8042_COMMAND: u16 = 0x64;
/// "Pulse the reset line" at that port.
pub const I8042_RESET: u8 = 0xfe;
/// ACPI 6.4 §4.8.3.7: sleep control register.
pub const SLEEP_CONTROL: u16 = 0x600;
/// Sleep status register.
pub const SLEEP_STATUS: u16 = 0x601;
/// ACPI 6.4 §4.8.3.6: reset register.
pub const RESET: u16 = 0x602;
/// The value that triggers a reset.
pub const RESET_VALUE: u8 = 1;
/// ACPI 6.4 table 4.19: SLP_EN.
pub const SLEEP_ENABLE: u8 = 1 << 5;
/// The sleep type of S5, "soft off", as `\_S5` says.
pub const SLEEP_TYPE_S5: u8 = 5;

/// Base address of slot `index`.
pub const fn slot_address(index: usize) -> u64 {
    SLOTS + index as u64 * crate::transport::mmio::SLOT_SIZE
}

/// Interrupt of slot `index`.
pub const fn slot_gsi(index: usize) -> u32 {
    SLOT_GSI + index as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_apart_in_memory_and_in_interrupts() {
        let slots = [0, 1, SLOT_COUNT - 1].map(|slot| (slot_address(slot), slot_gsi(slot)));
        let expected = [(0xd000_0000, 5), (0xd000_1000, 6), (0xd001_2000, 23)];
        assert_eq!(slots, expected);
        // The I/O APIC has 24 lines.
        assert_eq!(SLOT_GSI as usize + SLOT_COUNT, super::super::io_apic::LINES);
    }
}
