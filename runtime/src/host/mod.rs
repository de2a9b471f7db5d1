//! The host: its mounts, its cgroups, and the requirements for running pods.

pub(crate) mod cgroup;
pub(crate) mod mount;
pub(crate) mod mountinfo;
pub(crate) mod overlay;
pub(crate) mod requirements;
