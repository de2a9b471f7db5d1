//! The sockets of `management.proto`, for root alone: one for calls and, beside it, one for
//! attachments.

use std::collections::HashMap;
use std::fs;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use ttrpc::asynchronous::{Server, Service};

use crate::error::{Context, Error, Result};

/// Makes a socket at `address`. The caller is the pod's owner, so an existing one belongs to a
/// dead owner.
pub(crate) fn listen(address: &Path) -> Result<UnixListener> {
    if let Some(dir) = address.parent() {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir);
        made.on("create", dir)?;
    }
    match fs::remove_file(address) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).on("remove", address);
        }
        _ => {}
    }
    let listener = UnixListener::bind(address).on("listen on", address)?;
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(address, private).on("set the mode of", address)?;
    Ok(listener)
}

/// Serves calls.
pub(crate) async fn start(
    listener: UnixListener,
    services: HashMap<String, Service>,
) -> Result<Server> {
    listener.set_nonblocking(true).doing("set up the socket")?;
    // SAFETY: this process owns the descriptor, a listening socket, and gives it away here.
    let server = unsafe { Server::new().add_unix_listener(listener.into_raw_fd()) };
    let started = |source| Error::Call {
        call: "start of the server",
        source,
    };
    let mut server = server.map_err(started)?.register_service(services);
    server.start().await.map_err(started)?;
    Ok(server)
}

/// Converts a socket for attachments to tokio's.
pub(crate) fn non_blocking(listener: UnixListener) -> Result<tokio::net::UnixListener> {
    listener.set_nonblocking(true).doing("set up the socket")?;
    tokio::net::UnixListener::from_std(listener).doing("use the socket")
}
