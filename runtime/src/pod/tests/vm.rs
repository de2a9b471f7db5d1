//! The end of a VM, for any cause, ends all of its processes.

use super::guest::Refusal;
use super::*;

impl Bed {
    /// Waits for the state on disk to report the end of the VM: it is written after the event.
    async fn saved_as_stopped(&self) -> PodRunState {
        loop {
            let saved: PodRunState = crate::state_dir::read(&self.pod.dir.state()).unwrap();
            if saved.status == PodRunStatus::Stopped {
                return saved;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_processes_of_a_vm_that_ends_have_ended_with_137() {
    for by_agent in [false, true] {
        let mut bed = require!(Bed::new().await);
        for id in ["a", "b"] {
            bed.running(id).await;
        }
        if by_agent {
            bed.guest.hang_up().await;
        } else {
            bed.guest.crash("it was taken over");
        }
        let mut ended = Vec::new();
        for _ in 0..2 {
            let PodEvent::Exited {
                container, exit, ..
            } = bed.event().await
            else {
                panic!("all have ended");
            };
            ended.push((container, exit.status));
        }
        ended.sort();
        assert_eq!(ended, [("a".to_owned(), 137), ("b".to_owned(), 137)]);
        let reason = timeout(PATIENCE, bed.pod.guest.gone()).await.unwrap();
        let expected = if by_agent {
            "the agent is gone"
        } else {
            "it was taken over"
        };
        assert!(reason.contains(expected), "{reason}");
        assert_eq!(bed.pod.guest.lost(), Some(reason.clone()));
        let saved = timeout(PATIENCE, bed.saved_as_stopped()).await.unwrap();
        assert_eq!(
            (saved.status, saved.reason),
            (PodRunStatus::Stopped, Some(reason))
        );
        let heard = bed.guest.heard();
        assert_eq!(
            heard.contains(&"kill the VM".to_owned()),
            by_agent,
            "{heard:?}"
        );

        let config = bed.config("c");
        let mut errors = vec![bed.pod.create_container(config).await.unwrap_err()];
        if by_agent {
            // The agent of a VM that crashed is still there, unlike a real one.
            errors.push(bed.pod.forget_files().await.unwrap_err());
            errors.push(bed.pod.processes("a").await.unwrap_err());
        }
        for error in errors {
            assert!(matches!(error, Error::VmGone { .. }), "{error:?}");
        }
        // The containers can still be removed.
        for id in ["a", "b"] {
            let (_, exit) = bed.pod.delete(id, None).await.unwrap();
            assert_eq!(exit.status, 137);
            bed.has_no_traces_of(id);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_with_the_vm_or_at_its_deadline() {
    let bed = require!(Bed::with(short(), |_| ()).await);
    bed.guest.refuse("forget_files", Refusal::Silence);
    let late = bed.pod.forget_files().await.unwrap_err();
    assert!(
        matches!(late, Error::AgentTimeout { seconds: 2, .. }),
        "{late:?}"
    );
    assert!(bed.pod.guest.check().is_ok());

    // Without a short deadline, which could pass before the VM ends.
    let bed = require!(Bed::new().await);
    bed.guest.refuse("forget_files", Refusal::Silence);
    let pod = bed.pod.clone();
    let waiting = tokio::spawn(async move { pod.forget_files().await });
    bed.guest.has_heard("forget_files").await;
    bed.guest.crash("why");
    let gone = waiting.await.unwrap().unwrap_err();
    assert!(matches!(gone, Error::VmGone { .. }), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_not_finish_its_writes_is_killed_all_the_same() {
    let bed = require!(Bed::new().await);
    bed.guest.refuse("destroy_pod", Refusal::Silence);
    timeout(PATIENCE, bed.pod.guest.stop("enough"))
        .await
        .unwrap();
    assert_eq!(bed.guest.heard(), ["destroy_pod", "kill the VM"]);
    let reason = bed.pod.guest.gone().await;
    assert!(!reason.is_empty());
    assert_eq!(bed.pod.guest.lost(), None, "it was asked for");
    // The first reason is kept.
    bed.pod.guest.kill("again").await;
    assert_eq!(bed.pod.guest.gone().await, reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_vm_is_told_of_as_it_is() {
    let bed = require!(Bed::new().await);
    assert_eq!(bed.pod.id(), "pod");
    assert_eq!(bed.pod.hypervisor(), "a stand-in");
    assert_eq!(bed.pod.vm_usage(), (0, 0), "it has no process");
    assert!(bed.pod.guest.pids().is_empty() && bed.pod.guest.cgroup_paths().is_empty());
    assert!(bed.pod.is_empty() && bed.pod.container_ids().is_empty());
    assert_eq!(bed.pod.sandbox_pid(), 0);
}
