//! Tests: specs and their translations for the guest.

use super::*;

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

#[test]
fn a_bundle_is_checked_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let failure = |text: &str| {
        std::fs::write(&path, text).unwrap();
        match load_spec(dir.path()).unwrap_err() {
            Error::Spec(error) => error,
            other => panic!("{other:?}"),
        }
    };
    let none = load_spec(&dir.path().join("none")).unwrap_err();
    assert!(
        matches!(
            &none,
            Error::Spec(SpecError::Read { path, .. }) if path.ends_with("none/config.json")
        ),
        "{none}"
    );
    assert!(matches!(
        failure(r#"{"ociVersion": "1.0.2", "root"#),
        SpecError::Parse { .. }
    ));
    assert!(matches!(
        failure(r#"{"ociVersion": "1.0.2"}"#),
        SpecError::Missing {
            field: "process",
            ..
        }
    ));
    let process = |args: &str, cwd: &str| {
        let user = r#"{"uid":0,"gid":0}"#;
        format!(r#"{{"ociVersion":"1","process":{{"args":{args},"cwd":"{cwd}","user":{user}}}}}"#)
    };
    assert!(matches!(
        failure(&process("[]", "/")),
        SpecError::Missing {
            field: "process.args",
            ..
        }
    ));
    assert!(matches!(
        failure(&process(r#"["sh"]"#, "etc")),
        SpecError::RelativeCwd { cwd, .. } if cwd == Path::new("etc")
    ));
    assert!(matches!(
        failure(&process(r#"["sh"]"#, "/")),
        SpecError::Missing { field: "root", .. }
    ));

    let given = spec(serde_json::json!({
        "ociVersion": "1.0.2", "root": {"path": "rootfs"},
        "mounts": [{"destination": "/x", "type": "bind", "source": "/no/such"}]
    }));
    for (has_rootfs_mounts, bad) in [
        (false, dir.path().join("rootfs")),
        (true, "/no/such".into()),
    ] {
        match check_host_paths(&given, dir.path(), has_rootfs_mounts).unwrap_err() {
            Error::InvalidPath { path, .. } => assert_eq!(path, bad),
            other => panic!("{other:?}"),
        }
    }
}
