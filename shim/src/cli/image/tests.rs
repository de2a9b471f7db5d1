//! Images from a layout on disk to their removal.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cli::testing::Scene;

/// Writes a blob; returns its digest and size.
fn blob(layout: &Path, content: &[u8]) -> (String, usize) {
    let digest = hex::encode(Sha256::digest(content));
    std::fs::write(layout.join("blobs/sha256").join(&digest), content).unwrap();
    (format!("sha256:{digest}"), content.len())
}

fn described(kind: &str, (digest, size): (String, usize)) -> Value {
    let kind = format!("application/vnd.oci.image.{kind}");
    json!({ "mediaType": kind, "digest": digest, "size": size })
}

/// A tar archive with one file (POSIX ustar).
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, name);
    put(100, "0000644\x000000000\x000000000\0");
    put(
        124,
        &format!("{:011o}\0{:011o}\0        0", content.len(), 0),
    );
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let end = vec![0; 1024 + content.len().next_multiple_of(512) - content.len()];
    [&header[..], content, &end].concat()
}

/// An OCI layout with one image of one layer; returns the image's id.
fn layout(path: &Path) -> String {
    std::fs::create_dir_all(path.join("blobs/sha256")).unwrap();
    let layer = blob(path, &tar("file", &[7; 3000]));
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2020-01-01T00:00:00Z",
        "config": { "Cmd": ["serve"], "Env": ["A=1"] },
        "rootfs": { "type": "layers", "diff_ids": [layer.0] },
        "history": [
            { "created": "2020-01-01T00:00:00Z", "created_by": "ADD files", "comment": "first" },
            { "created": "2020-01-01T00:00:00Z", "created_by": "CMD serve", "empty_layer": true },
        ],
    });
    let config = blob(path, config.to_string().as_bytes());
    let id = config.0.clone();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", config),
        "layers": [described("layer.v1.tar", layer)],
    });
    let manifest = blob(path, manifest.to_string().as_bytes());
    let index =
        json!({ "schemaVersion": 2, "manifests": [described("manifest.v1+json", manifest)] });
    std::fs::write(path.join("index.json"), index.to_string()).unwrap();
    std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    id
}

#[test]
fn images_are_loaded_named_listed_and_removed() {
    let scene = Scene::new();
    let id = layout(&scene.path("layout"));
    let short = &id["sha256:".len()..][..12];
    let loaded = scene.says("image load --quiet --tag app:1 DIR/layout");
    assert_eq!(loaded, "Loaded image: localhost/app:1\n");
    scene.says("image tag app:1 quay.io/org/other:2");

    assert_eq!(scene.says("image ls --quiet"), format!("{id}\n"));
    let table = scene.says("image ls");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["IMAGE", "IMAGE", "ID", "CREATED", "SIZE"]);
    let names: Vec<&str> = rows[1..].iter().map(|row| row[0]).collect();
    assert_eq!(names, ["localhost/app:1", "quay.io/org/other:2"]);
    assert!(
        rows[1..]
            .iter()
            .all(|row| row[1] == short && row[3] == "days"),
        "{table}"
    );
    let listed = scene.shows("image ls --format json");
    assert_eq!(
        (&listed[0]["id"], &listed[0]["name"]),
        (&json!(id), &json!(names[0]))
    );
    let shown = &scene.shows(&format!("image inspect {short}"))[0];
    assert_eq!((&shown["id"], &shown["names"]), (&json!(id), &json!(names)));
    assert_eq!(shown["size"], listed[0]["size"]);

    let history = scene.says("image history app:1");
    let steps: Vec<&str> = history.lines().collect();
    assert!(
        steps[0].starts_with("CREATED") && steps.len() == 3,
        "{history}"
    );
    assert!(steps[1].ends_with("CMD serve   0 B"), "{history}");
    assert!(steps[2].contains("ADD files   3.00 kB  first"), "{history}");
    let history = scene.shows("image history --format json app:1");
    assert_eq!(history[0]["created_by"], "ADD files");

    scene.says("create --name c --image app:1 --pull never");
    assert_eq!(
        scene.shows("ls --all --format json")[0]["command"],
        json!(["serve"])
    );
    scene.refuses(2, &format!("image rm {short}"));
    assert_eq!(scene.says("image rm app:1"), "Untagged: localhost/app:1\n");
    assert_eq!(scene.says("image prune --all"), "");
    let removed = scene.says("image rm --force quay.io/org/other:2");
    assert_eq!(
        removed,
        format!("Untagged: quay.io/org/other:2\nDeleted: {id}\n")
    );
    assert_eq!(scene.says("ls --all --quiet"), "");
    assert_eq!(scene.says("image ls"), "IMAGE  IMAGE ID  CREATED  SIZE\n");
}

#[test]
fn images_without_a_user_are_pruned() {
    let scene = Scene::new();
    let id = layout(&scene.path("layout"));
    assert_eq!(
        scene.says("image pull --quiet oci:DIR/layout"),
        format!("{id}\n")
    );
    let said = scene.run(&["image", "prune", "--all"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(
        said.out.ends_with(&format!("Deleted: {id}\n")),
        "{}",
        said.out
    );
    assert!(said.err.contains("were freed"), "{}", said.err);
    let gone = scene.refuses(125, "image inspect app:1");
    assert!(gone.contains("app:1"), "{gone}");
}

#[test]
fn ages_are_those_of_the_past_or_as_given() {
    assert_eq!(super::age("not a time"), "not a time");
    assert_eq!(super::age("2999-01-01T00:00:00Z"), "0 seconds ago");
    assert!(super::age("2020-01-01T00:00:00Z").ends_with(" days ago"));
}
