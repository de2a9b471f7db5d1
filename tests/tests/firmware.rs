//! QEMU's firmware, kernel, initrd and ACPI tables do not overlap in the guest's memory, with
//! any number of devices and any size of the initrd.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::bed::Bed;
use harness::console;
use harness::dist::{self, QEMU, SHIM, VMM, patience, subject_is_ours};
use harness::initrd::{WORD, arguments, with_init};
use harness::require;
use harness::run::{Input, run};
use harness::scene::limit;
use harness::spec::Spec;
use hypervisor::{HypervisorKind, Share, VmSpec, select};
use tempfile::{NamedTempFile, TempDir};

const PAGE: u64 = 4096;
const MEMORY_MIB: u32 = 256;
/// The memory in which qboot places the tables (hypervisor `qemu::layout`).
const ROOM: Range<u64> = 0xd_0000..0xf_0000;

/// The common parts of all boots of a test.
struct Boots {
    runtime: tokio::runtime::Runtime,
    initrd: NamedTempFile,
    bare: u64,
    folder: TempDir,
}

impl Boots {
    fn new() -> Self {
        let initrd = with_init(&dist::dist().join("share/rust-kata/initrd.img"))
            .expect("the built tree has an initrd");
        let bare = initrd.as_file().metadata().expect("our file").len();
        Self {
            runtime: tokio::runtime::Runtime::new().expect("a runtime"),
            initrd,
            bare,
            folder: TempDir::new().expect("/tmp is writable"),
        }
    }

    /// Boots with `devices` virtio devices and an initrd whose size is `rest` beyond whole
    /// pages; returns the kernel's output. The kernel skips zeros after an archive
    /// (buffer-format.rst).
    fn boot(&self, devices: usize, rest: u64) -> String {
        let size = self.bare.next_multiple_of(PAGE) + rest;
        self.initrd.as_file().set_len(size).expect("our file");
        let folder = tempfile::tempdir_in(self.folder.path()).expect("ours");
        let of = |name: &str| folder.path().join(name);
        for name in ["sockets", "share"] {
            fs::create_dir(of(name)).expect("ours");
        }
        let console = console::listen(&of("console.log"));
        let spec = VmSpec {
            id: "firmware".into(),
            dir: folder.path().to_owned(),
            kernel: dist::dist().join("share/rust-kata/vmlinux"),
            initrd: self.initrd.path().to_owned(),
            cmdline: arguments().split(' ').map(str::to_owned).collect(),
            vcpus: 1,
            max_vcpus: 1,
            memory_mib: MEMORY_MIB,
            hotplug_mib: 0,
            hugepages: false,
            netns: None,
            cgroup: None,
            share: Share {
                tag: "rust-kata".into(),
                dir: of("share"),
                files: Share::FILES,
            },
            vsock_uds: of("sockets/vsock"),
            hypervisor: HypervisorKind::Qemu,
            vmm_binary: dist::binary(VMM),
            qemu_binary: self.qemu(devices),
            // The kernel prints all addresses.
            debug: true,
        };
        let spec = spec.validate().expect("a good specification");
        let choice = select(&spec).expect("QEMU");
        let vm = self.runtime.block_on(async {
            let vm = choice.vmm.create(spec).await.expect("a VM");
            vm.boot().await.expect("it boots");
            vm
        });
        console.expect(WORD, patience(30.0));
        self.runtime.block_on(vm.kill());
        console.now().text()
    }

    /// A QEMU with this many devices, up to the largest number.
    fn qemu(&self, devices: usize) -> PathBuf {
        let path = self.folder.path().join(format!("qemu-{devices}"));
        let script = format!(
            "#!/bin/bash\n\
             left={devices}; args=()\n\
             while [ $# -gt 0 ]; do\n\
                 if [ \"$1\" = -device ]; then\n\
                     [ $left = 0 ] || {{ args+=(\"$1\" \"$2\"); left=$((left - 1)); }}; shift 2\n\
                 else args+=(\"$1\"); shift; fi\n\
             done\n\
             for ((; left > 0; left--)); do args+=(-device virtio-serial-device); done\n\
             exec {QEMU} \"${{args[@]}}\"\n"
        );
        write_program(&path, &script);
        path
    }
}

fn write_program(path: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    if !path.exists() {
        fs::write(path, script).expect("our folder is writable");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our file");
    }
}

/// Parses a number with leading zeros and letters of either case, as the kernel prints it.
fn hex(word: &str) -> u64 {
    let digits = word.trim_start_matches("0x");
    u64::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("{word:?} is not a number"))
}

/// The tables, except the root pointer: `ACPI: DSDT 0x00000000000EFC40 00021C (v02 BOCHS )`.
fn tables(said: &str) -> Vec<(String, Range<u64>)> {
    let lines = said.lines().filter_map(|line| line.split_once("ACPI: "));
    lines
        .filter_map(|(_, line)| {
            let words: Vec<_> = line.split_whitespace().collect();
            let [name, place, size, ..] = words[..] else {
                return None;
            };
            let is_table = name.len() == 4 && place.starts_with("0x") && name != "RSDP";
            is_table.then(|| (name.to_owned(), hex(place)..hex(place) + hex(size)))
        })
        .collect()
}

/// The start of the initrd's pages: `RAMDISK: [mem 0x0fda8000-0x0fffffff]`.
fn initrd(said: &str) -> u64 {
    let (_, rest) = said.split_once("RAMDISK: [mem ").expect("an initrd");
    hex(rest.split('-').next().expect("a range"))
}

fn assert_apart(said: &str, what: &str) {
    let tables = tables(said);
    for name in ["FACP", "DSDT", "APIC"] {
        assert!(
            tables.iter().any(|(found, _)| found == name),
            "{what}: {said}"
        );
    }
    for (name, place) in &tables {
        let inside = ROOM.contains(&place.start) && place.end <= ROOM.end;
        assert!(inside, "{what}: {name} at {place:x?}: {said}");
    }
    assert!(initrd(said) > ROOM.end, "{what}: {said}");
    assert!(!said.contains("Allocated new RAMDISK"), "{what}: {said}");
}

/// The worst size with QEMU's default firmware, which places the tables at the end of memory:
/// no byte is left there.
#[test]
fn one_to_twelve_devices_boot_with_an_initrd_up_to_the_last_byte() {
    require!(subject_is_ours());
    let boots = Boots::new();
    for devices in 1..=12 {
        let said = boots.boot(devices, PAGE - 1);
        assert_apart(&said, &format!("{devices} devices"));
    }
}

/// The sizes leave a page at the end of memory, nearly a page, and less than the tables of
/// three and twelve devices need.
#[test]
fn initrds_of_every_size_boot() {
    require!(subject_is_ours());
    let boots = Boots::new();
    for rest in [0, 1, 512, 2048, 3000, PAGE - 0x3c0, PAGE - 0x40] {
        for devices in [3, 12] {
            let said = boots.boot(devices, rest);
            assert_apart(&said, &format!("{devices} devices, {rest} beyond a page"));
        }
    }
}

fn bundle(bed: &Bed) -> PathBuf {
    let bundle = bed.fresh("bundle");
    fs::create_dir(&bundle).expect("the bed is ours");
    harness::image::make_rootfs(&bundle.join("rootfs"));
    Spec::new(Path::new("rootfs"), &["echo", "out"]).write(&bundle.join("config.json"));
    bundle
}

/// With a QEMU without the firmware, `check` and a pod's start report it.
#[test]
fn a_missing_firmware_is_named_with_its_cure() {
    require!(subject_is_ours());
    require!(dist::machine_is_qemu());
    let bed = Bed::new();
    let bundle = bundle(&bed);
    // Hidden in a mount namespace of the command's own.
    let hidden = |program: PathBuf, args: &[&str]| {
        let mut command = Command::new("unshare");
        let hide = "for dir in $(qemu-system-x86_64 -L help); do \
                    [ ! -e $dir/qboot.rom ] || mount -t tmpfs none $dir; done; exec \"$@\"";
        command
            .envs(bed.environment())
            .args(["--mount", "sh", "-ec", hide, "sh"])
            .arg(program)
            .args(args);
        run(command, Input::Null, limit())
    };

    let check = hidden(dist::binary(dist::CLI), &["check"]).exits(1);
    let bundle = bundle.to_str().expect("an ASCII path");
    let start = hidden(dist::binary(SHIM), &["run", "--bundle", bundle]);

    assert!(check.out().contains("qemu-system-data"), "{check:?}");
    assert_ne!(start.code, 0, "{start:?}");
    assert!(
        start.err().contains("QEMU has no firmware qboot.rom"),
        "{start:?}"
    );
    assert!(start.err().contains("qemu-system-data"), "{start:?}");
    bed.assert_clean();
}

/// A kernel whose zeroed memory overlaps with the initrd.
#[test]
fn a_kernel_that_reaches_into_the_initrd_is_refused() {
    require!(subject_is_ours());
    require!(dist::machine_is_qemu());
    // An ELF64 file for x86-64 with one loadable segment of 512 MiB at 16 MiB (gABI).
    let mut kernel = vec![0_u8; 64 + 56];
    kernel[..5].copy_from_slice(b"\x7fELF\x02");
    for (place, byte) in [(0x12, 62), (0x20, 64), (0x36, 56), (0x38, 1), (64, 1)] {
        kernel[place] = byte;
    }
    kernel[64 + 0x18..][..8].copy_from_slice(&(16_u64 << 20).to_le_bytes());
    kernel[64 + 0x28..][..8].copy_from_slice(&(512_u64 << 20).to_le_bytes());
    let file = NamedTempFile::new().expect("/tmp is writable");
    fs::write(file.path(), kernel).expect("our file");
    let bed = Bed::with(harness::bed::Plan {
        config: format!("kernel = {:?}\n", file.path()),
        ..Default::default()
    });
    let mut command = Command::new(dist::binary(SHIM));
    command.envs(bed.environment()).arg("run").arg("--bundle");
    command.arg(bundle(&bed));

    let output = run(command, Input::Null, limit());

    assert_ne!(output.code, 0, "{output:?}");
    let said = output.err();
    assert!(said.contains("ends at 0x21000000"), "{output:?}");
    assert!(said.contains("raise memory_mib"), "{output:?}");
    bed.assert_clean();
}
