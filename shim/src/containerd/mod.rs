//! containerd's shim: its command line, the task service, events.

pub(crate) mod address;
pub(crate) mod bootstrap;
pub(crate) mod bundle;
pub(crate) mod client;
pub(crate) mod delete;
pub(crate) mod events;
pub(crate) mod flags;
pub(crate) mod group;
pub(crate) mod info;
pub(crate) mod metrics;
pub(crate) mod options;
pub(crate) mod owner;
pub(crate) mod proto;
pub(crate) mod publisher;
pub(crate) mod serve;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod task;
