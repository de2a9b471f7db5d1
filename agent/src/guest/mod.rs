//! The guest: what PID 1 sets up, watches and ends.

pub(crate) mod boot_mark;
pub(crate) mod cpu_memory;
pub(crate) mod devices;
pub(crate) mod init;
pub(crate) mod modules;
pub(crate) mod power;
pub(crate) mod reaper;
pub(crate) mod stall;
