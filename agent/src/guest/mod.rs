//! The guest's setup, hot-plug, monitoring and end by PID 1.

pub(crate) mod boot_mark;
pub(crate) mod cpu_memory;
pub(crate) mod devices;
pub(crate) mod init;
pub(crate) mod modules;
pub(crate) mod power;
pub(crate) mod reaper;
pub(crate) mod stall;
