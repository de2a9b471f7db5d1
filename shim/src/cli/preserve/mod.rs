//! `--preserve-fds` and `--preserve-fd`: descriptors of this program for a process in a VM. The
//! process cannot get the descriptors themselves, so their data is relayed:
//!
//! ```text
//! descriptor ── thread ── socket ── the owner ══ vsock ══ agent ── pipe or socket ── process
//! ```
//!
//! They are taken before this program opens any other descriptor: otherwise a number that was
//! not open could be one of its own. They are read only once the process runs, in threads: they
//! may be of any kind, and other processes that have them open must not find their mode
//! changed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::stat::SFlag;
use runtime::engine::records::exec::PreservedFd;
use runtime::error::DescriptorError;
use runtime::{Direction, Error, FIRST_DESCRIPTOR, MAX_DESCRIPTORS};
use tokio::sync::oneshot;

use super::error::CliResult;
use crate::error::Context as _;

/// The size of a piece.
const PIECE: usize = 64 << 10;

/// The stack of a thread that only copies.
const STACK: usize = 128 << 10;

/// The descriptors for a process.
#[derive(Debug, Default, Args)]
pub(crate) struct Preserve {
    /// Pass descriptors 3 to N + 2 to the process, at most 64. A file or pipe becomes a
    /// one-way pipe, a socket or terminal becomes a socket; seeking is not possible, and
    /// input read ahead for the process is lost
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    preserve_fds: u32,

    /// Pass the descriptors with these numbers to the process
    #[arg(long, value_name = "FD,...", value_delimiter = ',')]
    preserve_fd: Vec<u32>,

    #[arg(skip)]
    taken: Vec<Preserved>,
}

/// A descriptor that was open at the start of this program.
#[derive(Debug)]
pub(crate) struct Preserved {
    number: u32,
    direction: Direction,
    socket: bool,
    fd: OwnedFd,
}

impl Preserve {
    /// Takes the descriptors. Must be called before any other descriptor is opened.
    pub(crate) fn take(&mut self) -> CliResult<()> {
        if self.preserve_fds as usize > MAX_DESCRIPTORS {
            return Err(Error::from(DescriptorError::TooMany {
                count: self.preserve_fds as usize,
                most: MAX_DESCRIPTORS,
            })
            .into());
        }
        let range = FIRST_DESCRIPTOR..FIRST_DESCRIPTOR + self.preserve_fds;
        let mut numbers: Vec<u32> = range.chain(self.preserve_fd.iter().copied()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        runtime::check_descriptors(numbers.iter().copied())?;
        let taken = numbers.into_iter().map(Preserved::take);
        self.taken = taken.collect::<Result<_, _>>()?;
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// The taken descriptors.
    pub(crate) fn into_preserved(self) -> Vec<Preserved> {
        self.taken
    }
}

impl Preserved {
    fn take(number: u32) -> Result<Self, Error> {
        let (direction, socket) = look(number)?;
        // SAFETY: it is open, and does not belong to this program, which has not opened any
        // yet.
        let fd = unsafe { OwnedFd::from_raw_fd(number as RawFd) };
        // Programs that this one starts must not get it.
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)
            .map_err(|e| system(number, e.into()))?;
        Ok(Self {
            number,
            direction,
            socket,
            fd,
        })
    }

    /// As it is asked for.
    pub(crate) fn request(&self) -> PreservedFd {
        PreservedFd {
            number: self.number,
            direction: self.direction,
        }
    }

    /// Serves it over a socket from now on. The receiver resolves when the last byte has been
    /// written to it.
    pub(crate) fn serve(self, peer: UnixStream) -> CliResult<oneshot::Receiver<()>> {
        let peer = Arc::new(peer);
        let fd = Arc::new(File::from(self.fd));
        let (done, written) = oneshot::channel();
        if self.direction != Direction::Out {
            let (fd, peer) = (fd.clone(), peer.clone());
            thread(self.number, move || pass_in(&fd, &peer, self.socket))?;
        }
        if self.direction == Direction::In {
            let _ = done.send(());
        } else {
            thread(self.number, move || {
                if let Err(e) = pass_out(&peer, &fd, self.socket) {
                    crate::terminal::say(&format!("Descriptor {}: {e}", self.number));
                }
                // Closed first, so that its reader sees the end.
                drop(fd);
                let _ = done.send(());
            })?;
        }
        Ok(written)
    }
}

fn thread(number: u32, work: impl FnOnce() + Send + 'static) -> CliResult<()> {
    let thread = std::thread::Builder::new()
        .name(format!("fd {number}"))
        .stack_size(STACK);
    thread.spawn(work).doing("start a thread")?;
    Ok(())
}

fn system(number: u32, source: io::Error) -> DescriptorError {
    DescriptorError::System { number, source }
}

/// The direction of a descriptor's bytes, and whether it is a socket. The error says why it
/// cannot be used as a stream, and the way out.
fn look(number: u32) -> Result<(Direction, bool), DescriptorError> {
    let fd = number as RawFd;
    let no_stream = |found| Err(DescriptorError::NoStream { number, found });
    // SAFETY: a plain system call; the result is not used if the descriptor is not open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags < 0 {
        return Err(DescriptorError::NotOpen { number });
    }
    // SAFETY: it is open, and is not closed during this function.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let stat = nix::sys::stat::fstat(fd).map_err(|e| system(number, e.into()))?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    if flags & libc::O_PATH != 0 || kind == SFlag::S_IFDIR {
        return no_stream("a directory or a path only");
    }
    if kind == SFlag::S_IFSOCK {
        let stream = getsockopt(&fd, sockopt::SockType) == Ok(SockType::Stream);
        if !stream || getsockopt(&fd, sockopt::AcceptConn) != Ok(false) {
            return no_stream("a socket that is not a connected stream");
        }
        return Ok((Direction::Both, true));
    }
    match flags & libc::O_ACCMODE {
        libc::O_RDONLY if kind.is_empty() => no_stream("an anonymous file"),
        libc::O_RDONLY => Ok((Direction::In, false)),
        libc::O_WRONLY => Ok((Direction::Out, false)),
        _ if kind == SFlag::S_IFCHR => Ok((Direction::Both, false)),
        // Reading ahead of the process would change the position in the file, or take data out
        // of the pipe.
        _ => Err(DescriptorError::BothWays { number }),
    }
}

/// Relays data from the descriptor to the process.
fn pass_in(mut from: &File, mut peer: &UnixStream, socket: bool) {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer) {
            Ok(n) if n > 0 => {
                if peer.write_all(&buffer[..n]).is_err() {
                    // The process reads no more: shut the descriptor down for its peer.
                    if socket {
                        let _ = rustix::net::shutdown(from, rustix::net::Shutdown::Read);
                    }
                    return;
                }
            }
            Err(e) if again(&e, from, PollFlags::POLLIN) => {}
            // The end; a terminal that has gone gives an error.
            _ => break,
        }
    }
    let _ = peer.shutdown(Shutdown::Write);
}

/// Relays data from the process to the descriptor.
fn pass_out(mut peer: &UnixStream, to: &File, socket: bool) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match peer.read(&mut buffer) {
            Ok(n) if n > 0 => {
                if let Err(e) = write_all(to, &buffer[..n]) {
                    // Shut the socket down, so that the process sees it.
                    let _ = peer.shutdown(Shutdown::Both);
                    let told = e.kind() == io::ErrorKind::BrokenPipe;
                    return if told { Ok(()) } else { Err(e) };
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // The end; an error if not all sent data was read.
            _ => break,
        }
    }
    if socket {
        let _ = rustix::net::shutdown(to, rustix::net::Shutdown::Write);
    }
    Ok(())
}

fn write_all(mut to: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if again(&e, to, PollFlags::POLLOUT) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Whether to try again: after a signal, or after waiting for a descriptor that another program
/// has made non-blocking.
fn again(error: &io::Error, fd: &File, ready: PollFlags) -> bool {
    match error.kind() {
        io::ErrorKind::Interrupted => true,
        io::ErrorKind::WouldBlock => {
            let mut fds = [PollFd::new(fd.as_fd(), ready)];
            let polled = poll(&mut fds, PollTimeout::NONE);
            polled.is_ok() || polled == Err(Errno::EINTR)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
