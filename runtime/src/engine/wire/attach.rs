//! The protocol of an attachment's socket: messages of `management.proto`, each preceded by its
//! length. Descriptors come with the first.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use protobuf::Message;
use protos::MAX_DESCRIPTORS;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// The longest message: output comes in pieces.
const MAX: usize = 1 << 20;

/// The buffer for the largest number of descriptors.
const RIGHTS: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// The socket for attachments to the owner at `address`.
pub fn address_of(address: &Path) -> PathBuf {
    let mut path = address.as_os_str().to_owned();
    path.push(".attach");
    path.into()
}

/// Sends a message. Waits while the other side does not read.
///
/// # Errors
/// The socket's.
pub async fn send<M: Message>(to: &mut (impl AsyncWrite + Unpin), message: &M) -> io::Result<()> {
    to.write_all(&framed(message)?).await
}

/// Sends the first message, with descriptors.
///
/// # Errors
/// The socket's.
pub async fn send_first<M: Message>(
    to: &mut UnixStream,
    message: &M,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let frame = framed(message)?;
    // The descriptors arrive with the first byte.
    let (first, rest) = frame.split_at(1);
    let sent = || {
        let mut space = [MaybeUninit::uninit(); RIGHTS];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(&*to, &[IoSlice::new(first)], &mut control, flags)?;
        Ok(())
    };
    to.async_io(Interest::WRITABLE, sent).await?;
    to.write_all(rest).await
}

fn framed<M: Message>(message: &M) -> io::Result<Vec<u8>> {
    let size = message.compute_size() as usize;
    let mut frame = Vec::with_capacity(4 + size);
    frame.extend_from_slice(&(size as u32).to_be_bytes());
    message.write_to_vec(&mut frame)?;
    Ok(frame)
}

/// Receives the first message and its descriptors; `None` at the end of the stream.
///
/// # Errors
/// The socket's; [`io::ErrorKind::InvalidData`] for an invalid message, or if descriptors were
/// lost.
pub async fn receive_first<M: Message>(
    from: &mut UnixStream,
) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let got = || {
        let mut byte = [0; 1];
        let mut space = [MaybeUninit::uninit(); RIGHTS];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let message = rustix::net::recvmsg(
            &*from,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            flags,
        )?;
        let rights = control.drain().filter_map(|control| match control {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fds: Vec<OwnedFd> = rights.flatten().collect();
        if message.flags.contains(ReturnFlags::CTRUNC) {
            let problem = "descriptors that came along do not fit in here";
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        Ok((message.bytes, byte, fds))
    };
    let (bytes, [first], fds) = from.async_io(Interest::READABLE, got).await?;
    if bytes == 0 {
        return Ok(None);
    }
    let mut length = [first, 0, 0, 0];
    from.read_exact(&mut length[1..]).await?;
    let message = body(from, length).await?;
    Ok(Some((message, fds)))
}

/// Receives a message; `None` at the end of the stream.
///
/// # Errors
/// The socket's; [`io::ErrorKind::InvalidData`] for an invalid message.
pub async fn receive<M: Message>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<M>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => drop(other?),
    }
    body(from, length).await.map(Some)
}

async fn body<M: Message>(from: &mut (impl AsyncRead + Unpin), length: [u8; 4]) -> io::Result<M> {
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX {
        let problem = format!("a message of {length} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    Ok(M::parse_from_bytes(&body)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    use protos::management::{AttachInput, attach_input::Kind};

    #[tokio::test]
    async fn messages_arrive_whole_and_in_order() {
        let (mut ours, mut theirs) = tokio::io::duplex(64);
        let sender = tokio::spawn(async move {
            for n in 0..50u8 {
                let message = AttachInput {
                    kind: Some(Kind::Stdin(vec![n; usize::from(n) * 10])),
                    ..Default::default()
                };
                send(&mut ours, &message).await.unwrap();
            }
        });
        for n in 0..50u8 {
            let message: AttachInput = receive(&mut theirs).await.unwrap().unwrap();
            assert_eq!(
                message.kind,
                Some(Kind::Stdin(vec![n; usize::from(n) * 10]))
            );
        }
        sender.await.unwrap();
        assert!(receive::<AttachInput>(&mut theirs).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn descriptors_come_with_the_first_message() {
        for count in [0, 1, MAX_DESCRIPTORS] {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            let message = AttachInput {
                kind: Some(Kind::Stdin(vec![7; 70])),
                ..Default::default()
            };
            let (read, write) = std::io::pipe().unwrap();
            let fds = vec![write.as_fd(); count];
            send_first(&mut ours, &message, &fds).await.unwrap();
            send(&mut ours, &message).await.unwrap();

            let first = receive_first::<AttachInput>(&mut theirs).await.unwrap();
            let (first, came) = first.unwrap();
            assert_eq!((&first, came.len()), (&message, count));
            let second: Option<AttachInput> = receive(&mut theirs).await.unwrap();
            assert_eq!(second, Some(message));
            // The received descriptors are those that were sent.
            drop((write, came));
            assert_eq!(std::io::read_to_string(read).unwrap(), "");
        }
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        drop(ours);
        let none = receive_first::<AttachInput>(&mut theirs).await.unwrap();
        assert!(none.is_none());
    }

    #[tokio::test]
    async fn nonsense_is_an_error() {
        for text in [
            &[0xff; 8][..],
            &[0, 0, 0, 3, 0xff, 0xff, 0xff],
            &[0, 0, 0, 9, 1],
        ] {
            assert!(
                receive::<AttachInput>(&mut &*text).await.is_err(),
                "{text:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_message_may_be_as_long_as_the_limit() {
        for (length, taken) in [(MAX, true), (MAX + 1, false)] {
            // Tag and length of the field take four bytes of it.
            let message = AttachInput {
                kind: Some(Kind::Stdin(vec![7; length - 4])),
                ..Default::default()
            };
            let frame = framed(&message).unwrap();
            assert_eq!(frame.len(), 4 + length);
            let received = receive::<AttachInput>(&mut &frame[..]).await;
            match received {
                Ok(received) => assert_eq!((received, taken), (Some(message), true)),
                Err(e) => assert_eq!((e.kind(), taken), (io::ErrorKind::InvalidData, false)),
            }
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_within_a_message_is_an_error() {
        let message = AttachInput {
            kind: Some(Kind::Stdin(vec![7; 9])),
            ..Default::default()
        };
        let frame = framed(&message).unwrap();
        for end in 4..frame.len() {
            let received = receive::<AttachInput>(&mut &frame[..end]).await;
            let error = received.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{end}");
        }
        // And so is a first one.
        for end in 1..frame.len() {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            ours.write_all(&frame[..end]).await.unwrap();
            drop(ours);
            let received = receive_first::<AttachInput>(&mut theirs).await;
            assert_eq!(
                received.unwrap_err().kind(),
                io::ErrorKind::UnexpectedEof,
                "{end}"
            );
        }
    }

    #[test]
    fn attachments_are_served_beside_the_calls() {
        let address = Path::new("/run/owners/web");
        assert_eq!(address_of(address), Path::new("/run/owners/web.attach"));
    }
}
