//! Images: from an OCI layout, an archive or a registry into the store, and from there below a
//! container's root file system.
//!
//! ```text
//! registry ── registry ──▶ private layout ┐
//! oci:DIR ────────────────────────────────┼─ layout: index ▶ manifest ▶ configuration, by digest
//! oci-archive:FILE ── content ────────────┘      │
//!                                  layer, unpack ▼ each layer once, in staging
//!                                  store: layers/ records/ names/   together, under the lock
//!                                                │
//!                      overlay: layers below, the container's own above (owner)
//! ```
// Without the feature for pulling images some of the code is unused.
#![cfg_attr(not(feature = "pull"), allow(dead_code))]

mod apply;
#[cfg(feature = "pull")]
mod content;
#[cfg(feature = "pull")]
mod credentials;
mod digest;
mod error;
mod find;
#[cfg(feature = "pull")]
mod import;
#[cfg(feature = "pull")]
mod layer;
#[cfg(feature = "pull")]
mod layout;
#[cfg(feature = "pull")]
mod progress;
mod record;
mod reference;
#[cfg(feature = "pull")]
mod registry;
mod store;
#[cfg(test)]
#[cfg(feature = "pull")]
mod tests;

pub(super) use crate::engine::archive::unpack::Attributes;
pub use crate::engine::handle::images::Removed;
pub use apply::{Effective, Overrides, signal};
#[cfg(feature = "pull")]
pub use credentials::Credentials;
pub use error::ImageError;
pub use find::full_name;
pub(super) use find::names_for;
#[cfg(feature = "pull")]
pub use import::HeldImage;
#[cfg(feature = "pull")]
pub use progress::{LayerProgress, LayerStep, Report, silent};
pub use record::{BadImage, Image, ImageView, Layer};
pub use reference::ImageSource;
#[cfg(feature = "pull")]
pub use registry::{RegistryError, RegistryOptions};
pub use store::Images;
pub(super) use store::StoreLock;
