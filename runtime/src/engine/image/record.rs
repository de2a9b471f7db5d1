//! The records of the image store: images, layers, names, leases.

use std::time::SystemTime;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::state_dir::Stored;

/// An unpacked layer, in an image's record and in `layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Id of the stack of layers up to this one (image spec, "Layer ChainID").
    pub chain_id: String,
    /// Digest of its archive, uncompressed.
    pub diff_id: String,
    /// The total size of its files in bytes.
    pub size: u64,
    /// Whether its root hides all layers below.
    pub opaque: bool,
}

/// An image's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of its configuration.
    pub id: String,
    /// Digest of its manifest.
    pub digest: String,
    /// When it was imported.
    pub pulled: SystemTime,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
    /// Its configuration.
    pub config: ImageConfiguration,
}

impl Image {
    /// The total size of its files in bytes.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

impl Stored for Layer {}
impl Stored for Image {}
impl Stored for Name {}
impl Stored for Lease {}

/// An image and its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageView {
    /// The image.
    #[serde(flatten)]
    pub image: Image,
    /// Its names; empty if other images have taken them.
    pub names: Vec<String>,
}

/// An image that cannot be read.
#[derive(Debug)]
pub struct BadImage {
    /// Its id, as far as it is known.
    pub id: String,
    /// The error.
    pub error: Error,
}

impl BadImage {
    pub(super) fn new(file: &str, error: Error) -> Self {
        Self {
            id: file.trim_end_matches(".json").to_owned(),
            error,
        }
    }
}

/// A name (`names/<hash>.json`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::engine) struct Name {
    pub(in crate::engine) name: String,
    pub(in crate::engine) id: String,
}

/// The parts of the store that a living process needs (`lease.json`).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(in crate::engine) struct Lease {
    /// The image, once it has a record.
    pub(in crate::engine) image: Option<String>,
    pub(in crate::engine) layers: Vec<String>,
}
