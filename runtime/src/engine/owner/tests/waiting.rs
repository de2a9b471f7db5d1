//! Operations beside one that waits for a process to end.

use test_support::require;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::engine::restart::RestartPolicy;

const LONG: Option<u32> = Some(600);

/// Begins to stop a container that does not end on its stop signal.
async fn stopping(lab: &Lab, name: &'static str) -> JoinHandle<Result<Outcome>> {
    let owner = lab.owner.clone();
    let task = tokio::spawn(async move { owner.stop(&names(&[name]), LONG).await });
    let signal = format!("signal_process container_id: \"{name}\" signal: 15");
    lab.guest.has_heard(&signal).await;
    task
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let done = timeout(PATIENCE, work).await;
    done.expect("it waits for a container that stops")
}

async fn is_stopped(task: JoinHandle<Result<Outcome>>, name: &str) {
    let outcome = in_time(task).await.unwrap().unwrap();
    assert_eq!(parts(outcome), (names(&[name]), vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_changed_while_one_stops() {
    let lab = require!(Lab::started(&["a", "b", "c"]).await);
    let a = stopping(&lab, "a").await;
    let others = names(&["b"]);
    let owner = &lab.owner;
    let done = (others.clone(), vec![], vec![]);
    assert_eq!(parts(in_time(owner.pause(&others)).await.unwrap()), done);
    assert_eq!(parts(in_time(owner.unpause(&others)).await.unwrap()), done);
    assert_eq!(
        parts(in_time(owner.restart(&others, Some(0))).await.unwrap()),
        done
    );
    assert_eq!(
        parts(in_time(owner.stop(&others, Some(0))).await.unwrap()),
        done
    );
    assert_eq!(
        parts(in_time(owner.start(&others, true)).await.unwrap()),
        done
    );
    assert_eq!(
        parts(in_time(owner.remove(&others, true, Some(0))).await.unwrap()),
        done
    );
    // The one that stops is neither started nor removed.
    let itself = names(&["a"]);
    let refused = (vec![], vec![], wrong("a"));
    assert_eq!(
        parts(in_time(owner.start(&itself, true)).await.unwrap()),
        refused
    );
    assert_eq!(parts(in_time(owner.pause(&itself)).await.unwrap()), refused);
    assert_eq!(
        parts(in_time(owner.remove(&itself, false, None)).await.unwrap()),
        refused
    );
    assert_eq!(lab.status("a"), ContainerStatus::Stopping);
    lab.guest.end("a", "", 0);
    is_stopped(a, "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_time_and_a_kill_and_a_removal_overtake() {
    let lab = require!(Lab::new(&["a"]).await);
    let itself = names(&["a"]);
    let owner = lab.owner.clone();
    for overtaking in ["stop", "kill", "remove"] {
        lab.start().await;
        let waiting = stopping(&lab, "a").await;
        let outcome = in_time(async {
            match overtaking {
                "stop" => owner.stop(&itself, Some(0)).await,
                "kill" => owner.send_signal(&itself, 9, false).await,
                _ => owner.remove(&itself, true, Some(0)).await,
            }
        });
        let outcome = outcome.await.unwrap();
        assert_eq!(
            parts(outcome),
            (itself.clone(), vec![], vec![]),
            "{overtaking}"
        );
        is_stopped(waiting, "a").await;
    }
    assert!(lab.owner.tracked("a").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_pod_overtakes() {
    let lab = require!(Lab::started(&["a", "b"]).await);
    let waiting = stopping(&lab, "a").await;
    lab.owner.pause(&names(&["b"])).await.unwrap();
    let outcome = in_time(lab.owner.stop_pod(Some(0), false)).await.unwrap();
    assert_eq!(parts(outcome).0, names(&["a", "b"]), "paused ones, too");
    is_stopped(waiting, "a").await;
    lab.has_ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_start_others_while_one_stops() {
    let policy = |container: &mut ContainerDefinition| container.restart = RestartPolicy::Always;
    let lab = require!(Lab::with(&["a", "b"], no_change, policy).await);
    lab.start().await;
    let waiting = stopping(&lab, "a").await;
    let first = lab.now("b").pid;
    lab.guest.end("b", "", 1);
    let again = |lab: &Lab| lab.status("b").is_running() && ![0, first].contains(&lab.now("b").pid);
    lab.until("b runs again", again).await;
    lab.guest.end("a", "", 0);
    is_stopped(waiting, "a").await;
}

/// The run that a stop is about has ended, and another one is not its business.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_kill_the_next_run() {
    let lab = require!(Lab::started(&["a"]).await);
    let owner = lab.owner.clone();
    let waiting = tokio::spawn(async move { owner.stop(&names(&["a"]), Some(1)).await });
    let signal = "signal_process container_id: \"a\" signal: 15";
    lab.guest.has_heard(signal).await;
    {
        // The waiting task sees neither the end nor the start as such.
        let container = lab.owner.tracked("a").unwrap();
        container.state.send_if_modified(|state| {
            state.status = ContainerStatus::Running;
            state.started = Some(std::time::SystemTime::now());
            false
        });
    }
    lab.guest.heard();
    is_stopped(waiting, "a").await;
    assert_eq!(lab.guest.heard(), [""; 0], "it is not killed");
    assert_eq!(lab.status("a"), ContainerStatus::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_kills_waits_for_the_end_and_may_remove_then() {
    let lab = require!(Lab::started(&["a"]).await);
    let itself = names(&["a"]);
    for signal in [0, 65, 1000] {
        let refused = lab.owner.send_signal(&itself, signal, false).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert!(!lab.now("a").stopped_by_user, "{signal}");
    }
    lab.guest
        .refuse("signal_process", Refusal::Error(ttrpc::Code::INTERNAL));
    let failed = parts(lab.owner.send_signal(&itself, 10, false).await.unwrap()).2;
    assert_eq!(failed, [("a".to_owned(), ErrorKind::Internal)]);
    assert!(!lab.now("a").stopped_by_user, "it was not");
    lab.guest.accept("signal_process");

    lab.owner.send_signal(&itself, 9, false).await.unwrap();
    assert_eq!(lab.status("a"), ContainerStatus::Exited);
    let removed = lab.owner.remove(&itself, false, None).await.unwrap();
    assert_eq!(parts(removed).0, itself);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_pod_keeps_its_paused_containers_and_the_vm() {
    let lab = require!(Lab::started(&["a", "b"]).await);
    lab.owner.pause(&names(&["b"])).await.unwrap();
    for stop in [false, true] {
        let outcome = match stop {
            true => lab.owner.stop_pod(Some(0), true).await,
            false => lab.owner.send_signal(&[], 10, false).await,
        };
        let outcome = parts(outcome.unwrap());
        assert_eq!(outcome, (names(&["a"]), names(&["b"]), vec![]), "{stop}");
    }
    let outcome = lab.owner.restart(&[], Some(0)).await.unwrap();
    assert_eq!(parts(outcome), (names(&["a"]), names(&["b"]), vec![]));
    assert_eq!(lab.status("b"), ContainerStatus::Paused);
    lab.has_not_ended();
    lab.owner.unpause(&[]).await.unwrap();
    lab.owner.stop_pod(Some(0), true).await.unwrap();
    lab.has_ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_does_not_get_in_between_a_batch() {
    let lab = require!(Lab::started(&["a", "b"]).await);
    let (owner, other) = (lab.owner.clone(), lab.owner.clone());
    let stop = crate::engine::wire::changes::Change::Stop {
        containers: names(&["a"]),
        seconds: LONG,
    };
    let stop = crate::engine::wire::changes::to_operation(&stop).unwrap();
    let batch = tokio::spawn(async move { owner.batch(vec![stop.clone(), stop]).await });
    lab.until("it stops", |lab| {
        lab.status("a") == ContainerStatus::Stopping
    })
    .await;
    let mut kill = tokio::spawn(async move {
        use crate::engine::owner::service::PodService;
        other.kill(&names(&["b"]), 10, false).await
    });
    let early = timeout(Duration::from_millis(50), &mut kill).await;
    assert!(early.is_err(), "{early:?}");
    lab.guest.end("a", "", 0);
    in_time(batch).await.unwrap().unwrap();
    assert_eq!(
        parts(in_time(kill).await.unwrap().unwrap()).0,
        names(&["b"])
    );
}
