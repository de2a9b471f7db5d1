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
