//! Pods of other managers: their files, and their owners, which the tests play.

mod container;
mod find;
mod owner;

use std::time::SystemTime;

use super::*;

fn pod(root: &Path, name: &str, managed_by: ManagedBy) -> RunPaths {
    let dir = RunPaths::new(root, "default", name).unwrap();
    let container = dir.container("c");
    std::fs::create_dir_all(&container).unwrap();
    crate::state_dir::lock::create(&dir).unwrap();
    let config = PodConfig {
        namespace: "default".into(),
        id: name.into(),
        managed_by,
        ..PodConfig::default()
    };
    state_dir::write(&dir.config(), &config).unwrap();
    let state = PodRunState {
        status: PodRunStatus::Running,
        hypervisor: "qemu".into(),
        processes: Vec::new(),
        reason: None,
        cgroups: Vec::new(),
    };
    state_dir::write(&dir.state(), &state).unwrap();
    let record = ContainerRecord {
        id: "c".into(),
        bundle: dir.path().join("bundle"),
        sandbox: true,
        created: SystemTime::now(),
    };
    state_dir::write(&container.join("config.json"), &record).unwrap();
    let running = ContainerRunState {
        init: ProcessRecord {
            status: Status::Running,
            pid: 7,
            exit: None,
        },
        guest_pid: 3,
        execs: BTreeMap::new(),
    };
    state_dir::write(&container.join("state.json"), &running).unwrap();
    dir
}

#[test]
fn those_of_others_are_listed_and_the_engines_own_are_not() {
    let root = tempfile::tempdir().unwrap();
    let dir = pod(root.path(), "theirs", ManagedBy::Containerd);
    pod(root.path(), "ours", ManagedBy::RustKata);
    let broken = pod(root.path(), "broken", ManagedBy::Containerd);
    std::fs::write(broken.state(), "").unwrap();
    let owner = OwnerProcess {
        pid: std::process::id(),
        start_time: 1,
        address: String::new(),
    };
    let _owned = lock::OwnerLock::take(&dir, &owner).unwrap();

    let found = foreign(root.path(), None).unwrap();

    let [Err(broken), Ok(theirs)] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(
        (broken.pod.as_str(), theirs.config.id.as_str()),
        ("broken", "theirs")
    );
    let init = theirs.containers["c"].as_ref().unwrap().state.init;
    assert_eq!((init.status, init.pid), (Status::Running, 7));
    assert!(foreign(root.path(), Some("other")).unwrap().is_empty());
}

#[test]
fn what_a_dead_owner_left_has_ended_with_137() {
    let root = tempfile::tempdir().unwrap();
    pod(root.path(), "theirs", ManagedBy::Containerd);
    let listed = ListedPod::read(root.path(), "default", "theirs").unwrap();
    let init = listed.containers["c"].as_ref().unwrap().state.init;
    assert_eq!(init.status, Status::Stopped);
    assert_eq!(init.exit.map(|exit| exit.status), Some(137));
}

#[test]
fn each_status_of_a_process_is_one_of_the_engines() {
    let root = tempfile::tempdir().unwrap();
    let dir = pod(root.path(), "theirs", ManagedBy::Containerd);
    let mut listed = read_container(&dir.container("c"), true).unwrap();
    for (of_process, expected) in [
        (Status::Creating, ContainerStatus::Configured),
        (Status::Created, ContainerStatus::Initialized),
        (Status::Starting, ContainerStatus::Running),
        (Status::Running, ContainerStatus::Running),
        (Status::Paused, ContainerStatus::Paused),
        (Status::Stopped, ContainerStatus::Exited),
    ] {
        listed.state.init.status = of_process;
        assert_eq!(listed.status(), expected);
    }
}

#[test]
fn what_is_shown_of_a_pod_is_in_its_files_and_its_bundle() {
    let root = tempfile::tempdir().unwrap();
    let dir = pod(root.path(), "theirs", ManagedBy::Containerd);
    let read = || ListedPod::read(root.path(), "default", "theirs").unwrap();
    let bundle_info = || read().containers["c"].as_ref().unwrap().bundle_info();
    assert_eq!(read().path(), dir.path());
    assert_eq!(read().management(), dir.management());
    assert_eq!(read().name(), "theirs");
    assert_eq!(read().status(), engine::status::PodStatus::Exited);
    let nothing = bundle_info();
    assert_eq!((nothing.name, &*nothing.image), (None, ""));
    assert!(nothing.command.is_empty() && nothing.labels.is_empty());

    let mut config = read().config;
    config.labels.insert(SANDBOX_NAME.into(), "web-0".into());
    state_dir::write(&dir.config(), &config).unwrap();
    assert_eq!(read().name(), "web-0");
    let bundle = dir.path().join("bundle");
    std::fs::create_dir(&bundle).unwrap();
    let spec = serde_json::json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"args": ["sh", "-c"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "annotations": {CONTAINER_NAME: "db", IMAGE_NAME: "busybox", "a": "b"}
    });
    std::fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
    let info = bundle_info();
    assert_eq!(
        (info.name.as_deref(), &*info.image),
        (Some("db"), "busybox")
    );
    assert_eq!(info.command, ["sh", "-c"]);
    assert_eq!((info.labels.len(), &*info.labels["a"]), (3, "b"));
}

#[test]
fn a_change_is_refused_with_the_name_of_the_manager() {
    let root = tempfile::tempdir().unwrap();
    for (manager, named) in [
        (ManagedBy::Containerd, "ctr -n default task"),
        (ManagedBy::Run, "containerd-shim-rust-kata-v2 run"),
    ] {
        pod(root.path(), "theirs", manager);
        let listed = ListedPod::read(root.path(), "default", "theirs").unwrap();
        for (error, what) in [
            (listed.refusal(), "pod \"theirs\""),
            (listed.container_refusal("c"), "container \"c\""),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unimplemented);
            let said = error.to_string();
            assert!(said.starts_with(what) && said.contains(named), "{said}");
        }
    }
}

#[test]
fn what_goes_while_it_is_read_is_left_out() {
    let root = tempfile::tempdir().unwrap();
    let dir = pod(root.path(), "theirs", ManagedBy::Containerd);
    std::fs::remove_file(dir.container("c").join("state.json")).unwrap();
    let listed = ListedPod::read(root.path(), "default", "theirs").unwrap();
    assert!(
        listed.containers["c"].is_err(),
        "it is there and cannot be read"
    );
    assert_eq!(listed.status(), engine::status::PodStatus::Error);
    // A pod that is just being made has no files yet.
    std::fs::remove_file(dir.config()).unwrap();
    assert!(foreign(root.path(), Some("default")).unwrap().is_empty());
    std::fs::remove_dir_all(dir.path()).unwrap();
    let missing = ListedPod::read(root.path(), "default", "theirs").unwrap_err();
    assert!(
        matches!(missing, Error::NotFound { what: "pod", .. }),
        "{missing:?}"
    );
}
