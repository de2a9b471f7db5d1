//! Containers are started, paused, ended and removed; so are their pods.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use ttrpc::Code;

use super::guest::Refusal;
use super::*;
use crate::stdio::Endpoint;

#[tokio::test(flavor = "multi_thread")]
async fn a_container_starts_ends_and_is_removed_in_this_order() {
    let mut bed = require!(Bed::new().await);
    let config = bed.config("sandbox");
    let pid = bed.pod.create_container(config).await.unwrap();
    bed.event().await;
    assert_eq!(bed.pod.sandbox_pid(), pid);
    bed.guest.heard();

    assert_eq!(bed.pod.start("sandbox").await.unwrap(), pid);
    assert_eq!(
        bed.guest.heard(),
        ["start_container container_id: \"sandbox\""]
    );
    let started = PodEvent::Started {
        container: "sandbox".into(),
        pid,
    };
    assert_eq!(bed.event().await, started);
    assert_eq!(bed.status("sandbox", None), Status::Running);
    assert_eq!(bed.saved("sandbox").init.status, Status::Running);
    let twice = bed.pod.start("sandbox").await.unwrap_err();
    assert!(
        matches!(
            twice,
            Error::WrongState {
                operation: "start",
                ..
            }
        ),
        "{twice:?}"
    );
    let early = bed.pod.delete("sandbox", None).await.unwrap_err();
    assert!(
        matches!(
            early,
            Error::WrongState {
                operation: "delete",
                ..
            }
        ),
        "{early:?}"
    );
    assert!(bed.guest.heard().is_empty());

    bed.guest.end("sandbox", "", 3);
    bed.ends("sandbox", None, 3).await;
    // The end of its pid namespace ended the others. The VM ends with the last container.
    assert_eq!(bed.guest.heard(), ["destroy_pod", "kill the VM"]);
    assert_eq!(bed.status("sandbox", None), Status::Stopped);
    let saved = bed.saved("sandbox").init;
    assert_eq!(
        (saved.status, saved.exit.unwrap().status),
        (Status::Stopped, 3)
    );
    assert!(hypervisor::start_time(pid).is_err(), "its pid is free");
    assert_eq!(bed.pod.wait("sandbox", None).await.unwrap().status, 3);
    assert!(bed.pod.pids("sandbox").unwrap().is_empty());

    let (of, exit) = bed.pod.delete("sandbox", None).await.unwrap();
    assert_eq!((of, exit.status), (pid, 3));
    let deleted = PodEvent::Deleted {
        container: "sandbox".into(),
        pid,
        exit,
    };
    assert_eq!(bed.event().await, deleted);
    bed.has_no_traces_of("sandbox");
    assert!(bed.guest.heard().is_empty(), "there is no guest any more");
    let again = bed.pod.delete("sandbox", None).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotFound);
    assert_eq!(bed.pod.sandbox_pid(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vm_stays_while_others_live_or_if_it_outlives_all() {
    let mut bed = require!(Bed::new().await);
    for id in ["a", "b"] {
        bed.running(id).await;
    }
    bed.guest.end("a", "", 0);
    bed.ends("a", None, 0).await;
    assert!(bed.guest.heard().is_empty());
    bed.pod.delete("a", None).await.unwrap();
    bed.event().await;
    assert_eq!(bed.guest.heard(), ["remove_container container_id: \"a\""]);
    bed.has_no_traces_of("a");
    bed.guest.end("b", "", 0);
    bed.ends("b", None, 0).await;
    assert_eq!(bed.guest.heard(), ["destroy_pod", "kill the VM"]);

    let outliving = Bed::with(Timeouts::default(), |spec| spec.outlives_containers = true);
    let mut bed = require!(outliving.await);
    bed.running("a").await;
    bed.guest.end("a", "", 0);
    bed.ends("a", None, 0).await;
    assert!(bed.guest.heard().is_empty());
    assert!(bed.pod.guest.check().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_ends_the_container() {
    let mut bed = require!(Bed::new().await);
    let config = bed.config("a");
    bed.pod.create_container(config).await.unwrap();
    bed.event().await;
    bed.guest.heard();
    bed.guest
        .refuse("start_container", Refusal::Error(Code::INTERNAL));

    let failed = bed.pod.start("a").await.unwrap_err();

    assert_eq!(failed.kind(), ErrorKind::Internal);
    bed.ends("a", None, 137).await;
    let heard = bed.guest.heard();
    assert_eq!(
        heard[..2],
        [
            "start_container container_id: \"a\"",
            "signal_process container_id: \"a\" signal: 9 all: true"
        ]
    );
    assert_eq!(bed.status("a", None), Status::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_not_started_is_ended_and_removed() {
    let mut bed = require!(Bed::new().await);
    let config = bed.config("a");
    let pid = bed.pod.create_container(config).await.unwrap();
    bed.event().await;
    bed.guest.heard();

    let (of, exit) = bed.pod.delete("a", None).await.unwrap();

    assert_eq!((of, exit.status), (pid, 137));
    let heard = bed.guest.heard();
    assert_eq!(
        heard[0],
        "signal_process container_id: \"a\" signal: 9 all: true"
    );
    bed.ends("a", None, 137).await;
    assert!(matches!(bed.event().await, PodEvent::Deleted { .. }));
    bed.has_no_traces_of("a");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_wrote_is_read_before_its_end_is_told() {
    let mut bed = require!(Bed::new().await);
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (mut input, source) = tokio::io::duplex(1 << 16);
    let mut config = bed.config("a");
    config.io.stdout = Endpoint::Stream(theirs);
    config.io.stdin = Endpoint::Stream(source);
    bed.pod.create_container(config).await.unwrap();
    bed.event().await;
    let mut stdin = bed.guest.stream("a//stdin");
    let mut stdout = bed.guest.stream("a//stdout");
    assert!(!bed.guest.has_stream("a//stderr"));

    // Input is held back until the container starts.
    input.write_all(b"in").await.unwrap();
    assert!(stdin.try_read(&mut [0; 8]).is_err());
    bed.pod.start("a").await.unwrap();
    bed.event().await;
    let mut read = [0; 2];
    timeout(PATIENCE, stdin.read_exact(&mut read))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&read, b"in");
    bed.pod.close_stdin("a", None).await.unwrap();
    drop(input);
    let end = timeout(PATIENCE, stdin.read(&mut read)).await.unwrap();
    assert_eq!(end.unwrap(), 0);

    // The container ends before all of its output has arrived.
    let answer = api::WaitProcessResponse {
        exit_status: 5,
        stdout_bytes: 5,
        ..Default::default()
    };
    bed.guest.end_with("a", "", answer);
    let early = timeout(Duration::from_millis(100), bed.events.recv()).await;
    assert!(early.is_err(), "{early:?}");
    stdout.write_all(b"words").await.unwrap();
    bed.ends("a", None, 5).await;
    drop(stdout);
    let mut output = ours;
    let mut words = [0; 5];
    timeout(PATIENCE, output.read_exact(&mut words))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&words, b"words");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_in_the_pods_pid_namespace_takes_its_others_along() {
    let mut bed = require!(Bed::new().await);
    let mut config = bed.config("a");
    config.spec = spec(json!({"linux": {"namespaces": namespaces(&[])}}));
    bed.pod.create_container(config).await.unwrap();
    bed.pod.start("a").await.unwrap();
    bed.event().await;
    bed.event().await;
    bed.guest.heard();
    bed.guest.end("a", "", 0);
    bed.ends("a", None, 0).await;
    assert_eq!(
        bed.guest.heard()[0],
        "signal_process container_id: \"a\" signal: 9 all: true"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_paused_and_resumed_by_their_state() {
    let mut bed = require!(Bed::new().await);
    bed.running("a").await;
    let wrong = |error: Error, verb: &str| match error {
        Error::WrongState { operation, .. } => assert_eq!(operation, verb),
        other => panic!("{other:?}"),
    };
    wrong(bed.pod.resume("a").await.unwrap_err(), "resume");
    bed.guest
        .refuse("pause_container", Refusal::Error(Code::INTERNAL));
    bed.pod.pause("a").await.unwrap_err();
    assert_eq!(bed.status("a", None), Status::Running);
    bed.guest.accept("pause_container");
    bed.guest.heard();

    bed.pod.pause("a").await.unwrap();
    assert_eq!(
        bed.event().await,
        PodEvent::Paused {
            container: "a".into()
        }
    );
    assert_eq!(bed.status("a", None), Status::Paused);
    assert_eq!(bed.saved("a").init.status, Status::Paused);
    wrong(bed.pod.pause("a").await.unwrap_err(), "pause");
    bed.pod.resume("a").await.unwrap();
    assert_eq!(
        bed.event().await,
        PodEvent::Resumed {
            container: "a".into()
        }
    );
    assert_eq!(bed.status("a", None), Status::Running);
    let heard = bed.guest.heard();
    assert_eq!(
        heard,
        [
            "pause_container container_id: \"a\"",
            "resume_container container_id: \"a\""
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_all_and_leaves_nothing() {
    let mut bed = require!(Bed::new().await);
    for id in ["a", "b"] {
        bed.running(id).await;
    }
    let proxies = ["a", "b"].map(|id| bed.pod.state(id, None).unwrap().pid);

    bed.pod.shutdown().await.unwrap();

    assert_eq!(bed.guest.heard(), ["destroy_pod", "kill the VM"]);
    assert!(
        proxies
            .iter()
            .all(|pid| hypervisor::start_time(*pid).is_err())
    );
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
    assert_eq!(
        fs::read_dir(bed.root.path().join("run")).unwrap().count(),
        0
    );
    assert_eq!(bed.pod.guest.lost(), None, "it was asked for");
    bed.pod.shutdown().await.unwrap();
    assert!(bed.guest.heard().is_empty());
}
