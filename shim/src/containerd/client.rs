//! A client for running shims, for `delete`.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::api::{
    DeleteRequest, DeleteResponse, KillRequest, ShutdownRequest, StateRequest, WaitRequest,
};
use containerd_shim_protos::shim_async::{Client, TaskClient};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::net::UnixStream;
use ttrpc::asynchronous::transport::Socket;

use crate::containerd::address::Address;
use crate::containerd::status;
use crate::error::{Context, Error, Result};

/// A connection to a shim's task service.
pub struct Shim(TaskClient);

impl Shim {
    /// Connects; `None` if no process listens.
    pub async fn connect(address: &Address) -> Option<Self> {
        let stream = UnixStream::connect(address.path()).await.ok()?;
        Some(Self(TaskClient::new(Client::new(Socket::from(stream)))))
    }

    /// Whether the shim has this container.
    pub async fn has(&self, id: &str, deadline: Duration) -> Result<bool> {
        let request = StateRequest {
            id: id.to_owned(),
            ..StateRequest::default()
        };
        let context = ttrpc::context::with_duration(deadline);
        match self.0.state(context, &request).await {
            Ok(_) => Ok(true),
            Err(error) if status::is_not_found(&error) => Ok(false),
            Err(source) => Err(Error::Call {
                call: "State",
                source,
            }),
        }
    }

    /// Kills and removes a container; `None` if it was gone.
    pub async fn remove(&self, id: &str, deadline: Duration) -> Result<Option<DeleteResponse>> {
        let context = || ttrpc::context::with_duration(deadline);
        let kill = KillRequest {
            id: id.to_owned(),
            signal: libc::SIGKILL as u32,
            all: true,
            ..KillRequest::default()
        };
        let wait = WaitRequest {
            id: id.to_owned(),
            ..WaitRequest::default()
        };
        let delete = DeleteRequest {
            id: id.to_owned(),
            ..DeleteRequest::default()
        };
        present("Kill", self.0.kill(context(), &kill).await)?;
        present("Wait", self.0.wait(context(), &wait).await)?;
        present("Delete", self.0.delete(context(), &delete).await)
    }

    /// Asks the shim to end if it has no container left.
    pub async fn shutdown(&self, id: &str, deadline: Duration) -> Result<()> {
        let request = ShutdownRequest {
            id: id.to_owned(),
            ..ShutdownRequest::default()
        };
        let context = ttrpc::context::with_duration(deadline);
        match self.0.shutdown(context, &request).await {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Call {
                call: "Shutdown",
                source,
            }),
        }
    }
}

/// Returns the answer, and `None` for "not found".
fn present<T>(call: &'static str, answer: ttrpc::Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if status::is_not_found(&error) => Ok(None),
        Err(source) => Err(Error::Call { call, source }),
    }
}

/// A process, held by its pidfd: another process with the same pid cannot be mistaken for it.
pub struct Process(OwnedFd);

impl Process {
    /// Opens the shim that `start` recorded in a bundle, if it still runs.
    pub fn of_bundle(bundle: &Path, namespace: &str, id: &str) -> Option<Self> {
        let text =
            std::fs::read_to_string(bundle.join(crate::containerd::bundle::SHIM_PID)).ok()?;
        let pid: i32 = text.trim().parse().ok()?;
        let process = Self::open(pid.try_into().ok()?)?;
        // Another process may have the pid by now. The descriptor is the shim's if the
        // arguments, read after it was opened, are the shim's.
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        is_server(&arguments, namespace, id).then_some(process)
    }

    /// Opens the process that has this pid now.
    pub fn open(pid: u32) -> Option<Self> {
        let pid = Pid::from_raw(pid.try_into().ok()?)?;
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        Some(Self(pidfd))
    }

    /// Sends SIGKILL.
    pub fn kill(&self) -> Result<()> {
        pidfd_send_signal(&self.0, Signal::KILL).doing("kill the shim that does not answer")
    }

    /// Blocks until the process has ended; false at the deadline.
    pub fn ended(&self, deadline: Duration) -> Result<bool> {
        let timeout = Timespec {
            tv_sec: deadline.as_secs() as i64,
            tv_nsec: deadline.subsec_nanos().into(),
        };
        let mut pidfd = [PollFd::new(&self.0, PollFlags::IN)];
        let ready = poll(&mut pidfd, Some(&timeout)).doing("wait for the shim")?;
        Ok(ready > 0)
    }
}

/// Whether these are the arguments that `start` gives to the server of a container.
fn is_server(arguments: &[u8], namespace: &str, id: &str) -> bool {
    let words: Vec<&[u8]> = arguments.split(|byte| *byte == 0).collect();
    let has = |flag: &str, value: &str| {
        words
            .windows(2)
            .any(|pair| pair == [flag.as_bytes(), value.as_bytes()])
    };
    has("-namespace", namespace) && has("-id", id) && words.iter().any(|word| *word == b"-listener")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_server_is_recognised() {
        let line = b"/bin/shim\0-namespace\0ns\0-id\0x\0-listener\x005\0";
        assert!(is_server(line, "ns", "x"));
        assert!(!is_server(line, "ns", "y"));
        assert!(!is_server(b"sleep\x005\0", "ns", "x"));
    }

    #[test]
    fn a_killed_process_ends() {
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let process = Process::open(child.id()).unwrap();
        assert!(!process.ended(Duration::from_millis(1)).unwrap());
        process.kill().unwrap();
        assert!(process.ended(Duration::from_secs(5)).unwrap());
        child.wait().unwrap();
    }
}
