//! The owner's end of the control channel.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::packet::{receive, send};
use super::{ControlError, DeviceConfig, Request, Response, VERSION, VmmStatus};
use crate::machine::{GuestExit, MachineConfig};
use crate::text::one_line;

/// The deadline of a request.
const LIMIT: Duration = Duration::from_secs(10);
/// The most bytes of a refusal in an error.
const MAX_REASON: usize = 4096;
/// The deadline for building a machine, which may have to find gigabytes of huge pages.
const BUILD_LIMIT: Duration = Duration::from_secs(60);

/// A connection to `rust-kata-vmm`.
pub struct Client {
    socket: AsyncFd<OwnedFd>,
    /// The number of unread answers: more than one after a caller was cancelled.
    unanswered: usize,
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
        // SAFETY: an owned descriptor stays the same and open while it is owned.
        let socket = unsafe { AsyncFd::register(ours) }?;
        let client = Client {
            socket,
            unanswered: 0,
        };
        Ok((client, theirs))
    }

    /// Checks that both sides speak the same version.
    pub async fn hello(&mut self) -> Result<(), ControlError> {
        let request = Request::Hello { version: VERSION };
        match self.call(&request, &[], LIMIT).await? {
            Response::Hello { version: VERSION } => Ok(()),
            Response::Hello { version } => Err(ControlError::Version { other: version }),
            other => Err(unexpected(&request, &other)),
        }
    }

    /// Makes the VMM serve devices; each has its connected vhost-user socket, followed by its
    /// own descriptors.
    pub async fn serve(
        &mut self,
        devices: Vec<(DeviceConfig, Vec<OwnedFd>)>,
    ) -> Result<(), ControlError> {
        let (devices, files): (Vec<_>, Vec<_>) = devices.into_iter().unzip();
        let files: Vec<_> = files.iter().flatten().map(AsFd::as_fd).collect();
        self.done(Request::Serve { devices }, &files, LIMIT).await
    }

    /// Makes the VMM build a machine. `files` are those of
    /// [`MachineFiles`](crate::machine::MachineFiles), followed by those of the devices.
    pub async fn build(
        &mut self,
        machine: MachineConfig,
        devices: Vec<DeviceConfig>,
        files: &[OwnedFd],
    ) -> Result<(), ControlError> {
        let machine = Box::new(machine);
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let request = Request::Build { machine, devices };
        self.done(request, &files, BUILD_LIMIT).await
    }

    /// Lets the guest run.
    pub async fn run(&mut self) -> Result<(), ControlError> {
        self.done(Request::Run, &[], LIMIT).await
    }

    /// Stops the guest.
    pub async fn pause(&mut self) -> Result<(), ControlError> {
        self.done(Request::Pause, &[], LIMIT).await
    }

    /// Requests this much plugged memory in MiB; returns the present amount.
    pub async fn plug_memory(&mut self, mib: u32) -> Result<u32, ControlError> {
        let request = Request::PlugMemory { mib };
        match self.call(&request, &[], LIMIT).await? {
            Response::Plugged { mib } => Ok(mib),
            other => Err(unexpected(&request, &other)),
        }
    }

    /// Attaches a device with `files` to the machine; returns its slot.
    pub async fn attach(
        &mut self,
        device: DeviceConfig,
        files: &[OwnedFd],
    ) -> Result<u32, ControlError> {
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let request = Request::Attach { device };
        match self.call(&request, &files, LIMIT).await? {
            Response::Attached { slot } => Ok(slot),
            other => Err(unexpected(&request, &other)),
        }
    }

    /// Detaches an attached device from the machine.
    pub async fn detach(&mut self, slot: u32) -> Result<(), ControlError> {
        self.done(Request::Detach { slot }, &[], LIMIT).await
    }

    /// Requests the state of the VMM.
    pub async fn status(&mut self) -> Result<VmmStatus, ControlError> {
        match self.call(&Request::Status, &[], LIMIT).await? {
            Response::Status(status) => Ok(status),
            other => Err(unexpected(&Request::Status, &other)),
        }
    }

    /// Makes the VMM finish its requests and end.
    pub async fn stop(&mut self) -> Result<(), ControlError> {
        match self.call(&Request::Stop, &[], LIMIT).await? {
            Response::Stopped => Ok(()),
            other => Err(unexpected(&Request::Stop, &other)),
        }
    }

    /// The guest's end, if the VMM reported it before its own end.
    pub fn last_word(&mut self) -> Option<GuestExit> {
        loop {
            match receive(self.socket.get_ref().as_fd()) {
                Ok((Response::Ended(exit), _)) => return Some(exit),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// The number of requests whose answers were not read.
    #[cfg(test)]
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered
    }

    async fn done(
        &mut self,
        request: Request,
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(), ControlError> {
        match self.call(&request, fds, limit).await? {
            Response::Done => Ok(()),
            other => Err(unexpected(&request, &other)),
        }
    }

    async fn call(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<Response, ControlError> {
        let exchange = async {
            self.write(request, fds).await?;
            loop {
                let response = self.read().await?;
                self.unanswered -= 1;
                if self.unanswered == 0 {
                    return Ok::<_, ControlError>(response);
                }
            }
        };
        let response = timeout(limit, exchange)
            .await
            .map_err(|_| ControlError::Timeout {
                request: request.name(),
                limit,
            })??;
        match response {
            Response::Error { message } => {
                Err(ControlError::Refused(one_line(&message, MAX_REASON)))
            }
            other => Ok(other),
        }
    }

    async fn write(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ControlError> {
        loop {
            let mut ready = self.socket.writable().await?;
            match send(self.socket.get_ref().as_fd(), request, fds) {
                Err(err) if would_block(&err) => ready.clear_ready(),
                result => {
                    self.unanswered += usize::from(result.is_ok());
                    return result;
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Response, ControlError> {
        loop {
            let mut ready = self.socket.readable().await?;
            match receive(self.socket.get_ref().as_fd()) {
                Err(err) if would_block(&err) => ready.clear_ready(),
                Ok((Response::Ended(exit), _)) => return Err(ControlError::Ended(exit)),
                result => return Ok(result?.0),
            }
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
