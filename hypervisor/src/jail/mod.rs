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

/// The shared directory in the jail.
pub const SHARE: &str = "/share";
/// The directory of the vsock sockets in the jail.
pub const SOCKETS: &str = "/vsock";

/// The reason why the jail cannot be entered. Without the jail, nothing may be served.
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
        /// The action.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },

    /// A directory cannot be mounted in the jail.
    #[error("cannot bring {path} into the jail: {source}")]
    Bring {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// The directories in the jail.
#[derive(Debug, Clone)]
pub struct Jail {
    /// Visible at [`SHARE`], with later mounts in it.
    pub share: PathBuf,
    /// Seen at [`SOCKETS`].
    pub sockets: PathBuf,
}

impl Jail {
    /// Confines this process permanently. Must be called first, while it has one thread.
    ///
    /// # Errors
    /// [`JailError`]; the process must then end.
    pub fn enter(&self) -> Result<(), JailError> {
        // Outside separate namespaces, the mounts below would change the host.
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

/// The path in the jail of a socket in [`Jail::sockets`].
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
