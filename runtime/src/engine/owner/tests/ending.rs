//! What follows when a container or the VM ends.

use test_support::require;

use super::*;
use crate::engine::records::definition::ExitPolicy;
use crate::engine::restart::RestartPolicy;

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_recorded_and_told_of() {
    let lab = require!(Lab::started(&["a", "b"]).await);
    let waiting = lab.owner.watch_end("a", None).unwrap();
    lab.guest.end("a", "", 3);
    let exit = tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(exit.status, 3);
    let state = lab.now("a");
    assert_eq!(
        (state.status, state.exit_code, state.pid),
        (ContainerStatus::Exited, Some(3), 0)
    );
    assert_eq!(state.finished, Some(exit.at));
    assert!(!state.stopped_by_user);
    lab.until("the journal has it", |lab| {
        lab.journal().last().unwrap() == "a died exit_code=3"
    })
    .await;
    lab.is_saved("a");
    assert_eq!(lab.owner.wait_for("a").await.unwrap(), exit);
    lab.has_not_ended();
    let missing = lab.owner.wait_for("none").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    // One that is removed is not waited for.
    let waiting = lab.owner.watch_end("b", None).unwrap();
    lab.owner
        .remove(&names(&["b"]), true, Some(0))
        .await
        .unwrap();
    let ended = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    assert_eq!(ended.unwrap().status, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_starts_a_container_again_up_to_its_limit() {
    let policy = |container: &mut ContainerDefinition| {
        container.restart = RestartPolicy::OnFailure(Some(1));
    };
    let lab = require!(Lab::with(&["a"], no_change, policy).await);
    lab.start().await;
    let first = lab.now("a").pid;
    lab.guest.end("a", "", 1);
    let restarted = "it is started again";
    let is_again = |lab: &Lab| {
        let now = lab.now("a");
        now.restarts == 1
            && now.status == ContainerStatus::Running
            && ![0, first].contains(&now.pid)
    };
    lab.until(restarted, is_again).await;
    lab.until(restarted, |lab| {
        lab.journal().last().unwrap() == "a restart"
    })
    .await;
    lab.guest.end("a", "", 1);
    lab.until("it has ended", |lab| {
        lab.status("a") == ContainerStatus::Exited
    })
    .await;
    assert_eq!(lab.now("a").restarts, 1);
    assert_eq!(*lab.owner.pending.borrow(), 0);
    lab.has_not_ended();
    // A user's start counts anew.
    lab.start().await;
    assert_eq!(lab.now("a").restarts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_a_user_stopped_is_not_started_again() {
    let policy = |container: &mut ContainerDefinition| container.restart = RestartPolicy::Always;
    let lab = require!(Lab::with(&["a"], no_change, policy).await);
    lab.start().await;
    lab.owner.stop(&[], Some(0)).await.unwrap();
    assert_eq!(lab.status("a"), ContainerStatus::Exited);
    assert_eq!(*lab.owner.pending.borrow(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_to_go_at_its_end_goes() {
    let goes = |container: &mut ContainerDefinition| container.remove_at_exit = true;
    let lab = require!(Lab::with(&["a"], no_change, goes).await);
    lab.start().await;
    lab.guest.end("a", "", 0);
    lab.until("it is removed", |lab| lab.owner.tracked("a").is_err())
        .await;
    assert!(!lab.owner.paths().container("a").unwrap().path().exists());
    assert_eq!(lab.journal().last().unwrap(), "a remove");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vm_goes_with_the_last_container_unless_an_infra_container_keeps_it() {
    type Change = fn(&mut PodDefinition);
    let changes: [Change; 3] = [
        |pod| pod.exit_policy = ExitPolicy::Stop,
        |pod| pod.single = true,
        |pod| {
            pod.infra = false;
            pod.share.clear();
        },
    ];
    for change in changes {
        let lab = require!(Lab::with(&["a", "b"], change, |_| ()).await);
        lab.start().await;
        lab.guest.end("a", "", 0);
        lab.until("a ends", |lab| lab.status("a") == ContainerStatus::Exited)
            .await;
        lab.has_not_ended();
        lab.guest.end("b", "", 0);
        lab.has_ended().await;
        assert!(lab.owner.live().is_none());
        let view = PodView::read(lab.owner.paths()).unwrap();
        assert!(!view.state.started && view.state.problem.is_none());
        assert_eq!(lab.journal().last().unwrap(), "web stop");
        assert!(matches!(
            lab.owner.ensure_not_leaving(),
            Err(Error::OwnerLeaving)
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_lost_takes_all_along_and_is_told_with_its_reason() {
    let lab = require!(Lab::started(&["a", "b"]).await);
    lab.owner.stop(&names(&["b"]), Some(0)).await.unwrap();
    let before = lab.journal().len();
    lab.guest.crash("it was taken over");
    lab.has_ended().await;
    let a = lab.now("a");
    assert_eq!(
        (a.status, a.exit_code),
        (ContainerStatus::Exited, Some(137))
    );
    let view = PodView::read(lab.owner.paths()).unwrap();
    let problem = view.state.problem.unwrap();
    assert!(problem.contains("it was taken over"), "{problem}");
    let mut journal = lab.journal()[before..].to_vec();
    journal.sort();
    assert_eq!(
        journal,
        [
            "a died exit_code=137".to_owned(),
            format!("web died reason={problem}")
        ]
    );
    assert!(
        !lab.bed.pod.dir.path().exists(),
        "nothing is left of the VM"
    );
    let late = lab.owner.start(&[], false).await.unwrap_err();
    assert!(matches!(late, Error::OwnerLeaving), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_stopped_has_no_vm_and_no_owner() {
    let lab = require!(Lab::started(&["a"]).await);
    let full = lab.owner.stop_empty_pod().await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::FailedPrecondition);
    lab.has_not_ended();
    let outcome = lab.owner.stop_pod(Some(0), false).await.unwrap();
    assert_eq!(parts(outcome).0, names(&["a"]));
    lab.has_ended().await;
    assert_eq!(lab.journal().last().unwrap(), "web stop");
    assert!(
        lab.guest
            .heard()
            .ends_with(&["destroy_pod".to_owned(), "kill the VM".to_owned()])
    );
    assert!(!PodView::read(lab.owner.paths()).unwrap().state.started);

    let lab = require!(Lab::new(&[]).await);
    lab.owner.stop_empty_pod().await.unwrap();
    lab.has_ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_without_a_vm_does_not_stay() {
    let lab = require!(Lab::new(&["a"]).await);
    let idle = tokio::time::timeout(
        Duration::from_millis(200),
        lab.owner.idle(Duration::from_millis(5)),
    );
    assert!(idle.await.is_err(), "it has a VM");
    lab.owner.end_vm("enough").await;
    let idle = lab.owner.idle(Duration::from_millis(5));
    tokio::time::timeout(PATIENCE, idle).await.unwrap();
    assert!(lab.owner.ensure_not_leaving().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_pressure_is_recorded_of_its_container() {
    let lab = require!(Lab::started(&["a", "b"]).await);
    let mut event = protos::agent::Event::new();
    event.set_oom(protos::agent::OomEvent {
        container_id: "a".into(),
        ..Default::default()
    });
    lab.guest.send_event(event);
    lab.until("it is told", |lab| lab.journal().last().unwrap() == "a oom")
        .await;
    assert!(lab.now("a").oom_killed && !lab.now("b").oom_killed);
    lab.is_saved("a");
}
