//! Errors about images from any source.

#[cfg(feature = "pull")]
pub(crate) mod registry;

use std::io;
use std::path::PathBuf;

#[cfg(feature = "pull")]
use super::registry::RegistryError;
use crate::engine::archive::unpack::{Failure, UnpackError};
use crate::error::{Error, ErrorKind};

/// An error about an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference cannot be read.
    #[error(
        "invalid image reference {text:?}: {problem}; expected a name such as quay.io/org/app:1, oci:DIR[:tag] or oci-archive:FILE[:tag]"
    )]
    Reference {
        /// The reference as it was given.
        text: String,
        /// The problem.
        problem: String,
    },
    /// Content does not match its digest.
    #[error("content of digest {expected} is damaged: its digest is {found}; pull the image again")]
    Digest {
        /// The digest in the document that refers to the content.
        expected: String,
        /// The digest of the content.
        found: String,
    },
    /// Content does not have the length in its descriptor.
    #[error("content {digest} does not have the {expected} bytes of its descriptor")]
    Size {
        /// The content.
        digest: String,
        /// Its length as described.
        expected: u64,
    },
    /// An unpacked layer does not match the image's configuration.
    #[error(
        "invalid diff id {found} of layer {layer}: expected {expected}, as the image's configuration says"
    )]
    DiffId {
        /// The layer's digest.
        layer: String,
        /// The digest in the configuration.
        expected: String,
        /// The digest of the unpacked archive.
        found: String,
    },
    /// A digest's algorithm is not supported.
    #[error("unsupported digest {0:?}: expected sha256 or sha512")]
    Algorithm(String),
    /// A document is too long.
    #[error("{what} is too large: {size} bytes of at most {limit}")]
    TooLarge {
        /// The document.
        what: String,
        /// Its length.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A document is not JSON of its kind.
    #[error("cannot read {what}: {source}")]
    Json {
        /// The document.
        what: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// A document is valid JSON with invalid content.
    #[error("{what}: {problem}")]
    Document {
        /// The document.
        what: String,
        /// The problem.
        problem: String,
    },
    /// The image does not exist for this machine.
    #[error("{image} is not available for {wanted}: it is for {there}")]
    Platform {
        /// The image or index.
        image: String,
        /// The platform of this machine.
        wanted: String,
        /// The platforms of the image.
        there: String,
    },
    /// A layout has several images, or none with the tag.
    #[error("{layout}: {problem}; it has {there}")]
    Tag {
        /// The directory or archive.
        layout: String,
        /// The problem.
        problem: String,
        /// The tags in it.
        there: String,
    },
    /// A file of a layout cannot be read.
    #[error("cannot read {what}: {source}")]
    Read {
        /// The file.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// A layer is not an archive.
    #[error("layer {layer} is not a valid tar archive: {source}")]
    Archive {
        /// The layer's digest.
        layer: String,
        /// The cause.
        source: io::Error,
    },
    /// A layer has an entry that is refused.
    #[error("layer {layer}: entry {entry:?} is refused: {problem}")]
    Entry {
        /// The layer's digest.
        layer: String,
        /// The entry's name.
        entry: String,
        /// The reason.
        problem: &'static str,
    },
    /// An entry of a layer cannot be made.
    #[error("layer {layer}: cannot {action} {entry:?}: {source}")]
    Unpack {
        /// The layer's digest.
        layer: String,
        /// The entry's name.
        entry: String,
        /// The verb, in the infinitive.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A registry refuses, or does not answer.
    #[cfg(feature = "pull")]
    #[error("cannot pull {image}: {source}")]
    Registry {
        /// The image.
        image: String,
        /// The cause.
        source: Box<RegistryError>,
    },
    /// The file of credentials cannot be used.
    #[error("credentials in {file}: {problem}")]
    Credentials {
        /// The file.
        file: String,
        /// The problem.
        problem: String,
    },
    /// Credentials on the command line are not USER:PASSWORD; they are not repeated.
    #[error("invalid credentials: expected USER:PASSWORD")]
    NoPassword,
    /// A layer was removed from the store.
    #[error("layer {} of the image is gone: pull the image again", layer.display())]
    LayerGone {
        /// Its directory.
        layer: PathBuf,
    },
    /// Containers use the image.
    #[error(
        "image {image} is in use by container(s) {}: remove them first, or use --force, which removes them", users.join(", ")
    )]
    InUse {
        /// The image.
        image: String,
        /// `POD/CONTAINER` of each user.
        users: Vec<String>,
    },
    /// The image has other names, which would be removed, too.
    #[error(
        "image {image} has several names ({}): name one of them, or use --force to remove all", names.join(", ")
    )]
    ManyNames {
        /// The image's id.
        image: String,
        /// Its names.
        names: Vec<String>,
    },
}

impl ImageError {
    /// Converts it to an error about `layer`.
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
