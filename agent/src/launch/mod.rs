//! The start of a container's process, from the call to execve.

pub(crate) mod executable;
pub(crate) mod faults;
pub(crate) mod helper;
pub(crate) mod mount_point;
pub(crate) mod seccomp;
pub(crate) mod spawn;
pub(crate) mod spec;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod workload;
pub(crate) mod zygote;
