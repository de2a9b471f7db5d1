//! Volumes: directories that outlive containers (named ones) or go with their
//! container (anonymous ones).
//!
//! ```text
//! <data_root>/volumes/  .lock             flock: shared to look, exclusive to change
//!     <name>/                             a named volume
//! <container>/volumes/<name>/             an anonymous one: it goes with its container
//!         config.json _data/              what it is, and what is in it
//!         copied/                         of the image, on its way into _data
//! ```
//! The lock is held for file work only, and its holder takes no other, so it may
//! be taken under that of a pod. When a container is built, its volumes are bound into it, and an empty
//! new one gets what the image has at that place (`fill`).

mod copy;
mod fill;
mod store;

pub(super) use fill::{mounts, places};
pub(super) use store::VolumeDir;
pub use store::{Volume, VolumeView, Volumes};
