//! Foreign pods and containers are found by their ids and by their names in Kubernetes.

use std::time::Duration;

use super::*;

/// A pod with containers of these ids and names in Kubernetes, the last one the youngest.
fn kubernetes(root: &Path, id: &str, name: &str, containers: &[(&str, &str)]) {
    let dir = pod(root, id, ManagedBy::Containerd);
    let mut config: PodConfig = state_dir::read(&dir.config()).unwrap();
    config.labels.insert(SANDBOX_NAME.into(), name.into());
    state_dir::write(&dir.config(), &config).unwrap();
    for (age, (container, name)) in containers.iter().enumerate() {
        let path = dir.container(container);
        std::fs::create_dir_all(&path).unwrap();
        let bundle = path.join("bundle");
        std::fs::create_dir_all(&bundle).unwrap();
        let spec = serde_json::json!({
            "ociVersion": "1.0.2", "root": {"path": "rootfs"},
            "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "annotations": {CONTAINER_NAME: name}
        });
        std::fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        let record = ContainerRecord {
            id: (*container).into(),
            bundle,
            sandbox: false,
            created: SystemTime::UNIX_EPOCH + Duration::from_secs(age as u64),
        };
        state_dir::write(&path.join("config.json"), &record).unwrap();
        let state = std::fs::read(dir.container("c").join("state.json")).unwrap();
        std::fs::write(path.join("state.json"), state).unwrap();
    }
}

fn pods(root: &Path) -> Vec<ListedPod> {
    let pods = foreign(root, None).unwrap().into_iter();
    pods.map(|pod| pod.unwrap()).collect()
}

#[test]
fn pods_are_found_by_either_name() {
    let root = tempfile::tempdir().unwrap();
    let id = "ab".repeat(32);
    kubernetes(root.path(), &id, "web-0", &[]);
    kubernetes(root.path(), "other", "web-1", &[]);
    let found = |wanted: &str| {
        let found = find_pod(pods(root.path()), wanted).unwrap();
        found.map(|pod| pod.config.id)
    };
    for wanted in [&*id, "abab", "web-0"] {
        assert_eq!(found(wanted).as_ref(), Some(&id), "{wanted}");
    }
    assert_eq!(found("web-1").as_deref(), Some("other"));
    for missing in ["aba", "web-", "oth", ""] {
        assert_eq!(found(missing), None, "{missing}");
    }
    kubernetes(root.path(), "third", "web-1", &[]);
    let error = find_pod(pods(root.path()), "web-1").unwrap_err();
    assert!(
        matches!(&error, Error::Ambiguous { what: "pod", matches, .. } if *matches == ["other", "third"]),
        "{error:?}"
    );
}

#[test]
fn containers_are_found_by_either_name_and_the_last_of_a_name_counts() {
    let root = tempfile::tempdir().unwrap();
    let id = "cd".repeat(32);
    kubernetes(
        root.path(),
        "p1",
        "web-0",
        &[("first", "db"), (&id, "db"), ("side", "proxy")],
    );
    kubernetes(root.path(), "p2", "web-1", &[("own", "proxy")]);
    let found = |wanted: &str| {
        let found = find_container(pods(root.path()), wanted);
        found.map(|found| found.map(|found| (found.pod.config.id, found.container)))
    };
    let of = |pod: &str, container: &str| Some((pod.to_owned(), container.to_owned()));
    for (wanted, expected) in [
        ("first", of("p1", "first")),
        (&*id, of("p1", &id)),
        ("cdcd", of("p1", &id)),
        ("db", of("p1", &id)),
        ("p1/db", of("p1", &id)),
        ("web-0/proxy", of("p1", "side")),
        ("web-1/proxy", of("p2", "own")),
        ("p2/db", None),
        ("none/db", None),
        ("none", None),
    ] {
        assert_eq!(found(wanted).unwrap(), expected, "{wanted}");
    }
    let error = found("proxy").unwrap_err();
    assert!(
        matches!(&error, Error::Ambiguous { what: "container", matches, .. } if *matches == ["p1/side", "p2/own"]),
        "{error:?}"
    );
}
