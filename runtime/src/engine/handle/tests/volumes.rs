//! Volumes and the containers that use them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::*;
use crate::engine::records::definition::VolumeUse;
use crate::engine::volume::{Volume, VolumeView};

fn used(name: &str, anonymous: bool) -> VolumeUse {
    VolumeUse {
        name: name.to_owned(),
        anonymous,
        target: "/data".into(),
        options: Vec::new(),
        copy: true,
    }
}

impl Lab {
    /// Adds a container with these volumes.
    async fn with_volumes(&self, name: &str, volumes: &[VolumeUse]) {
        let mut definition = self.definition(name);
        definition.volumes = volumes.to_vec();
        self.pod.create_container(&definition).await.unwrap();
    }

    /// The names of all volumes, and whether they are anonymous.
    fn volumes(&self) -> Vec<(String, bool)> {
        let shown = self.engine.list_volumes().unwrap().into_iter();
        let shown = shown.map(|view| view.unwrap());
        shown
            .map(|view| (view.volume.name, view.anonymous))
            .collect()
    }

    fn volume_events(&self) -> Vec<String> {
        let mut reader = Reader::open(&self.engine.journal()).unwrap();
        let events = reader.events().unwrap().into_iter();
        events
            .filter(|event| event.kind.name() == "volume")
            .map(|event| format!("{} {}", event.action, event.name))
            .collect()
    }
}

#[tokio::test]
async fn volumes_are_listed_with_their_files_and_their_users() {
    let lab = Lab::new(&[]).await;
    let volumes = lab.engine.volumes();
    let labelled = Volume {
        created: SystemTime::UNIX_EPOCH,
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        ..Volume::new("lone")
    };
    volumes.create(&labelled).unwrap();
    lab.with_volumes("c", &[used("data", false), used("own", true)])
        .await;
    lab.with_volumes("d", &[used("data", false)]).await;

    let mut shown = lab
        .engine
        .list_volumes()
        .unwrap()
        .into_iter()
        .map(|view| view.unwrap());
    let data_root = &lab.engine.config().data_root;
    let data = shown.next().unwrap();
    assert_eq!((&*data.volume.name, data.anonymous), ("data", false));
    assert_eq!(data.users, ["web/c", "web/d"]);
    assert_eq!(data.path, data_root.join("volumes/data/_data"));
    assert!(data.path.is_dir() && !data.volume.filled);
    let lone = VolumeView {
        volume: labelled.clone(),
        path: data_root.join("volumes/lone/_data"),
        anonymous: false,
        users: Vec::new(),
    };
    assert_eq!(shown.next().unwrap(), lone);
    let own = shown.next().unwrap();
    assert_eq!((&*own.volume.name, own.anonymous), ("own", true));
    assert_eq!(own.users, ["web/c"]);
    let container = lab.pod.paths().container("c").unwrap();
    assert_eq!(own.path, container.path().join("volumes/own/_data"));
    let created = lab
        .pod
        .view()
        .unwrap()
        .container("c")
        .unwrap()
        .definition
        .created;
    assert_eq!(own.volume.created, created);
    assert!(shown.next().is_none());
    assert_eq!(lab.volume_events(), ["create lone", "create data"]);

    let taken = volumes.create(&labelled).unwrap_err();
    assert!(matches!(&taken, Error::AlreadyExists { what: "volume", id } if id == "lone"));
    let bad = volumes.create(&Volume::new("a/b")).unwrap_err();
    assert!(matches!(bad, Error::InvalidValue { .. }), "{bad:?}");
}

#[tokio::test]
async fn a_volume_in_use_goes_with_its_containers_by_force() {
    let lab = Lab::new(&[]).await;
    lab.with_volumes("c", &[used("data", false), used("own", true)])
        .await;
    lab.with_volumes("d", &[used("data", false)]).await;
    lab.with_volumes("e", &[used("other", false)]).await;
    for (name, users) in [("data", "web/c, web/d"), ("own", "web/c")] {
        match lab.engine.remove_volume(name, false).await.unwrap_err() {
            Error::WrongState {
                what: "volume",
                id,
                operation: "remove",
                state,
            } => {
                assert_eq!(id, name);
                assert!(state.contains(&format!("container(s) {users}:")), "{state}");
            }
            other => panic!("{other:?}"),
        }
    }
    lab.engine.remove_volume("data", true).await.unwrap();
    assert_eq!(lab.pod.view().unwrap().chosen(&[]).unwrap(), ["e"]);
    assert_eq!(lab.volumes(), [("other".to_owned(), false)]);
    let data = lab.engine.config().data_root.join("volumes");
    let mut left: Vec<_> = fs::read_dir(data)
        .unwrap()
        .map(|one| one.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, [".lock", "other"]);
    for force in [false, true] {
        let missing = lab.engine.remove_volume("data", force).await.unwrap_err();
        assert!(
            matches!(missing, Error::NotFound { what: "volume", .. }),
            "{missing:?}"
        );
    }
    assert_eq!(lab.volume_events()[2..], ["remove data"]);
}

#[tokio::test]
async fn an_anonymous_volume_goes_with_its_container() {
    let lab = Lab::new(&[]).await;
    lab.with_volumes("c", &[used("own", true)]).await;
    lab.engine.remove_volume("own", true).await.unwrap();
    assert!(lab.pod.view().unwrap().containers.is_empty());
    assert!(lab.volumes().is_empty());
}

#[tokio::test]
async fn prune_removes_the_named_volumes_without_a_container() {
    let lab = Lab::new(&[]).await;
    lab.with_volumes("c", &[used("data", false), used("own", true)])
        .await;
    for name in ["b", "a"] {
        lab.engine.volumes().create(&Volume::new(name)).unwrap();
    }
    assert_eq!(lab.engine.prune_volumes().unwrap(), ["a", "b"]);
    assert_eq!(
        lab.volumes(),
        [("data".to_owned(), false), ("own".to_owned(), true)]
    );
    assert_eq!(lab.volume_events()[3..], ["remove a", "remove b"]);
    assert!(lab.engine.prune_volumes().unwrap().is_empty());
}

#[tokio::test]
async fn a_container_that_cannot_be_read_may_use_any_volume() {
    let lab = Lab::new(&[]).await;
    lab.with_volumes("c", &[used("data", false)]).await;
    fs::write(lab.pod.paths().container("c").unwrap().config(), "").unwrap();
    let errors = [
        lab.engine.prune_volumes().map(drop).unwrap_err(),
        lab.engine.remove_volume("data", true).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::BadFile { .. }), "{error:?}");
    }
    let shown = lab.engine.list_volumes().unwrap();
    assert_eq!(shown.iter().filter(|view| view.is_err()).count(), 1);
    assert_eq!(
        shown.len(),
        2,
        "the volume is there, without a user that is known"
    );
}
