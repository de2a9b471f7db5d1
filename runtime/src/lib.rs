//! The pod runtime: pods in virtual machines, containers in pods, processes in containers, and
//! their state on disk. The programs that use it are in the `shim` crate.
//!
//! ```text
//! Runtime ── create_pod ──▶ Pod ── create_container ──▶ Container ── Process
//!    │                       │ VM (hypervisor crate)        streams, pid proxy
//!    └ find, reap            └ agent (ttrpc over vsock)
//! ```
//!
//! The process that makes a pod owns it and serves all changes of it. Other processes read its
//! state from disk, and remove it when its owner is dead.
#![deny(missing_docs)]

pub mod agent;
mod blocking;
mod config;
pub mod container;
pub mod engine;
pub mod error;
mod events;
pub(crate) mod host;
#[cfg(test)]
mod past;
mod pod;
mod runtime;
pub mod state;
pub(crate) mod state_dir;
mod stdio;
mod sync;

pub use config::{
    CONFIG_ENV, CgroupManager, Config, DEFAULT_CONFIG, Loaded, SYSTEM_CONFIG, Timeouts,
};
pub use container::bundle::{check_host_paths, load_annotations, load_spec};
pub use container::config::ContainerConfig;
pub use container::guest_spec::host_namespaces::check_host_namespaces;
pub use container::process::ProcessState;
pub use error::{Error, ErrorKind, Result};
pub use events::{Exit, PodEvent};
pub use host::cgroup::CpuLimits;
pub use host::mount::{Mount, mounts_below, unmount_below};
pub use host::requirements::{Requirement, Verdict, requirements};
pub use pod::boot::BootProgress;
pub use pod::recovery::PodLocation;
pub use pod::{PidInfo, Pod};
pub use protos::{FIRST_DESCRIPTOR, MAX_DESCRIPTORS};
pub use runtime::Runtime;
pub use state::Status;
pub use state_dir::id::{check_id, new_id};
pub use state_dir::lock::{Guarded, OwnerProcess, PodLock};
pub use state_dir::record::{ManagedBy, PodConfig};
pub use stdio::descriptor::{Descriptor, Direction, check as check_descriptors};
pub use stdio::{Endpoint, ProcessIo};
