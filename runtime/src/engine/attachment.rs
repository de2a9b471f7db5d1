//! The socket of an attachment: messages of `management.proto`, each with its
//! length before it.

use std::io;
use std::path::{Path, PathBuf};

use protobuf::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// No message is longer: output comes in pieces.
const MAX: usize = 1 << 20;

/// Where the owner at `address` serves attachments.
pub fn address_of(address: &Path) -> PathBuf {
    let mut path = address.as_os_str().to_owned();
    path.push(".attach");
    path.into()
}

/// Sends a message. Waits while the other side does not read.
///
/// # Errors
/// That of the socket.
pub async fn send<M: Message>(to: &mut (impl AsyncWrite + Unpin), message: &M) -> io::Result<()> {
    let size = message.compute_size() as usize;
    let mut frame = Vec::with_capacity(4 + size);
    frame.extend_from_slice(&(size as u32).to_be_bytes());
    message.write_to_vec(&mut frame)?;
    to.write_all(&frame).await
}

/// Receives a message; `None` at the end of the stream.
///
/// # Errors
/// That of the socket; [`io::ErrorKind::InvalidData`] for what is no message.
pub async fn receive<M: Message>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<M>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => drop(other?),
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX {
        let problem = format!("a message of {length} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    Ok(Some(M::parse_from_bytes(&body)?))
}

#[cfg(test)]
mod tests {
    use super::*;
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
}
