//! The host processes of a VM. They cannot outlive their owner, and are watched and killed by
//! pidfd.

mod fork;
mod launch;
mod log;
mod recorded;
mod spawner;
mod threads;
pub(crate) mod vmm;
mod watch;

pub(crate) use launch::{Launch, Namespaces};
pub(crate) use log::{BoundedLog, Tail};
pub use recorded::{KillRecordedError, Usage, kill_recorded, start_time, usage};
pub use spawner::spawn;
pub use threads::{ThreadState, threads};
pub(crate) use watch::Process;
