//! Transports: how drivers access the devices.

#[cfg(test)]
mod conformance;
pub mod mmio;
pub mod vhost_user;
