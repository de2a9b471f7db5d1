//! Operations on containers, by their names or on all of a pod.

use test_support::require;
use ttrpc::Code;

use super::*;
use crate::engine::records;
use crate::state_dir::lock::PodLock;

fn signal(container: &str, signal: u32) -> String {
    format!("signal_process container_id: \"{container}\" signal: {signal}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_claimed_once_and_not_while_it_is_removed() {
    let lab = require!(Lab::new(&["a"]).await);
    let engine = Engine::below(lab.bed.root.path());
    let claim = |paths| Owner::claim(&engine, paths, Path::new("/x"), || Ok::<_, Error>(()));
    let taken = claim(lab.owner.paths()).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    let held = crate::state_dir::lock::OwnerLock::holder(lab.owner.paths()).unwrap();
    let holder = held.unwrap();
    assert_eq!(
        (holder.pid, &*holder.address),
        (std::process::id(), "/nowhere")
    );

    let other = engine
        .create_pod(PodDefinition::new("local", "other"))
        .unwrap();
    let state = PodState {
        removing: true,
        ..PodState::default()
    };
    let held = PodLock::exclusive(other.paths()).unwrap();
    records::write_pod(other.paths(), &state, &held).unwrap();
    drop(held);
    let removing = claim(other.paths()).unwrap_err();
    assert_eq!(removing.kind(), ErrorKind::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_start_after_those_that_they_depend_on() {
    let lab = require!(Lab::new(&["db", "web<db", "zoo"]).await);
    // Alone it has nothing to work with.
    let outcome = lab.owner.start(&names(&["web"]), false).await.unwrap();
    assert_eq!(parts(outcome), (vec![], vec![], wrong("web")));
    assert!(lab.guest.heard().is_empty());
    let missing = lab.owner.start(&names(&["none"]), false).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);

    let outcome = lab.owner.start(&names(&["web"]), true).await.unwrap();
    assert_eq!(parts(outcome), (names(&["db", "web"]), vec![], vec![]));
    let started = |name: &str| {
        [
            format!("create_container {name}"),
            format!("start_container container_id: \"{name}\""),
        ]
    };
    assert_eq!(lab.guest.heard(), [started("db"), started("web")].concat());
    for name in ["db", "web"] {
        let state = lab.now(name);
        assert_eq!(state.status, ContainerStatus::Running);
        assert!(state.pid != 0 && state.started.is_some() && state.exit_code.is_none());
        lab.is_saved(name);
    }
    assert_eq!(lab.status("zoo"), ContainerStatus::Configured);
    assert_eq!(
        lab.journal(),
        ["db init", "db start", "web init", "web start"]
    );

    let outcome = lab.owner.start(&[], false).await.unwrap();
    assert_eq!(
        parts(outcome),
        (names(&["zoo"]), names(&["db", "web"]), vec![])
    );
    let view = PodView::read(lab.owner.paths()).unwrap();
    assert!(view.state.started && view.infra_runs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_built_once_and_then_started() {
    let lab = require!(Lab::new(&["a", "b"]).await);
    let outcome = lab.owner.init(&names(&["a"])).await.unwrap();
    assert_eq!(parts(outcome), (names(&["a"]), vec![], vec![]));
    assert_eq!(lab.status("a"), ContainerStatus::Initialized);
    lab.is_saved("a");
    let outcome = lab.owner.init(&names(&["a"])).await.unwrap();
    assert_eq!(parts(outcome), (vec![], vec![], wrong("a")));
    let outcome = lab.owner.init(&[]).await.unwrap();
    assert_eq!(parts(outcome), (names(&["b"]), names(&["a"]), vec![]));
    lab.guest.heard();
    lab.owner.start(&names(&["a"]), false).await.unwrap();
    assert_eq!(lab.guest.heard(), ["start_container container_id: \"a\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_the_guest_refuses_is_as_before_with_the_reason() {
    let lab = require!(Lab::new(&["a"]).await);
    for (call, refusal) in [
        ("create_container", Refusal::Error(Code::INVALID_ARGUMENT)),
        ("start_container", Refusal::Command(127)),
    ] {
        lab.guest.refuse(call, refusal);
        let outcome = lab.owner.start(&[], false).await.unwrap();
        let (done, _, errors) = parts(outcome);
        assert!(done.is_empty());
        assert_eq!(
            errors,
            [("a".to_owned(), ErrorKind::InvalidArgument)],
            "{call}"
        );
        lab.guest.accept(call);
        lab.until(call, |lab| lab.now("a").pid == 0).await;
        assert!(!lab.status("a").is_live(), "{call}");
        lab.is_saved("a");
    }
    lab.start().await;
    assert_eq!(lab.now("a").problem, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_and_signals_go_to_those_that_they_fit() {
    let lab = require!(Lab::started(&["a", "b"]).await);
    let before = lab.journal().len();
    let outcome = lab.owner.pause(&names(&["a"])).await.unwrap();
    assert_eq!(parts(outcome), (names(&["a"]), vec![], vec![]));
    assert_eq!(lab.status("a"), ContainerStatus::Paused);
    lab.is_saved("a");
    let outcome = lab.owner.pause(&names(&["a"])).await.unwrap();
    assert_eq!(parts(outcome), (vec![], vec![], wrong("a")));
    let outcome = lab.owner.pause(&[]).await.unwrap();
    assert_eq!(parts(outcome), (names(&["b"]), names(&["a"]), vec![]));
    let outcome = lab.owner.unpause(&[]).await.unwrap();
    assert_eq!(parts(outcome), (names(&["a", "b"]), vec![], vec![]));
    assert_eq!(lab.status("b"), ContainerStatus::Running);
    let missing = lab.owner.pause(&names(&["none"])).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(
        lab.journal()[before..],
        [
            "a pause",
            "b pause",
            "web pause",
            "a unpause",
            "b unpause",
            "web unpause"
        ]
    );
    lab.guest.heard();

    let outcome = lab
        .owner
        .send_signal(&names(&["a"]), 10, false)
        .await
        .unwrap();
    assert_eq!(parts(outcome), (names(&["a"]), vec![], vec![]));
    assert_eq!(lab.guest.heard(), [signal("a", 10)]);
    assert!(lab.now("a").stopped_by_user && !lab.now("b").stopped_by_user);
    let outcome = lab.owner.send_signal(&[], 12, true).await.unwrap();
    assert_eq!(parts(outcome), (names(&["a", "b"]), vec![], vec![]));
    let mut heard = lab.guest.heard();
    heard.sort();
    assert_eq!(
        heard,
        ["a", "b"].map(|name| format!("{} all: true", signal(name, 12)))
    );
    assert_eq!(
        lab.journal()[before + 6..],
        [
            "a kill signal=10",
            "a kill signal=12",
            "b kill signal=12",
            "web kill"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_goes_against_the_dependencies_and_ends_by_force() {
    let stop_signal = |container: &mut ContainerDefinition| container.stop_signal = 3;
    let lab = require!(Lab::with(&["db", "web<db"], no_change, stop_signal).await);
    lab.start().await;
    let before = lab.journal().len();
    let owner = lab.owner.clone();
    let stopping = tokio::spawn(async move { owner.stop(&[], Some(600)).await });
    lab.guest.has_heard(&signal("web", 3)).await;
    assert_eq!(lab.status("web"), ContainerStatus::Stopping);
    assert_eq!(lab.status("db"), ContainerStatus::Running);
    lab.guest.end("web", "", 131);
    lab.guest.has_heard(&signal("db", 3)).await;
    lab.guest.end("db", "", 0);
    let outcome = stopping.await.unwrap().unwrap();
    assert_eq!(parts(outcome), (names(&["web", "db"]), vec![], vec![]));
    for (name, code) in [("web", 131), ("db", 0)] {
        let state = lab.now(name);
        assert_eq!(
            (state.status, state.exit_code),
            (ContainerStatus::Exited, Some(code))
        );
        assert!(state.stopped_by_user && state.pid == 0 && state.finished.is_some());
        lab.is_saved(name);
    }
    let died = [
        "web died exit_code=131",
        "web stop",
        "db died exit_code=0",
        "db stop",
    ];
    assert_eq!(lab.journal()[before..], died);
    // The infra container keeps the VM.
    lab.has_not_ended();
    let outcome = lab.owner.stop(&[], None).await.unwrap();
    assert_eq!(parts(outcome), (vec![], names(&["db", "web"]), vec![]));

    lab.start().await;
    assert!(!lab.now("web").stopped_by_user);
    lab.owner.pause(&names(&["web"])).await.unwrap();
    lab.guest.heard();
    lab.owner.stop(&names(&["web"]), Some(0)).await.unwrap();
    let heard = lab.guest.heard();
    assert_eq!(
        heard[0], "resume_container container_id: \"web\"",
        "a frozen one does not end"
    );
    assert_eq!(heard[1], format!("{} all: true", signal("web", 9)));
    assert_eq!(lab.now("web").exit_code, Some(137));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_for_its_start_ends_when_it_is_stopped_and_not_when_it_is_cleaned_up() {
    let lab = require!(Lab::new(&["a", "b"]).await);
    // It keeps the VM.
    lab.owner.start(&names(&["b"]), false).await.unwrap();
    let a = names(&["a"]);
    lab.owner.init(&a).await.unwrap();
    let outcome = lab.owner.cleanup(&a).await.unwrap();
    assert_eq!(parts(outcome).0, a);
    let before = ContainerState::default();
    assert_eq!(lab.now("a"), before);
    lab.is_saved("a");

    lab.owner.start(&a, false).await.unwrap();
    lab.owner.stop(&a, Some(0)).await.unwrap();
    lab.owner.init(&a).await.unwrap();
    assert!(!lab.now("a").stopped_by_user);
    let outcome = lab.owner.stop(&a, None).await.unwrap();
    assert_eq!(parts(outcome).0, a);
    let state = lab.now("a");
    assert_eq!(
        (state.status, state.exit_code),
        (ContainerStatus::Exited, Some(137))
    );
    assert!(state.stopped_by_user);
    lab.is_saved("a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_stops_and_starts_and_is_told_of() {
    let lab = require!(Lab::started(&["a", "b"]).await);
    let before = lab.journal().len();
    let first = lab.now("a").pid;
    let outcome = lab.owner.restart(&names(&["a"]), Some(0)).await.unwrap();
    assert_eq!(parts(outcome), (names(&["a"]), vec![], vec![]));
    assert_eq!(lab.status("a"), ContainerStatus::Running);
    assert_ne!(lab.now("a").pid, first);
    assert_eq!(
        lab.journal()[before..],
        [
            "a died exit_code=137",
            "a stop",
            "a init",
            "a start",
            "a restart"
        ]
    );
    lab.owner.restart(&[], Some(0)).await.unwrap();
    assert_eq!(lab.journal().last().unwrap(), "web restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_removed_when_they_have_ended_or_by_force() {
    let lab = require!(Lab::started(&["db", "web<db", "c"]).await);
    let remove = async |which: &[&str], force| {
        let outcome = lab.owner.remove(&names(which), force, Some(0)).await;
        parts(outcome.unwrap())
    };
    assert_eq!(remove(&["c"], false).await, (vec![], vec![], wrong("c")));
    assert_eq!(
        remove(&["db"], true).await,
        (vec![], vec![], wrong("db")),
        "web needs it"
    );
    assert_eq!(lab.status("db"), ContainerStatus::Running);
    lab.guest.end("c", "", 0);
    lab.until("c ends", |lab| lab.status("c") == ContainerStatus::Exited)
        .await;
    assert_eq!(remove(&["c"], false).await, (names(&["c"]), vec![], vec![]));
    // One that cannot be stopped keeps what it needs.
    lab.guest
        .refuse("signal_process", Refusal::Error(Code::INTERNAL));
    let both = remove(&["db", "web"], true).await;
    let failed = [
        ("db", ErrorKind::FailedPrecondition),
        ("web", ErrorKind::Internal),
    ];
    let failed = failed.map(|(name, kind)| (name.to_owned(), kind));
    assert_eq!(both, (vec![], vec![], failed.to_vec()));
    lab.guest.accept("signal_process");
    assert_eq!(remove(&["db", "web"], true).await.0, names(&["web", "db"]));
    for name in ["c", "db", "web"] {
        assert!(!lab.owner.paths().container(name).unwrap().path().exists());
        assert_eq!(
            lab.owner.tracked(name).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }
    let missing = lab.owner.remove(&names(&["c"]), true, None).await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    lab.has_not_ended();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_changed_in_the_vm_and_kept_for_later_starts() {
    let lab = require!(Lab::new(&["a"]).await);
    let limits =
        |json: &str| serde_json::from_str::<oci_spec::runtime::LinuxResources>(json).unwrap();
    let shares = limits(r#"{"cpu": {"shares": 100}}"#);
    lab.owner.update("a", &shares).await.unwrap();
    assert!(lab.guest.heard().is_empty(), "it is not in the VM");
    assert_eq!(lab.now("a").limits.as_ref(), Some(&shares));
    lab.is_saved("a");
    lab.start().await;
    let spec = lock(&lab.guest.spec).clone().unwrap();
    let resources = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    assert_eq!(cpu.and_then(|cpu| cpu.shares()), Some(100));

    lab.guest
        .refuse("update_container", Refusal::Error(Code::INTERNAL));
    let pids = limits(r#"{"pids": {"limit": 7}}"#);
    lab.owner.update("a", &pids).await.unwrap_err();
    assert_eq!(lab.now("a").limits.as_ref(), Some(&shares));
    lab.guest.accept("update_container");
    lab.owner.update("a", &pids).await.unwrap();
    let both = limits(r#"{"cpu": {"shares": 100}, "pids": {"limit": 7}}"#);
    assert_eq!(lab.now("a").limits.as_ref(), Some(&both));
    assert_eq!(lab.journal().last().unwrap(), "a update");
    let missing = lab.owner.update("none", &pids).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_corrects_what_the_guest_has_otherwise() {
    let lab = require!(Lab::started(&["a", "b"]).await);
    let outcome = lab.owner.sync(&[]).await.unwrap();
    assert_eq!(parts(outcome), (vec![], names(&["a", "b"]), vec![]));
    lab.bed.pod.pause("a").await.unwrap();
    let outcome = lab.owner.sync(&[]).await.unwrap();
    assert_eq!(parts(outcome), (names(&["a"]), names(&["b"]), vec![]));
    assert_eq!(lab.status("a"), ContainerStatus::Paused);
    lab.bed.pod.resume("a").await.unwrap();
    lab.owner.sync(&names(&["a"])).await.unwrap();
    assert_eq!(lab.status("a"), ContainerStatus::Running);
    lab.guest
        .refuse("list_processes", Refusal::Error(Code::NOT_FOUND));
    let (_, _, errors) = parts(lab.owner.sync(&names(&["b"])).await.unwrap());
    assert_eq!(errors, [("b".to_owned(), ErrorKind::NotFound)]);
}
