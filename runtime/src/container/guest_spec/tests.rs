//! Tests: specs and their translations for the guest.

use super::*;
use crate::error::Error;

fn spec(json: serde_json::Value) -> Spec {
    serde_json::from_value(json).unwrap()
}

fn at(id: &str) -> Placement<'_> {
    Placement {
        id,
        bundle: Path::new("/bundle"),
        in_pod: true,
        sandbox_pid: Some(77),
        share_pid: false,
    }
}

#[test]
fn a_cri_container_is_moved_into_the_guest() {
    let given = spec(serde_json::json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0},
                    "apparmorProfile": "docker-default"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/etc/hosts", "type": "bind", "source": "hosts",
             "options": ["rbind", "rprivate", "ro", "nosuid"]}],
        "hooks": {"createRuntime": [{"path": "/host/hook"}],
                  "startContainer": [{"path": "/in/container"}]},
        "linux": {
            "cgroupsPath": "/kubepods/a",
            "resources": {"cpu": {"cpus": "3-4", "shares": 5}, "memory": {"limit": 9, "swappiness": 1}},
            "namespaces": [
                {"type": "pid", "path": "/proc/1/ns/pid"},
                {"type": "ipc", "path": "/proc/1/ns/ipc"},
                {"type": "network", "path": "/proc/1/ns/net"},
                {"type": "mount"}]}
    }));

    let Translated { spec, sources, .. } = translate(&given, &at("web")).unwrap();

    let json = serde_json::to_value(&spec).unwrap();
    assert_eq!(json["root"]["path"], "/run/rust-kata/shared/web/rootfs");
    assert_eq!(json["mounts"][0]["source"], "proc");
    assert_eq!(
        json["mounts"][1]["source"],
        "/run/rust-kata/shared/web/mounts/1"
    );
    assert_eq!(json["process"].get("apparmorProfile"), None);
    assert_eq!(json["hooks"].get("createRuntime"), None);
    assert_eq!(json["hooks"]["startContainer"][0]["path"], "/in/container");
    let linux = &json["linux"];
    assert_eq!(linux["cgroupsPath"], "/kubepods/a");
    assert_eq!(linux["resources"]["cpu"], serde_json::json!({"shares": 5}));
    assert_eq!(
        linux["resources"]["memory"],
        serde_json::json!({"limit": 9})
    );
    let namespaces = linux["namespaces"].as_array().unwrap();
    let paths: Vec<_> = namespaces
        .iter()
        .map(|n| (n["type"].as_str().unwrap(), n["path"].as_str()))
        .collect();
    assert_eq!(
        paths,
        [
            ("pid", Some("/proc/77/ns/pid")),
            ("ipc", Some("/run/rust-kata/ns/ipc")),
            ("mount", None)
        ]
    );
    assert_eq!(sources.len(), 1);
    let (n, bind) = &sources[0];
    assert_eq!((*n, bind.source.as_str()), (1, "/bundle/hosts"));
    assert_eq!(bind.options, ["rbind", "rprivate", "ro"]);
}

#[test]
fn a_lone_container_keeps_its_own_namespaces() {
    let given = spec(serde_json::json!({
        "ociVersion": "1.0.2", "root": {"path": "rootfs"},
        "linux": {"cgroupsPath": "system.slice:ctr:a",
                  "namespaces": [{"type": "network"}, {"type": "uts"}]}
    }));
    let placement = Placement {
        in_pod: false,
        ..at("a")
    };
    let json = serde_json::to_value(translate(&given, &placement).unwrap().spec).unwrap();
    assert_eq!(json["linux"]["cgroupsPath"], "/a");
    assert_eq!(json["linux"]["namespaces"].as_array().unwrap().len(), 2);
}

#[test]
fn a_pods_own_pid_namespace_is_the_one_that_is_shared() {
    let given = spec(serde_json::json!({
        "ociVersion": "1.0.2", "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "pid", "path": "/pod"}]}
    }));
    let placement = Placement {
        sandbox_pid: None,
        share_pid: true,
        ..at("a")
    };
    let json = serde_json::to_value(translate(&given, &placement).unwrap().spec).unwrap();
    let joined = &json["linux"]["namespaces"][0]["path"];
    assert_eq!(joined, "/run/rust-kata/ns/pid");
}

#[test]
fn what_cannot_be_joined_is_refused_by_name() {
    let given = spec(serde_json::json!({
        "ociVersion": "1.0.2",
        "linux": {"namespaces": [{"type": "mount", "path": "/proc/1/ns/mnt"}]}
    }));
    match translate(&given, &at("a")).map(|_| ()).unwrap_err() {
        Error::Spec(SpecError::JoinsNamespace { namespace, path }) => {
            assert_eq!(namespace, LinuxNamespaceType::Mount);
            assert_eq!(path, Path::new("/proc/1/ns/mnt"));
        }
        other => panic!("{other:?}"),
    }
}

/// The namespaces of a container in the guest: kind and path.
fn joined(namespaces: serde_json::Value, at: &Placement) -> Vec<(String, Option<String>)> {
    let given = spec(serde_json::json!({
        "ociVersion": "1.0.2", "linux": {"namespaces": namespaces}
    }));
    let json = serde_json::to_value(translate(&given, at).unwrap().spec).unwrap();
    let namespaces = json["linux"]["namespaces"].as_array().unwrap().clone();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let of = |namespace: &serde_json::Value| {
        (text(&namespace["type"]).unwrap(), text(&namespace["path"]))
    };
    namespaces.iter().map(of).collect()
}

#[test]
fn each_namespace_is_a_new_one_or_one_of_the_pod() {
    let alone = || Placement {
        in_pod: false,
        ..at("a")
    };
    let sharing = || Placement {
        share_pid: true,
        ..at("a")
    };
    let pods = |name: &str| Some(format!("/run/rust-kata/ns/{name}"));
    let sandboxs = |name: &str| Some(format!("/proc/77/ns/{name}"));
    // The path, if it is a new one and if it joins another.
    for (kind, place, new, joins) in [
        ("ipc", alone(), Some(None), Some(pods("ipc"))),
        ("ipc", at("a"), Some(pods("ipc")), Some(pods("ipc"))),
        ("uts", alone(), Some(None), Some(pods("uts"))),
        ("uts", at("a"), Some(pods("uts")), Some(pods("uts"))),
        ("network", alone(), Some(None), None),
        ("network", at("a"), None, None),
        ("pid", at("a"), Some(None), Some(sandboxs("pid"))),
        ("pid", sharing(), Some(None), Some(pods("pid"))),
        ("user", at("a"), Some(None), Some(sandboxs("user"))),
    ] {
        let expected = |path: Option<Option<String>>| -> Vec<_> {
            path.map(|path| (kind.to_owned(), path))
                .into_iter()
                .collect()
        };
        let new_one = joined(serde_json::json!([{"type": kind}]), &place);
        assert_eq!(new_one, expected(new), "{kind} {place:?}");
        let path = serde_json::json!([{"type": kind, "path": "/x"}]);
        assert_eq!(joined(path, &place), expected(joins), "{kind} {place:?}");
    }
    for kind in ["mount", "cgroup"] {
        let own = joined(serde_json::json!([{"type": kind}]), &at("a"));
        assert_eq!(own, [(kind.to_owned(), None)]);
    }
}

#[test]
fn a_namespace_of_the_sandbox_needs_a_sandbox() {
    let given = spec(serde_json::json!({
        "ociVersion": "1.0.2", "linux": {"namespaces": [{"type": "user", "path": "/x"}]}
    }));
    let place = Placement {
        sandbox_pid: None,
        ..at("a")
    };
    match translate(&given, &place).map(drop).unwrap_err() {
        Error::Spec(SpecError::NoSandbox {
            container,
            namespace,
        }) => {
            assert_eq!((&*container, namespace), ("a", "user"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn resources_keep_what_a_guest_has() {
    let mut resources: LinuxResources = serde_json::from_value(serde_json::json!({
        "cpu": {
            "shares": 1, "quota": 2, "period": 3, "cpus": "0", "mems": "0",
            "realtimePeriod": 4, "realtimeRuntime": 5
        },
        "memory": {"limit": 6, "reservation": 7, "swap": 8, "kernel": 9, "swappiness": 10},
        "pids": {"limit": 11},
        "blockIO": {"weight": 12, "leafWeight": 13},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 14}],
        "network": {"classID": 15},
        "rdma": {"mlx5_1": {"hcaHandles": 16}}
    }))
    .unwrap();
    guest_resources(&mut resources);
    assert_eq!(
        serde_json::to_value(&resources).unwrap(),
        serde_json::json!({
            "cpu": {"shares": 1, "quota": 2, "period": 3},
            "memory": {"limit": 6, "reservation": 7, "swap": 8},
            "pids": {"limit": 11},
            "blockIO": {"weight": 12}
        })
    );
    let mut nothing = LinuxResources::default();
    guest_resources(&mut nothing);
    assert_eq!(nothing, LinuxResources::default());
}

#[test]
fn a_cgroup_is_the_hosts_if_it_is_a_plain_path() {
    for (path, expected) in [
        (Some("/a/b"), "/a/b"),
        (Some("/"), "/web"),
        (Some("a/b"), "/web"),
        (Some("/a/../b"), "/web"),
        (Some("system.slice:ctr:a"), "/web"),
        (Some(""), "/web"),
        (None, "/web"),
    ] {
        let found = guest_cgroup(path.map(Path::new), "web");
        assert_eq!(found, Path::new(expected), "{path:?}");
    }
}

#[test]
fn labels_of_the_host_and_its_hooks_stay_there() {
    let given = spec(serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "selinuxLabel": "l"},
        "hooks": {
            "prestart": [{"path": "/1"}], "createRuntime": [{"path": "/2"}],
            "createContainer": [{"path": "/3"}], "startContainer": [{"path": "/4"}],
            "poststart": [{"path": "/5"}], "poststop": [{"path": "/6"}]
        },
        "linux": {"mountLabel": "m", "intelRdt": {"closID": "x"}}
    }));
    let json = serde_json::to_value(translate(&given, &at("a")).unwrap().spec).unwrap();
    assert_eq!(
        json["hooks"],
        serde_json::json!({
            "createContainer": [{"path": "/3"}], "startContainer": [{"path": "/4"}]
        })
    );
    assert_eq!(json["process"].get("selinuxLabel"), None);
    let linux = json["linux"].as_object().unwrap();
    assert!(!linux.contains_key("mountLabel") && !linux.contains_key("intelRdt"));
}

#[test]
fn a_mount_is_a_bind_by_its_type_or_its_options() {
    let given = |typ: &str, options: &[&str]| {
        let json = serde_json::json!({"destination": "/d", "type": typ, "options": options});
        is_bind(&serde_json::from_value(json).unwrap())
    };
    assert!(given("bind", &[]) && given("none", &["bind"]) && given("none", &["ro", "rbind"]));
    assert!(!given("none", &["ro"]) && !given("tmpfs", &[]));
    let bare = serde_json::json!({"destination": "/d"});
    assert!(!is_bind(&serde_json::from_value(bare).unwrap()));
}
