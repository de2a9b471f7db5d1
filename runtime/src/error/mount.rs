//! Errors of mounts on the host.

use std::io;
use std::path::PathBuf;

/// The reason why a mount on the host failed. All are faults of the request, since its sources
/// and options are passed to the kernel unchanged.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel refuses a bind mount.
    #[error("cannot bind {} to {}: {error}", source_path.display(), target.display())]
    Bind {
        /// The path of the source.
        source_path: PathBuf,
        /// The mount point.
        target: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// The kernel refuses another mount.
    #[error("cannot mount {fs_type} on {}: {error} (options {options:?})", target.display())]
    Mount {
        /// The type of file system.
        fs_type: String,
        /// The mount point.
        target: PathBuf,
        /// Options of the file system.
        options: String,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// An overlay has more layers than mount(2) accepts.
    #[error(
        "cannot mount an overlay on {}: its layers need {bytes} bytes of options, mount(2) takes less than {limit}",
        target.display()
    )]
    TooManyLayers {
        /// The mount point.
        target: PathBuf,
        /// The length of the options, shortened as far as possible.
        bytes: usize,
        /// The limit: a page.
        limit: usize,
    },
}
