//! The VMM's end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::packet::{receive, send};
use super::{ControlError, DeviceConfig, DeviceStatus, MAX_FDS, Request, Response, VERSION};

/// How long an answer may wait for room in the socket, in seconds. An owner that
/// does not read its answers is lost.
const SEND_LIMIT: i64 = 10;

/// What the control channel controls.
pub trait Service {
    /// Serves `devices`. Called at most once.
    fn start(&mut self, devices: Vec<(DeviceConfig, OwnedFd)>) -> Result<(), String>;
    /// Tells how they are.
    fn status(&self) -> Vec<DeviceStatus>;
    /// Finishes what is in flight.
    fn stop(&mut self);
}

/// Answers requests until it is told to stop or the channel closes.
pub struct Server<S> {
    socket: OwnedFd,
    service: S,
    greeted: bool,
    started: bool,
}

impl<S: Service> Server<S> {
    /// Takes over the inherited end of the channel.
    pub fn new(socket: OwnedFd, service: S) -> io::Result<Server<S>> {
        if getsockopt(&socket, sockopt::SockType)? != nix::sys::socket::SockType::SeqPacket {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the control channel is not a SOCK_SEQPACKET socket",
            ));
        }
        setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(SEND_LIMIT))?;
        Ok(Server {
            socket,
            service,
            greeted: false,
            started: false,
        })
    }

    /// Returns when the owner asked to stop or is gone.
    pub fn run(mut self) -> Result<(), ControlError> {
        loop {
            let (request, fds) = match receive::<Request>(self.socket.as_fd()) {
                Ok(packet) => packet,
                Err(ControlError::Closed) => {
                    self.service.stop();
                    return Ok(());
                }
                Err(ControlError::Socket(err)) if err.kind() == io::ErrorKind::Interrupted => {
                    continue;
                }
                // A message that cannot be read leaves the channel intact.
                Err(err @ (ControlError::Json(_) | ControlError::Truncated)) => {
                    self.answer(&refuse(err))?;
                    continue;
                }
                Err(err) => return Err(err),
            };
            let response = self.handle(&request, fds);
            self.answer(&response)?;
            if response == Response::Stopped {
                return Ok(());
            }
        }
    }

    fn answer(&self, response: &Response) -> Result<(), ControlError> {
        send(self.socket.as_fd(), response, &[])
    }

    fn handle(&mut self, request: &Request, fds: Vec<OwnedFd>) -> Response {
        match request {
            Request::Hello { version } if *version == VERSION => {
                self.greeted = true;
                Response::Hello { version: VERSION }
            }
            Request::Hello { version } => refuse(ControlError::Version { theirs: *version }),
            _ if !self.greeted => refuse("Hello must come first"),
            Request::Start { .. } if self.started => refuse("Devices are started already"),
            Request::Start { devices } => {
                if devices.len() != fds.len() || fds.len() > MAX_FDS {
                    return refuse(format!(
                        "{} devices came with {} sockets",
                        devices.len(),
                        fds.len()
                    ));
                }
                self.started = true;
                match self
                    .service
                    .start(devices.iter().cloned().zip(fds).collect())
                {
                    Ok(()) => Response::Started,
                    Err(message) => Response::Error { message },
                }
            }
            Request::Status => Response::Status {
                devices: self.service.status(),
            },
            Request::Stop => {
                self.service.stop();
                Response::Stopped
            }
        }
    }
}

fn refuse(why: impl ToString) -> Response {
    Response::Error {
        message: why.to_string(),
    }
}

#[cfg(test)]
mod tests;
