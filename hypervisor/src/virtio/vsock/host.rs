//! The host's side of a guest's vsock: the listening socket, and connections to sockets
//! of host programs.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::os::fd::AsRawFd;

use super::header::Header;

/// A full backlog gives no event when it empties, so connecting is tried again after
/// this time,
const REDIAL_AFTER: Duration = Duration::from_millis(5);
/// but not for longer than this.
const REDIAL_LIMIT: Duration = Duration::from_secs(5);

/// See the module. Its socket stays on disk when it ends, since its directory is
/// removed with the VM, and threads that drop devices may not touch files.
pub(crate) struct HostSockets {
    path: PathBuf,
    listener: UnixListener,
    timer: TimerFd,
}

/// A guest's request whose listener was too busy.
pub(crate) struct Redial {
    /// The packet that asked.
    pub request: Header,
    deadline: Instant,
}

impl Redial {
    /// A first refusal.
    pub fn new(request: Header) -> Redial {
        Redial {
            request,
            deadline: Instant::now() + REDIAL_LIMIT,
        }
    }

    /// `None` if it was tried for long enough.
    pub fn still_in_time(self) -> Option<Redial> {
        (Instant::now() < self.deadline).then_some(self)
    }
}

/// What became of an attempt to connect.
pub(crate) enum Dial {
    /// A program listens.
    Connected(UnixStream),
    /// A program listens, but its backlog is full.
    Busy,
    /// No program listens.
    Refused,
}

impl HostSockets {
    /// Listens on `path`, in place of a socket left over there.
    pub fn listen(path: &Path) -> io::Result<HostSockets> {
        match fs::remove_file(path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        Ok(HostSockets {
            path: path.to_owned(),
            listener,
            timer,
        })
    }

    /// Readable when a host program wants to connect.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Readable when refused requests should be tried again.
    pub fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Has [`timer`](HostSockets::timer) fire once.
    pub fn arm_timer(&self) {
        let after = Expiration::OneShot(REDIAL_AFTER.into());
        if let Err(err) = self.timer.set(after, TimerSetTimeFlags::empty()) {
            log::warn!("Cannot set the vsock timer: {err}");
        }
    }

    /// Takes a waiting connection.
    pub fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Connects to the program that serves `port` on the host.
    pub fn dial(&self, port: u32) -> Dial {
        let mut path: OsString = self.path.clone().into();
        path.push(format!("_{port}"));
        match dial(Path::new(&path)) {
            Ok(stream) => Dial::Connected(stream),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Dial::Busy,
            Err(err) => {
                log::debug!("Guest's connection to port {port} refused: {err}");
                Dial::Refused
            }
        }
    }
}

/// `UnixStream::connect` would wait for a full backlog.
fn dial(path: &Path) -> io::Result<UnixStream> {
    let socket: OwnedFd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::io::Write;

    fn ready(fd: BorrowedFd<'_>, limit: u16) -> bool {
        let fd = PollFd::new(fd, PollFlags::POLLIN);
        poll(&mut [fd], PollTimeout::from(limit)).unwrap() > 0
    }

    #[test]
    fn a_socket_that_was_left_over_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock");
        drop(HostSockets::listen(&path).unwrap());
        assert!(path.exists());
        let host = HostSockets::listen(&path).unwrap();
        let nobody = host.accept().unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
        let mut program = UnixStream::connect(&path).unwrap();
        assert!(ready(host.listener(), 10_000));
        let stream = host.accept().unwrap();
        // Neither waits for the other.
        let empty = io::Read::read(&mut &stream, &mut [0; 8]).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        program.write_all(b"x").unwrap();
        assert_eq!(io::Read::read(&mut &stream, &mut [0; 8]).unwrap(), 1);

        let failed = HostSockets::listen(dir.path()).err().unwrap();
        assert_ne!(failed.kind(), io::ErrorKind::AddrInUse);
        assert!(dir.path().is_dir());
        let failed = HostSockets::listen(&dir.path().join("none/vsock"));
        assert_eq!(failed.err().unwrap().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_port_is_a_listener_a_busy_one_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let host = HostSockets::listen(&dir.path().join("vsock")).unwrap();
        assert!(matches!(host.dial(7), Dial::Refused));
        let listener = UnixListener::bind(dir.path().join("vsock_7")).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let Dial::Connected(stream) = host.dial(7) else {
            panic!("it listens");
        };
        let empty = io::Read::read(&mut &stream, &mut [0; 8]).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        assert!(matches!(host.dial(7), Dial::Busy));
        assert!(matches!(host.dial(70), Dial::Refused));
        drop(listener);
        assert!(matches!(host.dial(7), Dial::Refused));
    }

    #[test]
    fn a_busy_port_is_tried_again_soon_but_not_forever() {
        let dir = tempfile::tempdir().unwrap();
        let host = HostSockets::listen(&dir.path().join("vsock")).unwrap();
        assert!(!ready(host.timer(), 20));
        host.arm_timer();
        assert!(ready(host.timer(), 10_000));

        let redial = Redial::new(Header::default());
        let left = redial.deadline - Instant::now();
        assert!((Duration::from_secs(4)..=Duration::from_secs(5)).contains(&left));
        let mut redial = redial.still_in_time().unwrap();
        redial.deadline = Instant::now();
        assert!(redial.still_in_time().is_none());
    }
}
