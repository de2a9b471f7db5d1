//! The process that forks the helpers.
//!
//! libcontainer forks, which needs a process of one thread. So a helper of its own (`helper`)
//! starts each container and exec session. Helpers are forked, not executed: a fork costs a
//! fraction of loading and relocating this binary again, which under emulation is most of the
//! time of an exec session. PID 1 forks the zygote before it has another thread.
//!
//! ```text
//! PID 1 ──control socket──▶ zygote ──fork──▶ helper
//! ```

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{ForkResult, fork};

use crate::launch::helper::{self, receive_with_fds, send_with_fds};

/// The OOM killer prefers all other processes. Helpers start with the default, since their
/// processes inherit it.
const PROTECTED: &str = "-999";
const DEFAULT: &str = "0";

/// PID 1's connection to the zygote.
pub struct Zygote {
    socket: OwnedFd,
}

impl Zygote {
    /// Forks the zygote.
    ///
    /// # Safety
    /// The process must have one thread only.
    pub unsafe fn start() -> io::Result<Zygote> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        // SAFETY: no other thread holds a lock that would stay locked in the child.
        match unsafe { fork() }? {
            ForkResult::Parent { .. } => Ok(Zygote { socket: ours }),
            ForkResult::Child => {
                drop(ours);
                serve(theirs)
            }
        }
    }

    /// One that nobody serves: for tests that start nothing.
    #[cfg(test)]
    pub fn none() -> Zygote {
        Zygote::played().0
    }

    /// One that a test serves at the other end.
    #[cfg(test)]
    pub fn played() -> (Zygote, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
        let (socket, other) = pair.unwrap();
        (Zygote { socket }, other)
    }

    /// Forks a helper that serves the other end of `control`.
    pub fn fork_helper(&self, control: OwnedFd) -> io::Result<()> {
        send_with_fds(self.socket.as_raw_fd(), b"f", &[control.as_raw_fd()])
    }
}

/// Forks helpers until PID 1 has ended.
fn serve(requests: OwnedFd) -> ! {
    std::panic::set_hook(Box::new(|panic| {
        log::error!("zygote: panic: {panic}");
        std::process::exit(1)
    }));
    let _ = nix::sys::prctl::set_name(c"rust-kata-fork");
    if let Err(e) = fs::write("/proc/self/oom_score_adj", PROTECTED) {
        log::warn!("zygote: oom_score_adj: {e}");
    }
    // Helpers are not waited for: they report through their sockets. SAFETY: no handler is
    // installed.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) };
    loop {
        match next_control(requests.as_raw_fd()) {
            Ok(Some(control)) => fork_one(control, &requests),
            Ok(None) => std::process::exit(0),
            Err(e) => log::error!("zygote: {e}"),
        }
    }
}

fn next_control(socket: RawFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0; 1];
    match receive_with_fds(socket, &mut byte)? {
        (0, _) => Ok(None),
        (_, mut fds) => fds
            .pop()
            .map(Some)
            .ok_or_else(|| io::Error::other("a request without a socket")),
    }
}

fn fork_one(control: OwnedFd, requests: &OwnedFd) {
    // SAFETY: the zygote has one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { .. }) => {}
        Ok(ForkResult::Child) => {
            // SAFETY: the child never uses the zygote's connection again: it ends inside this
            // arm.
            unsafe { libc::close(requests.as_raw_fd()) };
            // The helper and libcontainer wait for their children.
            // SAFETY: no handler is installed.
            let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) };
            if let Err(e) = fs::write("/proc/self/oom_score_adj", DEFAULT) {
                log::warn!("helper: oom_score_adj: {e}");
            }
            helper::main(control);
        }
        // The agent notices that its socket is closed.
        Err(e) => log::error!("zygote: fork: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use nix::sys::wait::WaitStatus;

    use super::*;
    use crate::launch::helper::{Answer, MESSAGE, Request};
    use crate::launch::testing::{alone, forked};

    /// Has a helper forked; returns what it answers to a request that it cannot fulfil.
    fn answer_of_a_helper(zygote: &Zygote) -> Answer {
        let flags = SockFlag::SOCK_CLOEXEC;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
        let (ours, theirs) = pair.unwrap();
        zygote.fork_helper(theirs).unwrap();
        let request = Request::Hooks {
            id: "c".into(),
            state: "/no/such".into(),
            hooks: Vec::new(),
        };
        let json = serde_json::to_vec(&(request, Vec::<RawFd>::new())).unwrap();
        send_with_fds(ours.as_raw_fd(), &json, &[]).unwrap();
        let mut buffer = vec![0; MESSAGE];
        let (n, _) = receive_with_fds(ours.as_raw_fd(), &mut buffer).unwrap();
        // Its end of the socket does not tell it: the zygote may have a copy of ours.
        send_with_fds(ours.as_raw_fd(), b"k", &[]).unwrap();
        serde_json::from_slice(&buffer[..n]).unwrap()
    }

    #[test]
    fn helpers_are_forked_until_the_agent_ends() {
        alone!();
        let (zygote, requests) = Zygote::played();
        let agent = zygote.socket.as_raw_fd();
        let (mut forked_already, mut told) = std::io::pipe().unwrap();
        let answers = std::thread::spawn(move || {
            // Otherwise the zygote would have a copy of our ends of the helpers' sockets.
            forked_already.read_exact(&mut [0]).unwrap();
            // A request without a socket does no harm.
            send_with_fds(zygote.socket.as_raw_fd(), b"f", &[]).unwrap();
            [answer_of_a_helper(&zygote), answer_of_a_helper(&zygote)]
        });
        let (end, said) = forked(|| {
            // SAFETY: the copy of the agent's end, which this process does not use.
            unsafe { libc::close(agent) };
            told.write_all(b"f").unwrap();
            serve(requests.try_clone().unwrap())
        });
        assert!(matches!(end, WaitStatus::Exited(_, 0)), "{end:?}: {said}");
        for answer in answers.join().unwrap() {
            assert!(answer.unwrap_err().message.contains("No such file"));
        }
    }
}
