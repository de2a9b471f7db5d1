//! Entries for the fuzz targets of `tests/fuzz`: each takes bytes, has them drive one
//! part as a hostile peer would, and panics when a rule is broken that the part must
//! keep for any input of its peer.
//!
//! All happens in the caller's thread and as the bytes say, so that a crash can be had
//! again. The entries lie beside what they drive, since they need its inside; here is
//! what they share.

mod driver;
mod handlers;
mod plain;
mod script;

pub(crate) use driver::{Driver, NoInterrupt};
pub(crate) use handlers::{Checked, drive, drive_memory};
pub(crate) use plain::Plain;
pub(crate) use script::Script;

pub use crate::control::fuzz::control;
pub use crate::machine::io_apic::fuzz::io_apic;
pub use crate::transport::mmio::fuzz::mmio;
pub use crate::transport::vhost_user::fuzz::vhost_user;
pub use crate::virtio::balloon::fuzz::balloon;
pub use crate::virtio::block::fuzz::block;
pub use crate::virtio::fs::fuzz::{fs, fuse};
pub use crate::virtio::mem::fuzz::mem;
pub use crate::virtio::net::fuzz::net;
pub use crate::virtio::rng::fuzz::rng;
pub use crate::virtio::vsock::fuzz::{vsock, vsock_packets};
