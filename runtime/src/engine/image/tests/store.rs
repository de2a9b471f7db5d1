//! The files of the image store: names, records, layers and leases.

use super::*;
use crate::engine::image::record::Lease;
use crate::engine::image::store::plain;
use crate::error::ErrorKind;
use crate::state_dir;

#[tokio::test]
async fn each_part_has_a_file_named_by_a_hash() {
    let bed = Bed::new();
    let id = bed.stored("quay.io/a/b:1", &[layer("a", "1")]).await;
    let record = format!("{}.json", plain(&id));
    assert_eq!(bed.files("records"), [record]);
    let name = format!("{}.json", &plain(&sha256(b"quay.io/a/b:1"))[..32]);
    assert_eq!(bed.files("names"), [name]);
    let chain = sha256(&layer("a", "1"));
    // Short, since the paths of all layers must fit into a page.
    assert_eq!(bed.files("layers"), [&plain(&chain)[..24]]);
    let dir = bed.images.layer(&chain);
    assert_eq!(dir.files(), dir.path().join("fs"));
    let stored: Layer = state_dir::read(&dir.path().join("layer.json")).unwrap();
    assert_eq!(dir.read().unwrap(), Some(stored));
    assert_eq!(plain("sha256:ab"), "ab");
    assert_eq!(plain("ab"), "ab");
}

#[tokio::test]
async fn a_name_is_of_the_image_that_got_it_last() {
    let bed = Bed::new();
    let one = bed.stored("b", &[layer("a", "1")]).await;
    bed.images.tag(&one, "x").unwrap();
    let two = bed.stored("b", &[layer("a", "2")]).await;
    let x = "localhost/x:latest".to_owned();
    assert_eq!(
        bed.names(),
        [
            (two.clone(), vec!["b".to_owned()]),
            (one.clone(), vec![x.clone()])
        ]
    );
    assert_eq!(
        bed.journal(),
        [
            ("pull".to_owned(), "b".to_owned(), one.clone()),
            ("tag".to_owned(), x.clone(), one),
            ("pull".to_owned(), "b".to_owned(), two.clone()),
        ]
    );
    bed.images.tag("b", "a").unwrap();
    assert_eq!(bed.names()[0].1, ["b", "localhost/a:latest"]);
    let missing = bed.images.tag("none", "y").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let wrong = image_error(bed.images.tag("b", "No Name"));
    assert!(matches!(wrong, ImageError::Reference { .. }), "{wrong:?}");
}

#[tokio::test]
async fn an_image_is_found_by_a_name_or_by_the_beginning_of_an_id() {
    let bed = Bed::new();
    let id = bed.stored("localhost/a:latest", &[layer("a", "1")]).await;
    let view = bed.images.find(&id).unwrap();
    let digest = view.image.digest.clone();
    for wanted in [
        "localhost/a:latest",
        "a",
        "docker://localhost/a:latest",
        &id,
        plain(&id),
        &plain(&id)[..3],
        &digest,
        &plain(&digest)[..12],
    ] {
        assert_eq!(bed.images.find(wanted).unwrap(), view, "{wanted}");
    }
    for missing in ["b", "a:other", &plain(&id)[..2], &plain(&id)[1..], ""] {
        let error = bed.images.find(missing).unwrap_err();
        assert!(
            matches!(&error, Error::NotFound { what: "image", id } if id == missing),
            "{missing}: {error:?}"
        );
    }
}

/// Writes the record of an image of this id.
fn record(bed: &Bed, id: &str, of: &str) {
    let mut image = bed.images.find(of).unwrap().image;
    image.id = id.to_owned();
    image.digest = format!("sha256:{}", "9".repeat(64));
    let held = bed.images.exclusive().unwrap();
    bed.images.write(&image, &held).unwrap();
}

#[tokio::test]
async fn an_id_that_two_images_begin_with_is_ambiguous() {
    let bed = Bed::new();
    bed.stored("x", &[layer("a", "1")]).await;
    let id = |end: &str| format!("sha256:abcd{}{end}", "0".repeat(59));
    for end in ["1", "2"] {
        record(&bed, &id(end), "x");
    }
    let error = bed.images.find("abcd").unwrap_err();
    let Error::Ambiguous { what, matches, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!((what, matches), ("image", vec![id("1"), id("2")]));
    assert_eq!(bed.images.find(&id("2")).unwrap().image.id, id("2"));
}

#[tokio::test]
async fn a_damaged_record_or_name_is_told_and_is_in_the_way_of_no_other() {
    let bed = Bed::new();
    let good = bed.stored("good", &[layer("a", "1")]).await;
    let bad = bed.stored("bad", &[layer("b", "2")]).await;
    let store = bed.root.path().join("data/images");
    let file = store.join(format!("records/{}.json", plain(&bad)));
    fs::write(&file, "{").unwrap();

    let (images, damaged) = bed.images.list().unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].image.id, good);
    assert_eq!(damaged.len(), 1);
    assert_eq!(damaged[0].id, plain(&bad));
    for wanted in [&bad, plain(&bad), &plain(&bad)[..3]] {
        let error = bed.images.find(wanted).unwrap_err();
        let Error::BadFile { path, cure, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(path, file);
        let expected = format!(
            "remove it with `rust-kata image rm --force {}`",
            plain(&bad)
        );
        assert_eq!(cure, Some(expected));
    }
    assert_eq!(
        bed.images.find("bad").unwrap_err().kind(),
        ErrorKind::NotFound
    );

    // It may need any of the layers.
    let held = bed.images.exclusive().unwrap();
    bed.images.forget(&good, &held).unwrap();
    assert!(bed.images.collect(&held).unwrap().is_empty());
    bed.images.forget_damaged(&bad, &held).unwrap();
    assert!(!file.exists());
    assert_eq!(bed.images.collect(&held).unwrap().len(), 2);
    drop(held);

    let name = fs::read_dir(store.join("names")).unwrap().next().unwrap();
    let name = name.unwrap();
    fs::write(name.path(), "{").unwrap();
    let (_, damaged) = bed.images.list().unwrap();
    let stem = name.file_name().into_string().unwrap();
    let stem = stem.trim_end_matches(".json");
    assert_eq!(damaged.len(), 1);
    assert_eq!(damaged[0].id, stem);
    let held = bed.images.exclusive().unwrap();
    bed.images.forget_damaged("abc", &held).unwrap();
    assert!(name.path().exists(), "it is another one");
    bed.images.forget_damaged(stem, &held).unwrap();
    assert!(!name.path().exists());
}

#[tokio::test]
async fn a_layer_stays_for_an_image_or_a_lease_that_needs_it() {
    let bed = Bed::new();
    let (base, more) = (layer("a", "1"), layer("b", "2"));
    let one = bed.stored("one", std::slice::from_ref(&base)).await;
    let two = bed.stored("two", &[base, more]).await;
    let staging = bed.images.stage().unwrap();
    let collected = || {
        let held = bed.images.exclusive().unwrap();
        let hidden = bed.images.collect(&held).unwrap();
        drop(held);
        assert!(hidden.iter().all(|path| path.join("fs").is_dir()));
        Images::remove_hidden(&hidden);
        assert!(!hidden.iter().any(|path| path.exists()));
        (hidden.len(), bed.files("layers").len())
    };
    assert_eq!(collected(), (0, 2));
    let layers = bed.images.find(&two).unwrap().image.layers;
    let held = bed.images.exclusive().unwrap();
    assert!(
        bed.images.leases(&held).unwrap().is_empty(),
        "it is empty so far"
    );
    let lease = Lease {
        image: None,
        layers: vec![layers[1].chain_id.clone()],
    };
    staging.lease(&lease, &held).unwrap();
    let leases = bed.images.leases(&held).unwrap();
    assert_eq!((leases.len(), &leases[0].layers), (1, &lease.layers));
    bed.images.forget(&two, &held).unwrap();
    // What is not there may be forgotten, too.
    bed.images.forget(&two, &held).unwrap();
    drop(held);
    assert_eq!(collected(), (0, 2));
    drop(staging);
    assert_eq!(collected(), (1, 1), "the first image has the lower one");
    let held = bed.images.exclusive().unwrap();
    bed.images.forget(&one, &held).unwrap();
    drop(held);
    assert_eq!(collected(), (1, 0));
}

#[tokio::test]
async fn an_image_that_is_held_stays_until_it_is_let_go() {
    let bed = Bed::new();
    let id = bed.stored("one", &[layer("a", "1")]).await;
    let held = bed.images.hold("one").unwrap();
    assert_eq!(
        (&held.image().id, &held.view().names),
        (&id, &vec!["one".to_owned()])
    );
    let lock = bed.images.shared().unwrap();
    let leases = bed.images.leases(&lock).unwrap();
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].image.as_ref(), Some(&id));
    assert_eq!(leases[0].layers, [held.image().layers[0].chain_id.clone()]);
    drop(held);
    assert!(bed.images.leases(&lock).unwrap().is_empty());
    drop(lock);
    assert_eq!(
        bed.images.hold("none").unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn a_lease_that_cannot_be_read_is_not_none() {
    let bed = Bed::new();
    let staging = bed.images.stage().unwrap();
    fs::write(staging.path().join("lease.json"), "{").unwrap();
    let held = bed.images.exclusive().unwrap();
    let error = bed.images.leases(&held).unwrap_err();
    assert!(matches!(error, Error::BadFile { .. }), "{error:?}");
    assert!(bed.images.collect(&held).is_err());
}

#[test]
fn the_place_for_an_import_is_emptied_and_then_removed() {
    let bed = Bed::new();
    let staging = bed.images.stage().unwrap();
    let path = staging.path().to_owned();
    assert_eq!(
        path.parent(),
        Some(&*bed.root.path().join("data/images/pulls"))
    );
    let layer = staging.layer("sha256:abc");
    assert_eq!(layer.path(), path.join("layers/abc"));
    fs::create_dir(layer.path()).unwrap();
    fs::create_dir(path.join("blobs")).unwrap();
    for file in ["archive.tar", "lease.json"] {
        fs::write(path.join(file), "").unwrap();
    }
    staging.empty();
    let left: Vec<_> = fs::read_dir(&path).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].as_ref().unwrap().file_name(), "lease.json");
    drop(staging);
    assert!(!path.exists());
}

#[test]
fn a_layer_of_another_id_in_its_place_is_damage() {
    let bed = Bed::new();
    let dir = bed.images.layer("sha256:abc");
    assert_eq!(dir.read().unwrap(), None);
    let layer = Layer {
        chain_id: "sha256:abc".into(),
        diff_id: "sha256:d".into(),
        size: 1,
        opaque: false,
    };
    fs::create_dir(dir.path()).unwrap();
    let missing = dir.read().unwrap_err();
    assert!(
        matches!(missing, Error::Io { action: "read", .. }),
        "{missing:?}"
    );
    dir.write(&layer).unwrap();
    assert_eq!(dir.read().unwrap(), Some(layer.clone()));
    let other = Layer {
        chain_id: "sha256:abcd".into(),
        ..layer
    };
    dir.write(&other).unwrap();
    let error = dir.read().unwrap_err();
    let Error::BadFile {
        path,
        problem,
        cure,
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(path, dir.path().join("layer.json"));
    assert_eq!(problem, "it is of sha256:abcd, not of sha256:abc");
    assert!(cure.is_some_and(|cure| cure.contains("pull them again")));
}

#[tokio::test]
async fn what_an_opaque_layer_hides_is_not_mounted() {
    let bed = Bed::new();
    let layers = [layer("a", "1"), opaque_layer("b"), layer("c", "3")];
    bed.stored("x", &layers).await;
    let image = bed.images.find("x").unwrap().image;
    let opaque: Vec<bool> = image.layers.iter().map(|layer| layer.opaque).collect();
    assert_eq!(opaque, [false, true, false]);
    let dirs = bed.images.directories(&image);
    assert_eq!(dirs.len(), 2);
    assert!(dirs[0].join("b").exists() && dirs[1].join("c").exists());
}

#[test]
fn what_a_dead_process_left_is_swept_away() {
    let bed = Bed::new();
    let store = bed.root.path().join("data/images");
    // The start time of no process.
    let dead = format!(".new-{}-1-x", std::process::id());
    for dir in ["layers", "pulls"] {
        fs::create_dir(store.join(dir).join(&dead)).unwrap();
    }
    drop(bed.images.shared().unwrap());
    assert!(
        store.join("layers").join(&dead).exists(),
        "a reader changes nothing"
    );
    drop(bed.images.exclusive().unwrap());
    for dir in ["layers", "pulls"] {
        assert!(!store.join(dir).join(&dead).exists(), "{dir}");
    }
    for dir in ["", "names", "records", "layers", "pulls"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(store.join(dir)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{dir}");
    }
}
