//! The host's side: peers that receive the guest's data, and send data to it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::thread;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept, bind, listen, socket,
};

use super::{AMOUNT, SINK, SOURCE};

/// The peer at a port.
#[derive(Clone, Copy)]
pub enum Peer {
    /// Receives everything and confirms it by a byte.
    Sink,
    /// Sends [`AMOUNT`].
    Source,
}

impl Peer {
    /// Its port.
    pub fn port(self) -> u32 {
        match self {
            Self::Sink => SINK,
            Self::Source => SOURCE,
        }
    }

    /// Serves TCP until the process ends.
    pub fn serve_tcp(self, address: &str) -> io::Result<()> {
        let listener = TcpListener::bind((address, self.port() as u16))?;
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                self.talk(stream.into());
            }
        });
        Ok(())
    }

    /// Serves the kernel's vsock of the host until the process ends.
    pub fn serve_vsock(self) -> io::Result<()> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let listener = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
        let address = VsockAddr::new(libc::VMADDR_CID_ANY, self.port());
        bind(listener.as_raw_fd(), &address)?;
        listen(&listener, Backlog::new(8)?)?;
        thread::spawn(move || {
            while let Ok(stream) = accept(listener.as_raw_fd()) {
                // SAFETY: it was just accepted, and belongs to this function alone.
                self.talk(unsafe { OwnedFd::from_raw_fd(stream) });
            }
        });
        Ok(())
    }

    /// Serves the Unix socket for a vsock port.
    pub fn serve_unix(self, listener: UnixListener) {
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                self.talk(stream.into());
            }
        });
    }

    /// Serves one connection. A guest that hangs up early has only tested the connection.
    fn talk(self, stream: OwnedFd) {
        let mut stream = File::from(stream);
        let mut buffer = vec![5; 256 << 10];
        match self {
            Self::Sink => {
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
                let _ = stream.write_all(b"!");
            }
            Self::Source => {
                for _ in 0..AMOUNT / buffer.len() as u64 {
                    if stream.write_all(&buffer).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Opens an existing tap.
pub fn tap(name: &str) -> io::Result<OwnedFd> {
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the file is open and the request lives through the call.
    match unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &request) } {
        0 => Ok(tun.into()),
        _ => Err(io::Error::last_os_error()),
    }
}
