//! What can be wrong with an image, wherever it is from.

#[cfg(feature = "pull")]
pub(crate) mod registry;

use std::io;

#[cfg(feature = "pull")]
use super::registry::RegistryError;
use crate::engine::archive::unpack::{Failure, UnpackError};
use crate::error::{Error, ErrorKind};

/// An error about an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference cannot be read.
    #[error(
        "{text:?} names no image: {problem}; it is a name as in quay.io/org/app:1, oci:DIR[:tag] or oci-archive:FILE[:tag]"
    )]
    Reference {
        /// As it was given.
        text: String,
        /// What is wrong.
        problem: String,
    },
    /// Content is not what its digest says.
    #[error(
        "Content of digest {expected} was changed or damaged: it has {found}; get the image anew"
    )]
    Digest {
        /// As the document that refers to it says.
        expected: String,
        /// Of what was read.
        found: String,
    },
    /// Content is not as long as its descriptor says.
    #[error("Content {digest} is not the {expected} bytes that its descriptor says")]
    Size {
        /// The content.
        digest: String,
        /// Its length as described.
        expected: u64,
    },
    /// An unpacked layer is not what the image's configuration says.
    #[error("Layer {layer}: unpacked it has the diff id {found}, but the image says {expected}")]
    DiffId {
        /// The layer's digest.
        layer: String,
        /// Of the configuration.
        expected: String,
        /// Of what was unpacked.
        found: String,
    },
    /// A digest's algorithm is none of ours.
    #[error("Digest {0:?}: only sha256 and sha512 are supported")]
    Algorithm(String),
    /// A document is longer than any real one.
    #[error("{what} of {size} bytes: more than {limit} are not read")]
    TooLarge {
        /// The document.
        what: String,
        /// Its length.
        size: u64,
        /// What would be read.
        limit: u64,
    },
    /// A document is no JSON of its kind.
    #[error("{what} cannot be read: {source}")]
    Json {
        /// The document.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A document is valid JSON and yet makes no sense.
    #[error("{what}: {problem}")]
    Document {
        /// The document.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// There is no image for this machine.
    #[error("{image} is not for {wanted}: there is {there}")]
    Platform {
        /// The image or index.
        image: String,
        /// What this machine runs.
        wanted: String,
        /// What there is.
        there: String,
    },
    /// A layout has several images, or none of the tag.
    #[error("{layout}: {problem}; it has {there}")]
    Tag {
        /// The directory or archive.
        layout: String,
        /// What was asked for.
        problem: String,
        /// The tags in it.
        there: String,
    },
    /// A file of a layout cannot be read.
    #[error("Cannot read {what}: {source}")]
    Read {
        /// The file.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A layer is no archive.
    #[error("Layer {layer} is no sound tar archive: {source}")]
    Archive {
        /// The layer's digest.
        layer: String,
        /// Why.
        source: io::Error,
    },
    /// A layer has an entry that is refused.
    #[error("Layer {layer}: entry {entry:?} is refused: {problem}")]
    Entry {
        /// The layer's digest.
        layer: String,
        /// The entry's name.
        entry: String,
        /// Why.
        problem: &'static str,
    },
    /// An entry of a layer cannot be made.
    #[error("Layer {layer}: cannot {action} {entry:?}: {source}")]
    Unpack {
        /// The layer's digest.
        layer: String,
        /// The entry's name.
        entry: String,
        /// The verb, in the infinitive.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A registry refuses, or does not answer.
    #[cfg(feature = "pull")]
    #[error("Cannot pull {image}: {source}")]
    Registry {
        /// The image.
        image: String,
        /// Why.
        source: Box<RegistryError>,
    },
    /// The file of credentials cannot be used.
    #[error("Credentials in {file}: {problem}")]
    Credentials {
        /// The file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// The image is needed.
    #[error(
        "Image {image} is in use by container(s) {}: remove them first, or use --force, which removes them", users.join(", ")
    )]
    InUse {
        /// The image.
        image: String,
        /// `POD/CONTAINER` of each.
        users: Vec<String>,
    },
    /// The image has other names that would go with it.
    #[error(
        "Image {image} has several names ({}): name one of them, or use --force to remove all", names.join(", ")
    )]
    ManyNames {
        /// The image's id.
        image: String,
        /// Its names.
        names: Vec<String>,
    },
}

impl ImageError {
    /// As an error about `layer`.
    pub(super) fn of_layer(layer: &str, error: UnpackError) -> Self {
        let layer = layer.to_owned();
        match error {
            UnpackError::Archive(source) => Self::Archive { layer, source },
            UnpackError::Entry { entry, failure } => match failure {
                Failure::Refused(problem) => Self::Entry {
                    layer,
                    entry,
                    problem,
                },
                Failure::Io(action, source) => Self::Unpack {
                    layer,
                    entry,
                    action,
                    source,
                },
            },
        }
    }

    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InUse { .. } | Self::ManyNames { .. } => ErrorKind::FailedPrecondition,
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ErrorKind::NotFound
            }
            Self::Read { .. } | Self::Unpack { .. } => ErrorKind::Internal,
            #[cfg(feature = "pull")]
            Self::Registry { source, .. } => source.kind(),
            _ => ErrorKind::InvalidArgument,
        }
    }
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Self {
        Self::Image {
            kind: error.kind(),
            source: Box::new(error),
        }
    }
}
