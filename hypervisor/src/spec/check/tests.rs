//! The specs that validation accepts, and its errors for others.

use super::*;

/// Makes a directory with the files of a valid spec, and the spec.
pub(crate) fn fixture() -> (tempfile::TempDir, VmSpec) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().to_owned();
    let mut elf = vec![0; 64];
    elf[..5].copy_from_slice(b"\x7fELF\x02");
    elf[18] = EM_X86_64 as u8;
    fs::write(dir.join("vmlinux"), &elf).unwrap();
    fs::write(dir.join("initrd.img"), "x").unwrap();
    fs::create_dir(dir.join("shared")).unwrap();
    let program = dir.join("program");
    fs::write(&program, "").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let (kernel, initrd) = (dir.join("vmlinux"), dir.join("initrd.img"));
    let spec = VmSpec {
        id: "pod-1".into(),
        cmdline: vec!["rust_kata.log=info".into()],
        memory_mib: 128,
        vsock_uds: dir.join("vsock.sock"),
        hypervisor: HypervisorKind::Qemu,
        vmm_binary: program.clone(),
        qemu_binary: program,
        ..VmSpec::new(&dir, &kernel, &initrd, &dir.join("shared"))
    };
    (tmp, spec)
}

#[test]
fn good_spec_is_accepted() {
    let (_tmp, spec) = fixture();

    let valid = spec.validate().unwrap();

    assert_eq!(valid.memory_bytes(), 128 << 20);
    assert!(valid.qemu_binary.is_absolute());
}

#[test]
fn missing_kernel_is_named() {
    let (_tmp, mut spec) = fixture();
    spec.kernel = "/nonexistent/vmlinux".into();

    let text = spec.validate().unwrap_err().to_string();

    assert!(text.contains("/nonexistent/vmlinux"), "{text}");
    assert!(text.contains("make guest"), "{text}");
}

#[test]
fn kernel_must_be_elf() {
    let (_tmp, spec) = fixture();
    fs::write(&spec.kernel, [b'M'; 4096]).unwrap();

    assert!(matches!(spec.validate(), Err(SpecError::Kernel { .. })));
}

#[test]
fn missing_program_names_the_cure() {
    let (_tmp, mut spec) = fixture();
    spec.qemu_binary = "qemu-system-nowhere".into();

    let text = spec.validate().unwrap_err().to_string();

    assert_eq!(
        text,
        "qemu-system-nowhere not found in PATH: install qemu-system-x86 or set [qemu] binary"
    );
}

#[test]
fn file_without_execute_bit_is_no_program() {
    let (_tmp, mut spec) = fixture();
    spec.vmm_binary = spec.initrd.clone();

    assert!(matches!(spec.validate(), Err(SpecError::Binary { .. })));
}

#[test]
fn memory_is_bounded_both_ways() {
    let (_tmp, spec) = fixture();
    for given in [0, MIN_MEMORY_MIB - 1, u32::MAX] {
        let mut spec = spec.clone();
        spec.memory_mib = given;
        assert!(
            matches!(spec.validate(), Err(SpecError::Memory { .. })),
            "{given}"
        );
    }
}

#[test]
fn images_raise_the_least_memory() {
    assert!(memory(100, 60 << 20).is_err());
    assert!(memory(120, 60 << 20).is_ok());
}

#[test]
fn vcpus_are_bounded() {
    assert!(vcpus(0).is_err());
    assert!(vcpus(1).is_ok());
    assert!(vcpus(100_000).is_err());
}

#[test]
fn socket_path_must_leave_room_for_a_port() {
    let (_tmp, mut spec) = fixture();
    let fill = SUN_PATH - 1 - PORT_SUFFIX - spec.dir.as_os_str().len() - 1;
    spec.vsock_uds = spec.dir.join("s".repeat(fill));
    assert!(spec.clone().validate().is_ok());

    spec.vsock_uds = spec.dir.join("s".repeat(fill + 1));
    assert!(matches!(spec.validate(), Err(SpecError::SocketPath { .. })));
}

#[test]
fn names_are_checked() {
    let (_tmp, spec) = fixture();
    for id in ["", "a b", "a,b", "../x/"] {
        let mut spec = spec.clone();
        spec.id = id.into();
        assert!(matches!(spec.validate(), Err(SpecError::Id(_))), "{id:?}");
    }
    let mut spec = spec;
    spec.share.tag = "t".repeat(TAG_LEN + 1);
    assert!(matches!(spec.validate(), Err(SpecError::Tag(_))));
}

#[test]
fn command_line_words_are_checked() {
    assert!(cmdline(&["a=b".into()]).is_ok());
    assert!(cmdline(&["a b".into()]).is_err());
    assert!(cmdline(&["\n".into()]).is_err());
    assert!(cmdline(&["x".repeat(MAX_CMDLINE)]).is_err());
}

#[test]
fn missing_netns_is_named() {
    let (_tmp, mut spec) = fixture();
    spec.netns = Some("/run/netns/none".into());

    let text = spec.validate().unwrap_err().to_string();

    assert!(text.contains("/run/netns/none"), "{text}");
}

#[test]
fn limits_of_growth_are_checked() {
    let refused = |change: fn(&mut VmSpec)| {
        let (_tmp, mut spec) = fixture();
        change(&mut spec);
        spec.validate().unwrap_err()
    };

    let few = refused(|spec| (spec.vcpus, spec.max_vcpus) = (2, 1));
    let many = refused(|spec| spec.max_vcpus = 1000);
    let odd = refused(|spec| spec.hotplug_mib = 100);

    assert!(matches!(few, SpecError::MaxVcpus { min: 2, .. }));
    assert!(matches!(many, SpecError::MaxVcpus { given: 1000, .. }));
    assert!(matches!(odd, SpecError::Hotplug(100)));
}

#[test]
fn built_in_vmm_needs_no_qemu() {
    let (_tmp, mut spec) = fixture();
    spec.qemu_binary = "/nonexistent".into();
    spec.hypervisor = HypervisorKind::Kvm;

    assert!(spec.validate().is_ok());
}
