//! Images with a fault: each is an error of its kind, and leaves nothing in the store.

use super::*;
use crate::error::ErrorKind;

/// A change of a good image, and whether this is its error.
type Fault = (&'static str, fn(&Layout) -> Value, fn(&ImageError) -> bool);

const FAULTS: &[Fault] = &[
    (
        "a manifest longer than its descriptor says",
        |layout| {
            let mut image = layout.image(&[layer("a", "1")]);
            image["size"] = (image["size"].as_u64().unwrap() - 1).into();
            image
        },
        |error| matches!(error, ImageError::Size { .. }),
    ),
    (
        "a manifest of another digest",
        |layout| {
            let image = layout.image(&[layer("a", "1")]);
            let path = layout.path_of(image["digest"].as_str().unwrap());
            let text = fs::read_to_string(&path).unwrap();
            fs::write(
                &path,
                text.replace("schemaVersion\":2", "schemaVersion\":3"),
            )
            .unwrap();
            image
        },
        |error| matches!(error, ImageError::Digest { .. }),
    ),
    (
        "a missing manifest",
        |layout| {
            let image = layout.image(&[layer("a", "1")]);
            fs::remove_file(layout.path_of(image["digest"].as_str().unwrap())).unwrap();
            image
        },
        |error| matches!(error, ImageError::Read { .. }) && error.kind() == ErrorKind::NotFound,
    ),
    (
        "a digest of another algorithm",
        |layout| {
            let mut image = layout.image(&[layer("a", "1")]);
            image["digest"] = "sha384:38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b".into();
            image
        },
        |error| matches!(error, ImageError::Algorithm(_)),
    ),
    (
        "a manifest that is not JSON",
        |layout| layout.blob(MANIFEST, b"{"),
        |error| matches!(error, ImageError::Json { .. }),
    ),
    (
        "a manifest of another schema version",
        |layout| layout.document(MANIFEST, &json!({"schemaVersion": 1, "layers": []})),
        |error| is_document(error, "its schema version is not 2"),
    ),
    (
        "a document that is index and manifest",
        |layout| {
            let both = json!({"schemaVersion": 2, "layers": [], "manifests": []});
            layout.document(MANIFEST, &both)
        },
        |error| is_document(error, "it is neither an index nor a manifest"),
    ),
    (
        "a document that is neither",
        |layout| layout.document(MANIFEST, &json!({"schemaVersion": 2})),
        |error| is_document(error, "it is neither an index nor a manifest"),
    ),
    (
        "an artifact",
        |layout| {
            let config = layout.document("application/vnd.example", &json!({}));
            let layer = layout.blob(LAYER, &layer("a", "1"));
            layout.manifest(&config, &[layer])
        },
        |error| {
            is_document(
                error,
                "it is an artifact of application/vnd.example, not a container's image",
            )
        },
    ),
    (
        "a configuration of another machine",
        |layout| {
            let layers = [layer("a", "1")];
            let mut config = config(&layers);
            config["os"] = "windows".into();
            let config = layout.document(CONFIG, &config);
            layout.manifest(&config, &[layout.blob(LAYER, &layers[0])])
        },
        |error| matches!(error, ImageError::Platform { there, .. } if there.starts_with("windows/")),
    ),
    (
        "a configuration of another architecture",
        |layout| {
            let layers = [layer("a", "1")];
            let mut config = config(&layers);
            config["architecture"] = "s390x".into();
            let config = layout.document(CONFIG, &config);
            layout.manifest(&config, &[layout.blob(LAYER, &layers[0])])
        },
        |error| matches!(error, ImageError::Platform { there, .. } if there == "linux/s390x"),
    ),
    (
        "more diff ids than layers",
        |layout| {
            let layers = [layer("a", "1"), layer("b", "2")];
            let config = layout.document(CONFIG, &config(&layers));
            layout.manifest(&config, &[layout.blob(LAYER, &layers[0])])
        },
        |error| is_document(error, "it has 1 layers and 2 diff ids"),
    ),
    (
        "no layers",
        |layout| layout.image(&[]),
        |error| is_document(error, "it has 0 layers, not 1 to 500"),
    ),
    (
        "too many layers",
        |layout| layout.image(&vec![layer("a", "1"); 501]),
        |error| is_document(error, "it has 501 layers, not 1 to 500"),
    ),
    (
        "a diff id that is not a digest",
        |layout| {
            let layers = [layer("a", "1")];
            let mut config = config(&layers);
            config["rootfs"]["diff_ids"] = json!(["x"]);
            let config = layout.document(CONFIG, &config);
            layout.manifest(&config, &[layout.blob(LAYER, &layers[0])])
        },
        |error| matches!(error, ImageError::Document { problem, .. } if problem.starts_with("its diff id \"x\" is not a digest")),
    ),
    (
        "a layer with the media type of a document",
        |layout| {
            let layers = [layer("a", "1")];
            let config = layout.document(CONFIG, &config(&layers));
            layout.manifest(&config, &[layout.blob(CONFIG, &layers[0])])
        },
        |error| matches!(error, ImageError::Document { problem, .. } if problem.starts_with("its media type")),
    ),
    (
        "a layer that is shorter than its descriptor says",
        |layout| of_layer(layout, |layer| layer.truncate(layer.len() - 1)),
        |error| matches!(error, ImageError::Size { .. }),
    ),
    (
        "a layer that is longer than its descriptor says",
        |layout| of_layer(layout, |layer| layer.push(0)),
        |error| matches!(error, ImageError::Size { .. }),
    ),
    (
        "a layer of another digest",
        |layout| of_layer(layout, |layer| *layer.last_mut().unwrap() = 1),
        |error| matches!(error, ImageError::Digest { .. }),
    ),
    (
        "a layer of another diff id",
        |layout| {
            let layers = [layer("a", "1")];
            let mut config = config(&layers);
            config["rootfs"]["diff_ids"][0] = sha256(b"another").into();
            let config = layout.document(CONFIG, &config);
            layout.manifest(&config, &[layout.blob(LAYER, &layers[0])])
        },
        |error| matches!(error, ImageError::DiffId { expected, .. } if *expected == sha256(b"another")),
    ),
    (
        "a layer that is not an archive",
        |layout| layout.image(&[vec![b'x'; 2000]]),
        |error| matches!(error, ImageError::Archive { .. }),
    ),
    (
        "a layer with an entry that leads outside",
        |layout| {
            let mut archive = tar(&[("aa/b", b"")]);
            archive[..2].copy_from_slice(b"..");
            let mut header = ::tar::Header::from_byte_slice(&archive[..512]).clone();
            header.set_cksum();
            archive[..512].copy_from_slice(header.as_bytes());
            layout.image(&[archive])
        },
        |error| matches!(error, ImageError::Entry { entry, .. } if entry == "../b"),
    ),
];

fn is_document(error: &ImageError, expected: &str) -> bool {
    matches!(error, ImageError::Document { problem, .. } if problem == expected)
}

/// An image whose layer is changed after it was described.
fn of_layer(layout: &Layout, change: fn(&mut Vec<u8>)) -> Value {
    let mut content = layer("a", "1");
    let image = layout.image(std::slice::from_ref(&content));
    let path = layout.path_of(&sha256(&content));
    change(&mut content);
    fs::write(path, content).unwrap();
    image
}

#[tokio::test]
async fn a_fault_is_an_error_of_its_kind_and_leaves_nothing() {
    for (what, image, is_error) in FAULTS {
        let bed = Bed::new();
        bed.layout.list(&[image(&bed.layout)]);
        let error = image_error(bed.pull(&bed.source(None), None).await);
        assert!(is_error(&error), "{what}: {error:?}");
        assert!(bed.names().is_empty(), "{what}");
        for dir in ["layers", "records", "names"] {
            assert!(bed.files(dir).is_empty(), "{what}: {dir}");
        }
        let pulls = fs::read_dir(bed.root.path().join("data/images/pulls"));
        assert_eq!(pulls.unwrap().count(), 0, "{what}");
        assert!(bed.journal().is_empty(), "{what}");
    }
}
