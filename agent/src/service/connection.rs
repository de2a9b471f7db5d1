//! The agent's only connection. The agent opens it, and the VM ends with it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use ttrpc::asynchronous::transport::Listener;

/// A listener that "accepts" only this connection, and a future that resolves when ttrpc drops
/// it.
pub fn only<S>(stream: S) -> (Listener, oneshot::Receiver<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    let (open, closed) = oneshot::channel();
    let stream = Watched {
        stream,
        _open: open,
    };
    // The listener must not end, since its end would end the server.
    let connections = futures::stream::StreamExt::chain(
        futures::stream::once(async { io::Result::Ok(stream) }),
        futures::stream::pending(),
    );
    (Listener::new(connections), closed)
}

/// A stream that signals its drop.
struct Watched<S> {
    stream: S,
    _open: oneshot::Sender<()>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream::StreamExt;
    use tokio::sync::oneshot::error::TryRecvError;

    #[tokio::test]
    async fn resolves_when_the_connection_is_dropped() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let (mut listener, mut closed) = only(ours);
        let socket = listener.next().await.unwrap().unwrap();
        assert_eq!(closed.try_recv(), Err(TryRecvError::Empty));
        drop(socket);
        assert_eq!(closed.try_recv(), Err(TryRecvError::Closed));
    }
}
