//! The entry functions of the fuzz targets in `tests/fuzz`. Each drives one part by bytes, as a
//! hostile peer would, and panics if the part breaks a rule that must hold for all input.
//!
//! All work is done in the caller's thread and depends only on the bytes, so that a crash can
//! be reproduced. The entry functions are in the modules that they drive, since they need
//! private items; this module has their common code.

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
