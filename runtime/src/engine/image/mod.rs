//! Images: from an OCI layout, an archive or a registry into the store, and
//! from there below a container.
//!
//! ```text
//! registry ── registry ──▶ private layout ┐
//! oci:DIR ────────────────────────────────┼─ layout: index ▶ manifest ▶ configuration, each by its digest
//! oci-archive:FILE ── content ────────────┘      │
//!                                  layer, unpack ▼ each layer once, aside
//!                                  store: layers/ records/ names/   all at once, under the lock
//!                                                │
//!                      overlay: layers below, the container's own above (owner)
//! ```

mod apply;
mod content;
mod credentials;
mod digest;
mod error;
mod find;
mod import;
mod layer;
mod layout;
mod progress;
mod reference;
mod registry;
mod removal;
mod store;
pub(crate) mod unpack;

pub use apply::{Effective, Overrides, signal};
pub use credentials::Credentials;
pub use error::ImageError;
pub use find::full_name;
pub use import::HeldImage;
pub use progress::{LayerProgress, LayerStep, Report, silent};
pub use reference::ImageSource;
pub use registry::RegistryOptions;
pub use removal::Removed;
pub use store::{BadImage, Image, ImageView, Images, Layer};
pub(super) use unpack::Attributes;
