//! The ACPI tables, which describe the machine to any kernel: CPUs, interrupt controllers,
//! serial port, virtio-mmio slots, power-off and reset.
//!
//! ```text
//!  RSDP ─▶ XSDT ─┬▶ FADT ─▶ DSDT    devices, in AML
//!                └▶ MADT            CPUs, I/O APIC
//! ```
//!
//! The platform is "hardware-reduced" (ACPI 6.4 §4.1): it has no power management timer, and no
//! legacy timers or interrupt controller for which a kernel would search and wait.

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::MachineError;
use super::layout;
use crate::transport::mmio::SLOT_SIZE;

const OEM: [u8; 6] = *b"RSTKTA";
const OEM_TABLE: [u8; 8] = *b"RUSTKATA";
/// ACPI 6.4 §5.2.11.1: differentiated system description table; from 2 on, integers have 64
/// bits.
const DSDT_REVISION: u8 = 2;
const DSDT_HEADER: u32 = 36;

/// The ids of vCPUs' interrupt controllers have one byte in the MADT; 255 means all.
pub const MAX_VCPUS: u32 = 254;

/// Writes the tables for `vcpus` vCPUs and all slots.
pub(super) fn write(mem: &GuestMemoryMmap, vcpus: u32) -> Result<(), MachineError> {
    let mut writer = TableWriter {
        mem,
        next: layout::RSDP + Rsdp::len() as u64,
    };
    let dsdt = writer.put(&bytes(&dsdt(vcpus)))?;
    let fadt = writer.put(&bytes(&fadt(dsdt)))?;
    let madt = writer.put(&bytes(&madt(vcpus)))?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, 1);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = writer.put(&bytes(&xsdt))?;
    writer.next = layout::RSDP;
    writer.put(&bytes(&Rsdp::new(OEM, xsdt)))?;
    Ok(())
}

/// The place of the next table.
struct TableWriter<'m> {
    mem: &'m GuestMemoryMmap,
    next: u64,
}

impl TableWriter<'_> {
    fn put(&mut self, table: &[u8]) -> Result<u64, MachineError> {
        let failed = |reason: String| MachineError::Memory {
            what: "write ACPI tables into",
            reason,
        };
        let at = self.next.next_multiple_of(16);
        self.next = at + table.len() as u64;
        if self.next > layout::ACPI_END {
            return Err(failed("they are too long".into()));
        }
        self.mem
            .write_slice(table, GuestAddress(at))
            .map_err(|err| failed(err.to_string()))?;
        Ok(at)
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> impl Aml {
    let port = |port: u16| {
        let (offset, width) = (0, 8);
        GAS::new(
            AddressSpace::SystemIo,
            width,
            offset,
            AccessSize::ByteAccess,
            port.into(),
        )
    };
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, 1)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd);
    fadt.reset_reg = port(layout::RESET);
    fadt.reset_value = layout::RESET_VALUE;
    fadt.sleep_control_reg = port(layout::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(layout::SLEEP_STATUS);
    // ACPI 6.4 table 5.11: no VGA, no MSI limits, no real-time clock; nothing legacy.
    fadt.iapc_boot_arch = (1 << 2 | 1 << 5).into();
    fadt.finalize()
}

fn madt(vcpus: u32) -> MADT {
    let local = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut madt = MADT::new(OEM, OEM_TABLE, 1, local);
    for id in 0..vcpus.min(MAX_VCPUS) as u8 {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IO_APIC, 0));
    madt
}

fn dsdt(vcpus: u32) -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", DSDT_HEADER, DSDT_REVISION, OEM, OEM_TABLE, 1);
    let mut aml = Vec::new();
    aml::Name::new(
        "_S5_".into(),
        &aml::Package::new(vec![&layout::SLEEP_TYPE_S5]),
    )
    .to_aml_bytes(&mut aml);
    for id in 0..vcpus.min(MAX_VCPUS) {
        cpu(id, &mut aml);
    }
    for slot in 0..layout::SLOT_COUNT {
        virtio(slot, &mut aml);
    }
    serial(&mut aml);
    dsdt.append_slice(&aml);
    dsdt
}

/// A processor, with the id that it has in the MADT (ACPI 6.4 §8.4).
fn cpu(id: u32, aml: &mut Vec<u8>) {
    aml::Device::new(
        format!("_SB_.C{id:03X}").as_str().into(),
        vec![
            &aml::Name::new("_HID".into(), &"ACPI0007"),
            &aml::Name::new("_UID".into(), &id),
        ],
    )
    .to_aml_bytes(aml);
}

/// A virtio-mmio device, with the id that Linux and QEMU use for it.
fn virtio(slot: usize, aml: &mut Vec<u8>) {
    let address = layout::slot_address(slot) as u32;
    aml::Device::new(
        format!("_SB_.V{slot:03X}").as_str().into(),
        vec![
            &aml::Name::new("_HID".into(), &"LNRO0005"),
            &aml::Name::new("_UID".into(), &(slot as u32)),
            // Coherent with the CPUs' caches.
            &aml::Name::new("_CCA".into(), &aml::ONE),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![
                    &aml::Memory32Fixed::new(true, address, SLOT_SIZE as u32),
                    // Not shared, edge-triggered, active high.
                    &aml::Interrupt::new(true, true, false, false, layout::slot_gsi(slot)),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

fn serial(aml: &mut Vec<u8>) {
    aml::Device::new(
        "_SB_.COM1".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![
                    &aml::Interrupt::new(true, true, false, false, layout::COM1_GSI),
                    &aml::IO::new(layout::COM1, layout::COM1, 1, layout::COM1_LEN as u8),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(mem: &GuestMemoryMmap, at: u64) -> Vec<u8> {
        let len: u32 = mem.read_obj(GuestAddress(at + 4)).unwrap();
        let mut bytes = vec![0; len as usize];
        mem.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn tables_lead_to_each_other_and_sum_to_zero() {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x20_0000)]).unwrap();

        write(&mem, 3).unwrap();

        let mut rsdp = [0; 36];
        mem.read_slice(&mut rsdp, GuestAddress(layout::RSDP))
            .unwrap();
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!(sum(&rsdp), 0);
        let xsdt = table(&mem, u64_at(&rsdp, 24));
        assert_eq!((&xsdt[..4], sum(&xsdt)), (&b"XSDT"[..], 0));
        let fadt = table(&mem, u64_at(&xsdt, 36));
        assert_eq!((&fadt[..4], sum(&fadt)), (&b"FACP"[..], 0));
        let madt = table(&mem, u64_at(&xsdt, 44));
        assert_eq!((&madt[..4], sum(&madt)), (&b"APIC"[..], 0));
        // Three local APICs of 8 bytes and an I/O APIC of 12 behind the header of 44.
        assert_eq!(madt.len(), 44 + 3 * 8 + 12);
        let dsdt = table(&mem, u64_at(&fadt, 140));
        assert_eq!((&dsdt[..4], sum(&dsdt)), (&b"DSDT"[..], 0));
        for name in [&b"V000"[..], b"V012", b"C002", b"LNRO0005", b"_S5_"] {
            assert!(dsdt.windows(name.len()).any(|part| part == name));
        }
    }

    #[test]
    fn tables_of_the_largest_machine_fit() {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x20_0000)]).unwrap();

        write(&mem, MAX_VCPUS).unwrap();
    }

    /// Offsets of ACPI 6.4 table 5.9.
    #[test]
    fn the_fixed_description_is_that_of_reduced_hardware() {
        let fadt = bytes(&fadt(0x1234_5678));
        assert_eq!(u64_at(&fadt, 140), 0x1234_5678, "X_DSDT");
        // IAPC_BOOT_ARCH: bit 2, no VGA; bit 5, no CMOS clock.
        assert_eq!(fadt[109..111], [0x24, 0]);
        // HW_REDUCED_ACPI, RESET_REG_SUP, WBINVD.
        assert_eq!(fadt[112..116], (1u32 << 20 | 1 << 10 | 1).to_le_bytes());
        // A byte in the space of ports: space, width, offset, access, address.
        let port = |low| [1, 8, 0, 1, low, 6, 0, 0, 0, 0, 0, 0];
        assert_eq!(fadt[116..128], port(2), "RESET_REG");
        assert_eq!(fadt[128], 1, "RESET_VALUE");
        assert_eq!(fadt[244..256], port(0), "SLEEP_CONTROL_REG");
        assert_eq!(fadt[256..268], port(1), "SLEEP_STATUS_REG");
    }

    /// ACPI 6.4 §5.2.12: type, length; ids and flags.
    #[test]
    fn processors_and_the_interrupt_controller_are_listed() {
        let madt = bytes(&madt(2));
        assert_eq!(madt[36..40], 0xfee0_0000u32.to_le_bytes());
        let local = |id| [0, 8, id, id, 1, 0, 0, 0];
        assert_eq!(madt[44..52], local(0));
        assert_eq!(madt[52..60], local(1));
        assert_eq!(madt[60..], [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    }

    #[test]
    fn the_devices_are_those_of_the_machine() {
        let dsdt = bytes(&dsdt(2));
        let count = |name: &[u8]| dsdt.windows(name.len()).filter(|it| *it == name).count();
        assert_eq!(count(b"LNRO0005"), 19);
        assert_eq!(count(b"ACPI0007"), 2);
        let names = [&b"C000"[..], b"C001", b"V000", b"V012", b"COM1", b"_S5_"];
        assert_eq!(names.map(count), [1; 6]);
        assert_eq!([count(b"C002"), count(b"V013")], [0; 2]);
        // The addresses and lines of the first and the last slot.
        for (address, line) in [(0xd000_0000u32, 5u8), (0xd001_2000, 23)] {
            let memory = [&[0x86, 9, 0, 1][..], &address.to_le_bytes(), &[0, 16, 0, 0]].concat();
            let interrupt = [0x89, 6, 0, 3, 1, line, 0, 0, 0];
            assert_eq!(count(&[&memory[..], &interrupt].concat()), 1, "{line}");
        }
    }

    #[test]
    fn tables_are_aligned_and_end_before_the_kernel() {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x20_0000)]).unwrap();
        let mut writer = TableWriter {
            mem: &mem,
            next: 0xe_0001,
        };
        assert_eq!(writer.put(&[1; 17]).unwrap(), 0xe_0010);
        assert_eq!(writer.put(&[1; 16]).unwrap(), 0xe_0030);
        writer.next = 0x10_0000 - 32;
        assert_eq!(writer.put(&[1; 32]).unwrap(), 0x10_0000 - 32);
        let full = writer.put(&[1]).unwrap_err();
        assert!(matches!(full, MachineError::Memory { .. }), "{full}");
    }
}
