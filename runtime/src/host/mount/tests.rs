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
