//! The places of kernel, initrd and ACPI tables in a microvm's memory, without overlap.
//!
//! ```text
//!      0xd_0000  the firmware's data: ACPI tables, e820 map, command line        [`FIRMWARE_ROOM`]
//!      0xf_0000  the firmware itself, with the ACPI root pointer
//!     0x10_0000  memory; the kernel at the addresses of its ELF headers
//!                … the initrd, at the end of the memory below 3 GiB
//! ```
//! QEMU places the initrd at the highest possible page boundary below the last page of low
//! memory (hw/i386/x86.c `x86_load_linux`, called with an `acpi_data_size` of 0 by
//! hw/i386/microvm.c `microvm_memory_init`). The firmware places the tables. QEMU's default for
//! a microvm with ACPI is `bios-microvm.bin` (`microvm_devices_init`), which is SeaBIOS.
//! SeaBIOS places the tables at the end of low memory (src/malloc.c `malloc_preinit`,
//! `ZoneHigh`), where its option ROM then overwrites them with the initrd. In Debian 12 this
//! name is a link to qboot; in later releases it is not. So the command line names the
//! firmware: [`FIRMWARE`] (qboot), which is part of QEMU. qboot places all its data below its
//! own code (malloc.c `malloc_align`) and reports 0xd0000 to 0xeffff to the kernel as ACPI's
//! (main.c `extract_e820`). This is below the kernel and the initrd, whatever their sizes.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::LayoutError;
use crate::machine::MAX_VCPUS;
use crate::spec::ValidSpec;

/// The firmware: a file in QEMU's own data directories.
pub const FIRMWARE: &str = "qboot.rom";

/// The room of qboot's data, below its code (main.c `extract_e820`).
const FIRMWARE_ROOM: Range<u64> = 0xd_0000..0xf_0000;
/// The lowest address of kernel and initrd.
const HIGH_MEMORY: u64 = 0x10_0000;
/// The end of low memory (hw/i386/microvm.c `microvm_memory_init`).
const GAP_START: u64 = 0xc000_0000;
const PAGE: u64 = 4096;

/// A microvm has as many virtio-mmio transports as an I/O APIC has pins
/// (hw/i386/microvm.c `microvm_devices_init`).
const MAX_DEVICES: u64 = 24;
/// Bounds for the firmware's tables, each several times the size that QEMU 7.2 to 11.1 need: a
/// device's entry in the DSDT (hw/acpi/generic_event_device.c and hw/i386/acpi-microvm.c), a
/// processor's entries in MADT and DSDT, and the rest: FADT, XSDT, MP table, e820 map and a
/// command line of 2 KiB.
const DEVICE_BYTES: u64 = 256;
const VCPU_BYTES: u64 = 128;
const OTHER_BYTES: u64 = 16 << 10;

// The firmware has room for every possible request.
const _: () = assert!(
    MAX_DEVICES * DEVICE_BYTES + MAX_VCPUS as u64 * VCPU_BYTES + OTHER_BYTES
        <= FIRMWARE_ROOM.end - FIRMWARE_ROOM.start
);
const _: () = assert!(FIRMWARE_ROOM.end <= HIGH_MEMORY);

/// Checks that the parts that QEMU puts into the VM's memory do not overlap.
///
/// # Errors
/// [`LayoutError`], which names the overlapping parts.
pub(super) fn check(spec: &ValidSpec) -> Result<(), LayoutError> {
    let unreadable = |what, path: &Path| {
        let path = path.to_owned();
        move |source| LayoutError::Unreadable { what, path, source }
    };
    let kernel =
        kernel_range(&spec.kernel).map_err(unreadable("ELF headers of kernel", &spec.kernel))?;
    if kernel.start < HIGH_MEMORY {
        return Err(LayoutError::Low {
            path: spec.kernel.clone(),
            start: kernel.start,
        });
    }
    let size = fs::metadata(&spec.initrd).map(|meta| meta.len());
    let size = size.map_err(unreadable("initial RAM disk", &spec.initrd))?;
    let start = initrd_start(spec.memory_bytes(), size);
    if u64::try_from(start).is_ok_and(|start| start >= kernel.end) {
        return Ok(());
    }
    Err(LayoutError::Overlap {
        memory_mib: spec.memory_mib,
        kernel: spec.kernel.clone(),
        kernel_end: kernel.end,
        initrd: spec.initrd.clone(),
        initrd_start: start,
    })
}

/// The address where `x86_load_linux` puts an initrd; negative if it does not fit.
fn initrd_start(memory_bytes: u64, size: u64) -> i64 {
    let last = memory_bytes.min(GAP_START) - 1;
    (last as i64).saturating_sub_unsigned(size) & !(PAGE as i64 - 1)
}

/// The range from the lowest to the highest address of the loadable segments of an ELF64 file
/// for x86-64, which [`ValidSpec`] has checked (gABI, "ELF Header" and "Program Header").
fn kernel_range(path: &Path) -> io::Result<Range<u64>> {
    const PT_LOAD: u32 = 1;
    let file = File::open(path)?;
    let table = u64::from_le_bytes(read(&file, 0x20)?); // e_phoff
    let size = u16::from_le_bytes(read(&file, 0x36)?); // e_phentsize
    let count = u16::from_le_bytes(read(&file, 0x38)?); // e_phnum
    let (mut low, mut high) = (u64::MAX, 0);
    for index in 0..u64::from(count) {
        let entry = table.saturating_add(index * u64::from(size));
        let kind = u32::from_le_bytes(read(&file, entry)?); // p_type
        let start = u64::from_le_bytes(read(&file, entry + 0x18)?); // p_paddr
        let len = u64::from_le_bytes(read(&file, entry + 0x28)?); // p_memsz
        if kind == PT_LOAD && len > 0 {
            low = low.min(start);
            high = high.max(start.saturating_add(len));
        }
    }
    if low >= high {
        return Err(io::Error::other("no segment to load"));
    }
    Ok(low..high)
}

fn read<const N: usize>(file: &File, place: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, place)?;
    Ok(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::VmSpec;
    use crate::spec::fixture;

    const MIB: u64 = 1 << 20;

    /// An ELF64 file with one segment for each pair of address and size, and a note in front.
    pub fn elf(segments: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..5].copy_from_slice(b"\x7fELF\x02");
        bytes[0x12] = 62;
        bytes[0x20] = 64;
        bytes[0x36] = 56;
        bytes[0x38] = segments.len() as u8 + 1;
        let note = (4, (0, 64 * MIB));
        for (kind, (start, size)) in [note].into_iter().chain(segments.iter().map(|s| (1, *s))) {
            let mut entry = [0; 56];
            entry[0] = kind;
            entry[0x18..0x20].copy_from_slice(&start.to_le_bytes());
            entry[0x28..0x30].copy_from_slice(&size.to_le_bytes());
            bytes.extend(entry);
        }
        bytes
    }

    fn verdict(segments: &[(u64, u64)], initrd: u64, memory_mib: u32) -> Result<(), LayoutError> {
        let (_dir, spec) = fixture();
        fs::write(&spec.kernel, elf(segments)).unwrap();
        let file = File::create(&spec.initrd).unwrap();
        file.set_len(initrd).unwrap();
        let spec = VmSpec { memory_mib, ..spec };
        check(&spec.validate().unwrap())
    }

    #[test]
    fn the_initrd_is_where_qemu_puts_it() {
        // The guest's own report (RAMDISK: [mem 0x0fda8000-0x0fffffff]) for 2,456,224 bytes.
        assert_eq!(initrd_start(256 * MIB, 2_456_224), 0x0fda_8000);
        // A multiple of the page size leaves the last page free; one byte more uses it.
        assert_eq!(initrd_start(256 * MIB, 4096), 0x0fff_e000);
        assert_eq!(initrd_start(256 * MIB, 4095), 0x0fff_f000);
        assert_eq!(initrd_start(256 * MIB, 4097), 0x0fff_e000);
        assert_eq!(initrd_start(8192 * MIB, 4097), 0xbfff_e000);
        assert!(initrd_start(MIB, 4 * MIB) < 0);
    }

    #[test]
    fn side_by_side_is_fine_up_to_the_byte() {
        let kernel = [(16 * MIB, 20 * MIB), (36 * MIB, 4 * MIB)];
        // The kernel ends at 40 MiB, memory at 64.
        assert!(verdict(&kernel, 24 * MIB - 1, 64).is_ok());
        let err = verdict(&kernel, 24 * MIB, 64).unwrap_err();
        assert!(matches!(err, LayoutError::Overlap { .. }), "{err}");
        let text = err.to_string();
        assert!(text.contains("ends at 0x2800000"), "{text}");
        assert!(text.contains("raise memory_mib"), "{text}");
    }

    #[test]
    fn the_firmware_keeps_its_place() {
        let err = verdict(&[(0xe_0000, MIB)], 4096, 64).unwrap_err();
        assert!(
            matches!(
                err,
                LayoutError::Low {
                    start: 0xe_0000,
                    ..
                }
            ),
            "{err}"
        );
    }

    #[test]
    fn headers_that_cannot_be_read_are_an_error() {
        for bytes in [elf(&[]), elf(&[(MIB, MIB)])[..100].to_vec()] {
            let (_dir, spec) = fixture();
            fs::write(&spec.kernel, bytes).unwrap();
            let err = check(&spec.validate().unwrap()).unwrap_err();
            assert!(matches!(err, LayoutError::Unreadable { .. }), "{err}");
        }
    }
}
