//! Pods and containers are created, found by names and ids, and listed.

use super::*;
use crate::engine::records::definition::ContainerDefinition;
use crate::engine::records::record::PodState;

#[test]
fn a_made_up_name_is_one_that_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::below(dir.path());
    // All generated names are taken.
    let pods = self::records::paths::pods(&engine.config.data_root).join(NAMESPACE);
    for name in names::all() {
        std::fs::create_dir_all(pods.join(name).join("containers")).unwrap();
    }
    let made = engine
        .create_pod(PodDefinition::new(NAMESPACE, ""))
        .unwrap();
    assert!(
        made.name().ends_with(|c: char| c.is_ascii_digit()),
        "{}",
        made.name()
    );
    let given = engine.create_pod(PodDefinition::new(NAMESPACE, made.name()));
    assert!(matches!(given, Err(Error::AlreadyExists { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_of_a_removed_pod_does_not_reach_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::below(dir.path());
    let first = engine.create_pod(PodDefinition::new("local", "p")).unwrap();
    let found = engine.pod("local", "p").unwrap();
    let removed = first.remove(RemoveOptions::default()).await.unwrap();
    assert!(removed.errors.is_empty());
    let gone = first.view().unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone:?}");
    let second = engine.create_pod(PodDefinition::new("local", "p")).unwrap();

    let is_removed = |error: Error| {
        assert_eq!(error.kind(), crate::error::ErrorKind::NotFound);
        matches!(error, Error::Removed { what: "pod", name, .. } if name == "p")
    };
    let root = super::records::definition::Rootfs::Directory("/".into());
    let container = ContainerDefinition::new("c", root, Default::default());
    for old in [&first, &found] {
        assert!(is_removed(old.view().unwrap_err()));
        assert!(is_removed(old.start(&[], true).await.unwrap_err()));
        assert!(is_removed(old.stop(&[], None).await.unwrap_err()));
        assert!(is_removed(
            old.create_container(&container).await.unwrap_err()
        ));
        assert!(is_removed(
            old.remove(RemoveOptions::FORCE).await.unwrap_err()
        ));
        assert!(is_removed(
            old.remove(RemoveOptions::default()).await.unwrap_err()
        ));
    }
    assert!(second.view().unwrap().containers.is_empty());
    let removed = second.remove(RemoveOptions::default()).await.unwrap();
    assert!(removed.errors.is_empty());
}

/// An engine with pods of these names in a namespace.
fn engine(dir: &Path, namespace: &str, pods: &[&str]) -> Engine {
    let engine = Engine::below(dir);
    for name in pods {
        engine
            .create_pod(PodDefinition::new(namespace, name))
            .unwrap();
    }
    engine
}

/// Gives a pod another id.
fn set_id(pod: &PodHandle, id: &str) {
    let path = pod.paths().config();
    let mut definition: PodDefinition = crate::state_dir::read(&path).unwrap();
    definition.id = id.to_owned();
    crate::state_dir::write(&path, &definition).unwrap();
}

#[test]
fn a_new_pod_is_of_this_boot_and_has_an_infra_container_if_it_wants_one() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::below(dir.path());
    for infra in [true, false] {
        let mut definition = PodDefinition::new("ns", if infra { "with" } else { "without" });
        definition.infra = infra;
        if !infra {
            definition.share.clear();
        }
        let pod = engine.create_pod(definition).unwrap();
        let view = pod.view().unwrap();
        let expected = PodState {
            infra: infra.then(|| view.definition.id.clone()),
            boot: self::records::boot_id().unwrap(),
            ..PodState::default()
        };
        assert_eq!(view.state, expected);
        assert_eq!(view.paths.namespace(), "ns");
    }
    let mut reader = self::journal::Reader::open(&engine.journal()).unwrap();
    let events = reader.events().unwrap().into_iter();
    let events: Vec<_> = events.map(|event| (event.action, event.name)).collect();
    let created = |name: &str| ("create".to_owned(), name.to_owned());
    assert_eq!(events, [created("with"), created("without")]);
    let bad = engine
        .create_pod(PodDefinition::new("ns", "a/b"))
        .unwrap_err();
    assert!(matches!(bad, Error::InvalidValue { .. }), "{bad:?}");
}

#[test]
fn pods_are_found_by_their_names_before_their_ids() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path(), "local", &["abc", "web"]);
    let other = engine
        .create_pod(PodDefinition::new("other", "web"))
        .unwrap();
    set_id(&other, "abcd");
    set_id(&engine.pod("local", "web").unwrap(), "abce");
    let found = |namespace: Option<&str>, wanted: &str| {
        let found = engine.find_pod(namespace, wanted);
        found.map(|pod| (pod.paths().namespace().to_owned(), pod.name().to_owned()))
    };
    let of = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
    assert_eq!(found(None, "abc").unwrap(), of("local", "abc"));
    assert_eq!(found(Some("other"), "web").unwrap(), of("other", "web"));
    assert_eq!(found(Some("other"), "abc").unwrap(), of("other", "web"));
    assert_eq!(found(None, "abcd").unwrap(), of("other", "web"));
    for (namespace, missing) in [
        (None, "we"),
        (Some("other"), "abce"),
        (None, "bcd"),
        (None, ""),
    ] {
        let error = found(namespace, missing).unwrap_err();
        assert!(
            matches!(&error, Error::NotFound { what: "pod", id } if id == missing),
            "{missing}: {error:?}"
        );
    }
    let error = found(None, "web").unwrap_err();
    assert!(
        matches!(&error, Error::Ambiguous { what: "pod", matches, .. } if *matches == ["local/web", "other/web"]),
        "{error:?}"
    );
    let missing = engine.pod("local", "none").unwrap_err();
    assert!(matches!(missing, Error::NotFound { what: "pod", .. }));
}

#[tokio::test]
async fn containers_are_found_by_their_names_before_their_ids() {
    use crate::engine::records::definition::Rootfs;
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path(), "local", &["one", "two"]);
    let add = async |pod: &str, name: &str, id: &str| {
        let root = Rootfs::Directory("/".into());
        let mut definition = ContainerDefinition::new(name, root, Default::default());
        definition.id = id.to_owned();
        let pod = engine.pod("local", pod).unwrap();
        pod.create_container(&definition).await.unwrap();
    };
    add("one", "db", "abc1").await;
    add("two", "db", "abc2").await;
    add("two", "abc1", "fff1").await;
    let found = |wanted: &str| {
        let found = engine.find_container(None, wanted);
        found.map(|(pod, name)| format!("{}/{name}", pod.name()))
    };
    for (wanted, expected) in [
        ("one/db", "one/db"),
        ("two/db", "two/db"),
        ("abc1", "two/abc1"),
        ("abc2", "two/db"),
        ("fff", "two/abc1"),
    ] {
        assert_eq!(found(wanted).unwrap(), expected);
    }
    for wanted in ["db", "abc"] {
        let error = found(wanted).unwrap_err();
        assert!(
            matches!(&error, Error::Ambiguous { what: "container", matches, .. } if *matches == ["one/db", "two/db"]),
            "{error:?}"
        );
    }
    for (wanted, what) in [
        ("none", "container"),
        ("one/none", "container"),
        ("none/db", "pod"),
    ] {
        let error = found(wanted).unwrap_err();
        assert!(
            matches!(&error, Error::NotFound { what: missing, .. } if *missing == what),
            "{wanted}: {error:?}"
        );
    }
    assert!(engine.find_container(Some("other"), "one/db").is_err());
}

#[test]
fn many_pods_are_listed_as_few_are() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..ALONE + 70).map(|n| format!("p{n:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for count in [0, 1, ALONE, ALONE + 1, ALONE + 70] {
        let dir = dir.path().join(count.to_string());
        let engine = engine(&dir, "ns", &names[..count]);
        let listed = engine.pods(None).unwrap().into_iter();
        let listed: Vec<String> = listed
            .map(|pod| pod.unwrap().paths.name().to_owned())
            .collect();
        assert_eq!(listed, names[..count], "{count}");
        assert_eq!(engine.pod_names(Some("ns")).unwrap().len(), count);
        assert!(engine.pods(Some("other")).unwrap().is_empty());
        if count > 0 {
            let path = engine.pod("ns", names[0]).unwrap().paths().config();
            std::fs::write(path, "").unwrap();
            let listed = engine.pods(None).unwrap();
            assert_eq!(listed[0].as_ref().unwrap_err().paths.name(), names[0]);
            assert_eq!(listed.len(), count);
        }
    }
}

#[test]
fn each_pod_has_a_socket_of_its_own_with_a_short_name() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path(), "a", &["x", "y"]);
    let address = |namespace: &str, name: &str| {
        let paths = DataPaths::new(&engine.config().data_root, namespace, name);
        engine.owner_address(&paths.unwrap())
    };
    let owners = engine.config().root.join(".owners");
    assert_eq!(address("a", "x").parent(), Some(&*owners));
    assert_eq!(address("a", "x").file_name().unwrap().len(), 16);
    assert_eq!(address("a", "x"), address("a", "x"));
    assert_ne!(address("a", "x"), address("a", "y"));
    assert_ne!(address("a", "x"), address("b", "x"));
}
