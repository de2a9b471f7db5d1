//! Hand-made OCI images: valid ones, and ones that common tools would not make.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::capture::hex;
use crate::image;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The compression of a layer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// None.
    Plain,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// A layer in a layout.
#[derive(Clone)]
pub struct Packed {
    /// Its descriptor.
    pub descriptor: Value,
    /// The digest of the uncompressed archive.
    pub diff_id: String,
}

/// An OCI layout that is being made.
pub struct Layout(PathBuf);

impl Layout {
    /// An empty layout in the new directory `dir`.
    pub fn new(dir: PathBuf) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).expect("the folder can be written");
        let version = json!({ "imageLayoutVersion": "1.0.0" });
        fs::write(dir.join("oci-layout"), version.to_string()).expect("it can be written");
        Self(dir)
    }

    /// A layout in the new directory `dir`, with one image of two layers: a few files, and
    /// busybox.
    pub fn small(dir: PathBuf) -> Self {
        let layout = Self::new(dir);
        let busybox = fs::read("/bin/busybox").expect("package busybox-static");
        let below = Tar::new()
            .dir("d", 0o755)
            .file("d/a", "a")
            .file("d/sub/b", "b")
            .entry(EntryType::Regular, "busybox", 0o755, (0, 0), "", &busybox);
        let above = Tar::new().file("d/.wh.a", "").link("d/l", "b");
        let layers = [
            layout.layer(&below.finish(), Packing::Gzip),
            layout.layer(&above.finish(), Packing::Zstd),
        ];
        let image = layout.image(&layers, &json!({}));
        layout.index(&[(&image, None)]);
        layout
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// The reference to it for `rust-kata`.
    pub fn reference(&self) -> String {
        format!("oci:{}", self.0.display())
    }

    /// The path of a blob.
    pub fn blob_path(&self, descriptor: &Value) -> PathBuf {
        let digest = text(&descriptor["digest"]);
        self.0.join("blobs").join(digest.replace(':', "/"))
    }

    /// The manifest of an image.
    pub fn manifest(&self, image: &Value) -> Value {
        let bytes = std::fs::read(self.blob_path(image)).expect("it is there");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    /// Stores bytes and returns their descriptor.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        let descriptor = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
        fs::write(self.blob_path(&descriptor), bytes).expect("the layout can be written");
        descriptor
    }

    /// Stores a layer.
    pub fn layer(&self, tar: &[u8], packing: Packing) -> Packed {
        let (bytes, ending) = match packing {
            Packing::Plain => (tar.to_vec(), ""),
            Packing::Gzip => (gzip(tar), "+gzip"),
            Packing::Zstd => (zstd::encode_all(tar, 1).expect("memory is enough"), "+zstd"),
        };
        Packed {
            descriptor: self.blob(&format!("{LAYER}{ending}"), &bytes),
            diff_id: digest(tar),
        }
    }

    /// Stores an image of these layers; `config` is its configuration for containers.
    pub fn image(&self, layers: &[Packed], config: &Value) -> Value {
        self.image_for("amd64", layers, config)
    }

    /// As [`Layout::image`], for another platform.
    pub fn image_for(&self, arch: &str, layers: &[Packed], config: &Value) -> Value {
        let ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "created": "2024-02-03T04:05:06Z",
            "architecture": arch,
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": ids },
            "history": [{ "created_by": "a test", "created": "2024-02-03T04:05:06Z" }],
        });
        let config = self.json("application/vnd.oci.image.config.v1+json", &config);
        let layers: Vec<&Value> = layers.iter().map(|layer| &layer.descriptor).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        });
        self.json("application/vnd.oci.image.manifest.v1+json", &manifest)
    }

    /// Stores an index of images, each for a platform.
    pub fn list(&self, images: &[(&str, &Value)]) -> Value {
        let manifests = images.iter().map(|(arch, image)| {
            let mut entry = (*image).clone();
            entry["platform"] = json!({ "architecture": arch, "os": "linux" });
            entry
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests.collect::<Vec<_>>(),
        });
        self.json("application/vnd.oci.image.index.v1+json", &index)
    }

    /// Stores a document.
    pub fn json(&self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, document.to_string().as_bytes())
    }

    /// Writes the layout's index: its images, each with its tag if it has one.
    pub fn index(&self, images: &[(&Value, Option<&str>)]) {
        let manifests = images.iter().map(|(image, tag)| {
            let mut entry = (*image).clone();
            if let Some(tag) = tag {
                entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
            }
            entry
        });
        let index = json!({ "schemaVersion": 2, "manifests": manifests.collect::<Vec<_>>() });
        fs::write(self.0.join("index.json"), index.to_string()).expect("it can be written");
    }

    /// The layout as an archive.
    pub fn archive(&self, path: &Path, packing: Packing) {
        let mut builder = Builder::new(Vec::new());
        builder
            .append_dir_all(".", &self.0)
            .expect("the layout can be read");
        let bytes = builder.into_inner().expect("memory is enough");
        let bytes = match packing {
            Packing::Plain => bytes,
            Packing::Gzip => gzip(&bytes),
            Packing::Zstd => zstd::encode_all(&bytes[..], 1).expect("memory is enough"),
        };
        fs::write(path, bytes).expect("the archive can be written");
    }
}

/// A layer that is being made. Names are not checked.
#[derive(Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    /// An empty layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// A layer with busybox and its libraries; the same bytes each time.
    pub fn busybox() -> Self {
        static LAYER: OnceLock<Vec<u8>> = OnceLock::new();
        let bytes = LAYER.get_or_init(|| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            image::make_rootfs(folder.path());
            let mut builder = Builder::new(Vec::new());
            builder.follow_symlinks(false);
            let added = builder.append_dir_all(".", folder.path());
            added.expect("the root can be read");
            let bytes = builder.into_inner().expect("memory is enough");
            // Without the two blocks at its end.
            bytes[..bytes.len() - 1024].to_vec()
        });
        Self {
            bytes: bytes.clone(),
        }
    }

    /// Adds an entry: kind, name, mode, owner, target of a link, content.
    pub fn entry(
        mut self,
        kind: EntryType,
        name: &str,
        mode: u32,
        owner: (u64, u64),
        target: &str,
        content: &[u8],
    ) -> Self {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        header.set_device_major(1).expect("it fits");
        header.set_device_minor(3).expect("it fits");
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    /// Adds a directory that belongs to root.
    pub fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, name, mode, (0, 0), "", b"")
    }

    /// Adds a file that belongs to root.
    pub fn file(self, name: &str, content: &str) -> Self {
        self.entry(
            EntryType::Regular,
            name,
            0o644,
            (0, 0),
            "",
            content.as_bytes(),
        )
    }

    /// Adds a symbolic link.
    pub fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, 0o777, (0, 0), target, b"")
    }

    /// The layer.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

/// The digest of bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// The string in a JSON value.
pub fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).expect("memory is enough");
    packed.finish().expect("memory is enough")
}
