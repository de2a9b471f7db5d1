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
    let refused = memory(119, 60 << 20);
    assert!(matches!(
        refused,
        Err(SpecError::Memory {
            given: 119,
            min: 120,
            ..
        })
    ));
    memory(120, 60 << 20).unwrap();
}

#[test]
fn vcpus_are_bounded() {
    for bad in [0, 100_000] {
        let refused = vcpus(bad);
        assert!(matches!(refused, Err(SpecError::Vcpus { given, .. }) if given == bad));
    }
    vcpus(1).unwrap();
    // Any host may overcommit up to this.
    vcpus(8).unwrap();
}

#[test]
fn socket_path_must_leave_room_for_a_port() {
    let (_tmp, mut spec) = fixture();
    let fill = SUN_PATH - 1 - PORT_SUFFIX - spec.dir.as_os_str().len() - 1;
    spec.vsock_uds = spec.dir.join("s".repeat(fill));
    spec.clone().validate().unwrap();

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
    cmdline(&["a=b".into(), "c".into()]).unwrap();
    for bad in ["", "a b", "\n", "\x7f", "ä"] {
        let refused = cmdline(&["good".into(), bad.into()]);
        assert!(matches!(refused, Err(SpecError::Cmdline(word)) if word == bad));
    }
    // Each word takes a space more.
    cmdline(&["x".repeat(MAX_CMDLINE - 1)]).unwrap();
    let refused = cmdline(&["x".repeat(MAX_CMDLINE - 2), "y".into()]);
    let Err(SpecError::CmdlineLength { len, max }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((len, max), (MAX_CMDLINE + 1, MAX_CMDLINE));
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

    let valid = spec.validate().unwrap();

    // Nor is its path made absolute.
    assert_eq!(valid.qemu_binary, Path::new("/nonexistent"));
}

/// The error of a valid spec that was changed.
fn refused(change: impl FnOnce(&mut VmSpec)) -> SpecError {
    let (_tmp, mut spec) = fixture();
    change(&mut spec);
    spec.validate().unwrap_err()
}

#[test]
fn files_and_directories_that_cannot_be_used_are_named_with_their_part() {
    type Change = fn(&mut VmSpec);
    let cases: [(&str, &str, Change); 9] = [
        ("VM directory", "create it first", |s| {
            s.dir = "/nonexistent/x".into()
        }),
        ("VM directory", "create it first", |s| {
            s.dir = s.kernel.clone()
        }),
        ("Share", "create the directory first", |s| {
            s.share.dir = "/nonexistent/x".into()
        }),
        ("Share", "create the directory first", |s| {
            s.share.dir = s.kernel.clone()
        }),
        ("Network namespace", "leave it out", |s| {
            s.netns = Some(s.dir.clone())
        }),
        ("Guest kernel", "make guest", |s| s.kernel = s.dir.clone()),
        ("Initial RAM disk", "make guest", |s| {
            s.initrd = s.dir.clone()
        }),
        ("Directory of the vsock socket", "create it first", |s| {
            s.vsock_uds = "/nonexistent/x".into();
        }),
        ("vsock socket", "absolute path", |s| {
            s.vsock_uds = "relative/socket".into()
        }),
    ];
    for (part, way_out, change) in cases {
        let error = refused(change);
        let SpecError::Path { what, cure, .. } = &error else {
            panic!("{part}: {error:?}");
        };
        assert!(what.eq_ignore_ascii_case(part), "{what}: {part}");
        assert!(cure.contains(way_out), "{cure}");
    }
    // A file in the place of the socket's directory.
    let error = refused(|spec| spec.vsock_uds = spec.kernel.join("socket"));
    assert!(matches!(error, SpecError::Path { .. }), "{error:?}");
}

#[test]
fn kernels_that_cannot_be_booted_are_refused_with_the_reason() {
    let reason = |change: fn(&mut Vec<u8>)| {
        let (_tmp, spec) = fixture();
        let mut kernel = fs::read(&spec.kernel).unwrap();
        change(&mut kernel);
        fs::write(&spec.kernel, kernel).unwrap();
        match spec.validate() {
            Ok(_) => "",
            Err(SpecError::Kernel { reason, .. }) => reason,
            Err(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(reason(|_| {}), "");
    assert_eq!(reason(|kernel| kernel.truncate(20)), "");
    assert_eq!(reason(|kernel| kernel.truncate(19)), "is too short");
    assert_eq!(reason(|kernel| kernel[3] = b'G'), "is not an ELF file");
    // 32 bits; AArch64; x86-64 in the other order of bytes.
    assert_eq!(reason(|kernel| kernel[4] = 1), "is not for x86-64");
    assert_eq!(reason(|kernel| kernel[18] = 183), "is not for x86-64");
    assert_eq!(
        reason(|kernel| kernel[18..20].reverse()),
        "is not for x86-64"
    );
}

#[test]
fn names_and_numbers_at_their_bounds() {
    let accepted = |change: fn(&mut VmSpec)| {
        let (_tmp, mut spec) = fixture();
        change(&mut spec);
        spec.validate().unwrap();
    };
    accepted(|spec| spec.id = "x".repeat(128));
    accepted(|spec| spec.share.tag = "A.z_0-9".into());
    accepted(|spec| spec.share.tag = "t".repeat(36));
    accepted(|spec| spec.memory_mib = 64);
    accepted(|spec| (spec.vcpus, spec.max_vcpus) = (2, 2));
    accepted(|spec| spec.max_vcpus = MAX_VCPUS);
    accepted(|spec| spec.hotplug_mib = 0);
    accepted(|spec| spec.hotplug_mib = 256);
    accepted(|spec| spec.netns = Some("/proc/self/ns/net".into()));

    assert!(matches!(
        refused(|spec| spec.id = "x".repeat(129)),
        SpecError::Id(_)
    ));
    let Err(SpecError::Memory { given, min, max }) = memory(63, 0) else {
        panic!("63 MiB");
    };
    assert_eq!((given, min), (63, 64));
    let host = fs::read_to_string("/proc/meminfo").unwrap();
    let total: u32 = host.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(max, total >> 10);
    memory(max, 0).unwrap();
    assert!(matches!(memory(max + 1, 0), Err(SpecError::Memory { .. })));
    let error = refused(|spec| spec.max_vcpus = MAX_VCPUS + 1);
    assert!(matches!(error, SpecError::MaxVcpus { max: MAX_VCPUS, .. }));
}

#[test]
fn programs_are_found_by_path_or_in_the_path() {
    let (tmp, spec) = fixture();
    let program = spec.vmm_binary.canonicalize().unwrap();
    let path = format!("relative:{}:/nonexistent", tmp.path().display());

    let find = |name: &str| find_in(OsStr::new(&path), Path::new(name));
    assert_eq!(find("program").unwrap().canonicalize().unwrap(), program);
    // Neither executable, nor a file, nor there.
    assert_eq!(find("initrd.img"), None);
    assert_eq!(find("shared"), None);
    assert_eq!(find("nothing"), None);
    assert_eq!(binary(&tmp.path().join("./program"), "").unwrap(), program);
    for (name, place) in [
        ("/nonexistent/x", ""),
        ("initrd.img", " as an executable file"),
    ] {
        let refused = binary(&tmp.path().join(name), "cure");
        let Err(SpecError::Binary {
            place: said, cure, ..
        }) = refused
        else {
            panic!("{refused:?}");
        };
        assert_eq!((said, cure), (place, "cure"));
    }
    // Only a host where QEMU may be used has to have it.
    assert!(needs_qemu(HypervisorKind::Qemu) && !needs_qemu(HypervisorKind::Kvm));
    let usable = !matches!(probe::probe(), KvmSupport::Unusable(_));
    assert_eq!(needs_qemu(HypervisorKind::Auto), !usable);
}

#[test]
fn hypervisors_are_known_by_their_names() {
    for kind in [
        HypervisorKind::Auto,
        HypervisorKind::Kvm,
        HypervisorKind::Qemu,
    ] {
        assert_eq!(kind.to_string().parse::<HypervisorKind>().unwrap(), kind);
    }
    for name in ["", "KVM", "xen", "auto "] {
        let refused = name.parse::<HypervisorKind>().unwrap_err();
        assert!(matches!(refused, SpecError::Hypervisor(it) if it == name));
    }
}

#[test]
fn a_valid_spec_knows_its_places_and_sizes() {
    let (_tmp, mut spec) = fixture();
    (spec.memory_mib, spec.debug) = (64, true);
    spec.cmdline = vec!["last".into(), "words".into()];
    let dir = spec.dir.clone();
    let valid = spec.validate().unwrap();
    assert_eq!(valid.memory_bytes(), 0x400_0000);
    assert_eq!(valid.sockets(), dir);
    assert_eq!(valid.file("x"), dir.canonicalize().unwrap().join("x"));
    let line = valid.kernel_command_line(vec!["first".into()]);
    let own = "console=ttyS0 panic=-1 cryptomgr.notests rcupdate.rcu_expedited=1";
    assert_eq!(line, format!("{own} first last words"));
}
