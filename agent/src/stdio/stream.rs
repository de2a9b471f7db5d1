//! Non-blocking file descriptors for one direction: pipes, the pty master and vsock streams,
//! with the same few calls.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{Shutdown, shutdown};
use protos::{FIRST_DESCRIPTOR, HIGHEST_DESCRIPTOR};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An open file in non-blocking mode that is registered with the event loop.
pub struct Stream(AsyncFd<OwnedFd>);

impl Stream {
    pub fn new(fd: OwnedFd) -> io::Result<Stream> {
        Stream::set_nonblocking(&fd)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        Ok(Stream(register(fd, interest)?))
    }

    /// Makes reads and writes return instead of waiting.
    pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
        let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
        fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(())
    }

    /// Waits until a read would not block: data, end of file or an error.
    pub async fn readable(&self) -> io::Result<()> {
        self.0
            .readable()
            .await
            .map(|mut guard| guard.retain_ready())
    }

    /// Waits until the other end of a pipe is closed.
    pub async fn peer_closed(&self) -> io::Result<()> {
        self.0
            .ready(Interest::ERROR)
            .await
            .map(|mut guard| guard.retain_ready())
    }

    /// Reads the available data; `WouldBlock` if there is none yet.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut asked = false;
        let result = self.0.try_io(Interest::READABLE, |fd| {
            asked = true;
            Ok(nix::unistd::read(fd, &mut *buffer)?)
        });
        if asked {
            return result;
        }
        // The event loop has not reported data yet, but may be late.
        Ok(nix::unistd::read(self.0.get_ref(), buffer)?)
    }

    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0
            .async_io(Interest::READABLE, |fd| {
                Ok(nix::unistd::read(fd, &mut *buffer)?)
            })
            .await
    }

    /// Reads until the buffer is full.
    pub async fn read_exact(&self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read(buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => buffer = &mut buffer[n..],
            }
        }
        Ok(())
    }

    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = self
                .0
                .async_io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, bytes)?))
                .await?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// The number of bytes that can be read.
    pub fn pending(&self) -> io::Result<usize> {
        let mut n: libc::c_int = 0;
        // SAFETY: the descriptor is open and `n` a valid place for the answer.
        match unsafe { libc::ioctl(self.as_raw_fd(), libc::FIONREAD, &mut n) } {
            0 => Ok(n as usize),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Signals the other end of a socket that no more data comes, or that no more is read.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        Ok(shutdown(self.as_raw_fd(), how)?)
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.0.get_ref().as_raw_fd()
    }
}

/// Registers a descriptor with the event loop.
pub fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` keeps the same descriptor open for its lifetime.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Makes a pipe `(read end, write end)`, as large as permitted.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    const WANTED: libc::c_int = 1 << 20;
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // The default size is sufficient, too.
    let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(WANTED));
    Ok((read, write))
}

/// Another descriptor of the same open file.
pub fn duplicate(fd: &impl AsFd) -> io::Result<OwnedFd> {
    duplicate_from(fd, FIRST_DESCRIPTOR)
}

/// As [`duplicate`], with a number above those that the descriptors of processes can
/// have.
pub fn duplicate_high(fd: &impl AsFd) -> io::Result<OwnedFd> {
    duplicate_from(fd, HIGHEST_DESCRIPTOR + 1)
}

fn duplicate_from(fd: &impl AsFd, lowest: u32) -> io::Result<OwnedFd> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(lowest as RawFd))?;
    // SAFETY: fcntl has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// A stream for a pump, and the host's end of it.
#[cfg(test)]
pub fn connection() -> (Stream, std::os::unix::net::UnixStream) {
    let (guest, host) = std::os::unix::net::UnixStream::pair().unwrap();
    (Stream::new(guest.into()).unwrap(), host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_writer_sees_that_the_reader_has_gone() {
        let (read, write) = pipe().unwrap();
        let write = Stream::new(write).unwrap();
        write.write_all(b"lost").await.unwrap();
        drop(read);
        write.peer_closed().await.unwrap();
        let error = write.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn pending_counts_what_is_unread() {
        let (read, write) = pipe().unwrap();
        let (read, write) = (Stream::new(read).unwrap(), Stream::new(write).unwrap());
        assert_eq!(read.pending().unwrap(), 0);
        write.write_all(b"12345").await.unwrap();
        assert_eq!(read.pending().unwrap(), 5);
        let mut buffer = [0; 3];
        assert_eq!(read.read(&mut buffer).await.unwrap(), 3);
        assert_eq!(read.pending().unwrap(), 2);
    }

    #[tokio::test]
    async fn exactly_as_much_is_read_as_wanted() {
        let (read, write) = pipe().unwrap();
        let (read, write) = (Stream::new(read).unwrap(), Stream::new(write).unwrap());
        let mut buffer = [0; 4];
        let none = read.try_read(&mut buffer).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        write.write_all(b"123456").await.unwrap();
        read.readable().await.unwrap();
        assert_eq!(read.try_read(&mut buffer).unwrap(), 4);
        assert_eq!(&buffer, b"1234");
        drop(write);
        let mut rest = [0; 3];
        let early = read.read_exact(&mut rest).await.unwrap_err();
        assert_eq!(
            (early.kind(), &rest[..2]),
            (io::ErrorKind::UnexpectedEof, &b"56"[..])
        );
        assert_eq!(read.try_read(&mut buffer).unwrap(), 0);
    }

    #[tokio::test]
    async fn a_socket_is_shut_one_way() {
        let (stream, mut host) = connection();
        stream.write_all(b"x").await.unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut host, &mut text).unwrap();
        assert_eq!(text, "x");
        std::io::Write::write_all(&mut host, b"y").unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        let (pipe, _write) = pipe().unwrap();
        let no_socket = Stream::new(pipe).unwrap().shutdown(Shutdown::Read);
        assert_eq!(no_socket.unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }

    #[test]
    fn files_keep_their_flags_and_pipes_are_large() {
        let file = tempfile::tempfile().unwrap();
        let get =
            |fd: &dyn AsFd| OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL).unwrap());
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND)).unwrap();
        for _ in 0..2 {
            Stream::set_nonblocking(&file).unwrap();
            assert!(get(&file).contains(OFlag::O_APPEND | OFlag::O_NONBLOCK));
        }
        let (read, write) = pipe().unwrap();
        assert!(!get(&read).contains(OFlag::O_NONBLOCK));
        let default = 65_536;
        assert!(fcntl(&write, FcntlArg::F_GETPIPE_SZ).unwrap() >= default);
        if nix::unistd::geteuid().is_root() {
            assert_eq!(fcntl(&write, FcntlArg::F_GETPIPE_SZ).unwrap(), 1 << 20);
        }
    }

    #[test]
    fn copies_have_numbers_that_processes_do_not_use() {
        let file = tempfile::tempfile().unwrap();
        let low = duplicate(&file).unwrap();
        assert!(low.as_raw_fd() >= 3);
        let high = duplicate_high(&file).unwrap();
        assert!(high.as_raw_fd() > HIGHEST_DESCRIPTOR as RawFd);
        assert!(high.as_raw_fd() < 2 * HIGHEST_DESCRIPTOR as RawFd);
        let flags = fcntl(&high, FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, libc::FD_CLOEXEC);
    }
}
