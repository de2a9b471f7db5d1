//! The pod runtime: pods in virtual machines, containers in pods, processes in
//! containers, and their state on disk. Everything a front door needs; the
//! front doors themselves are in the `shim` crate.
//!
//! ```text
//! Runtime ── create_pod ──▶ Pod ── create_container ──▶ Container ── Process
//!    │                       │ VM (hypervisor crate)        streams, holder
//!    └ find, reap            └ agent (ttrpc over vsock)
//! ```
//! A pod is owned by the process that made it, which serves all changes to it.
//! Others read its state from disk, and remove it when its owner is dead.
#![deny(missing_docs)]

pub mod agent;
mod blocking;
mod cgroup;
mod config;
mod container;
mod create;
pub mod cri;
mod descriptor;
mod dir;
mod disks;
pub mod engine;
mod error;
mod events;
mod exec;
mod guest_spec;
pub mod holder;
mod hooks;
mod host_namespaces;
pub mod listing;
mod lock;
mod mount;
mod mountinfo;
mod overlay;
#[cfg(test)]
mod past;
mod paths;
mod pod;
mod private;
mod process;
mod pump;
mod record;
mod recovery;
mod requirements;
#[allow(clippy::module_inception)]
mod resize;
mod runtime;
mod share;
mod stall;
pub mod state;
mod stdio;
mod store;
mod watch;

pub use cgroup::CpuLimits;
pub use config::{CONFIG_ENV, Config, DEFAULT_CONFIG, Loaded, SYSTEM_CONFIG, Timeouts};
pub use create::ContainerConfig;
pub use descriptor::{Descriptor, Direction, check as check_descriptors};
pub use error::{Error, ErrorKind, Result};
pub use events::{Event, Exit};
pub use guest_spec::{check_host_paths, load_spec};
pub use host_namespaces::check_host_namespaces;
pub use lock::{Guarded, Owner, PodLock};
pub use mount::{Mount, mounts_below, unmount_below};
pub use paths::check_id;
pub use pod::{PidInfo, Pod};
pub use process::ProcessState;
pub use record::{FrontDoor, PodConfig};
pub use recovery::Found;
pub use requirements::{Requirement, Verdict, requirements};
pub use runtime::{Progress, Runtime};
pub use state::Status;
pub use stdio::{Endpoint, ProcessIo};
