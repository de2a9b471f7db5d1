//! The host: its mounts, its cgroups, and what it must have to run pods.

pub(crate) mod cgroup;
pub(crate) mod mount;
pub(crate) mod mountinfo;
pub(crate) mod overlay;
pub(crate) mod requirements;
