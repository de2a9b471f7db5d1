//! Accepts the streams of processes from the host. Each starts with a token, which the call for
//! its process names.
//!
//! The agent listens instead of connecting, since every program in the guest could connect to a
//! port of the host. The agent binds its port before programs run, and the address of a
//! connection shows its origin.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, getpeername, listen,
    socket,
};
use protos::{STDIO_PORT, STREAM_DEADLINE};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::error::{Context, Error, Result};
use crate::stdio::stream::{Stream, register};
use crate::sync::lock;

/// The streams that were opened, and the calls that wait for a stream.
pub struct Arrivals {
    slots: Mutex<HashMap<u64, StreamSlot>>,
    deadline: Duration,
}

enum StreamSlot {
    /// Opened, but not requested by a call yet.
    Opened(Stream),
    /// Requested, but not opened yet.
    Awaited(oneshot::Sender<Stream>),
}

impl Arrivals {
    pub(crate) fn new(deadline: Duration) -> Arc<Arrivals> {
        Arc::new(Arrivals {
            slots: Mutex::default(),
            deadline,
        })
    }

    /// Listens until the VM ends.
    pub fn listen() -> Result<Arc<Arrivals>> {
        let what = || format!("listen on vsock port {STDIO_PORT}");
        let fd = socket(
            AddressFamily::Vsock,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )
        .what(what())?;
        let any = VsockAddr::new(libc::VMADDR_CID_ANY, STDIO_PORT);
        bind(fd.as_raw_fd(), &any).what(what())?;
        // The host opens the streams of many processes at once.
        listen(&fd, Backlog::MAXALLOWABLE).what(what())?;
        let listener = register(fd, Interest::READABLE).what(what())?;
        let arrivals = Arrivals::new(Duration::from_secs(STREAM_DEADLINE));
        tokio::spawn(arrivals.clone().accept(listener));
        Ok(arrivals)
    }

    async fn accept(self: Arc<Self>, listener: AsyncFd<OwnedFd>) {
        loop {
            let accepted = listener.async_io(Interest::READABLE, accept_one).await;
            match accepted {
                Ok((fd, libc::VMADDR_CID_HOST)) => {
                    let arrivals = self.clone();
                    tokio::spawn(async move { arrivals.read_token(fd).await });
                }
                // A connection from the guest itself, over its loopback, is dropped.
                Ok(_) => {}
                Err(e) => {
                    // The agent may be out of descriptors; streams that end free some.
                    log::warn!("a stream of the host cannot be accepted: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn read_token(self: Arc<Self>, fd: OwnedFd) {
        let named = async {
            let stream = Stream::new(fd)?;
            let mut token = [0; 8];
            stream.read_exact(&mut token).await?;
            std::io::Result::Ok((u64::from_le_bytes(token), stream))
        };
        match tokio::time::timeout(self.deadline, named).await {
            Ok(Ok((token, stream))) => self.deliver(token, stream).await,
            Ok(Err(e)) => log::debug!("a stream ended before its token: {e}"),
            Err(_) => log::warn!("a stream of the host sent no token"),
        }
    }

    /// Keeps a stream that was opened, for tests.
    #[cfg(test)]
    pub(crate) async fn keep(self: Arc<Self>, token: u64, stream: Stream) {
        self.deliver(token, stream).await;
    }

    async fn deliver(&self, token: u64, stream: Stream) {
        {
            let mut slots = self.lock();
            if let Some(StreamSlot::Awaited(call)) = slots.remove(&token) {
                // The call may have given up; then the stream is dropped.
                let _ = call.send(stream);
                return;
            }
            slots.insert(token, StreamSlot::Opened(stream));
        }
        // Its call has failed, or was never sent.
        tokio::time::sleep(2 * self.deadline).await;
        let mut slots = self.lock();
        if let Some(StreamSlot::Opened(_)) = slots.get(&token) {
            slots.remove(&token);
        }
    }

    /// The stream that the host opens with `token`; `None` for 0.
    pub async fn take(&self, token: u64) -> Result<Option<Stream>> {
        if token == 0 {
            return Ok(None);
        }
        let (call, arrived) = oneshot::channel();
        {
            let mut slots = self.lock();
            match slots.remove(&token) {
                Some(StreamSlot::Opened(stream)) => return Ok(Some(stream)),
                _ => slots.insert(token, StreamSlot::Awaited(call)),
            };
        }
        if let Ok(Ok(stream)) = tokio::time::timeout(self.deadline, arrived).await {
            return Ok(Some(stream));
        }
        self.lock().remove(&token);
        Err(Error::Deadline {
            what: "the host's opening of a stdio stream".into(),
            seconds: self.deadline.as_secs(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, StreamSlot>> {
        lock(&self.slots)
    }
}

/// Accepts a connection; returns it and the context id of its other end.
fn accept_one(listener: &OwnedFd) -> std::io::Result<(OwnedFd, u32)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = accept4(listener.as_raw_fd(), flags)?;
    // SAFETY: accept4 has just opened it for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let peer: VsockAddr = getpeername(fd.as_raw_fd())?;
    Ok((fd, peer.cid()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::stdio::stream::connection;

    const TOKEN: u64 = 0x1122_3344_5566_7788;

    /// Opens a stream with `token`, as the host does.
    async fn opened(arrivals: &Arc<Arrivals>, token: u64) -> std::os::unix::net::UnixStream {
        let (guest, mut host) = std::os::unix::net::UnixStream::pair().unwrap();
        host.write_all(&token.to_le_bytes()).unwrap();
        tokio::spawn(arrivals.clone().read_token(guest.into()));
        host
    }

    #[tokio::test]
    async fn a_stream_is_found_before_and_after_its_call() {
        let arrivals = Arrivals::new(Duration::from_secs(10));
        assert!(arrivals.take(0).await.unwrap().is_none());

        let mut host = opened(&arrivals, TOKEN).await;
        host.write_all(b"early").unwrap();
        tokio::task::yield_now().await;
        let mut text = [0; 5];
        let stream = arrivals.take(TOKEN).await.unwrap().unwrap();
        stream.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"early");

        let (taken, mut host) =
            futures::join!(arrivals.take(TOKEN + 1), opened(&arrivals, TOKEN + 1));
        host.write_all(b"later").unwrap();
        taken.unwrap().unwrap().read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"later");
        assert!(arrivals.lock().is_empty());
    }

    #[tokio::test]
    async fn neither_a_stream_nor_a_call_is_kept_for_ever() {
        let arrivals = Arrivals::new(Duration::from_millis(20));
        let problem = arrivals.take(TOKEN).await.err().unwrap().to_string();
        assert!(problem.contains("stdio stream"), "{problem}");
        assert!(arrivals.lock().is_empty());

        let (stream, _host) = connection();
        arrivals.deliver(TOKEN, stream).await;
        assert!(arrivals.lock().is_empty());
    }

    #[tokio::test]
    async fn a_token_must_come_whole_and_in_time() {
        let arrivals = Arrivals::new(Duration::from_millis(20));
        for sent in [&b""[..], b"1234567"] {
            let (guest, mut host) = std::os::unix::net::UnixStream::pair().unwrap();
            host.write_all(sent).unwrap();
            // It waits no longer than the deadline, and keeps nothing.
            arrivals.clone().read_token(guest.into()).await;
            assert!(arrivals.lock().is_empty());
        }
    }

    #[tokio::test]
    async fn a_stream_waits_for_its_call_longer_than_a_call_for_its_stream() {
        let deadline = Duration::from_millis(200);
        let arrivals = Arrivals::new(deadline);
        let (stream, _host) = connection();
        let started = std::time::Instant::now();
        let kept = tokio::spawn(arrivals.clone().keep(TOKEN, stream));
        tokio::time::sleep(deadline + deadline / 2).await;
        assert!(started.elapsed() >= 2 * deadline || arrivals.lock().contains_key(&TOKEN));
        kept.await.unwrap();
        assert!(started.elapsed() >= 2 * deadline);
        assert!(arrivals.lock().is_empty());
    }
}
