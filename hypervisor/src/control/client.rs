//! The owner's end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::packet::{receive, send};
use super::{ControlError, DeviceConfig, DeviceStatus, Request, Response, VERSION};

/// How long the VMM may take for any one request.
const LIMIT: Duration = Duration::from_secs(10);

/// A connection to `rust-kata-vmm`.
pub struct Client {
    socket: AsyncFd<OwnedFd>,
}

impl Client {
    /// Makes a channel: the client, and the end that the VMM inherits.
    pub fn pair() -> io::Result<(Client, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        nix::fcntl::fcntl(
            &ours,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )?;
        // SAFETY: an owned descriptor stays the same and open as long as it is owned.
        let socket = unsafe { AsyncFd::register(ours) }?;
        Ok((Client { socket }, theirs))
    }

    /// Checks that both sides speak the same version.
    pub async fn hello(&mut self) -> Result<(), ControlError> {
        let request = Request::Hello { version: VERSION };
        match self.call(&request, &[]).await? {
            Response::Hello { version: VERSION } => Ok(()),
            Response::Hello { version } => Err(ControlError::Version { theirs: version }),
            other => Err(unexpected(&request, &other)),
        }
    }

    /// Has the VMM serve devices, each on its connected vhost-user socket.
    pub async fn start(
        &mut self,
        devices: Vec<(DeviceConfig, OwnedFd)>,
    ) -> Result<(), ControlError> {
        let (devices, sockets): (Vec<_>, Vec<_>) = devices.into_iter().unzip();
        let request = Request::Start { devices };
        let fds: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        match self.call(&request, &fds).await? {
            Response::Started => Ok(()),
            other => Err(unexpected(&request, &other)),
        }
    }

    /// Asks how the devices are.
    pub async fn status(&mut self) -> Result<Vec<DeviceStatus>, ControlError> {
        match self.call(&Request::Status, &[]).await? {
            Response::Status { devices } => Ok(devices),
            other => Err(unexpected(&Request::Status, &other)),
        }
    }

    /// Has the VMM finish and end.
    pub async fn stop(&mut self) -> Result<(), ControlError> {
        match self.call(&Request::Stop, &[]).await? {
            Response::Stopped => Ok(()),
            other => Err(unexpected(&Request::Stop, &other)),
        }
    }

    async fn call(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Response, ControlError> {
        let exchange = async {
            loop {
                let mut ready = self.socket.writable().await?;
                match send(self.socket.get_ref().as_fd(), request, fds) {
                    Err(err) if would_block(&err) => ready.clear_ready(),
                    result => break result?,
                }
            }
            loop {
                let mut ready = self.socket.readable().await?;
                match receive(self.socket.get_ref().as_fd()) {
                    Err(err) if would_block(&err) => ready.clear_ready(),
                    result => break result,
                }
            }
        };
        let (response, _fds) =
            timeout(LIMIT, exchange)
                .await
                .map_err(|_| ControlError::Timeout {
                    request: request.name(),
                    limit: LIMIT,
                })??;
        match response {
            Response::Error { message } => Err(ControlError::Refused(message)),
            other => Ok(other),
        }
    }
}

fn would_block(err: &ControlError) -> bool {
    matches!(err, ControlError::Socket(err) if err.kind() == io::ErrorKind::WouldBlock)
}

fn unexpected(request: &Request, answer: &Response) -> ControlError {
    ControlError::Unexpected {
        request: request.name(),
        answer: format!("{answer:?}"),
    }
}
