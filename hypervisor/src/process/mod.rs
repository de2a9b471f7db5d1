//! The host processes of a VM. They cannot outlive their owner, and are watched and killed by
//! pidfd.

mod fork;
mod launch;
mod log;
mod recorded;
mod spawner;
#[cfg(test)]
pub(crate) mod stand_in;
mod threads;
pub(crate) mod vmm;
mod watch;

pub(crate) use launch::{Launch, Namespaces};
pub(crate) use log::{BoundedLog, Tail};
pub use recorded::{KillRecordedError, Usage, kill_recorded, start_time, usage};
pub use spawner::spawn;
pub use threads::{ThreadState, threads};
pub(crate) use watch::Process;

/// The longest time between the end of a process's sockets and the report of its own end.
pub(crate) const LAST_WORDS: std::time::Duration = std::time::Duration::from_millis(500);
