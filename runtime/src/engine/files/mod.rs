//! The files of containers on the host: their root file systems, copies in and out, artifacts.

pub mod artifact;
pub mod copy;
