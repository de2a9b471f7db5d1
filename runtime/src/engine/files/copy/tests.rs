//! Copies between a container's files and the host's, in the terms of podman.

use super::*;
use crate::engine::archive::{Ownership, Side};
use crate::error::CopyProblem;
use oci_spec::runtime::MountBuilder;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["root/etc", "root/dir/sub", "host/dir"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for name in ["root/etc/conf", "root/dir/a", "root/dir/sub/b", "host/file"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        Self { dir }
    }

    fn inside(&self, path: &str) -> Place {
        Place {
            root: self.dir.path().join("root"),
            path: path.into(),
            shown: path.into(),
            owner: Ownership::Is(7, 8),
            side: Side::Container,
        }
    }

    fn host(&self, path: &str) -> Place {
        Place::host(format!("{}/host/{path}", self.dir.path().display()).into()).unwrap()
    }

    fn read(&self, path: &str) -> String {
        let path = self.dir.path().join(path);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T>) -> CopyProblem {
    match result {
        Err(Error::Copy(error)) => error.problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_are_those_that_cp_gives() {
    let scene = Scene::new();
    let copy = |from: &str, to: &str| between(&scene.inside(from), &scene.host(to), false);

    copy("/etc/conf", "dir").unwrap();
    copy("etc/conf", "new").unwrap();
    copy("/etc/conf", "file").unwrap();
    copy("/dir", "dir").unwrap();
    copy("/dir", "fresh").unwrap();
    copy("/dir/.", "dir/").unwrap();
    copy("/dir/.", "made").unwrap();
    copy("/", "whole").unwrap();

    for (path, content) in [
        ("dir/conf", "root/etc/conf"),
        ("new", "root/etc/conf"),
        ("file", "root/etc/conf"),
        ("dir/dir/sub/b", "root/dir/sub/b"),
        ("fresh/a", "root/dir/a"),
        ("dir/a", "root/dir/a"),
        ("made/sub/b", "root/dir/sub/b"),
        ("whole/etc/conf", "root/etc/conf"),
    ] {
        assert_eq!(scene.read(&format!("host/{path}")), content, "{path}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let scene = Scene::new();
    let copy = |from: &str, to: &str| refused(between(&scene.inside(from), &scene.host(to), false));

    assert_eq!(copy("/none", "x"), CopyProblem::NotFound);
    assert_eq!(copy("/none/x", "x"), CopyProblem::NoDirectory);
    assert_eq!(copy("/etc/conf/", "x"), CopyProblem::NotADirectory);
    assert_eq!(copy("/etc/conf", "none/"), CopyProblem::NoDirectory);
    assert_eq!(copy("/etc/conf", "none/x"), CopyProblem::NoDirectory);
    assert_eq!(copy("/dir", "file"), CopyProblem::ReplacesFile);
    symlink("loop", scene.dir.path().join("root/loop")).unwrap();
    assert_eq!(copy("/loop", "x"), CopyProblem::Links);
}

#[test]
fn links_have_the_container_as_their_root() {
    let scene = Scene::new();
    let root = scene.dir.path().join("root");
    symlink("/etc", root.join("absolute")).unwrap();
    symlink("../../../../../etc", root.join("dir/up")).unwrap();
    symlink("/etc/conf", root.join("file")).unwrap();

    for (number, from) in ["/absolute/conf", "/dir/up/conf", "/file"]
        .iter()
        .enumerate()
    {
        let to = format!("out{number}");
        between(&scene.inside(from), &scene.host(&to), false).unwrap();
        assert_eq!(scene.read(&format!("host/{to}")), "root/etc/conf");
    }
    // The other way: no file of the host is changed.
    between(&scene.host("file"), &scene.inside("/dir/up/passwd"), false).unwrap();
    assert_eq!(scene.read("root/etc/passwd"), "host/file");
    between(&scene.host("file"), &scene.inside("/absolute"), false).unwrap();
    assert_eq!(scene.read("root/etc/file"), "host/file");
}

#[test]
fn files_become_those_of_the_container_or_keep_their_owner() {
    let scene = Scene::new();
    std::os::unix::fs::chown(scene.dir.path().join("host/file"), Some(3), Some(4)).unwrap();
    for (keep, owner) in [(false, (7, 8)), (true, (3, 4))] {
        between(&scene.host("file"), &scene.inside("/etc"), keep).unwrap();
        let data = fs::metadata(scene.dir.path().join("root/etc/file")).unwrap();
        assert_eq!((data.uid(), data.gid()), owner);
    }
}

#[test]
fn volumes_are_where_they_are_mounted() {
    let mount = |kind: &str, to: &str, from: &str| {
        MountBuilder::default()
            .typ(kind)
            .destination(to)
            .source(from)
            .build()
            .unwrap()
    };
    let scene = Scene::new();
    let host = scene.dir.path().join("host");
    let (file, deeper) = (host.join("file"), host.join("dir"));
    let mounts = [
        mount("tmpfs", "/run", "tmpfs"),
        mount("bind", "/data", host.to_str().unwrap()),
        mount("bind", "/data/dir", deeper.to_str().unwrap()),
        mount("bind", "/etc/hosts", file.to_str().unwrap()),
    ];
    let root = PathBuf::from("/root-of-it");
    let places: Vec<_> = mounts.iter().filter_map(bound).collect();
    let place = |path: &str| {
        let all = mounts.iter().map(|mount| mount.destination().as_path());
        below_mounts(&places, all, root.clone(), Path::new(path))
    };
    let of_host = |path: &str| {
        let below = place(path).unwrap();
        assert_eq!(below.side, Side::Host, "{path}");
        (below.root, below.path)
    };
    assert_eq!(of_host("/data/../data/x/"), (host.clone(), "x/".into()));
    assert_eq!(of_host("data/dir/y"), (deeper, "y".into()));
    assert_eq!(of_host("/etc/hosts"), (host, "file".into()));
    let own = place("/database").unwrap();
    assert_eq!((own.root, own.side), (root.clone(), Side::Container));
    let mount = "/run".into();
    assert_eq!(refused(place("/run/x")), CopyProblem::InGuest { mount });
}

#[test]
fn nothing_comes_out_that_has_rights_on_the_host() {
    use rustix::fs::{XattrFlags, lgetxattr, setxattr};
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    let root = scene.dir.path().join("root/dir");
    let mode = |path: &str, mode| {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(root.join(path), mode).unwrap();
    };
    mode("a", 0o6755);
    mode("sub", 0o2775);
    mode("", 0o1777);
    // Version 2, permitted: CAP_SYS_ADMIN (linux/capability.h, vfs_cap_data).
    let mut capability = [0u8; 20];
    capability[3] = 2;
    capability[6] = 0x20;
    let set = |name: &str, value: &[u8]| {
        setxattr(root.join("sub/b"), name, value, XattrFlags::empty()).unwrap();
    };
    set("security.capability", &capability);
    set("user.note", b"kept");
    let null = nix::sys::stat::makedev(1, 3);
    let kind = nix::sys::stat::SFlag::S_IFCHR;
    let rw = nix::sys::stat::Mode::from_bits_truncate(0o666);
    nix::sys::stat::mknod(&root.join("sub/null"), kind, rw, null).unwrap();

    for keep_owner in [false, true] {
        let to = format!("out{keep_owner}");
        let left = between(&scene.inside("/dir"), &scene.host(&to), keep_owner).unwrap();
        assert_eq!(
            (left.devices, &*left.first),
            (1, &*format!("{to}/sub/null"))
        );
        let out = scene.dir.path().join("host").join(to);
        let mode = |path: &str| fs::metadata(out.join(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode(""), mode("a"), mode("sub")), (0o1777, 0o755, 0o775));
        let has = |name: &str| lgetxattr(out.join("sub/b"), name, &mut [0u8; 64][..]).is_ok();
        assert!(has("user.note") && !has("security.capability"));
        assert!(!out.join("sub/null").exists());
    }
    let node = scene.inside("/dir/sub/null");
    let problem = refused(between(&node, &scene.host("n"), false));
    assert_eq!(problem, CopyProblem::Device);
    // Everything is copied to another container and into an archive.
    between(&scene.inside("/dir"), &scene.inside("/etc"), true).unwrap();
    let inside = scene.dir.path().join("root/etc/dir");
    assert_eq!(
        fs::metadata(inside.join("a")).unwrap().mode() & 0o7777,
        0o6755
    );
    assert!(inside.join("sub/null").exists());
    let has = lgetxattr(
        inside.join("sub/b"),
        "security.capability",
        &mut [0u8; 64][..],
    );
    assert_eq!(has, Ok(20));
}

#[test]
fn files_keep_their_holes() {
    let scene = Scene::new();
    let file = fs::File::create(scene.dir.path().join("root/etc/holes")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", 1 << 42).unwrap();
    between(&scene.inside("/etc/holes"), &scene.host("out"), false).unwrap();
    let data = fs::metadata(scene.dir.path().join("host/out")).unwrap();
    assert_eq!(data.len(), (1 << 42) + 3);
    assert!(data.blocks() < 1000, "{} blocks", data.blocks());
}
