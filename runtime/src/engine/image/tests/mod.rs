//! Images of layouts, archives and registries that the tests make.

mod archive;
mod faults;
mod registry;
mod removal;
mod source;
mod store;

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::image::Arch;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::digest::sha256;
use super::*;
use crate::engine::Engine;
use crate::error::{Error, Result};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const FULL_NAME: &str = "io.containerd.image.name";

/// An image layout that is written blob by blob.
struct Layout(PathBuf);

impl Layout {
    fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        Self(dir.to_owned())
    }

    /// Adds a blob; returns its descriptor.
    fn blob(&self, kind: &str, content: &[u8]) -> Value {
        let digest = sha256(content);
        fs::write(self.path_of(&digest), content).unwrap();
        json!({"mediaType": kind, "digest": digest, "size": content.len()})
    }

    fn path_of(&self, digest: &str) -> PathBuf {
        self.0.join("blobs").join(digest.replace(':', "/"))
    }

    fn document(&self, kind: &str, document: &Value) -> Value {
        self.blob(kind, document.to_string().as_bytes())
    }

    /// Adds an image of these layers; returns the descriptor of its manifest.
    fn image(&self, layers: &[Vec<u8>]) -> Value {
        let config = self.document(CONFIG, &config(layers));
        let layers: Vec<Value> = layers.iter().map(|layer| self.blob(LAYER, layer)).collect();
        self.manifest(&config, &layers)
    }

    fn manifest(&self, config: &Value, layers: &[Value]) -> Value {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers
        });
        self.document(MANIFEST, &manifest)
    }

    /// Writes the list of the layout's images.
    fn list(&self, images: &[Value]) {
        fs::write(self.0.join("index.json"), index(images).to_string()).unwrap();
    }
}

fn index(images: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": images})
}

fn config(layers: &[Vec<u8>]) -> Value {
    let diff_ids: Vec<String> = layers.iter().map(|layer| sha256(layer)).collect();
    json!({
        "architecture": Arch::default(), "os": "linux", "config": {"User": "7"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}
    })
}

/// A descriptor with an annotation.
fn annotated(mut descriptor: Value, name: &str, value: &str) -> Value {
    descriptor["annotations"][name] = value.into();
    descriptor
}

/// An archive of files and their contents.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = ::tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = ::tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

/// A layer with one file.
fn layer(name: &str, content: &str) -> Vec<u8> {
    tar(&[(name, content.as_bytes())])
}

/// A layer whose root hides all that is below.
fn opaque_layer(name: &str) -> Vec<u8> {
    tar(&[(".wh..wh..opq", b""), (name, b"x")])
}

/// An engine with its image store, and a layout to pull from.
struct Bed {
    root: TempDir,
    engine: Engine,
    images: Images,
    layout: Layout,
}

impl Bed {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let engine = Engine::below(root.path());
        let images = engine.images().unwrap();
        let layout = Layout::new(&root.path().join("layout"));
        Self {
            root,
            engine,
            images,
            layout,
        }
    }

    fn source(&self, tag: Option<&str>) -> ImageSource {
        ImageSource::Layout {
            dir: self.layout.0.clone(),
            tag: tag.map(str::to_owned),
        }
    }

    async fn pull(&self, source: &ImageSource, name: Option<&str>) -> Result<HeldImage> {
        let options = RegistryOptions::default();
        let name = name.map(str::to_owned);
        self.images.pull(source, name, &options, silent()).await
    }

    /// Stores an image of these layers under a name; returns its id.
    async fn stored(&self, name: &str, layers: &[Vec<u8>]) -> String {
        self.layout.list(&[self.layout.image(layers)]);
        let held = self.pull(&self.source(None), Some(name)).await.unwrap();
        held.image().id.clone()
    }

    fn names(&self) -> Vec<(String, Vec<String>)> {
        let (images, bad) = self.images.list().unwrap();
        assert!(bad.is_empty(), "{bad:?}");
        let of = |view: ImageView| (view.image.id, view.names);
        images.into_iter().map(of).collect()
    }

    /// The names in a directory of the store, without those that are not listed.
    fn files(&self, dir: &str) -> Vec<String> {
        let dir = self.root.path().join("data/images").join(dir);
        crate::state_dir::dir::names(&dir).unwrap()
    }

    /// The journal's events: action, name, id.
    fn journal(&self) -> Vec<(String, String, String)> {
        let journal = self.engine.journal();
        let mut reader = crate::engine::journal::Reader::open(&journal).unwrap();
        let events = reader.events().unwrap().into_iter();
        events
            .filter(|event| event.kind.name() == "image")
            .map(|event| (event.action, event.name, event.id))
            .collect()
    }
}

/// The error about an image.
#[track_caller]
fn image_error<T: std::fmt::Debug>(result: Result<T>) -> ImageError {
    match result {
        Err(Error::Image { source, .. }) => *source.downcast().unwrap(),
        other => panic!("{other:?}"),
    }
}
