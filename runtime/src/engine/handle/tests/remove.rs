//! Removing containers and pods, with and without an owner.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};
use std::time::Duration;

use ttrpc::Code;

use super::*;
use crate::engine::handle::remove::{RemoveOptions, is_well};
use crate::engine::records::paths::DataPaths;
use crate::engine::wire::errors::to_results;
use crate::state_dir::lock::{Guarded, OwnerLock, OwnerProcess};

/// Enough for any answer.
const WAITED: Duration = Duration::from_secs(60);

/// Removes a pod, or by force also its containers.
async fn remove(pod: &PodHandle, force: bool, seconds: Option<u32>) -> Result<Outcome> {
    let how = RemoveOptions {
        containers: force,
        force,
        seconds,
    };
    pod.remove(how).await
}

impl Lab {
    fn is_gone(&self) -> bool {
        let pods = records::pod_paths(&self.engine.config().data_root, None);
        pods.unwrap().is_empty()
    }
}

#[tokio::test]
async fn containers_are_removed_after_those_that_depend_on_them() {
    let lab = Lab::new(&["db", "web<db", "zoo"]).await;
    let remove = async |wanted: &[&str], force| {
        let wanted = names(wanted);
        lab.pod.remove_containers(&wanted, force, None).await
    };
    for force in [false, true] {
        let outcome = remove(&["db", "zoo"], force).await.unwrap();
        let Error::WrongState {
            id,
            operation,
            state,
            ..
        } = &outcome.errors["db"]
        else {
            panic!("{outcome:?}");
        };
        assert_eq!(
            (&**id, *operation, &**state),
            ("db", "remove", "needed by web")
        );
        assert_eq!(outcome.done, ["zoo"]);
        lab.pod
            .create_container(&lab.definition("zoo"))
            .await
            .unwrap();
    }
    let both = remove(&["db", "web"], false).await.unwrap();
    assert_eq!(parts(both), (names(&["web", "db"]), vec![], vec![]));
    let view = lab.pod.view().unwrap();
    assert_eq!(view.chosen(&[]).unwrap(), ["zoo"]);
    assert!(!lab.pod.paths().container("db").unwrap().path().exists());
    assert_eq!(lab.journal()[2..], ["web remove", "db remove"]);
    assert_eq!(
        remove(&["db"], true).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn a_container_that_cannot_be_read_is_removed_by_force() {
    let lab = Lab::new(&["a", "bad"]).await;
    fs::write(lab.pod.paths().container("bad").unwrap().state(), "").unwrap();
    let bad = names(&["bad"]);
    let refused = lab.pod.remove_containers(&bad, false, None).await.unwrap();
    assert!(matches!(refused.errors["bad"], Error::BadFile { .. }));
    let removed = lab.pod.remove_containers(&bad, true, None).await.unwrap();
    assert_eq!(removed.done, ["bad"]);
    assert_eq!(lab.journal(), ["bad remove"]);
}

#[tokio::test]
async fn a_pod_with_containers_is_removed_by_force() {
    let lab = Lab::new(&["a", "b"]).await;
    let refused = remove(&lab.pod, false, None).await.unwrap_err();
    let Error::WrongState {
        what: "pod",
        id,
        operation: "remove",
        state,
    } = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(id, "web");
    assert!(state.contains("2 container(s)"), "{state}");
    assert!(!lab.is_gone());
    let _ = remove(&lab.pod, true, None).await.unwrap();
    assert!(lab.is_gone());
    assert_eq!(lab.journal(), ["a remove", "b remove", "web remove"]);
    for force in [false, true] {
        let again = remove(&lab.pod, force, None).await.unwrap_err();
        assert!(
            matches!(again, Error::NotFound { what: "pod", .. }),
            "{again:?}"
        );
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_pod_and_of_its_killed_owner() {
    let lab = Lab::new(&[]).await;
    let address = lab.engine.owner_address(lab.pod.paths());
    fs::create_dir_all(address.parent().unwrap()).unwrap();
    let sockets = [crate::engine::wire::attach::address_of(&address), address];
    for socket in &sockets {
        drop(std::os::unix::net::UnixListener::bind(socket).unwrap());
    }
    // The VM's directory, without an owner.
    let config = lab.engine.config();
    let run = crate::state_dir::paths::RunPaths::new(&config.root, "local", "web").unwrap();
    fs::create_dir_all(run.path()).unwrap();
    crate::state_dir::lock::create(&run).unwrap();
    let _ = remove(&lab.pod, false, None).await.unwrap();
    assert!(lab.is_gone() && !run.path().exists());
    assert!(!sockets.iter().any(|socket| socket.exists()));
    let left = fs::read_dir(&config.data_root).unwrap();
    let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["events", "pods"]);
}

#[tokio::test]
async fn a_pod_that_was_made_for_a_container_goes_with_it() {
    for single in [false, true] {
        let lab = Lab::new(&[]).await;
        let mut definition = PodDefinition::new("local", "own");
        definition.single = single;
        let pod = lab.engine.create_pod(definition).unwrap();
        pod.create_container(&lab.definition("c")).await.unwrap();
        pod.remove_if_spent().await.unwrap();
        assert!(pod.view().is_ok(), "it has a container");
        pod.remove_with_own("c").await.unwrap();
        assert_eq!(pod.view().is_err(), single);
        pod.remove_if_spent().await.unwrap();
        let again = pod.remove_with_own("c").await;
        again.expect("another process may have removed it first");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_is_asked_to_end_before_its_pod_is_removed() {
    for (force, expected) in [
        (false, vec!["shutdown if_empty: true"]),
        (true, vec!["status", "shutdown timeout: 3"]),
    ] {
        let lab = Lab::new(&[]).await;
        let owner = lab.owned().await;
        owner.leave_at("shutdown");
        let _ = remove(&lab.pod, force, Some(3)).await.unwrap();
        assert_eq!(owner.heard(), expected);
        assert!(lab.is_gone());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_error_of_an_owner_is_told() {
    let lab = Lab::new(&[]).await;
    let owner = lab.owned().await;
    owner.refuse("shutdown", Code::FAILED_PRECONDITION);
    let refused = remove(&lab.pod, false, None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    assert!(!lab.is_gone());
    owner.heard();

    // A container that did not stop, of a pod that is removed all the same.
    let late = Outcome {
        errors: [("a".to_owned(), Error::not_found("container", "a"))].into(),
        ..Outcome::default()
    };
    owner.answer("shutdown", &to_results(late));
    let (removed, ()) = tokio::join!(remove(&lab.pod, true, None), async {
        while owner
            .heard()
            .iter()
            .all(|call| !call.starts_with("shutdown"))
        {
            tokio::task::yield_now().await;
        }
        owner.leave();
    });
    assert_eq!(removed.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(lab.is_gone());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_cannot_stop_is_removed_by_force_with_its_error() {
    let lab = Lab::new(&[]).await;
    let owner = lab.owned().await;
    owner.refuse("shutdown", Code::INTERNAL);
    let (removed, ()) = tokio::join!(remove(&lab.pod, true, None), async {
        while owner
            .heard()
            .iter()
            .all(|call| !call.starts_with("shutdown"))
        {
            tokio::task::yield_now().await;
        }
        owner.leave();
    });
    assert_eq!(removed.unwrap_err().kind(), ErrorKind::Internal);
    assert!(lab.is_gone());

    // One that is killed meanwhile is not an error: its pod goes.
    let lab = Lab::new(&[]).await;
    lab.owned().await.die_at("shutdown");
    let _ = remove(&lab.pod, false, None).await.unwrap();
    assert!(lab.is_gone());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_is_well_if_it_answers_in_time() {
    let lab = Lab::new(&[]).await;
    let owner = lab.owned().await;
    let client = lab.pod.owner().await.unwrap().unwrap();
    assert!(is_well(&client, WAITED).await);
    owner.ignore("status");
    assert!(!is_well(&client, Duration::from_millis(20)).await);
    // It is ending: it need not be killed.
    owner.refuse("status", Code::ABORTED);
    assert!(is_well(&client, WAITED).await);
}

/// A process that owns a pod and does not answer; killed on drop.
struct Mute(Child);

impl Mute {
    /// Takes the pod's owner lock by a process that only sleeps. `listener` becomes its socket.
    fn of(paths: &DataPaths, listener: &UnixListener) -> Self {
        let mut command = Command::new("flock");
        command
            .args(["--no-fork", "--exclusive"])
            .arg(paths.owner())
            .args(["sleep", "1000"]);
        let socket = listener.as_raw_fd();
        // SAFETY: listen(2) is async-signal-safe, and the descriptor is open.
        unsafe {
            command.pre_exec(move || {
                // From now on the socket is this process's (unix(7), SO_PEERCRED).
                nix::errno::Errno::result(libc::listen(socket, 8)).map(drop)?;
                Ok(())
            });
        }
        let owner = Self(command.spawn().unwrap());
        while OwnerLock::holder(paths).unwrap().is_none() {
            std::thread::yield_now();
        }
        owner
    }

    /// What it should have written of itself.
    fn process(&self) -> Vec<u8> {
        let pid = self.0.id();
        let process = OwnerProcess {
            pid,
            start_time: hypervisor::start_time(pid).unwrap(),
            address: String::new(),
        };
        serde_json::to_vec(&process).unwrap()
    }

    fn is_killed(&mut self) -> bool {
        self.0.wait().unwrap().signal() == Some(libc::SIGKILL)
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_is_killed_by_its_record_or_by_its_socket() {
    let lab = Lab::new(&[]).await;
    let paths = lab.pod.paths();
    assert!(!lab.pod.kill_owner().unwrap(), "there is none");
    let address = lab.engine.owner_address(paths);
    fs::create_dir_all(address.parent().unwrap()).unwrap();
    for is_recorded in [true, false] {
        fs::write(paths.owner(), "").unwrap();
        let listener = UnixListener::bind(&address).unwrap();
        let mut owner = Mute::of(paths, &listener);
        if is_recorded {
            fs::write(paths.owner(), owner.process()).unwrap();
            fs::remove_file(&address).unwrap();
        }
        let pod = lab.pod.clone();
        // It has ended only when its parent, this process, knows.
        let killing = tokio::task::spawn_blocking(move || pod.kill_owner());
        assert!(owner.is_killed());
        assert!(killing.await.unwrap().unwrap());
        assert!(!lab.pod.kill_owner().unwrap());
        let _ = fs::remove_file(&address);
    }
    // Without a record and a socket it is not known yet: it may be starting.
    fs::write(paths.owner(), "").unwrap();
    let listener = UnixListener::bind(&address).unwrap();
    let _owner = Mute::of(paths, &listener);
    fs::remove_file(&address).unwrap();
    let refused = lab.pod.kill_owner().unwrap_err();
    assert!(
        matches!(&refused, Error::WrongState { state, .. } if state == "being created"),
        "{refused:?}"
    );
}
