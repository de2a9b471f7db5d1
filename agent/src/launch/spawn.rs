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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::error::Kind;
    use crate::launch::faults::Fault;
    use crate::launch::helper::Done;
    use crate::launch::testing::{played_helper as helper, played_spawner};

    fn request(verb: &str) -> Request {
        let (id, folder) = (String::from("c"), "/f".into());
        let (state, terminal) = ("/s".into(), false);
        match verb {
            "create" => Request::Create {
                id,
                folder,
                state,
                terminal,
            },
            _ => Request::Hooks {
                id,
                state,
                hooks: Vec::new(),
            },
        }
    }

    fn inode(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().ino()
    }

    fn child() -> Child {
        Command::new("/bin/cat")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    #[allow(clippy::await_holding_lock)] // the test has a thread of its own
    async fn a_process_is_started_with_its_descriptors_and_watched_before_its_helper_ends() {
        let _children = crate::guest::reaper::children();
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            let file = File::create(&path).unwrap();
            (inode(&path), OwnedFd::from(file))
        };
        let ((stdout, one), (third, three), (high, thousand)) =
            (file("1"), file("3"), file("1000"));
        let ends = Ends {
            stdio: [None, Some(one), None],
            descriptors: vec![(3, three), (1000, thousand)],
        };
        let mut child = child();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let pid = child.id() as i32;
        let (spawner, requests) = played_spawner();
        let helper = helper(requests, Some(Ok(Done { pid })), Some(theirs.into()));

        let started = spawner.start(&request("create"), ends).await.unwrap();

        let null = inode(Path::new("/dev/null"));
        let expected = (
            "create",
            vec![0, 1, 2, 3, 1000],
            vec![null, stdout, null, third, high],
            true,
        );
        assert_eq!(helper.join().unwrap(), expected);
        assert_eq!(started.pid, pid);
        let of =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", started.pidfd.as_raw_fd()));
        assert!(of.unwrap().contains(&format!("Pid:\t{pid}\n")));
        UnixStream::from(started.master.unwrap())
            .write_all(b"!")
            .unwrap();
        ours.read_exact(&mut [0]).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_request_without_a_process_waits_for_the_answer() {
        let (spawner, requests) = played_spawner();
        let helper = helper(requests, Some(Ok(Done { pid: 0 })), None);
        spawner.run(&request("hooks")).await.unwrap();
        let (verb, numbers, _, released) = helper.join().unwrap();
        assert_eq!((verb, numbers, released), ("hooks", vec![0, 1, 2], true));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_a_helper_reports_and_its_death_are_errors() {
        let fault = Fault {
            kind: Kind::NoSuchCommand,
            message: "no".into(),
        };
        let (spawner, requests) = played_spawner();
        let failing = helper(requests, Some(Err(fault)), None);
        let failed = spawner.start(&request("create"), Ends::default()).await;
        let failed = failed.err().unwrap();
        assert!(
            matches!(&failed, Error::Fault { kind: Kind::NoSuchCommand, message } if message == "no"),
            "{failed:?}"
        );
        assert!(!failing.join().unwrap().3, "it ends with its socket");

        let (spawner, requests) = played_spawner();
        let dying = helper(requests, None, None);
        let died = spawner.run(&request("hooks")).await.unwrap_err();
        assert!(matches!(died, Error::HelperDied("hooks")), "{died:?}");
        dying.join().unwrap();

        let (spawner, requests) = played_spawner();
        drop(requests);
        let nobody = spawner.run(&request("hooks")).await.unwrap_err();
        assert!(matches!(&nobody, Error::Io { what, .. } if what == "start the hooks helper"));
    }

    #[test]
    fn a_process_that_is_not_there_has_no_pidfd() {
        let own = pidfd_open(std::process::id() as i32).unwrap();
        assert!(own.as_raw_fd() > 2);
        let bad = pidfd_open(-1).unwrap_err();
        assert_eq!(bad.raw_os_error(), Some(libc::EINVAL));
    }
}
