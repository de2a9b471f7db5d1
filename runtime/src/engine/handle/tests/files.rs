//! Pods without an owner: what an operation does to the files.

use std::time::{Duration, SystemTime};

use oci_spec::runtime::LinuxResources;

use super::*;
use crate::engine::records::exec::ExecSession;

/// A pod without an owner, with a container of each kind.
async fn lab() -> Lab {
    let lab = Lab::new(&["ended", "never"]).await;
    lab.put_ended("ended", 3);
    lab
}

fn precondition(names: &[&str]) -> Vec<(String, ErrorKind)> {
    let error = |name: &&str| ((*name).to_owned(), ErrorKind::FailedPrecondition);
    names.iter().map(error).collect()
}

#[tokio::test]
async fn what_needs_a_process_is_refused_by_name_and_passed_over_for_all() {
    let lab = lab().await;
    let pod = &lab.pod;
    let both = names(&["ended", "never"]);
    macro_rules! needs_a_process {
        ($($operation:literal $call:ident($($more:expr),*);)*) => {$(
            let all = pod.$call(&[] $(, $more)*).await.unwrap();
            assert_eq!(parts(all), (vec![], both.clone(), vec![]), $operation);
            let named = pod.$call(&both $(, $more)*).await.unwrap();
            match &named.errors["ended"] {
                Error::WrongState { operation, state, .. } => {
                    assert_eq!((*operation, &**state), ($operation, "exited"));
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(parts(named), (vec![], vec![], precondition(&["ended", "never"])));
            let missing = pod.$call(&names(&["none"]) $(, $more)*).await.unwrap_err();
            assert_eq!(missing.kind(), ErrorKind::NotFound);
        )*};
    }
    needs_a_process! {
        "pause" pause();
        "unpause" unpause();
        "kill" kill(9, false);
    }
    assert!(lab.journal().is_empty());
}

#[tokio::test]
async fn a_stop_keeps_policies_from_starting_a_container_again() {
    let lab = lab().await;
    let outcome = lab.pod.stop(&[], None).await.unwrap();
    assert_eq!(parts(outcome), (vec![], names(&["ended", "never"]), vec![]));
    assert!(lab.saved("ended").stopped_by_user);
    // It has not run, so it was not stopped.
    assert!(!lab.saved("never").stopped_by_user);
    let missing = lab.pod.stop(&names(&["none"]), None).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_wait_has_the_code_of_what_has_ended() {
    let lab = lab().await;
    assert_eq!(lab.pod.wait("ended").await.unwrap(), 3);
    match lab.pod.wait("never").await.unwrap_err() {
        Error::WrongState {
            what: "container",
            id,
            operation: "wait for",
            state,
        } => assert_eq!((&*id, &*state), ("never", "created")),
        other => panic!("{other:?}"),
    }
    let missing = lab.pod.wait("none").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn nothing_is_used_and_no_process_is_there() {
    let lab = lab().await;
    assert_eq!(lab.pod.usage().await.unwrap(), PodUsage::default());
    match lab.pod.processes("ended").await.unwrap_err() {
        Error::WrongState {
            what: "container",
            id,
            operation: "list the processes of",
            state,
        } => assert_eq!((&*id, &*state), ("ended", "exited")),
        other => panic!("{other:?}"),
    }
    let missing = lab.pod.processes("none").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    lab.pod.files_changed().await.unwrap();
}

/// A process of the pod's owner, which was killed.
fn session() -> ExecSession {
    ExecSession {
        created: SystemTime::UNIX_EPOCH,
        ..ExecSession::new(Default::default(), ContainerStatus::Running)
    }
}

#[tokio::test]
async fn a_sync_records_what_a_killed_owner_lost() {
    let lab = Lab::new(&["ended", "ran"]).await;
    lab.put_ended("ended", 3);
    lab.put("ran", |state| {
        state.status = ContainerStatus::Running;
        state.execs.insert("x".into(), session());
    });
    let outcome = lab.pod.sync(&[]).await.unwrap();
    assert_eq!(parts(outcome), (names(&["ran"]), names(&["ended"]), vec![]));
    let ran = lab.saved("ran");
    assert_eq!(
        (ran.status, ran.exit_code),
        (ContainerStatus::Exited, Some(137))
    );
    assert_eq!(
        lab.journal(),
        [
            "ran exec_died exec=x exit_code=137",
            "ran died exit_code=137"
        ]
    );
    let again = lab.pod.sync(&names(&["ran"])).await.unwrap();
    assert_eq!(parts(again), (vec![], names(&["ran"]), vec![]));
    let missing = lab.pod.sync(&names(&["none"])).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_cleanup_removes_the_bundle_of_what_is_not_in_use() {
    let lab = Lab::new(&["a", "mounted"]).await;
    lab.put("mounted", |state| state.mounts = 1);
    let bundle = |name: &str| lab.pod.paths().container(name).unwrap().bundle();
    for name in ["a", "mounted"] {
        fs::create_dir(bundle(name)).unwrap();
        fs::write(bundle(name).join("config.json"), "").unwrap();
    }
    let outcome = lab.pod.cleanup(&[]).await.unwrap();
    assert_eq!(
        parts(outcome),
        (names(&["a"]), vec![], precondition(&["mounted"]))
    );
    assert!(!bundle("a").exists() && bundle("mounted").exists());
    assert_eq!(lab.journal(), ["a cleanup"]);
    // There is nothing left of it, which is fine.
    let again = lab.pod.cleanup(&names(&["a"])).await.unwrap();
    assert_eq!(again.done, ["a"]);
    assert!(lab.pod.paths().container("a").unwrap().state().exists());
}

#[tokio::test]
async fn limits_are_kept_for_the_next_start() {
    let lab = lab().await;
    let limits = |json: serde_json::Value| serde_json::from_value::<LinuxResources>(json).unwrap();
    let first = limits(serde_json::json!({"cpu": {"quota": 1}, "pids": {"limit": 2}}));
    lab.pod.update("never", &first).await.unwrap();
    let second = limits(serde_json::json!({"pids": {"limit": 3}}));
    lab.pod.update("never", &second).await.unwrap();
    let saved = serde_json::to_value(lab.saved("never").limits).unwrap();
    assert_eq!(
        saved,
        serde_json::json!({"cpu": {"quota": 1}, "pids": {"limit": 3}})
    );
    assert_eq!(lab.saved("ended").limits, None);
    assert_eq!(lab.journal(), ["never update"; 2]);
    let missing = lab.pod.update("none", &second).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_container_needs_a_pod_that_stays_and_what_it_depends_on() {
    let lab = lab().await;
    let mut definition = lab.definition("new");
    definition.depends_on = names(&["ended", "none"]).into_iter().collect();
    let missing = lab.pod.create_container(&definition).await.unwrap_err();
    let Error::Dependency(crate::error::DependencyError::Missing { container, on }) = missing
    else {
        panic!("{missing:?}");
    };
    assert_eq!((&*container, &*on), ("new", "none"));
    assert!(!lab.pod.view().unwrap().containers.contains_key("new"));

    let held = PodLock::exclusive(lab.pod.paths()).unwrap();
    let mut state = lab.pod.view().unwrap().state;
    state.removing = true;
    records::write_pod(lab.pod.paths(), &state, &held).unwrap();
    drop(held);
    let refused = lab.pod.create_container(&lab.definition("new")).await;
    match refused.unwrap_err() {
        Error::WrongState {
            what: "pod",
            id,
            operation: "create a container in",
            state,
        } => assert_eq!((&*id, &*state), ("web", records::record::REMOVING)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn mounts_of_a_directory_are_counted_and_not_mounted() {
    let lab = lab().await;
    for mounts in [1, 2] {
        let path = lab.pod.mount("never").await.unwrap();
        assert_eq!(path, lab.root.path());
        assert_eq!(lab.saved("never").mounts, mounts);
    }
    let leased = lab.pod.lease_rootfs("never").await.unwrap();
    assert_eq!(lab.saved("never").mounts, 2);
    lab.pod.release_rootfs(leased).await.unwrap();
    lab.pod.unmount("never", false).await.unwrap();
    assert_eq!(lab.saved("never").mounts, 1);
    lab.pod.unmount("never", false).await.unwrap();
    assert_eq!(lab.saved("never").mounts, 0);
    for force in [false, true] {
        match lab.pod.unmount("never", force).await.unwrap_err() {
            Error::WrongState {
                operation, state, ..
            } => {
                assert_eq!((operation, &*state), ("unmount", "not mounted"));
            }
            other => panic!("{other:?}"),
        }
    }
    for _ in 0..2 {
        lab.pod.mount("never").await.unwrap();
    }
    lab.pod.unmount("never", true).await.unwrap();
    assert_eq!(lab.saved("never").mounts, 0);
    assert_eq!(
        lab.pod.mount("none").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let missing = lab.pod.unmount("none", true).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_waited_for_and_returned() {
    let lab = lab().await;
    let long = Duration::from_secs(3600);
    let ended = [ContainerStatus::Running, ContainerStatus::Exited];
    let state = lab.pod.wait_for("ended", &ended, long).await.unwrap();
    assert_eq!(state, lab.saved("ended"));
    let missing = lab.pod.wait_for("none", &ended, long).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);

    let pod = lab.pod.clone();
    let waiting = tokio::spawn(async move { pod.wait_for("never", &ended, long).await });
    // Written again and again: the waiter may begin after any of them.
    while !waiting.is_finished() {
        lab.put_ended("never", 4);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(waiting.await.unwrap().unwrap().exit_code, Some(4));

    let pod = lab.pod.clone();
    let running = [ContainerStatus::Running];
    let waiting = tokio::spawn(async move { pod.wait_for("never", &running, long).await });
    let held = PodLock::exclusive(lab.pod.paths()).unwrap();
    records::remove::container(lab.pod.paths(), "never", &held).unwrap();
    drop(held);
    let gone = waiting.await.unwrap().unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

/// What a killed owner leaves is seen without a change of the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_nothing_writes_is_found_after_the_interval() {
    let lab = Lab::new(&["a"]).await;
    lab.put("a", |state| state.status = ContainerStatus::Running);
    let owner = lab.owned().await;
    let pod = lab.pod.clone();
    let short = Duration::from_millis(20);
    let ended = [ContainerStatus::Exited];
    let waiting = tokio::spawn(async move { pod.wait_for("a", &ended, short).await });
    owner.leave();
    let state = waiting.await.unwrap().unwrap();
    assert_eq!(state.exit_code, Some(137));
}
