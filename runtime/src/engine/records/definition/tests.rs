//! Invalid definitions of pods and containers, and the errors for them.

use super::*;

fn refused(change: impl FnOnce(&mut PodDefinition)) -> Error {
    let mut pod = PodDefinition::new("local", "web");
    pod.check().unwrap();
    change(&mut pod);
    pod.check().unwrap_err()
}

/// The field whose value is refused.
fn field(change: impl FnOnce(&mut PodDefinition)) -> String {
    match refused(change) {
        Error::InvalidValue { field, .. } => field.into_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn bad_definitions_are_refused_by_field() {
    assert_eq!(field(|p| p.name = "a/b".into()), "pod name");
    assert!(matches!(
        refused(|p| p.infra = false),
        Error::Requires { .. }
    ));
    assert_eq!(field(|p| p.hostname = Some("-x".into())), "host name");
    assert_eq!(field(|p| p.hostname = Some("a..b".into())), "host name");
    assert_eq!(field(|p| p.resources.cpu_shares = Some(1)), "CPU shares");
    assert_eq!(field(|p| p.resources.cpu_period = Some(1)), "CPU period");
    assert_eq!(field(|p| p.resources.cpu_quota = Some(1)), "CPU quota");
    let cpus = |p: &mut PodDefinition| p.resources.cpuset = Some("x".into());
    assert_eq!(field(cpus), "CPU set");
    for parent in ["x", "/a/../b", "/a/b.slice", "a--b.slice", "-a.slice"] {
        let field = field(|p| p.cgroup_parent = Some(parent.into()));
        assert_eq!(field, "cgroup parent", "{parent}");
    }
}

#[test]
fn a_pods_cgroup_is_named_as_its_parent_wants_it() {
    let mut pod = PodDefinition::new("local", "web");
    pod.id = "1".into();
    use CgroupManager::{Cgroupfs, Systemd};
    let of = |pod: &PodDefinition, manager| {
        let paths = [pod.cgroup_path(manager), pod.cgroup_on_host(manager)];
        paths.map(|path| path.display().to_string())
    };
    let default = pod.clone();
    assert_eq!(of(&default, Cgroupfs), ["/rust-kata/1"; 2]);
    assert_eq!(
        of(&default, Systemd),
        [
            "machine.slice:rust-kata:1",
            "/machine.slice/rust-kata-1.scope"
        ]
    );
    pod.cgroup_parent = Some("/pods/x".into());
    assert_eq!(of(&pod, Cgroupfs), ["/pods/x/1"; 2]);
    pod.cgroup_parent = Some("a-b.slice".into());
    assert_eq!(
        of(&pod, Systemd),
        [
            "a-b.slice:rust-kata:1",
            "/a.slice/a-b.slice/rust-kata-1.scope"
        ]
    );
    pod.cgroup_parent = Some("-.slice".into());
    assert_eq!(of(&pod, Systemd)[1], "/rust-kata-1.scope");
}

#[test]
fn a_parent_that_is_not_of_the_cgroup_manager_is_refused_by_name() {
    use CgroupManager::{Cgroupfs, Systemd};
    let mut pod = PodDefinition::new("local", "web");
    for (parent, manager, is_fine) in [
        (None, Cgroupfs, true),
        (None, Systemd, true),
        (Some("/pods"), Cgroupfs, true),
        (Some("/pods"), Systemd, false),
        (Some("web.slice"), Cgroupfs, false),
        (Some("web.slice"), Systemd, true),
    ] {
        pod.cgroup_parent = parent.map(Into::into);
        match (pod.check_cgroup_manager(manager), parent) {
            (Ok(()), _) => assert!(is_fine, "{parent:?}"),
            (Err(Error::InvalidValue { value, .. }), Some(parent)) => {
                assert!(!is_fine && value == parent, "{parent}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn good_definitions_are_taken() {
    let mut pod = PodDefinition::new("local", "web");
    pod.infra = false;
    pod.share.clear();
    pod.hostname = Some("a-1.example".into());
    for parent in ["/pods/x", "machine.slice", "a-b.slice", "-.slice"] {
        pod.cgroup_parent = Some(parent.into());
        pod.check().unwrap();
    }
}

#[test]
fn containers_need_a_command_and_a_root() {
    let root = Rootfs::Directory("/nonexistent".into());
    let mut spec = Spec::default();
    let container = ContainerDefinition::new("c", root, spec.clone());
    assert!(
        container
            .check()
            .unwrap_err()
            .to_string()
            .contains("nonexistent")
    );
    spec.set_process(None);
    let root = Rootfs::Directory("/".into());
    let container = ContainerDefinition::new("c", root, spec);
    assert!(
        container
            .check()
            .unwrap_err()
            .to_string()
            .contains("command")
    );
}

#[test]
fn limits_are_taken_up_to_their_bounds_and_refused_beyond() {
    use crate::error::ErrorKind::InvalidArgument;
    let check = |change: &dyn Fn(&mut PodResources)| {
        let mut pod = PodDefinition::new("local", "web");
        change(&mut pod.resources);
        pod.check().map_err(|e| e.kind())
    };
    // The kernel's: MIN_SHARES and MAX_SHARES, sched-bwc.rst.
    for (shares, taken) in [
        (0, false),
        (1, false),
        (2, true),
        (262_144, true),
        (262_145, false),
    ] {
        let found = check(&|limits| limits.cpu_shares = Some(shares));
        assert_eq!(
            found,
            if taken { Ok(()) } else { Err(InvalidArgument) },
            "{shares}"
        );
    }
    for (period, taken) in [
        (999, false),
        (1000, true),
        (1_000_000, true),
        (1_000_001, false),
    ] {
        let found = check(&|limits| limits.cpu_period = Some(period));
        assert_eq!(
            found,
            if taken { Ok(()) } else { Err(InvalidArgument) },
            "{period}"
        );
    }
    for (quota, taken) in [
        (i64::MIN, false),
        (-2, false),
        (-1, true),
        (0, false),
        (999, false),
        (1000, true),
        (i64::MAX, true),
    ] {
        let found = check(&|limits| limits.cpu_quota = Some(quota));
        assert_eq!(
            found,
            if taken { Ok(()) } else { Err(InvalidArgument) },
            "{quota}"
        );
    }
    assert_eq!(
        check(&|limits| limits.cpuset = Some("0-3,7".into())),
        Ok(())
    );
    assert_eq!(
        check(&|limits| limits.cpuset = Some("3-0".into())),
        Err(InvalidArgument)
    );
}

#[test]
fn limits_go_to_the_cgroup_as_they_are() {
    let limits = PodResources {
        cpu_quota: Some(1),
        cpu_period: Some(2),
        cpu_shares: Some(3),
        cpuset: Some("4".into()),
        memory: Some(5),
    };
    let expected = CpuLimits {
        quota: Some(1),
        period: Some(2),
        shares: Some(3),
        cpuset: Some("4".into()),
    };
    assert_eq!(limits.cpu_limits(), expected);
    let memory_alone = PodResources {
        memory: Some(5),
        ..PodResources::default()
    };
    assert!(memory_alone.cpu_limits().is_empty());
}

#[test]
fn host_names_are_as_rfc_1123_has_them() {
    let check = |name: &str| check_hostname(name).is_ok();
    let longest = format!("{}.{}", "a".repeat(32), "b".repeat(31));
    for good in ["a", "a-1", "1a", "A.b.c", "a--b", &longest] {
        assert!(check(good), "{good}");
    }
    for bad in [
        "",
        "-a",
        "a-",
        "a.-b",
        "a-.b",
        ".a",
        "a.",
        "a_b",
        "a b",
        "ä",
        &"a".repeat(65),
    ] {
        assert!(!check(bad), "{bad}");
    }
}

#[test]
fn cgroup_parents_are_paths_or_slices() {
    for good in [
        "/",
        "/a",
        "/a/b",
        "/a..b/c",
        "a.slice",
        "a-b.slice",
        "-.slice",
    ] {
        check_cgroup_parent(good.as_ref()).unwrap();
    }
    for bad in [
        "",
        "a",
        "a/b",
        "/a/..",
        "..",
        "/a.slice",
        "a/b.slice",
        ".slice",
        "a-.slice",
        "--.slice",
    ] {
        assert!(check_cgroup_parent(bad.as_ref()).is_err(), "{bad}");
    }
}

#[test]
fn containers_are_refused_by_field_up_to_their_bounds() {
    let container = |change: &dyn Fn(&mut ContainerDefinition)| {
        let root = Rootfs::Directory("/".into());
        let mut container = ContainerDefinition::new("c", root, Spec::default());
        change(&mut container);
        container.check().is_ok()
    };
    assert!(container(&|_| ()));
    for (signal, taken) in [(-1, false), (0, false), (1, true), (64, true), (65, false)] {
        assert_eq!(container(&|c| c.stop_signal = signal), taken, "{signal}");
    }
    assert!(!container(&|c| c.name = "a/b".into()));
    assert!(!container(
        &|c| c.rootfs = Rootfs::Directory("/etc/passwd".into())
    ));
    assert!(container(&|c| {
        c.rootfs = Rootfs::Image {
            reference: "x".into(),
            id: "y".into(),
            layers: vec!["/nonexistent".into()],
        };
    }));
}

#[test]
fn a_containers_process_is_its_specs() {
    let of = |process: serde_json::Value| {
        let spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2", "process": process
        }));
        let root = Rootfs::Directory("/".into());
        let container = ContainerDefinition::new("c", root, spec.unwrap());
        (container.terminal(), container.command().to_vec())
    };
    let process = |more: serde_json::Value| {
        let mut process = serde_json::json!({"cwd": "/", "user": {"uid": 0, "gid": 0}});
        process
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        process
    };
    let (a, b) = ("a".to_owned(), "b".to_owned());
    assert_eq!(of(serde_json::Value::Null), (false, vec![]));
    assert_eq!(
        of(process(serde_json::json!({"args": ["a", "b"]}))),
        (false, vec![a, b])
    );
    assert!(of(process(serde_json::json!({"terminal": true, "args": []}))).0);
}

#[test]
fn new_pods_and_containers_have_podmans_defaults() {
    use SharedNamespace::{Ipc, Net, Uts};
    let pod = PodDefinition::new("local", "web");
    assert_eq!(pod.share, BTreeSet::from([Net, Ipc, Uts]));
    assert!(pod.infra && !pod.single && pod.exit_policy == ExitPolicy::Continue);
    let container = ContainerDefinition::new("c", Rootfs::Directory("/".into()), Spec::default());
    let stop = (
        container.stop_signal,
        container.stop_timeout,
        container.log_size_max,
    );
    assert_eq!(stop, (15, 10, 16 * 1024 * 1024));
    assert_eq!(container.restart, RestartPolicy::No);
    assert_ne!(pod.id, PodDefinition::new("local", "web").id);
    let names = [Net, Ipc, Uts, SharedNamespace::Pid].map(|n| serde_json::to_value(n).unwrap());
    assert_eq!(names, ["net", "ipc", "uts", "pid"]);
}

#[test]
fn a_long_name_is_cut_to_a_host_name() {
    let of = |name: &str| PodDefinition::new("local", name).host_name();
    assert_eq!(of("web"), "web");
    assert_eq!(of("web-"), "web-");
    assert_eq!(of(&"n".repeat(64)), "n".repeat(64));
    assert_eq!(of(&"n".repeat(65)), "n".repeat(64));
    assert_eq!(of(&format!("{}-.-x", "n".repeat(61))), "n".repeat(61));
    let mut pod = PodDefinition::new("local", &"n".repeat(128));
    pod.hostname = Some("given".into());
    assert_eq!(pod.host_name(), "given");
}
