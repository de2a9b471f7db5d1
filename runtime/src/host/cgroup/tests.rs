//! A pod's cgroup: its paths, its directories, and the processes in it.

use super::*;

#[test]
fn paths_of_both_drivers() {
    let of = |p: &str| relative_path(Path::new(p));
    assert_eq!(of("/kubepods/pod1/c"), Some("kubepods/pod1/c".into()));
    assert_eq!(
        of("kubepods-burstable-pod1.slice:cri-containerd:c"),
        Some("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-c.scope".into())
    );
    assert_eq!(of("/a/../b"), None);
    assert_eq!(of("/"), None);
}

#[test]
fn process_that_is_there_already_is_not_moved() {
    let dir = tempfile::tempdir().unwrap();
    let procs = dir.path().join("cgroup.procs");
    fs::write(&procs, "7\n142\n").unwrap();
    let cgroup = HostCgroup {
        dirs: vec![dir.path().to_owned()],
        ..HostCgroup::default()
    };

    cgroup.add(142);
    let stayed = fs::read_to_string(&procs).unwrap();
    cgroup.add(42);
    let moved = fs::read_to_string(&procs).unwrap();

    assert_eq!((stayed.as_str(), moved.as_str()), ("7\n142\n", "42"));
}

#[test]
fn processes_are_born_in_the_one_hierarchy_or_nowhere() {
    let of = |dirs: &[&str]| {
        let cgroup = HostCgroup {
            dirs: dirs.iter().map(PathBuf::from).collect(),
            ..HostCgroup::default()
        };
        cgroup.birthplace().map(Path::to_owned)
    };

    assert_eq!(of(&["/cg/a"]), Some("/cg/a".into()));
    assert_eq!(of(&["/cg/cpu/a", "/cg/memory/a"]), None);
    assert_eq!(of(&[]), None);
}

#[test]
fn a_parent_that_goes_while_the_cgroup_is_made_is_made_again() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let root = tempfile::tempdir().unwrap();
    let [parent, other] = ["pods/deep", "pods/deep/other"].map(|dir| root.path().join(dir));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Another pod of the parent is created and removed all the time.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = fs::create_dir_all(&other);
                remove(&[root.path().join("pods"), parent.clone(), other.clone()]);
            }
        });
        for n in 0..2000 {
            let dir = parent.join(n.to_string());
            let mut cgroup = HostCgroup {
                dirs: vec![dir.clone()],
                ..HostCgroup::default()
            };
            cgroup.look();
            let intended = std::cell::RefCell::new(cgroup.new_dirs().to_vec());
            let created = cgroup.create(|dirs| {
                *intended.borrow_mut() = dirs.to_vec();
                Ok(())
            });
            let made = dir.is_dir();
            if created.is_err() || !made || *intended.borrow() != cgroup.new_dirs() {
                over.store(true, Ordering::Relaxed);
                panic!("{created:?}, made: {made}, intended: {intended:?}");
            }
            remove(cgroup.new_dirs());
            assert!(!dir.exists());
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_cgroup_that_went_before_its_first_process_is_made_again() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("pods/a");
    let mut cgroup = HostCgroup {
        dirs: vec![dir.clone()],
        ..HostCgroup::default()
    };
    cgroup.look();
    cgroup.create(|_| Ok(())).unwrap();
    fs::remove_dir_all(root.path().join("pods")).unwrap();

    cgroup.enter(&dir, 42).unwrap();

    assert_eq!(fs::read_to_string(dir.join("cgroup.procs")).unwrap(), "42");
}

#[test]
fn paths_of_systemd_are_slices_within_each_other() {
    let of = |path: &str| relative_path(Path::new(path)).map(|path| path.display().to_string());
    for (path, expected) in [
        ("system.slice:p:n", Some("system.slice/p-n.scope")),
        ("system.slice::n.service", Some("system.slice/n.service")),
        (
            "a-b-c.slice:p:n",
            Some("a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
        ),
        ("-.slice:p:n", Some("p-n.scope")),
        ("a", Some("a")),
        ("//a//b/", Some("a/b")),
        ("./a", None),
        ("", None),
        ("..", None),
    ] {
        assert_eq!(of(path).as_deref(), expected, "{path}");
    }
}

#[test]
fn directories_that_are_missing_are_those_to_be_removed_parents_first() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    fs::create_dir_all(at("cpu/there")).unwrap();
    fs::create_dir(at("memory")).unwrap();
    let mut cgroup = HostCgroup {
        dirs: vec![at("cpu/there/a/b"), at("memory/a/b")],
        ..HostCgroup::default()
    };
    assert!(cgroup.look());
    let missing = [
        at("memory/a"),
        at("cpu/there/a"),
        at("memory/a/b"),
        at("cpu/there/a/b"),
    ];
    assert_eq!(cgroup.new_dirs(), missing);
    assert!(cgroup.look());
    assert_eq!(cgroup.new_dirs(), missing, "each once");
    // Without the files that the kernel's directories have.
    missing.iter().for_each(|dir| fs::create_dir(dir).unwrap());
    assert!(!cgroup.look());
    // A directory that others use stays.
    fs::create_dir(at("memory/a/other")).unwrap();
    remove(cgroup.new_dirs());
    assert!(!at("cpu/there/a").exists() && at("cpu/there").exists());
    assert!(!at("memory/a/b").exists() && at("memory/a/other").exists());
    // Nothing is left to remove, which is fine.
    remove(&[at("cpu/there/a")]);
}

#[test]
fn a_child_gets_the_controllers_of_its_parent() {
    for (cpuset, expected) in [(None, "+cpu +memory +pids +io"), (Some("0"), "+cpuset")] {
        let root = tempfile::tempdir().unwrap();
        let cgroup = HostCgroup {
            limits: CpuLimits {
                cpuset: cpuset.map(str::to_owned),
                ..CpuLimits::default()
            },
            ..HostCgroup::default()
        };
        cgroup.make_one(&root.path().join("a")).unwrap();
        let control = root.path().join("cgroup.subtree_control");
        assert_eq!(fs::read_to_string(control).unwrap(), expected);
        // It may be there already.
        cgroup.make_one(&root.path().join("a")).unwrap();
    }
}

#[test]
fn a_cgroup_that_cannot_be_made_is_an_error_that_names_it() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let mut cgroup = HostCgroup {
        dirs: vec![file.join("a")],
        ..HostCgroup::default()
    };
    cgroup.look();
    match cgroup.create(|_| Ok(())).unwrap_err() {
        Error::Io {
            action: "create the cgroup",
            path,
            ..
        } => {
            assert_eq!(path, file.join("a"));
        }
        other => panic!("{other:?}"),
    }
    let none = HostCgroup::plan(None, &CpuLimits::default());
    assert!(none.dirs.is_empty() && none.new_dirs().is_empty());
    let unsafe_path = HostCgroup::plan(Some(Path::new("/a/../b")), &CpuLimits::default());
    assert!(unsafe_path.dirs.is_empty());
}

#[test]
fn the_last_process_of_a_cgroup_is_waited_for_a_while() {
    let root = tempfile::tempdir().unwrap();
    let waited = |events: &str| {
        fs::write(root.path().join("cgroup.events"), events).unwrap();
        let start = Instant::now();
        wait_until_empty(root.path());
        start.elapsed() >= LEAVE
    };
    assert!(!waited("populated 0\n"));
    assert!(!waited("frozen 0\npopulated 0\n"));
    assert!(waited("populated 1\nfrozen 0\n"));
    fs::remove_file(root.path().join("cgroup.events")).unwrap();
    let start = Instant::now();
    wait_until_empty(root.path());
    assert!(start.elapsed() < LEAVE, "v1 does not have the file");
}
