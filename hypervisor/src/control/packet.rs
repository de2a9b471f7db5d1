//! One message, one packet: sending and receiving on a `SOCK_SEQPACKET` socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ControlError;

/// The longest message. A `Build` with a few long paths is far shorter.
pub const MAX_MESSAGE: usize = 64 << 10;
/// The most descriptors in one packet.
pub const MAX_FDS: usize = 32;
/// The most that Linux passes (net/scm.h, `SCM_MAX_FD`). With space for all of them, those of a
/// packet with too many are closed as well.
const SCM_MAX_FD: usize = 253;

/// Sends `message` with `fds`.
pub(super) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> Result<(), ControlError> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
        return Err(ControlError::TooLong(bytes.len()));
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let ancillary = if raw.is_empty() { &[][..] } else { &rights[..] };
    let data = [IoSlice::new(&bytes)];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &data,
        ancillary,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map_err(io::Error::from)?;
    Ok(())
}

/// Receives a message and its descriptors.
pub(super) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> Result<(T, Vec<OwnedFd>), ControlError> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut ancillary = nix::cmsg_space!([RawFd; SCM_MAX_FD]);
    let mut data = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut data,
        Some(&mut ancillary),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .map_err(io::Error::from)?;
    // Take ownership of the descriptors first, so that no early return leaks them.
    let mut fds = Vec::new();
    // The error is a part that is missing, such as descriptors for which there was no number.
    for message in received.cmsgs().map_err(|_| ControlError::Truncated)? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has just made these descriptors for us.
            fds.extend(
                raw.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    let len = received.bytes;
    if received.flags.contains(MsgFlags::MSG_TRUNC) || fds.len() > MAX_FDS {
        return Err(ControlError::Truncated);
    }
    if len == 0 {
        return Err(ControlError::Closed);
    }
    Ok((serde_json::from_slice(&bytes[..len])?, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::fs::File;
    use std::os::fd::AsFd;

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
    }

    /// Waits for an error other than "nothing yet": a process that another test forks has a
    /// copy of the other end for a while.
    fn until_closed(socket: &OwnedFd) -> ControlError {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            match receive::<u32>(socket.as_fd()).unwrap_err() {
                ControlError::Socket(err)
                    if err.kind() == io::ErrorKind::WouldBlock
                        && std::time::Instant::now() < end =>
                {
                    std::thread::yield_now();
                }
                other => return other,
            }
        }
    }

    #[test]
    fn a_message_has_at_most_64_kibibytes_and_32_descriptors() {
        let (ours, theirs) = pair();
        // JSON adds two quotes.
        let longest = "x".repeat((64 << 10) - 2);
        send(ours.as_fd(), &longest, &[]).unwrap();
        let (text, fds) = receive::<String>(theirs.as_fd()).unwrap();
        assert!(text == longest && fds.is_empty());
        let long = send(ours.as_fd(), &format!("{longest}x"), &[]).unwrap_err();
        assert!(matches!(long, ControlError::TooLong(65537)));

        let file = File::open("/dev/null").unwrap();
        let many = vec![file.as_fd(); 33];
        send(ours.as_fd(), &1, &many[..32]).unwrap();
        let (number, fds) = receive::<u32>(theirs.as_fd()).unwrap();
        assert_eq!((number, fds.len()), (1, 32));
        // They are not passed on to programs.
        for fd in &fds {
            let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD);
            assert_eq!(flags, Ok(libc::FD_CLOEXEC));
        }
        let full = send(ours.as_fd(), &1, &many).unwrap_err();
        assert!(matches!(full, ControlError::TooLong(1)));
    }

    #[test]
    fn what_is_no_message_is_told_apart() {
        let (ours, theirs) = pair();
        let none = receive::<u32>(theirs.as_fd()).unwrap_err();
        let ControlError::Socket(err) = none else {
            panic!("{none:?}");
        };
        assert_eq!(err.kind(), io::ErrorKind::WouldBlock);
        send(ours.as_fd(), &"text", &[]).unwrap();
        let other = receive::<u32>(theirs.as_fd()).unwrap_err();
        assert!(matches!(other, ControlError::Json(_)), "{other:?}");
        // More descriptors than a packet may have, sent past the check: none is left open.
        let (end, passed) = pair();
        for count in [33, 253] {
            let raw = vec![passed.as_raw_fd(); count];
            let rights = [ControlMessage::ScmRights(&raw)];
            let data = [IoSlice::new(b"1")];
            sendmsg::<()>(ours.as_raw_fd(), &data, &rights, MsgFlags::empty(), None).unwrap();
            let cut = receive::<u32>(theirs.as_fd()).unwrap_err();
            assert!(matches!(cut, ControlError::Truncated), "{cut:?}");
        }
        drop(passed);
        assert!(matches!(until_closed(&end), ControlError::Closed));
        drop(ours);
        assert!(matches!(until_closed(&theirs), ControlError::Closed));
        // No signal for a write to a closed channel.
        let broken = send(theirs.as_fd(), &1, &[]).unwrap_err();
        assert!(matches!(broken, ControlError::Socket(_)), "{broken:?}");
    }
}
