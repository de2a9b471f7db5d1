//! The jail of `rust-kata-vmm`: what a guest that breaks out of its VM finds.
//!
//! ```text
//!  owner: clone3 with namespaces of every kind ──▶ exec rust-kata-vmm ──▶ enter()
//!                                                                          │
//!    root:        /share  /vsock  /proc/self/fd, all else gone             ┤
//!    privileges:  limits, no new privileges, capabilities dropped          ┤
//!    spawner:     the one thread that starts threads ──▶ fs: capabilities  ┤
//!                                                    └─▶ others: none      │
//!    seccomp:     each thread has the list of what its kind needs          ▼
//!                                                       control channel, devices
//! ```
//!
//! `docs/security.md` describes what each layer stops, and why it is built this way.

mod kind;
mod landlock;
mod privileges;
mod root;
pub mod seccomp;
#[cfg(test)]
mod tests;
mod thread;

use std::io;
use std::path::{Path, PathBuf};

pub use kind::ThreadKind;
pub use privileges::max_open_files;
pub use thread::{run, spawn};

/// Where the shared directory is in the jail.
pub const SHARE: &str = "/share";
/// Where the directory of the vsock sockets is in the jail.
pub const SOCKETS: &str = "/vsock";

/// Why the jail cannot be entered. Nothing may be served without it.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The process was not started by [`VmSpec`](crate::VmSpec)'s owner.
    #[error(
        "rust-kata-vmm cannot be started by hand: it needs the namespaces that its owner makes"
    )]
    NoNamespaces,

    /// A step failed.
    #[error("cannot {what}: {source}")]
    Step {
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },

    /// A directory cannot be brought in.
    #[error("cannot bring {path} into the jail: {source}")]
    Bring {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What the jail holds.
#[derive(Debug, Clone)]
pub struct Jail {
    /// Visible at [`SHARE`], with later mounts in it.
    pub share: PathBuf,
    /// Seen at [`SOCKETS`].
    pub sockets: PathBuf,
}

impl Jail {
    /// Locks this process up, for good. To be called first, while it has one thread.
    ///
    /// # Errors
    /// [`JailError`]; the process must then end.
    pub fn enter(&self) -> Result<(), JailError> {
        // Without namespaces of its own the mounts below would be made on the host.
        if std::process::id() != 1 {
            return Err(JailError::NoNamespaces);
        }
        root::enter(&self.share, &self.sockets)?;
        privileges::limit()?;
        landlock::restrict(SHARE, SOCKETS)?;
        privileges::keep_for_spawner()?;
        seccomp::watch().map_err(step("catch forbidden system calls"))?;
        thread::start_spawner()?;
        thread::confine(ThreadKind::Main)
    }
}

/// The path in the jail of a socket in the directory [`Jail::sockets`].
pub fn socket(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default();
    Path::new(SOCKETS).join(name)
}

/// Makes the error of a step.
fn step<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> JailError {
    move |source| JailError::Step {
        what,
        source: source.into(),
    }
}
