//! Puts a Linux kernel, its initrd and command line into guest memory, and describes
//! them in the "zero page" (Documentation/arch/x86/boot.rst and zero-page.rst).

use std::fs::File;
use std::io::{Seek, SeekFrom};

use linux_loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::Elf;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, ReadVolatile};

use super::MachineError;
use super::layout;
use super::memory::{Range, ranges};

/// "Undefined" in the list of boot loaders.
const TYPE_OF_LOADER: u8 = 0xff;
/// The setup header's magic numbers.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448; // "HdrS"
/// Protocol 2.15, the first with all features used here.
const PROTOCOL: u16 = 0x020f;
/// The kernel lies at or above 1 MiB.
const LOADED_HIGH: u8 = 1;
/// Usable memory in the e820 map (ACPI 6.4 §15).
const E820_RAM: u32 = 1;

const PAGE: u64 = 4096;

/// Loads all parts; returns the kernel's 64-bit entry.
pub(super) fn load(
    mem: &GuestMemoryMmap,
    memory_bytes: u64,
    mut kernel: File,
    initrd: File,
    cmdline: &str,
) -> Result<u64, MachineError> {
    let bad = |reason: String| MachineError::Kernel { reason };
    let loaded = Elf::load(
        mem,
        None,
        &mut kernel,
        Some(GuestAddress(layout::HIGH_MEMORY)),
    )
    .map_err(|err| bad(err.to_string()))?;
    let initrd = load_initrd(mem, memory_bytes, loaded.kernel_end, initrd)?;
    write_cmdline(mem, cmdline)?;
    let mut params = zero_page(memory_bytes, cmdline.len());
    // Both are below 3 GiB.
    params.hdr.ramdisk_image = initrd.start as u32;
    params.hdr.ramdisk_size = initrd.len as u32;
    mem.write_obj(params, GuestAddress(layout::ZERO_PAGE))
        .map_err(memory_error)?;
    Ok(loaded.kernel_load.0)
}

/// At the end of low memory, where it cannot block the kernel.
fn load_initrd(
    mem: &GuestMemoryMmap,
    memory_bytes: u64,
    kernel_end: u64,
    mut initrd: File,
) -> Result<Range, MachineError> {
    let bad = |reason: String| MachineError::Initrd { reason };
    let len = initrd
        .seek(SeekFrom::End(0))
        .and_then(|len| initrd.rewind().map(|()| len))
        .map_err(|err| bad(err.to_string()))?;
    if len == 0 {
        return Err(bad("it is empty".into()));
    }
    let end = memory_bytes.min(layout::GAP_START);
    let start = end
        .checked_sub(len)
        .map(|start| start & !(PAGE - 1))
        .filter(|start| *start >= kernel_end)
        .ok_or_else(|| bad(format!("its {len} bytes do not fit behind the kernel")))?;
    let mut place = mem
        .get_slice(GuestAddress(start), len as usize)
        .map_err(|err| bad(err.to_string()))?;
    initrd
        .read_exact_volatile(&mut place)
        .map_err(|err| bad(err.to_string()))?;
    Ok(Range { start, len })
}

fn write_cmdline(mem: &GuestMemoryMmap, cmdline: &str) -> Result<(), MachineError> {
    if cmdline.len() >= layout::CMDLINE_MAX || cmdline.contains('\0') {
        return Err(MachineError::Cmdline(cmdline.len()));
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    mem.write_slice(&bytes, GuestAddress(layout::CMDLINE))
        .map_err(memory_error)
}

fn zero_page(memory_bytes: u64, cmdline_len: usize) -> boot_params {
    let mut params = boot_params {
        acpi_rsdp_addr: layout::RSDP,
        ..Default::default()
    };
    params.hdr.type_of_loader = TYPE_OF_LOADER;
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.version = PROTOCOL;
    params.hdr.loadflags = LOADED_HIGH;
    params.hdr.cmd_line_ptr = layout::CMDLINE as u32;
    params.hdr.cmdline_size = cmdline_len as u32;
    let map = memory_map(memory_bytes);
    params.e820_entries = map.len() as u8;
    for (place, range) in params.e820_table.iter_mut().zip(map) {
        *place = boot_e820_entry {
            addr: range.start,
            size: range.len,
            type_: E820_RAM,
        };
    }
    params
}

/// The usable memory; the memory device describes the memory that can be plugged.
fn memory_map(memory_bytes: u64) -> Vec<Range> {
    let mut map = vec![Range {
        start: 0,
        len: layout::LOW_MEMORY_END,
    }];
    map.extend(ranges(memory_bytes).into_iter().map(|range| {
        let start = range.start.max(layout::HIGH_MEMORY);
        Range {
            start,
            len: range.start + range.len - start,
        }
    }));
    map
}

fn memory_error(err: vm_memory::GuestMemoryError) -> MachineError {
    MachineError::Memory {
        what: "write boot parameters into",
        reason: err.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::testing::{elf, file};

    const MIB: u64 = 1 << 20;

    fn memory(bytes: u64) -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes as usize)]).unwrap()
    }

    fn read(mem: &GuestMemoryMmap, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        mem.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    #[test]
    fn all_parts_are_where_the_zero_page_says() {
        let mem = memory(8 * MIB);

        let entry = load(
            &mem,
            8 * MIB,
            file(&elf(b"kernel")),
            file(b"initrd"),
            "console=x",
        )
        .unwrap();

        assert_eq!(entry, MIB);
        assert_eq!(read(&mem, MIB, 6), b"kernel");
        let params: boot_params = mem.read_obj(GuestAddress(layout::ZERO_PAGE)).unwrap();
        let (image, size) = (params.hdr.ramdisk_image, params.hdr.ramdisk_size);
        assert_eq!(read(&mem, image.into(), size as usize), b"initrd");
        let pointer = params.hdr.cmd_line_ptr;
        assert_eq!(read(&mem, pointer.into(), 10), b"console=x\0");
        assert_eq!(params.e820_entries, 2);
    }

    #[test]
    fn memory_map_leaves_out_the_gaps() {
        let map = memory_map(4 << 30);

        let ends: Vec<_> = map.iter().map(|r| (r.start, r.start + r.len)).collect();
        let expected = [
            (0, layout::LOW_MEMORY_END),
            (MIB, 3 << 30),
            (4 << 30, 5 << 30),
        ];
        assert_eq!(ends, expected);
    }

    #[test]
    fn initrd_that_does_not_fit_is_refused() {
        let mem = memory(4 * MIB);
        let large = file(&vec![1; 3 * MIB as usize]);

        let refused = load(&mem, 4 * MIB, file(&elf(b"kernel")), large, "").unwrap_err();

        assert!(matches!(refused, MachineError::Initrd { .. }), "{refused}");
    }

    #[test]
    fn kernel_that_is_none_is_refused() {
        let mem = memory(4 * MIB);

        for image in [&b""[..], b"#!/bin/sh\n", &elf(b"")[..100]] {
            let refused = load(&mem, 4 * MIB, file(image), file(b""), "").unwrap_err();
            assert!(matches!(refused, MachineError::Kernel { .. }), "{refused}");
        }
    }

    #[test]
    fn command_line_is_not_cut_off() {
        let mem = memory(4 * MIB);
        let long = "x".repeat(layout::CMDLINE_MAX);

        let refused =
            load(&mem, 4 * MIB, file(&elf(b"kernel")), file(b"initrd"), &long).unwrap_err();

        assert!(matches!(refused, MachineError::Cmdline(_)), "{refused}");
    }

    /// Field by field (zero-page.rst, boot.rst "Details of Header Fields").
    #[test]
    fn the_zero_page_says_what_the_kernel_must_know() {
        let params = zero_page(128 * MIB, 77);
        let hdr = params.hdr;
        let (flag, magic, version) = (hdr.boot_flag, hdr.header, hdr.version);
        assert_eq!((flag, magic, version), (0xaa55, 0x5372_6448, 0x20f));
        assert_eq!((hdr.type_of_loader, hdr.loadflags), (0xff, 1));
        let (pointer, size) = (hdr.cmd_line_ptr, hdr.cmdline_size);
        assert_eq!((pointer, size), (0x2_0000, 77));
        let rsdp = params.acpi_rsdp_addr;
        assert_eq!(rsdp, 0xe_0000);
        let map = params.e820_table.map(|e| (e.addr, e.size, e.type_));
        assert_eq!(params.e820_entries, 2);
        let usable = [(0, 0x9_fc00, 1), (MIB, 127 * MIB, 1), (0, 0, 0)];
        assert_eq!(map[..3], usable);
    }

    #[test]
    fn an_initrd_fits_up_to_the_byte_at_the_end_of_low_memory() {
        let (kernel_end, mem) = (MIB + 4096, memory(4 * MIB));
        let place = |len: u64, end| load_initrd(&mem, 4 * MIB, end, file(&vec![7; len as usize]));
        let whole = 3 * MIB - 4096;

        let range = place(whole, kernel_end).unwrap();
        assert_eq!((range.start, range.len), (kernel_end, whole));
        assert_eq!(read(&mem, 4 * MIB - 1, 1), [7]);
        let range = place(4097, kernel_end).unwrap();
        assert_eq!((range.start, range.len), (4 * MIB - 8192, 4097));
        for (len, end) in [(whole + 1, kernel_end), (whole, kernel_end + 1), (0, 0)] {
            let refused = place(len, end).unwrap_err();
            assert!(matches!(refused, MachineError::Initrd { .. }), "{refused}");
        }
        // More than all memory.
        let refused = place(4 * MIB + 1, 0).unwrap_err();
        assert!(matches!(refused, MachineError::Initrd { .. }), "{refused}");
    }

    #[test]
    fn a_command_line_has_room_for_its_end() {
        let mem = memory(4 * MIB);
        let longest = "x".repeat(2047);
        write_cmdline(&mem, &longest).unwrap();
        let written = read(&mem, layout::CMDLINE, 2048);
        assert_eq!(written, [longest.as_bytes(), b"\0"].concat());
        for (bad, len) in [("x".repeat(2048), 2048), ("a\0b".into(), 3)] {
            let refused = write_cmdline(&mem, &bad).unwrap_err();
            assert!(matches!(refused, MachineError::Cmdline(n) if n == len));
        }
    }
}
