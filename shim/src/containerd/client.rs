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

    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use containerd_shim_protos::api::{Empty, StateResponse, WaitResponse};
    use containerd_shim_protos::shim_async::{Task, create_task};
    use ttrpc::Code;
    use ttrpc::r#async::{Server, TtrpcContext};

    /// A shim that has the containers `there` and `broken`, and whose calls are recorded.
    #[derive(Default)]
    struct Played(Mutex<Vec<String>>);

    impl Played {
        fn answer<T: Default>(&self, call: &str, id: &str) -> ttrpc::Result<T> {
            self.0.lock().unwrap().push(format!("{call} {id}"));
            let refused = |code| Err(ttrpc::error::get_rpc_status(code, "refused"));
            match id {
                "there" => Ok(T::default()),
                "broken" => refused(Code::INTERNAL),
                _ => refused(Code::NOT_FOUND),
            }
        }
    }

    #[async_trait]
    impl Task for Played {
        async fn state(&self, _: &TtrpcContext, r: StateRequest) -> ttrpc::Result<StateResponse> {
            self.answer("state", &r.id)
        }
        async fn kill(&self, _: &TtrpcContext, r: KillRequest) -> ttrpc::Result<Empty> {
            self.answer(&format!("kill {} {}", r.signal, r.all), &r.id)
        }
        async fn wait(&self, _: &TtrpcContext, r: WaitRequest) -> ttrpc::Result<WaitResponse> {
            self.answer("wait", &r.id)
        }
        async fn delete(
            &self,
            _: &TtrpcContext,
            r: DeleteRequest,
        ) -> ttrpc::Result<DeleteResponse> {
            self.answer::<DeleteResponse>("delete", &r.id)?;
            Ok(DeleteResponse {
                exit_status: 7,
                ..DeleteResponse::default()
            })
        }
        async fn shutdown(&self, _: &TtrpcContext, r: ShutdownRequest) -> ttrpc::Result<Empty> {
            self.answer("shutdown", &r.id)
        }
    }

    #[tokio::test]
    async fn a_shim_is_asked_for_one_container_and_its_errors_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::parse(dir.path().join("s").to_str().unwrap());
        assert!(Shim::connect(&address).await.is_none());
        let played = Arc::new(Played::default());
        let mut server = Server::new()
            .bind(&address.to_string())
            .unwrap()
            .register_service(create_task(played.clone()));
        server.start().await.unwrap();
        let shim = Shim::connect(&address).await.unwrap();
        let soon = Duration::from_secs(20);

        assert!(shim.has("there", soon).await.unwrap());
        assert!(!shim.has("gone", soon).await.unwrap());
        let broken = shim.has("broken", soon).await.unwrap_err();
        assert!(matches!(broken, Error::Call { call: "State", .. }));
        let removed = shim.remove("there", soon).await.unwrap().unwrap();
        assert_eq!(removed.exit_status, 7);
        assert!(shim.remove("gone", soon).await.unwrap().is_none());
        let broken = shim.remove("broken", soon).await.unwrap_err();
        assert!(matches!(broken, Error::Call { call: "Kill", .. }));
        shim.shutdown("there", soon).await.unwrap();
        let broken = shim.shutdown("broken", soon).await.unwrap_err();
        assert!(matches!(
            broken,
            Error::Call {
                call: "Shutdown",
                ..
            }
        ));

        let calls = played.0.lock().unwrap().clone();
        let of = |id: &str| ["kill 9 true", "wait", "delete"].map(|call| format!("{call} {id}"));
        let expected = ["state there", "state gone", "state broken"].map(String::from);
        let expected = expected.into_iter().chain(of("there")).chain(of("gone"));
        let rest = ["kill 9 true broken", "shutdown there", "shutdown broken"];
        let expected: Vec<String> = expected.chain(rest.map(String::from)).collect();
        assert_eq!(calls, expected);
        server.shutdown().await.unwrap();
    }

    #[test]
    fn only_the_recorded_server_is_opened() {
        let bundle = tempfile::tempdir().unwrap();
        let of = |id: &str| Process::of_bundle(bundle.path(), "ns", id).is_some();
        assert!(!of("x"), "nothing is recorded");
        // A program with the arguments of a server.
        let mut child = std::process::Command::new("/bin/sh")
            .args([
                "-c",
                "read line; exit 0",
                "-namespace",
                "ns",
                "-id",
                "x",
                "-listener",
                "5",
            ])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let record = |pid: &str| {
            let name = crate::containerd::bundle::SHIM_PID;
            crate::containerd::bundle::write(bundle.path(), name, pid).unwrap();
        };
        // A program has its arguments shortly after it has started.
        while std::fs::read(format!("/proc/{}/cmdline", child.id()))
            .unwrap()
            .is_empty()
        {
            std::thread::yield_now();
        }
        record(&format!("{}\n", child.id()));
        assert!(of("x") && !of("y"));
        for other in ["1", "0", "-1", "x"] {
            record(other);
            assert!(!of("x"), "{other}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Process::open(0).is_none() && Process::open(u32::MAX).is_none());
    }

    #[test]
    fn a_server_has_all_three_arguments() {
        for (line, is) in [
            (&b"-namespace\0ns\0-id\0x\0-listener\x005"[..], true),
            (b"-namespace\0ns\0-id\0x", false),
            (b"-namespace\0other\0-id\0x\0-listener\x005", false),
            (b"-namespace\0ns\0-id\0other\0-listener\x005", false),
        ] {
            assert_eq!(is_server(line, "ns", "x"), is, "{line:?}");
        }
    }
}
