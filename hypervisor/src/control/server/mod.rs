//! The VMM's end of the control channel.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::packet::{receive, send};
use super::{ControlError, DeviceConfig, Request, Response, VERSION, VmmStatus};
use crate::machine::{Ending, MachineConfig, MachineFiles};

/// The time that an answer may wait for room in the socket, in seconds. After that the owner
/// counts as lost.
const SEND_LIMIT: i64 = 10;

/// A device and its descriptors.
pub type Attached = (DeviceConfig, Vec<OwnedFd>);

/// The service behind the control channel. The texts of errors are sent to the owner.
pub trait Service {
    /// Serves `devices`, each on the socket that is the first of its descriptors. Called at
    /// most once, and not together with [`build`](Service::build).
    fn serve(&mut self, devices: Vec<Attached>) -> Result<(), String>;
    /// Builds a VM, and returns the reporter of its end. Called at most once, and not together
    /// with [`serve`](Service::serve).
    fn build(
        &mut self,
        machine: MachineConfig,
        files: MachineFiles,
        devices: Vec<Attached>,
    ) -> Result<Ending, String>;
    /// Lets the VM run.
    fn run(&mut self) -> Result<(), String>;
    /// Stops it.
    fn pause(&mut self) -> Result<(), String>;
    /// Requests plugged memory, in MiB; returns the present amount.
    fn plug_memory(&mut self, mib: u32) -> Result<u32, String>;
    /// Attaches a device to a free slot of the machine; returns the slot.
    fn attach(&mut self, device: Attached) -> Result<u32, String>;
    /// Detaches an attached device from its slot.
    fn detach(&mut self, slot: u32) -> Result<(), String>;
    /// The present state.
    fn status(&self) -> VmmStatus;
    /// Finishes the requests in flight.
    fn stop(&mut self);
}

/// Answers requests until a request to stop, the end of the channel or of the guest.
pub struct Server<S> {
    socket: OwnedFd,
    service: S,
    greeted: bool,
    started: bool,
    ending: Option<Ending>,
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
            ending: None,
        })
    }

    /// Returns after a request to stop, and when the owner or the guest has ended.
    pub fn run(mut self) -> Result<(), ControlError> {
        loop {
            self.wait()?;
            if let Some(exit) = self.ending.as_ref().and_then(Ending::taken) {
                log::info!("The end: {exit}");
                self.service.stop();
                return self.answer(&Response::Ended(exit));
            }
            let (request, fds) = match receive::<Request>(self.socket.as_fd()) {
                Ok(packet) => packet,
                Err(ControlError::Closed) => {
                    self.service.stop();
                    return Ok(());
                }
                Err(ControlError::Socket(err)) if err.kind() == io::ErrorKind::Interrupted => {
                    continue;
                }
                // An unreadable message leaves the channel intact.
                Err(err @ (ControlError::Json(_) | ControlError::Truncated)) => {
                    self.answer(&refuse(err))?;
                    continue;
                }
                Err(err) => return Err(err),
            };
            let response = self.handle(request, fds);
            self.answer(&response)?;
            if response == Response::Stopped {
                return Ok(());
            }
        }
    }

    /// Returns when there is a request, or when the guest has ended.
    fn wait(&self) -> Result<(), ControlError> {
        let mut fds = vec![PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        if let Some(ending) = &self.ending {
            fds.push(PollFd::new(ending.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(err) => Err(io::Error::from(err).into()),
        }
    }

    fn answer(&self, response: &Response) -> Result<(), ControlError> {
        send(self.socket.as_fd(), response, &[])
    }

    fn handle(&mut self, request: Request, fds: Vec<OwnedFd>) -> Response {
        match request {
            Request::Hello { version: VERSION } => {
                self.greeted = true;
                Response::Hello { version: VERSION }
            }
            Request::Hello { version } => refuse(ControlError::Version { other: version }),
            _ if !self.greeted => refuse("the first request must be Hello"),
            Request::Serve { .. } | Request::Build { .. } if self.started => {
                refuse("the devices are already started")
            }
            Request::Serve { devices } => done(self.serve(devices, fds)),
            Request::Build { machine, devices } => done(self.build(*machine, devices, fds)),
            Request::Run => done(self.service.run()),
            Request::Pause => done(self.service.pause()),
            Request::PlugMemory { mib } => match self.service.plug_memory(mib) {
                Ok(mib) => Response::Plugged { mib },
                Err(message) => Response::Error { message },
            },
            Request::Attach { device } => match self.attach(device, fds) {
                Ok(slot) => Response::Attached { slot },
                Err(message) => Response::Error { message },
            },
            Request::Detach { slot } => done(self.service.detach(slot)),
            Request::Status => Response::Status(self.service.status()),
            Request::Stop => {
                self.service.stop();
                Response::Stopped
            }
        }
    }

    fn serve(&mut self, devices: Vec<DeviceConfig>, fds: Vec<OwnedFd>) -> Result<(), String> {
        let devices = deal(devices, fds, 1)?;
        self.started = true;
        self.service.serve(devices)
    }

    fn build(
        &mut self,
        machine: MachineConfig,
        devices: Vec<DeviceConfig>,
        mut fds: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let own = fds.len().min(4);
        let rest = fds.split_off(own);
        let [kvm, kernel, initrd, console] = <[OwnedFd; 4]>::try_from(fds)
            .map_err(|fds| format!("A machine came with {} descriptors", fds.len()))?;
        let devices = deal(devices, rest, 0)?;
        self.started = true;
        let files = MachineFiles {
            kvm,
            kernel,
            initrd,
            console,
        };
        self.ending = Some(self.service.build(machine, files, devices)?);
        Ok(())
    }

    fn attach(&mut self, device: DeviceConfig, fds: Vec<OwnedFd>) -> Result<u32, String> {
        if self.ending.is_none() {
            return Err("no machine is running".into());
        }
        if !device.may_come_later() {
            return Err(format!(
                "A machine has it from the start or never: {device:?}"
            ));
        }
        let mut dealt = deal(vec![device], fds, 0)?;
        self.service.attach(dealt.remove(0))
    }
}

/// Gives each device its descriptors: `more` descriptors first, then those of its kind.
fn deal(
    devices: Vec<DeviceConfig>,
    fds: Vec<OwnedFd>,
    more: usize,
) -> Result<Vec<Attached>, String> {
    let wanted: usize = devices.iter().map(|device| device.files() + more).sum();
    if wanted != fds.len() {
        return Err(format!(
            "{} devices came with {} descriptors, not {wanted}",
            devices.len(),
            fds.len()
        ));
    }
    let mut fds = fds.into_iter();
    let dealt = devices.into_iter().map(|device| {
        let count = device.files() + more;
        (device, fds.by_ref().take(count).collect())
    });
    Ok(dealt.collect())
}

fn done(result: Result<(), String>) -> Response {
    match result {
        Ok(()) => Response::Done,
        Err(message) => Response::Error { message },
    }
}

fn refuse(why: impl ToString) -> Response {
    Response::Error {
        message: why.to_string(),
    }
}

#[cfg(test)]
mod tests;
