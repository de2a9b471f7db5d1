//! How drivers reach the devices.

pub mod mmio;
pub mod vhost_user;
