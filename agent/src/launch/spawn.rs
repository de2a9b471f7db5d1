//! The agent's side of the helper processes (see `helper`).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::error::{Context, Error, Result};
use crate::guest::reaper::{Exit, Reaper};
use crate::guest::stall;
use crate::launch::helper::{Answer, MESSAGE, Request, receive_with_fds, send_with_fds};
use crate::launch::zygote::Zygote;
use crate::stdio::descriptor::Ends;
use crate::stdio::stream::{Stream, register};

/// Starts processes by helpers.
pub struct Spawner {
    pub zygote: Zygote,
    pub reaper: Arc<Reaper>,
}

/// A started process; the agent is its parent.
pub struct Started {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub exit: oneshot::Receiver<Exit>,
    /// The master of its pty, if it has one.
    pub master: Option<OwnedFd>,
}

impl Spawner {
    /// Sends a request that starts a process to a new helper.
    pub async fn start(&self, request: &Request, ends: Ends) -> Result<Started> {
        let helper = self.helper(request.verb())?;
        let (pid, master) = helper.ask(request, ends).await?;
        // The helper keeps the process as its child until it is released, so the pid is
        // still this process's.
        let exit = self.reaper.watch(pid);
        let pidfd = pidfd_open(pid).what(format!("pidfd of {pid}"))?;
        helper.release();
        Ok(Started {
            pid,
            pidfd,
            exit,
            master,
        })
    }

    /// Sends a request that starts no process to a new helper.
    pub async fn run(&self, request: &Request) -> Result<()> {
        let helper = self.helper(request.verb())?;
        helper.ask(request, Ends::default()).await?;
        helper.release();
        Ok(())
    }

    fn helper(&self, verb: &'static str) -> Result<Helper> {
        let what = || format!("start the {verb} helper");
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .what(what())?;
        Stream::set_nonblocking(&ours).what(what())?;
        self.zygote.fork_helper(theirs).what(what())?;
        Ok(Helper {
            verb,
            control: register(ours, Interest::READABLE).what(what())?,
        })
    }
}

struct Helper {
    verb: &'static str,
    control: AsyncFd<OwnedFd>,
}

impl Helper {
    async fn ask(&self, request: &Request, ends: Ends) -> Result<(i32, Option<OwnedFd>)> {
        let what = || format!("{} helper", self.verb);
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .path("/dev/null")?;
        let stdio = ends.stdio.iter().zip(0..);
        let stdio = stdio.map(|(end, number)| {
            let end = end.as_ref().map_or(null.as_raw_fd(), AsRawFd::as_raw_fd);
            (number, end)
        });
        let others = ends.descriptors.iter();
        let others = others.map(|(number, end)| (*number, end.as_raw_fd()));
        let (numbers, fds): (Vec<u32>, Vec<RawFd>) = stdio.chain(others).unzip();
        let json = serde_json::to_vec(&(request, numbers))
            .map_err(io::Error::from)
            .what(what())?;
        let socket = self.control.get_ref().as_raw_fd();
        send_with_fds(socket, &json, &fds).what(what())?;
        drop(ends);

        let mut buffer = vec![0; MESSAGE];
        let answer = self.control.async_io(Interest::READABLE, |fd| {
            receive_with_fds(fd.as_raw_fd(), &mut buffer)
        });
        let (n, mut fds) = stall::watch(self.verb, answer).await.what(what())?;
        if n == 0 {
            return Err(Error::HelperDied(self.verb));
        }
        let answer: Answer = serde_json::from_slice(&buffer[..n])
            .map_err(io::Error::from)
            .what(what())?;
        match answer {
            Ok(done) => Ok((done.pid, fds.pop())),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Lets the helper end.
    fn release(self) {
        let socket = self.control.get_ref().as_raw_fd();
        // It needs no message if it has ended already.
        let _ = send(socket, b"k", MsgFlags::MSG_NOSIGNAL);
    }
}

fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes and keeps no memory.
    match unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } {
        // SAFETY: the kernel has just opened it for us.
        fd if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
