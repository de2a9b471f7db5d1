//! The files of containers on the host: their root file systems, copies in and out, artifacts.

pub(crate) mod archive;
pub mod artifact;
pub mod copy;
pub mod rootfs;
