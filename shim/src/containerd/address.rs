//! The address at which a pod's shim listens.
//!
//! The path is a function of containerd's address, the namespace and the pod, as with
//! containerd's own shims: `start` for a second container of a pod finds the pod's shim by it,
//! and ids of any length fit into the 108 bytes of a socket address.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use sha2::{Digest, Sha256};

use crate::error::{Context, Result};

/// Fixed in containerd (`defaults.DefaultStateDir` + "s"), independent of its state directory,
/// unless it names another one (from 2.3 on).
pub const SOCKET_DIR: &str = "/run/containerd/s";

/// The socket of a pod's shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(PathBuf);

impl Address {
    /// The address by convention: `<dir>/sha256(<containerd>/<namespace>/<pod>)`.
    pub fn of(dir: &Path, containerd: &str, namespace: &str, pod: &str) -> Self {
        let key = Path::new(containerd).join(namespace).join(pod);
        let digest = Sha256::digest(key.as_os_str().as_encoded_bytes());
        Self(dir.join(hex::encode(digest)))
    }

    /// Parses the `unix://` form.
    pub fn parse(text: &str) -> Self {
        Self(PathBuf::from(
            text.trim().strip_prefix("unix://").unwrap_or(text.trim()),
        ))
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether a process listens. (A stopped process listens, too.)
    pub fn is_live(&self) -> bool {
        UnixStream::connect(&self.0).is_ok()
    }

    /// Makes the socket, with mode 0600 before the first connection is possible. Returns `None`
    /// if a live process has it. Replaces a dead process's socket.
    pub fn listen(&self) -> Result<Option<OwnedFd>> {
        if let Some(dir) = self.0.parent() {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir);
            made.on("create", dir)?;
        }
        let socket = socket::socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .doing("make a Unix socket")?;
        let name = UnixAddr::new(&self.0).on("use as a socket path", &self.0)?;
        if let Err(error) = socket::bind(socket.as_raw_fd(), &name) {
            if error != nix::errno::Errno::EADDRINUSE {
                return Err(io::Error::from(error)).on("bind the socket", &self.0);
            }
            if self.is_live() {
                return Ok(None);
            }
            self.remove()?;
            socket::bind(socket.as_raw_fd(), &name).on("bind the socket", &self.0)?;
        }
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o600))
            .on("set the mode of", &self.0)?;
        socket::listen(&socket, Backlog::MAXCONN).on("listen on", &self.0)?;
        Ok(Some(socket))
    }

    /// Removes the socket if it is there.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).on("remove", &self.0),
            _ => Ok(()),
        }
    }

    /// Removes the socket unless a process listens.
    pub fn remove_if_dead(&self) {
        if !self.is_live()
            && let Err(error) = self.remove()
        {
            log::warn!("{error}");
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_dir(dir: &Path) -> Address {
        Address(dir.join("s/socket"))
    }

    #[test]
    fn convention() {
        // sha256 of "/run/containerd/containerd.sock/default/x1"
        let dir = Path::new(SOCKET_DIR);
        let address = Address::of(dir, "/run/containerd/containerd.sock", "default", "x1");
        let digest = Sha256::digest(b"/run/containerd/containerd.sock/default/x1");
        let hex = hex::encode(digest);
        assert_eq!(
            address.to_string(),
            format!("unix:///run/containerd/s/{hex}")
        );
        assert_eq!(Address::parse(&address.to_string()), address);
        assert_eq!(hex.len(), 64);
    }

    #[test]
    fn a_live_socket_is_refused_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let address = in_dir(dir.path());
        assert!(!address.is_live());

        let first = address.listen().unwrap().expect("free");
        assert!(address.is_live());
        assert!(address.listen().unwrap().is_none());

        drop(first);
        assert!(!address.is_live());
        let second = address.listen().unwrap();
        assert!(second.is_some());
        let mode = fs::metadata(address.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn removal_spares_the_living() {
        let dir = tempfile::tempdir().unwrap();
        let address = in_dir(dir.path());
        let socket = address.listen().unwrap();
        address.remove_if_dead();
        assert!(address.path().exists());
        drop(socket);
        address.remove_if_dead();
        assert!(!address.path().exists());
        address.remove().unwrap();
    }
}
