use std::fs;

use nix::sched::{CloneFlags, unshare};

use super::*;

const NONE: Option<&str> = None;

/// Runs `work` in a mount namespace whose `/` is shared, as systemd makes it.
pub(crate) fn on_shared_mounts(work: impl FnOnce(&Path) + Send) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let enter = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        for how in [MsFlags::MS_SLAVE, MsFlags::MS_SHARED] {
            sys_mount(NONE, "/", NONE, MsFlags::MS_REC | how, NONE).unwrap();
        }
        work(&root);
    };
    std::thread::scope(|scope| scope.spawn(enter).join()).unwrap();
}

fn tmpfs(path: &Path) {
    fs::create_dir_all(path).unwrap();
    let size = Some("size=64k");
    sys_mount(Some("x"), path, Some("tmpfs"), MsFlags::empty(), size).unwrap();
}

fn bind(source: &Path, options: &[&str]) -> Mount {
    Mount {
        kind: "bind".into(),
        source: source.to_str().unwrap().into(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
        ..Mount::default()
    }
}

fn count(path: &Path) -> usize {
    mounts_below(path).unwrap().len()
}

#[test]
fn options_are_split_into_flags_and_data() {
    let o = Options::parse(&["rbind", "ro", "rprivate", "lowerdir=/a:/b", "upperdir=/c"]);
    assert_eq!(
        o.flags,
        MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY
    );
    assert_eq!(o.propagation, [Propagation::private(true)]);
    assert_eq!(o.data, "lowerdir=/a:/b,upperdir=/c");
    assert!(!o.all_read_only && !o.is_slave());
    let o = Options::parse(&["rro", "rslave"]);
    assert!(o.all_read_only && o.is_slave());
}

#[test]
fn an_unmounted_bind_takes_nothing_of_its_source_along() {
    on_shared_mounts(|root| {
        let (source, share) = (root.join("source"), root.join("share"));
        tmpfs(&source.join("sub"));
        tmpfs(&source.join("sub/deeper"));
        fs::create_dir(&share).unwrap();
        make_shared(&share).unwrap();
        let options: [&[&str]; 4] = [
            &["rbind"],
            &["rbind", "rprivate"],
            &["rbind", "rslave"],
            &["rbind", "slave", "private"],
        ];
        for options in options {
            let target = share.join("mounts");
            fs::create_dir_all(&target).unwrap();
            bind(&source, options).attach(&target).unwrap();
            assert_eq!(count(&target), 3, "{options:?}");

            unmount_below(&target).unwrap();

            assert_eq!((count(&target), count(&source)), (0, 2), "{options:?}");
        }
        // The end of the whole share does not, either.
        let target = share.join("mounts");
        bind(&source, &["rbind"]).attach(&target).unwrap();
        unmount_below(&share).unwrap();
        assert_eq!((count(&share), count(&source)), (0, 2));
    });
}

#[test]
fn later_mounts_reach_slaves_only() {
    on_shared_mounts(|root| {
        let (source, share) = (root.join("source"), root.join("share"));
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::create_dir(&share).unwrap();
        make_shared(&share).unwrap();
        for (options, seen) in [
            (&["rbind"][..], 2),
            (&["rbind", "rslave"], 2),
            (&["rbind", "rprivate"], 1),
            (&["bind", "private"], 1),
        ] {
            let target = share.join("mounts");
            fs::create_dir_all(&target).unwrap();
            bind(&source, options).attach(&target).unwrap();
            tmpfs(&source.join("sub"));
            assert_eq!(count(&target), seen, "{options:?}");
            // Mounts in the share stay there.
            fs::create_dir_all(target.join("sub/own")).unwrap();
            tmpfs(&target.join("sub/own"));
            assert_eq!(count(&source), 1, "{options:?}");

            unmount_below(&target).unwrap();

            assert_eq!(count(&source), 1, "{options:?}");
            umount2(&source.join("sub"), MntFlags::empty()).unwrap();
        }
    });
}

#[test]
fn what_an_earlier_build_left_in_the_peer_group_of_the_host_is_severed() {
    on_shared_mounts(|root| {
        let (source, share) = (root.join("source"), root.join("share"));
        let target = share.join("mounts");
        tmpfs(&source.join("sub"));
        fs::create_dir_all(&target).unwrap();
        make_shared(&share).unwrap();
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        sys_mount(Some(&source), &target, NONE, flags, NONE).unwrap();

        unmount_below(&share).unwrap();

        assert_eq!((count(&share), count(&source)), (0, 1));
    });
}

#[test]
fn what_cannot_be_severed_is_refused_by_name() {
    on_shared_mounts(|root| {
        let (source, target) = (root.join("source"), root.join("target"));
        tmpfs(&source);
        fs::create_dir(&target).unwrap();
        sys_mount(Some(&source), &target, NONE, MsFlags::MS_BIND, NONE).unwrap();
        // This mount covers the peer of the source, which then cannot be reached by its path.
        sys_mount(Some("x"), &target, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();

        let refused = unmount_below(&target).unwrap_err();

        assert!(
            matches!(&refused, Error::Propagates { path } if *path == target),
            "{refused}"
        );
        let shown = refused.to_string();
        assert!(shown.contains(target.to_str().unwrap()), "{shown}");
        assert!(count(&source) >= 1);
    });
}

#[test]
fn a_read_only_bind_leaves_mounts_below_writable_unless_rro() {
    on_shared_mounts(|root| {
        let (source, target) = (root.join("source"), root.join("target"));
        tmpfs(&source.join("sub"));
        fs::create_dir(&target).unwrap();
        for (options, below) in [
            (&["rbind", "ro"][..], true),
            (&["rbind", "ro", "rro"], false),
        ] {
            bind(&source, options).attach(&target).unwrap();
            assert!(fs::write(target.join("new"), "").is_err(), "{options:?}");
            let written = fs::write(target.join("sub/new"), "").is_ok();
            assert_eq!(written, below, "{options:?}");
            unmount_below(&target).unwrap();
        }
    });
}

#[test]
fn each_option_is_a_flag_or_the_file_systems_own() {
    for (option, flag) in [
        ("bind", MsFlags::MS_BIND),
        ("rbind", MsFlags::MS_BIND | MsFlags::MS_REC),
        ("ro", MsFlags::MS_RDONLY),
        ("nosuid", MsFlags::MS_NOSUID),
        ("nodev", MsFlags::MS_NODEV),
        ("noexec", MsFlags::MS_NOEXEC),
        ("noatime", MsFlags::MS_NOATIME),
        ("nodiratime", MsFlags::MS_NODIRATIME),
        ("relatime", MsFlags::MS_RELATIME),
        ("strictatime", MsFlags::MS_STRICTATIME),
        ("sync", MsFlags::MS_SYNCHRONOUS),
        ("dirsync", MsFlags::MS_DIRSYNC),
    ] {
        let none = Options::parse::<&str>(&[]);
        let expected = Options {
            flags: flag,
            ..none.clone()
        };
        assert_eq!(Options::parse(&[option]), expected, "{option}");
        // Others stay, also if one comes twice.
        let all = Options::parse(&[option, "nodev", option]);
        assert_eq!(all.flags, flag | MsFlags::MS_NODEV, "{option}");
    }
    let defaults = [
        "rw",
        "suid",
        "dev",
        "exec",
        "atime",
        "diratime",
        "norelatime",
        "nostrictatime",
        "async",
        "defaults",
        "",
        "shared",
        "rshared",
    ];
    assert_eq!(Options::parse(&defaults), Options::parse::<&str>(&[]));
    let changes = [
        "private",
        "unbindable",
        "rprivate",
        "runbindable",
        "slave",
        "rslave",
    ];
    let parsed = Options::parse(&changes).propagation;
    let of = |slave, recursive| Propagation { slave, recursive };
    assert_eq!(
        parsed,
        [
            of(false, false),
            of(false, false),
            of(false, true),
            of(false, true),
            of(true, false),
            of(true, true),
        ]
    );
    assert!(!Options::parse(&["slave", "private"]).is_slave());
    assert!(Options::parse(&["private", "slave"]).is_slave());
}

/// mount_setattr(2), the attributes of `struct mount_attr`.
#[test]
fn flags_are_attributes_of_the_mount_or_of_all_in_its_tree() {
    const ATIME: u64 = 0x70; // MOUNT_ATTR__ATIME
    for (options, own, cleared, all) in [
        (&[][..], 0, 0, 0),
        (&["ro"], libc::MOUNT_ATTR_RDONLY, 0, 0),
        (&["rro"], 0, 0, libc::MOUNT_ATTR_RDONLY),
        (&["nosuid"], 0, 0, libc::MOUNT_ATTR_NOSUID),
        (&["nodev"], 0, 0, libc::MOUNT_ATTR_NODEV),
        (&["noexec"], 0, 0, libc::MOUNT_ATTR_NOEXEC),
        (&["nodiratime"], libc::MOUNT_ATTR_NODIRATIME, 0, 0),
        (&["noatime"], libc::MOUNT_ATTR_NOATIME, ATIME, 0),
        (&["strictatime"], libc::MOUNT_ATTR_STRICTATIME, ATIME, 0),
        (&["relatime"], 0, ATIME, 0),
        (
            &["ro", "rro", "nosuid", "nodev", "noexec"],
            libc::MOUNT_ATTR_RDONLY,
            0,
            libc::MOUNT_ATTR_RDONLY
                | libc::MOUNT_ATTR_NOSUID
                | libc::MOUNT_ATTR_NODEV
                | libc::MOUNT_ATTR_NOEXEC,
        ),
    ] {
        let found = attributes(&Options::parse(options));
        assert_eq!(found, ((own, cleared), (all, 0)), "{options:?}");
    }
}

#[test]
fn a_bind_has_its_flags_and_a_bad_source_is_named() {
    on_shared_mounts(|root| {
        let (source, target) = (root.join("source"), root.join("target"));
        fs::create_dir(&target).unwrap();
        let missing = bind(&source, &["bind"]).attach(&target).unwrap_err();
        assert!(
            matches!(&missing, Error::InvalidPath { path, .. } if *path == source),
            "{missing:?}"
        );
        tmpfs(&source.join("sub"));
        for (kind, options, mounts) in [
            ("bind", &[][..], 1),
            ("none", &["bind", "nosuid", "nodev"][..], 1),
            ("none", &["rbind", "noexec", "noatime"], 2),
        ] {
            let mount = Mount {
                kind: kind.into(),
                ..bind(&source, options)
            };
            mount.attach(&target).unwrap();
            assert_eq!(count(&target), mounts, "{options:?}");
            let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let at = format!(" {} ", target.display());
            let line = table.lines().find(|line| line.contains(&at)).unwrap();
            let shown = line.split(' ').nth(5).unwrap();
            for option in options.iter().filter(|option| !option.contains("bind")) {
                assert!(
                    shown.split(',').any(|word| word == *option),
                    "{option}: {line}"
                );
            }
            unmount_below(&target).unwrap();
        }
        let file = root.join("file");
        fs::write(&file, "").unwrap();
        let refused = bind(&source, &["bind"]).attach(&file).unwrap_err();
        assert!(
            matches!(refused, Error::Mount(MountError::Bind { .. })),
            "{refused:?}"
        );
        let unknown = Mount {
            kind: "nofs".into(),
            source: "x".into(),
            options: vec!["ro".into(), "a=b".into()],
            ..Mount::default()
        };
        match unknown.attach(&target).unwrap_err() {
            Error::Mount(MountError::Mount {
                fs_type,
                target: at,
                options,
                ..
            }) => {
                assert_eq!((&*fs_type, at, &*options), ("nofs", target, "ro,a=b"));
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_mount_point_is_writable_as_its_topmost_mount_is() {
    on_shared_mounts(|root| {
        let (source, target) = (root.join("source"), root.join("target"));
        tmpfs(&source);
        fs::create_dir(&target).unwrap();
        assert_eq!(is_writable(&target).unwrap(), None);
        assert!(!is_mount_point(&target).unwrap() && is_mount_point(&source).unwrap());
        assert_eq!(is_writable(&root.join("none")).unwrap(), None);
        assert!(!is_mount_point(&root.join("none")).unwrap());
        for (options, writable) in [(&["bind", "ro"][..], false), (&["bind"], true)] {
            bind(&source, options).attach(&target).unwrap();
            assert_eq!(is_writable(&target).unwrap(), Some(writable));
        }
        assert_eq!(count(&target), 2);
        unmount_unused(&target).unwrap();
        assert_eq!(is_writable(&target).unwrap(), Some(false));
        let open = fs::File::open(&target).unwrap();
        let busy = unmount_unused(&target).unwrap_err();
        assert!(
            matches!(&busy, Error::Busy { path } if *path == target),
            "{busy:?}"
        );
        drop(open);
        unmount_unused(&target).unwrap();
        let none = unmount_unused(&target).unwrap_err();
        assert!(
            matches!(
                none,
                Error::Io {
                    action: "unmount",
                    ..
                }
            ),
            "{none:?}"
        );
    });
}
