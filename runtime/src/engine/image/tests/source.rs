//! Images of a layout: which one is taken, its name, and what is stored of it.

use std::sync::{Arc, Mutex};

use super::*;
use crate::engine::image::digest::chain_ids;
use crate::error::ErrorKind;
use crate::sync::lock;

#[tokio::test]
async fn an_image_is_stored_with_its_layers_and_its_name() {
    let bed = Bed::new();
    let layers = [layer("a", "one"), layer("b", "three")];
    let manifest = bed.layout.image(&layers);
    bed.layout.list(std::slice::from_ref(&manifest));

    let held = bed.pull(&bed.source(None), None).await.unwrap();

    let view = held.view();
    assert_eq!(view.names, ["localhost/layout:latest"]);
    let image = held.image();
    assert_eq!(image.id, sha256(config(&layers).to_string().as_bytes()));
    assert_eq!(image.digest, manifest["digest"]);
    let user = image.config.config().as_ref().unwrap().user();
    assert_eq!(user.as_deref(), Some("7"));
    let diff_ids: Vec<String> = layers.iter().map(|layer| sha256(layer)).collect();
    let chain = chain_ids(&diff_ids);
    let of = |n: usize, size| Layer {
        chain_id: chain[n].clone(),
        diff_id: diff_ids[n].clone(),
        size,
        opaque: false,
    };
    assert_eq!(image.layers, [of(0, 3), of(1, 5)]);
    assert_eq!(image.size(), 8);
    let directories = bed.images.directories(image);
    assert_eq!(fs::read(directories[0].join("a")).unwrap(), b"one");
    assert_eq!(fs::read(directories[1].join("b")).unwrap(), b"three");
    assert!(!directories[1].join("a").exists());
    assert_eq!(bed.images.find("localhost/layout:latest").unwrap(), *view);
    let pulled = (
        "pull".to_owned(),
        "localhost/layout:latest".to_owned(),
        image.id.clone(),
    );
    assert_eq!(bed.journal(), [pulled]);
    // What was unpacked is in the store now, and the place for it is free again.
    let pulls = fs::read_dir(bed.root.path().join("data/images/pulls")).unwrap();
    let place = pulls.map(|place| place.unwrap().path()).next().unwrap();
    let left = fs::read_dir(place).unwrap().count();
    assert_eq!(left, 1, "the lease alone");
}

#[tokio::test]
async fn layers_that_are_there_are_not_unpacked_again() {
    let bed = Bed::new();
    let (base, more) = (layer("a", "one"), layer("b", "two"));
    bed.stored("one", std::slice::from_ref(&base)).await;
    let manifest = bed.layout.image(&[base.clone(), more.clone()]);
    bed.layout.list(&[manifest]);
    // The first one cannot be read any more.
    fs::remove_file(bed.layout.path_of(&sha256(&base))).unwrap();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = steps.clone();
    let report: Report = Arc::new(move |step| {
        let digest = step.digest.to_string();
        lock(&seen).push((digest, step.step, step.done, step.total));
    });

    let options = RegistryOptions::default();
    let name = Some("two".to_owned());
    let source = bed.source(None);
    bed.images
        .pull(&source, name, &options, report)
        .await
        .unwrap();

    let steps = lock(&steps);
    let size = |layer: &Vec<u8>| layer.len() as u64;
    let whole = size(&base);
    assert_eq!(steps[0], (sha256(&base), LayerStep::Present, whole, whole));
    let of_more = &steps[1..];
    assert!(
        of_more
            .iter()
            .all(|step| step.0 == sha256(&more) && step.3 == size(&more))
    );
    let (last, unpacking) = of_more.split_last().unwrap();
    assert_eq!((last.1, last.2), (LayerStep::Done, size(&more)));
    assert!(unpacking.iter().all(|step| step.1 == LayerStep::Unpacking));
    assert!(unpacking.is_sorted_by_key(|step| step.2));
    assert_eq!(unpacking.last().unwrap().2, size(&more));
    assert_eq!(bed.files("layers").len(), 2);
}

#[tokio::test]
async fn an_image_has_the_name_that_is_given_or_that_of_its_layout() {
    let bed = Bed::new();
    let image = bed.layout.image(&[layer("a", "1")]);
    let named = |name: &str| annotated(image.clone(), FULL_NAME, name);
    for (entry, given, expected) in [
        (image.clone(), Some("given"), "given"),
        (image.clone(), None, "localhost/layout:latest"),
        (named("quay.io/a/b:1"), Some("given"), "given"),
        (named("quay.io/a/b:1"), None, "quay.io/a/b:1"),
        (named("quay.io/a/b"), None, "quay.io/a/b:latest"),
        (named("No Name"), None, "localhost/layout:latest"),
    ] {
        bed.layout.list(std::slice::from_ref(&entry));
        let held = bed.pull(&bed.source(None), given).await.unwrap();
        assert!(
            held.view().names.contains(&expected.to_owned()),
            "{entry} {given:?}: {:?}",
            held.view().names
        );
    }
    let names = &bed.names()[0].1;
    let all = [
        "given",
        "localhost/layout:latest",
        "quay.io/a/b:1",
        "quay.io/a/b:latest",
    ];
    assert_eq!(names, &all, "one image has them all");
}

#[tokio::test]
async fn one_of_several_images_is_chosen_by_its_tag() {
    let bed = Bed::new();
    let image = |content: &str| bed.layout.image(&[layer("a", content)]);
    let one = annotated(image("1"), REF_NAME, "one");
    let two = annotated(image("2"), FULL_NAME, "quay.io/a/b:two");
    let id = async |tag: Option<&str>| {
        let held = bed.pull(&bed.source(tag), Some("x")).await;
        held.map(|held| held.image().digest.clone())
    };
    bed.layout.list(&[one.clone(), two.clone()]);
    for (tag, expected) in [("one", &one), ("two", &two), ("quay.io/a/b:two", &two)] {
        assert_eq!(id(Some(tag)).await.unwrap(), expected["digest"], "{tag}");
    }
    let wrong = |error: ImageError, expected: &str| match error {
        ImageError::Tag { problem, there, .. } => {
            assert_eq!(format!("{problem}; {there}"), expected);
        }
        other => panic!("{other:?}"),
    };
    let missing = image_error(id(Some("three")).await);
    wrong(missing, "it has no image of the tag \"three\"; one");
    let part = image_error(id(Some("wo")).await);
    wrong(part, "it has no image of the tag \"wo\"; one");

    let other = annotated(image("3"), REF_NAME, "other");
    bed.layout.list(&[one.clone(), other, one.clone()]);
    let several = image_error(id(None).await);
    wrong(several, "it has several images: name the tag; one, other");
    // The same name twice is one image, as for several machines.
    bed.layout.list(&[one.clone(), one.clone()]);
    assert_eq!(id(None).await.unwrap(), one["digest"]);
    bed.layout.list(std::slice::from_ref(&image("4")));
    let none = image_error(id(Some("x")).await);
    wrong(none, "it has no image of the tag \"x\"; none");
}

#[tokio::test]
async fn the_image_for_this_machine_is_chosen() {
    let bed = Bed::new();
    let arch = serde_json::to_value(Arch::default()).unwrap();
    let on = |n: usize, os: &str, arch: &Value, variant: Option<&str>| {
        let mut image = bed.layout.image(&[layer("a", &n.to_string())]);
        image["platform"] = json!({"os": os, "architecture": arch});
        if let Some(variant) = variant {
            image["platform"]["variant"] = variant.into();
        }
        image
    };
    let other = json!("s390x");
    let foreign = on(0, "linux", &other, None);
    let windows = on(1, "windows", &arch, None);
    let any = bed.layout.image(&[layer("a", "2")]);
    let variant = on(3, "linux", &arch, Some("v3"));
    let first = on(4, "linux", &arch, Some("v1"));
    let plain = on(5, "linux", &arch, None);
    for (entries, chosen) in [
        (
            vec![&foreign, &windows, &any, &variant, &first, &plain],
            &first,
        ),
        (
            vec![&foreign, &windows, &any, &variant, &plain, &first],
            &plain,
        ),
        (vec![&foreign, &windows, &any, &variant], &variant),
        (vec![&foreign, &windows, &any], &any),
    ] {
        let entries: Vec<Value> = entries.into_iter().cloned().collect();
        // Of the layout's list, and of an index in it.
        let nested = bed.layout.document(INDEX, &index(&entries));
        for list in [entries, vec![nested]] {
            bed.layout.list(&list);
            let held = bed.pull(&bed.source(None), None).await.unwrap();
            assert_eq!(held.image().digest, chosen["digest"]);
        }
    }
    bed.layout.list(&[foreign, windows]);
    let none = image_error(bed.pull(&bed.source(None), None).await);
    let ImageError::Platform { wanted, there, .. } = none else {
        panic!("{none:?}");
    };
    let arch = arch.as_str().unwrap();
    assert_eq!(
        (&*wanted, &*there),
        (
            &*format!("linux/{arch}"),
            &*format!("linux/s390x, windows/{arch}")
        )
    );
    bed.layout.list(&[]);
    let none = image_error(bed.pull(&bed.source(None), None).await);
    assert!(
        matches!(&none, ImageError::Platform { there, .. } if there == "no image"),
        "{none:?}"
    );
}

#[tokio::test]
async fn indexes_may_be_nested_as_deep_as_the_limit() {
    let bed = Bed::new();
    let mut at = bed.layout.image(&[layer("a", "1")]);
    for depth in 0..=5 {
        bed.layout.list(std::slice::from_ref(&at));
        let pulled = bed.pull(&bed.source(None), None).await;
        if depth <= 4 {
            pulled.unwrap();
        } else {
            let refused = image_error(pulled);
            assert!(
                matches!(&refused, ImageError::Document { problem, .. } if problem == "too many nested indexes"),
                "{refused:?}"
            );
        }
        at = bed.layout.document(INDEX, &index(&[at]));
    }
}

#[tokio::test]
async fn the_most_layers_are_as_many_as_overlayfs_takes() {
    let bed = Bed::new();
    let layers: Vec<Vec<u8>> = (0..500).map(|n| layer("a", &n.to_string())).collect();
    bed.layout.list(&[bed.layout.image(&layers)]);
    let held = bed.pull(&bed.source(None), None).await.unwrap();
    assert_eq!(held.image().layers.len(), 500);
}

#[tokio::test]
async fn the_list_of_a_layout_is_a_file_of_bounded_size() {
    let bed = Bed::new();
    let path = bed.layout.0.join("index.json");
    let refused = async || image_error(bed.pull(&bed.source(None), None).await);
    let missing = refused().await;
    assert!(matches!(missing, ImageError::Read { .. }), "{missing:?}");
    assert_eq!(missing.kind(), ErrorKind::NotFound);

    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fifo = refused().await;
    assert!(
        matches!(&fifo, ImageError::Read { source, .. } if source.kind() == std::io::ErrorKind::InvalidInput),
        "{fifo:?}"
    );
    fs::remove_file(&path).unwrap();

    // JSON may be followed by spaces.
    const MOST: usize = 4 << 20;
    let mut text = index(&[bed.layout.image(&[layer("a", "1")])]).to_string();
    text.push_str(&" ".repeat(MOST - text.len()));
    fs::write(&path, &text).unwrap();
    bed.pull(&bed.source(None), None).await.unwrap();
    text.push(' ');
    fs::write(&path, &text).unwrap();
    let large = refused().await;
    let ImageError::TooLarge { size, limit, .. } = large else {
        panic!("{large:?}");
    };
    assert_eq!((size, limit), (MOST as u64 + 1, MOST as u64));
}

#[test]
fn layers_may_have_the_media_types_of_oci_and_docker() {
    use crate::engine::image::layer;
    let content = self::layer("a", "1");
    let diff_id = sha256(&content).parse().unwrap();
    for kind in [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let descriptor = json!({
            "mediaType": kind, "digest": sha256(&content), "size": content.len()
        });
        let descriptor = serde_json::from_value(descriptor).unwrap();
        let unpacked = layer::unpack(&content[..], &descriptor, &diff_id, dir.path(), &[]);
        assert_eq!(unpacked.unwrap().size, 1, "{kind}");
    }
}
