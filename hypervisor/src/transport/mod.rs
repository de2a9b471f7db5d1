//! How drivers reach the devices.

pub mod vhost_user;
