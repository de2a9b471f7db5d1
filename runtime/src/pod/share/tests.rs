//! Share trees in a mount namespace whose `/` is shared, as systemd makes it.

use super::*;
use crate::host::mount::tests::on_shared_mounts;

#[test]
fn a_link_of_the_image_leads_no_mount_out_of_its_root() {
    on_shared_mounts(|dir| {
        let (root, host) = (dir.join("rootfs"), dir.join("host"));
        fs::create_dir_all(root.join("data")).unwrap();
        fs::create_dir_all(&host).unwrap();
        std::os::unix::fs::symlink(&host, root.join("link")).unwrap();
        std::os::unix::fs::symlink("/data", root.join("inside")).unwrap();
        let mount = Mount {
            kind: "tmpfs".into(),
            source: "tmpfs".into(),
            ..Mount::default()
        };

        let refused = attach_inside(&mount, &root, "link").unwrap_err();
        attach_inside(&mount, &root, "inside").unwrap();

        assert!(refused.to_string().contains("rootfs/link"), "{refused}");
        let mounted = mount::mounts_below(dir).unwrap();
        assert_eq!(mounted, [root.join("data")]);
    });
}

#[test]
fn placeholders_go_and_data_stays() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("shared");
    fs::create_dir_all(tree.join("c/rootfs")).unwrap();
    fs::create_dir_all(tree.join("c/mounts")).unwrap();
    fs::create_dir_all(tree.join(".sources/a")).unwrap();
    fs::write(tree.join(".sources/b"), "").unwrap();
    symlink("../../.sources/a", tree.join("c/mounts/0")).unwrap();
    remove_placeholders(&tree).unwrap();
    assert!(!tree.exists());

    fs::create_dir_all(tree.join("c/rootfs")).unwrap();
    fs::write(tree.join("c/rootfs/data"), "precious").unwrap();
    assert!(remove_placeholders(&tree).is_err());
    assert!(tree.join("c/rootfs/data").exists());
}

fn bind(source: &Path, options: &[&str]) -> Mount {
    Mount {
        kind: "bind".into(),
        source: source.to_str().unwrap().into(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Mount::default()
    }
}

/// A share tree, and a directory with a file to share.
fn tree(root: &Path) -> (ShareTree, PathBuf) {
    let source = root.join("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("file"), "text").unwrap();
    let tree = ShareTree::new(root.join("shared"));
    tree.create().unwrap();
    (tree, source)
}

fn sources(tree: &ShareTree) -> Vec<PathBuf> {
    let entries = fs::read_dir(tree.sources()).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_source_is_mounted_once_until_its_last_container_goes() {
    on_shared_mounts(|root| {
        let (tree, source) = tree(root);
        let mount = bind(&source, &["rbind", "rprivate"]);
        for (container, n) in [("a", 0), ("a", 3), ("b", 0)] {
            tree.attach_source(container, n, &mount).unwrap();
        }
        let [place] = &sources(&tree)[..] else {
            panic!("{:?}", sources(&tree));
        };
        assert_eq!(mount::mounts_below(place).unwrap().len(), 1);
        let link = |name: &str| tree.dir.join(name);
        for name in ["a/mounts/0", "a/mounts/3", "b/mounts/0"] {
            assert_eq!(
                fs::read(link(name).join("file")).unwrap(),
                b"text",
                "{name}"
            );
        }
        tree.detach("a").unwrap();
        assert!(!link("a").exists() && link("b/mounts/0/file").exists());
        tree.detach("b").unwrap();
        assert!(!link("b").exists() && sources(&tree).is_empty());
        assert!(source.join("file").exists());
        // What is not there is detached already.
        tree.detach("b").unwrap();
        tree.remove().unwrap();
        assert!(!tree.dir.exists());
        tree.remove().unwrap();
    });
}

#[test]
fn a_source_becomes_writable_for_the_first_container_that_writes() {
    on_shared_mounts(|root| {
        let (tree, source) = tree(root);
        let mounts = |container: &str, options: &[&str]| {
            let n = fs::read_dir(tree.dir.join(container).join(LINKS));
            let n = n.map_or(0, Iterator::count);
            tree.attach_source(container, n, &bind(&source, options))
                .unwrap();
            let place = &sources(&tree)[0];
            let writable = fs::write(place.join("new"), "").is_ok();
            (mount::mounts_below(place).unwrap().len(), writable)
        };
        assert_eq!(mounts("a", &["bind", "ro"]), (1, false));
        assert_eq!(mounts("b", &["bind", "ro"]), (1, false));
        assert_eq!(mounts("b", &["bind"]), (2, true));
        assert_eq!(mounts("c", &["bind"]), (2, true));
        assert_eq!(mounts("c", &["bind", "ro"]), (2, true));
        assert_eq!(sources(&tree).len(), 1);
    });
}

#[test]
fn a_source_is_told_from_others_by_its_file_and_its_options() {
    on_shared_mounts(|root| {
        let (_, source) = tree(root);
        let other = root.join("other");
        fs::create_dir(&other).unwrap();
        let name = |path: &Path, options: &[&str]| source_name(&bind(path, options)).unwrap();
        let plain = name(&source, &["bind"]);
        assert_eq!(plain.len(), 16);
        assert_eq!(plain, name(&source.join("sub/.."), &["bind"]));
        assert_eq!(
            plain,
            name(&source, &["bind", "ro"]),
            "the guest can enforce it"
        );
        assert_eq!(name(&source, &["bind", "x"]), name(&source, &["x", "bind"]));
        for differs in [
            name(&other, &["bind"]),
            name(&source.join("file"), &["bind"]),
            name(&source, &["rbind"]),
            name(&source, &["bind", "rro"]),
            name(&source, &["bind", "rslave"]),
        ] {
            assert_ne!(plain, differs);
        }
        // The same file through another mount.
        bind(&source, &["bind"]).attach(&other).unwrap();
        assert_ne!(plain, name(&other, &["bind"]));
        // The host alone refuses writes to the mount above one below it.
        assert_ne!(name(root, &["rbind", "ro"]), name(root, &["rbind"]));
        let missing = source_name(&bind(&root.join("none"), &["bind"])).unwrap_err();
        assert!(matches!(missing, Error::InvalidPath { .. }), "{missing:?}");
    });
}

#[test]
fn a_file_is_shared_at_a_placeholder() {
    on_shared_mounts(|root| {
        let (tree, source) = tree(root);
        let mount = bind(&source.join("file"), &["bind"]);
        tree.attach_source("a", 0, &mount).unwrap();
        assert_eq!(fs::read(tree.dir.join("a/mounts/0")).unwrap(), b"text");
        tree.detach("a").unwrap();
        assert!(sources(&tree).is_empty());
        assert_eq!(fs::read(source.join("file")).unwrap(), b"text");
    });
}

#[test]
fn a_root_is_a_directory_or_its_mounts_without_the_hosts_dangers() {
    on_shared_mounts(|root| {
        let (tree, source) = tree(root);
        let flags = |path: &Path| {
            let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let at = format!(" {} ", path.display());
            let line = table.lines().find(|line| line.contains(&at)).unwrap();
            let flags = line.split(' ').nth(5).unwrap();
            ["nodev", "nosuid", "noexec"].map(|flag| flags.split(',').any(|word| word == flag))
        };
        tree.attach_rootfs("a", &[], &source).unwrap();
        let rootfs = tree.rootfs("a");
        assert_eq!(rootfs, tree.dir.join("a/rootfs"));
        assert_eq!(fs::read(rootfs.join("file")).unwrap(), b"text");
        assert_eq!(flags(&rootfs), [true; 3]);
        assert!(tree.below("a").unwrap().is_empty());

        let data = root.join("data");
        fs::create_dir_all(data.join("deep")).unwrap();
        let inside = Mount {
            target: "/sub".into(),
            ..bind(&data, &["rbind"])
        };
        let at_root = Mount {
            target: "/".into(),
            ..bind(&source, &["rbind", "rprivate"])
        };
        tree.attach_rootfs("b", &[at_root, inside], Path::new("/none"))
            .unwrap();
        let rootfs = tree.rootfs("b");
        assert!(rootfs.join("sub/deep").is_dir() && rootfs.join("file").exists());
        assert_eq!(flags(&rootfs.join("sub")), [true; 3]);
        assert_eq!(tree.below("b").unwrap(), [Path::new("b/rootfs/sub")]);
        // What is mounted in its sources is below it, too.
        tree.attach_source("b", 0, &bind(&source, &["rbind", "rslave"]))
            .unwrap();
        bind(&data, &["bind"]).attach(&source.join("sub")).unwrap();
        let below = tree.below("b").unwrap();
        assert_eq!(below.len(), 2, "{below:?}");
        assert!(
            below
                .iter()
                .all(|path| path.ends_with("sub") && path.is_relative())
        );
        tree.remove().unwrap();
        assert!(source.join("file").exists() && data.join("deep").exists());
    });
}
