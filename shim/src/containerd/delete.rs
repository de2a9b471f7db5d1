//! `delete`: removes all that is left of a container, in any state of its shim, and prints how
//! the container ended.
//!
//! | shim | container of a pod | sandbox, or lone container |
//! |---|---|---|
//! | lives, container gone | nothing to do | Shutdown (ignored while others remain) |
//! | lives, container there | kill and remove it | kill and remove it, then Shutdown |
//! | does not answer | left to the sandbox's `delete` | kill the shim, reap the pod |
//! | dead | reap the pod | reap the pod |
//!
//! containerd allows 5 s. It calls this after every removal, and for all containers of a pod at
//! once when their shim has died.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::DeleteResponse;
use protobuf::Message;
use runtime::{Config, Exit, PodLocation, Runtime};
use tokio::time::timeout;

use crate::containerd::address::Address;
use crate::containerd::bundle as files;
use crate::containerd::client::{Process, Shim};
use crate::containerd::flags::Flags;
use crate::containerd::group::Group;
use crate::containerd::proto::timestamp;
use crate::error::{Context, Error, Result};
use crate::logger;

/// The time for the whole action.
const DEADLINE: Duration = Duration::from_millis(4300);

/// How long a living shim may take to say whether it has the container.
const ANSWER: Duration = Duration::from_millis(1500);

/// How long it may take to remove the container: each call, and all together.
const REMOVE: Duration = Duration::from_millis(1300);

/// How long it may take to end.
const LEAVE: Duration = Duration::from_millis(1000);

/// Runs the action.
pub fn run(flags: &Flags) -> Result<()> {
    for (flag, value) in [("namespace", &flags.namespace), ("id", &flags.id)] {
        if value.is_empty() {
            let action = "delete";
            return Err(Error::MissingFlag { action, flag });
        }
    }
    let bundle = if flags.bundle.is_empty() {
        std::env::current_dir().doing("find the working directory")?
    } else {
        PathBuf::from(&flags.bundle)
    };
    logger::to_fifo(&bundle, &flags.namespace, &flags.id, flags.debug);
    let deletion = Deletion::new(flags, bundle)?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing("start the runtime's thread")?;
    let response = tokio.block_on(async {
        let late = |_| Error::Deadline {
            what: "removing the container",
            seconds: DEADLINE.as_secs_f32(),
        };
        timeout(DEADLINE, deletion.run()).await.map_err(late)?
    });
    tokio.shutdown_background();
    let bytes = response?.write_to_bytes().map_err(Error::Answer)?;
    std::io::stdout()
        .write_all(&bytes)
        .doing("print the answer")
}

/// The removal of one container.
struct Deletion {
    runtime: Runtime,
    namespace: String,
    id: String,
    bundle: PathBuf,
    /// Whether the container is a member of a pod, whose VM it must not end.
    member: bool,
    /// The address of its pod's shim.
    address: Address,
}

impl Deletion {
    fn new(flags: &Flags, bundle: PathBuf) -> Result<Self> {
        // Cleaning up must work with a broken configuration, too.
        let config = files::recorded_config_path(&bundle);
        let config = Config::load(config.as_deref()).unwrap_or_else(|error| {
            log::warn!("The defaults are used: {error}");
            Config::default()
        });
        // A bundle that cannot be read is of a task that was never created: it counts as alone.
        let group = runtime::load_annotations(&bundle)
            .ok()
            .and_then(|annotations| Group::of(&annotations).ok())
            .unwrap_or(Group::Alone);
        Ok(Self {
            runtime: Runtime::new(config)?,
            namespace: flags.namespace.clone(),
            id: flags.id.clone(),
            member: matches!(group, Group::Member(_)),
            address: files::address(
                &bundle,
                &flags.address,
                &flags.namespace,
                group.pod(&flags.id),
            ),
            bundle,
        })
    }

    async fn run(&self) -> Result<DeleteResponse> {
        // First the socket of a shim that has died: the rest may fail, or take too long.
        self.free_address();
        let response = self.remove().await?;
        runtime::unmount_below(&self.bundle.join("rootfs"))?;
        self.free_address();
        Ok(response)
    }

    fn free_address(&self) {
        if !self.member {
            self.address.remove_if_dead();
        }
    }

    async fn remove(&self) -> Result<DeleteResponse> {
        let Some(found) = self.find()? else {
            self.dismiss_shim().await?;
            return Ok(response(files::recorded_pid(&self.bundle), None));
        };
        let known = |exit: Option<Exit>| response(found.pid, exit.or(found.exit));
        let Some(owner) = &found.owner else {
            let exits = self.reap(&found, false).await?;
            return Ok(known(exits.get(&self.id).copied()));
        };
        match self.ask(&Address::parse(&owner.address)).await {
            Ok(answer) => Ok(answer.unwrap_or_else(|| known(None))),
            Err(problem) if self.member && !found.sandbox => {
                log::warn!("The pod's shim does not remove the container: {problem}");
                Ok(known(None))
            }
            Err(problem) => {
                // A shim without a socket may be ending and cleaning up itself.
                if matches!(problem, Error::NoAnswer(_))
                    && let Some(process) = Process::open(owner.pid)
                {
                    process.ended(LEAVE)?;
                }
                log::warn!("The shim did not remove the container: {problem}");
                let exits = self.reap(&found, true).await?;
                Ok(known(exits.get(&self.id).copied()))
            }
        }
    }

    /// Finds the pod that has this container, or that is still being created for it.
    fn find(&self) -> Result<Option<PodLocation>> {
        let found = self.runtime.find_container(&self.namespace, &self.id)?;
        Ok(match found {
            None if !self.member => self.runtime.find_pod(&self.namespace, &self.id)?,
            found => found,
        })
    }

    async fn reap(
        &self,
        found: &PodLocation,
        force: bool,
    ) -> Result<std::collections::HashMap<String, Exit>> {
        let reaped = self.runtime.reap(&self.namespace, &found.pod, force).await;
        Ok(reaped?)
    }

    /// Asks a living shim to remove the container, and to end if it was the last one.
    ///
    /// # Errors
    /// The shim does not do its work.
    async fn ask(&self, address: &Address) -> Result<Option<DeleteResponse>> {
        let late = |what, limit: Duration| Error::Deadline {
            what,
            seconds: limit.as_secs_f32(),
        };
        let asked = async {
            let shim = Shim::connect(address)
                .await
                .ok_or_else(|| Error::NoAnswer(address.clone()))?;
            let has = shim.has(&self.id, ANSWER).await?;
            Ok::<_, Error>((shim, has))
        };
        let (shim, has) = timeout(ANSWER, asked)
            .await
            .map_err(|_| late("the shim's answer to State", ANSWER))??;
        let mut removed = None;
        if has {
            removed = timeout(REMOVE, shim.remove(&self.id, REMOVE))
                .await
                .map_err(|_| late("removing the container by its shim", REMOVE))??;
        }
        if !self.member {
            shim.shutdown(&self.id, LEAVE).await?;
        }
        Ok(removed)
    }

    /// Ends a shim that may still wait for its first Create, if no pod was ever recorded.
    async fn dismiss_shim(&self) -> Result<()> {
        if self.member {
            return Ok(());
        }
        let process = Process::of_bundle(&self.bundle, &self.namespace, &self.id);
        let asked = self.ask(&self.address).await;
        let Some(process) = process else {
            return Ok(());
        };
        if let Err(problem) = asked
            && self.address.is_live()
        {
            log::warn!("The shim does not leave, so it is killed: {problem}");
            process.kill()?;
        }
        process.ended(LEAVE)?;
        Ok(())
    }
}

/// Builds the answer to containerd. An unknown exit code is never 0.
fn response(pid: u32, exit: Option<Exit>) -> DeleteResponse {
    let exit = exit.unwrap_or(Exit {
        status: Exit::KILLED,
        at: SystemTime::now(),
    });
    DeleteResponse {
        pid,
        exit_status: exit.status,
        exited_at: timestamp(exit.at),
        ..DeleteResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_exit_is_137() {
        let unknown = response(0, None);
        assert_eq!(unknown.exit_status, 137);
        assert!(unknown.exited_at.seconds > 0);
        let exit = Exit {
            status: 3,
            at: SystemTime::UNIX_EPOCH,
        };
        assert_eq!(response(9, Some(exit)).exit_status, 3);
    }

    /// A removal that fails, or takes too long, leaves no socket of a dead shim.
    #[tokio::test]
    async fn the_socket_of_a_dead_shim_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let root = dir.path().join("root");
        let config = Config {
            root: root.clone(),
            ..Config::default()
        };
        let mut deletion = Deletion {
            runtime: Runtime::new(config).unwrap(),
            namespace: "n".into(),
            id: "c".into(),
            bundle: dir.path().to_owned(),
            member: true,
            address: Address::parse(&format!("unix://{}", socket.display())),
        };
        // It is no directory, so that no pod can be looked for.
        std::fs::write(root.join("n"), "").unwrap();

        deletion.run().await.unwrap_err();
        assert!(socket.exists(), "the other containers of its pod need it");
        deletion.member = false;
        deletion.run().await.unwrap_err();
        assert!(!socket.exists());
    }

    use crate::containerd::options::Given;

    /// The bundle of a container, with a configuration whose pods are in the same directory.
    fn bundle(annotations: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let config = format!("root = \"{path}/run\"\ndata_root = \"{path}/data\"\n");
        files::record_config(dir.path(), Given::Body(config.into())).unwrap();
        let spec = format!(r#"{{"ociVersion":"1.0.2","annotations":{{{annotations}}}}}"#);
        std::fs::write(dir.path().join("config.json"), spec).unwrap();
        let address = dir.path().join("s");
        files::write(dir.path(), files::ADDRESS, address.to_str().unwrap()).unwrap();
        dir
    }

    fn deletion(bundle: &tempfile::TempDir) -> Deletion {
        let flags = Flags {
            namespace: "ns".into(),
            id: "c".into(),
            ..Flags::default()
        };
        Deletion::new(&flags, bundle.path().to_owned()).unwrap()
    }

    const MEMBER: &str =
        r#""io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"p""#;

    #[tokio::test]
    async fn a_container_that_was_never_created_is_gone() {
        for (annotations, member) in [("", false), (MEMBER, true)] {
            let bundle = bundle(annotations);
            files::record_pid(bundle.path(), 77);
            let deletion = deletion(&bundle);
            assert_eq!(deletion.member, member);
            assert!(deletion.find().unwrap().is_none());
            // The socket of a shim that has died.
            let socket = bundle.path().join("s");
            drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
            let answer = deletion.run().await.unwrap();
            assert_eq!((answer.pid, answer.exit_status), (77, 137));
            // That of a pod is left to its sandbox.
            assert_eq!(socket.exists(), member);
        }
    }

    #[tokio::test]
    async fn a_shim_that_waits_for_its_first_create_is_ended() {
        let dir = bundle("");
        let server = std::process::Command::new("/bin/sh")
            .args([
                "-c",
                "read line; exit 0",
                "-namespace",
                "ns",
                "-id",
                "c",
                "-listener",
                "5",
            ])
            .stdin(std::process::Stdio::piped())
            .spawn();
        let mut server = server.unwrap();
        let pid = server.id().to_string();
        // A program has its arguments shortly after it has started.
        while std::fs::read(format!("/proc/{pid}/cmdline"))
            .unwrap()
            .is_empty()
        {
            std::thread::yield_now();
        }
        files::write(dir.path(), files::SHIM_PID, pid).unwrap();
        // It listens, and does not answer.
        let _listener = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        deletion(&dir).dismiss_shim().await.unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(server.wait().unwrap().signal(), Some(libc::SIGKILL));
        // The shim of a pod is not a member's to end.
        let dir = bundle(MEMBER);
        deletion(&dir).dismiss_shim().await.unwrap();
    }

    #[tokio::test]
    async fn a_shim_that_does_not_answer_is_told_by_its_address() {
        let dir = bundle("");
        let nobody = deletion(&dir).ask(&Address::parse("/no/such")).await;
        assert!(
            matches!(nobody, Err(Error::NoAnswer(address)) if address == Address::parse("/no/such"))
        );
    }

    #[test]
    fn the_flags_that_name_the_container_are_needed() {
        let given = |namespace: &str, id: &str| Flags {
            namespace: namespace.into(),
            id: id.into(),
            ..Flags::default()
        };
        for (flags, missing) in [(given("", "c"), "namespace"), (given("ns", ""), "id")] {
            let refused = run(&flags).unwrap_err();
            assert!(matches!(
                refused,
                Error::MissingFlag { action: "delete", flag } if flag == missing
            ));
            let refused = crate::containerd::start::run(flags).unwrap_err();
            assert!(matches!(
                refused,
                Error::MissingFlag { action: "start", flag } if flag == missing
            ));
        }
    }
}
