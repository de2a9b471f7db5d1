//! Removing images: names first, and never what a container or an import needs.

use oci_spec::runtime::Spec;

use super::*;
use crate::engine::records::definition::{ContainerDefinition, PodDefinition, Rootfs};

impl Bed {
    /// Defines a container of an image in a pod of its own.
    async fn container(&self, pod: &str, image: &str, single: bool) {
        let image = self.images.find(image).unwrap().image;
        let rootfs = Rootfs::Image {
            reference: "x".into(),
            id: image.id.clone(),
            layers: self.images.directories(&image),
        };
        let mut definition = PodDefinition::new("local", pod);
        definition.single = single;
        let pod = self.engine.create_pod(definition).unwrap();
        let definition = ContainerDefinition::new("c", rootfs, Spec::default());
        pod.create_container(&definition).await.unwrap();
    }

    async fn remove(&self, wanted: &str, force: bool) -> Result<Removed> {
        self.engine.remove_image(wanted, force).await
    }

    fn events(&self) -> Vec<(String, String, String)> {
        let mut events = self.journal();
        events.retain(|(action, ..)| action != "pull" && action != "tag");
        events
    }
}

fn event(action: &str, name: &str, id: &str) -> (String, String, String) {
    (action.to_owned(), name.to_owned(), id.to_owned())
}

fn removed(untagged: &[&str], deleted: &[&str], bytes: u64) -> Removed {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Removed {
        untagged: owned(untagged),
        deleted: owned(deleted),
        bytes,
    }
}

#[tokio::test]
async fn an_image_goes_with_its_last_name() {
    let bed = Bed::new();
    let id = bed.stored("one:1", &[layer("a", "five5")]).await;
    bed.images.tag(&id, "two:1").unwrap();
    let two = "localhost/two:1";

    let first = bed.remove("one:1", false).await.unwrap();
    assert_eq!(first, removed(&["one:1"], &[], 0));
    assert_eq!(bed.names(), [(id.clone(), vec![two.to_owned()])]);
    let last = bed.remove("two:1", false).await.unwrap();
    assert_eq!(last, removed(&[two], &[&id], 5));
    assert!(bed.names().is_empty());
    for dir in ["layers", "records", "names"] {
        assert!(bed.files(dir).is_empty(), "{dir}");
    }
    let events = [
        event("untag", "one:1", ""),
        event("untag", two, ""),
        event("remove", &id, &id),
    ];
    assert_eq!(bed.events(), events);
    let missing = bed.remove("two:1", true).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { what: "image", .. }));
}

#[tokio::test]
async fn an_image_of_several_names_is_removed_by_its_id_with_force_alone() {
    let bed = Bed::new();
    let id = bed.stored("b:1", &[layer("a", "1")]).await;
    bed.images.tag(&id, "a").unwrap();
    let refused = image_error(bed.remove(&id, false).await);
    let ImageError::ManyNames { image, names } = refused else {
        panic!("{refused:?}");
    };
    let both = ["b:1", "localhost/a:latest"];
    assert_eq!(
        (image, &names[..]),
        (id.clone(), &both.map(str::to_owned)[..])
    );
    assert_eq!(bed.names().len(), 1);
    let all = bed.remove(&id, true).await.unwrap();
    assert_eq!(all, removed(&both, &[&id], 1));

    // By its only name, or by the id of one with a single name, no force is needed.
    let id = bed.stored("b:1", &[layer("a", "1")]).await;
    let one = bed.remove(&id, false).await.unwrap();
    assert_eq!(one, removed(&["b:1"], &[&id], 1));
    // With force a name stands for the whole image.
    let id = bed.stored("b:1", &[layer("a", "1")]).await;
    bed.images.tag(&id, "a").unwrap();
    let all = bed.remove("a", true).await.unwrap();
    assert_eq!(all, removed(&both, &[&id], 1));
}

#[tokio::test]
async fn an_image_in_use_goes_with_its_containers_by_force() {
    let bed = Bed::new();
    let id = bed.stored("one:1", &[layer("a", "1")]).await;
    let other = bed.stored("other:1", &[layer("a", "2")]).await;
    bed.container("web", "one:1", false).await;
    bed.container("own", "one:1", true).await;
    bed.container("rest", "other:1", false).await;
    let users = bed.engine.image_users().unwrap();
    let of = |id: &str| -> Vec<(&str, &str)> {
        let users = users[id].iter();
        users.map(|(pod, name)| (pod.name(), &**name)).collect()
    };
    assert_eq!(of(&id), [("own", "c"), ("web", "c")]);
    assert_eq!(of(&other), [("rest", "c")]);
    assert_eq!(users.len(), 2);

    let refused = image_error(bed.remove("one:1", false).await);
    let ImageError::InUse { image, users } = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(
        (&*image, &users[..]),
        ("one:1", &["own/c".to_owned(), "web/c".to_owned()][..])
    );

    let gone = bed.remove("one:1", true).await.unwrap();
    assert_eq!(gone, removed(&["one:1"], &[&id], 1));
    let pods = bed.engine.pod_names(None).unwrap();
    let left: Vec<_> = pods.iter().map(|pod| pod.name()).collect();
    assert_eq!(left, ["rest", "web"], "the pod of its own has gone, too");
    assert!(pods[1].view().unwrap().containers.is_empty());
    assert_eq!(bed.engine.image_users().unwrap().len(), 1);
}

#[tokio::test]
async fn an_image_that_a_container_is_being_made_of_stays() {
    let bed = Bed::new();
    let id = bed.stored("one:1", &[layer("a", "1")]).await;
    let other = bed.stored("other:1", &[layer("a", "2")]).await;
    let held = bed.images.hold("one:1").unwrap();
    for force in [false, true] {
        let refused = image_error(bed.remove("one:1", force).await);
        assert!(matches!(refused, ImageError::InUse { .. }), "{refused:?}");
    }
    let pruned = bed.engine.prune_images(true).unwrap();
    assert_eq!(pruned.deleted, [other]);
    drop(held);
    let pruned = bed.engine.prune_images(true).unwrap();
    assert_eq!(pruned, removed(&["one:1"], &[&id], 1));
}

#[tokio::test]
async fn prune_removes_what_has_no_name_or_what_has_no_container() {
    let bed = Bed::new();
    let unnamed = bed.stored("x", &[layer("a", "one")]).await;
    let unnamed_in_use = bed.stored("y", &[layer("a", "two")]).await;
    bed.container("web", "y", false).await;
    let named = bed.stored("x", &[layer("a", "three")]).await;
    let in_use = bed.stored("y", &[layer("a", "four")]).await;
    bed.container("other", "y", false).await;

    let pruned = bed.engine.prune_images(false).unwrap();
    assert_eq!(pruned, removed(&[], &[&unnamed], 3));
    assert_eq!(bed.files("layers").len(), 3, "its layer has gone, too");
    assert_eq!(bed.events(), [event("remove", &unnamed, &unnamed)]);
    let pruned = bed.engine.prune_images(true).unwrap();
    assert_eq!(pruned, removed(&["x"], &[&named], 5));
    let mut left: Vec<_> = bed.names().into_iter().map(|(id, _)| id).collect();
    left.sort();
    let mut expected = [unnamed_in_use, in_use];
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(bed.engine.prune_images(true).unwrap(), Removed::default());
}

#[tokio::test]
async fn a_damaged_image_is_removed_by_force() {
    let bed = Bed::new();
    let id = bed.stored("one:1", &[layer("a", "1")]).await;
    let file = format!("data/images/records/{}", bed.files("records")[0]);
    let file = bed.root.path().join(file);
    fs::write(&file, "{").unwrap();
    let refused = bed.remove(&id, false).await.unwrap_err();
    assert!(matches!(refused, Error::BadFile { .. }), "{refused:?}");
    assert!(file.exists());
    let gone = bed.remove(&id, true).await.unwrap();
    assert_eq!(gone, removed(&[], &[&id], 0));
    assert!(!file.exists());
}

#[tokio::test]
async fn a_container_that_cannot_be_read_may_use_any_image() {
    let bed = Bed::new();
    bed.stored("one:1", &[layer("a", "1")]).await;
    bed.container("web", "one:1", false).await;
    let pod = bed.engine.pod("local", "web").unwrap();
    fs::write(pod.paths().container("c").unwrap().config(), "{").unwrap();
    let errors = [
        bed.engine.image_users().map(drop).unwrap_err(),
        bed.remove("one:1", true).await.unwrap_err(),
        bed.engine.prune_images(true).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::BadFile { .. }), "{error:?}");
    }
    assert_eq!(bed.names().len(), 1);
}
