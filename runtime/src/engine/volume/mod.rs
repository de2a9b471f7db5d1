//! Volumes: directories that outlive containers (named volumes), or are removed with their
//! container (anonymous volumes).
//!
//! ```text
//! <data_root>/volumes/  .lock             flock: shared for reading, exclusive for changes
//!     <name>/                             a named volume
//! <container>/volumes/<name>/             an anonymous volume of a container
//!         config.json _data/              its record, and its files
//!         copied/                         files of the image, before they are moved into _data
//! ```
//!
//! The lock is held for file work only, and its holder takes no other lock, so it may be taken
//! under a pod's. When a container is built, its volumes are bound into it, and an empty new
//! one is filled with the image's files at that path (`fill`).

mod copy;
mod fill;
mod store;

pub(super) use fill::{mounts, places};
pub(super) use store::VolumeDir;
pub use store::{Volume, VolumeView, Volumes};
