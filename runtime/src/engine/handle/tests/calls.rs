//! Each operation of a handle is one call of the owner, and its answer is the owner's.

use std::time::{Duration, SystemTime};

use ttrpc::Code;

use super::*;
use crate::engine::usage::ContainerUsage;
use crate::engine::wire::changes::Change;
use crate::engine::wire::errors::{to_result, to_results};
use crate::engine::wire::usage::{to_processes, to_stats};

/// An outcome with one container of each kind.
fn outcome() -> Outcome {
    let error = Error::not_found("container", "c");
    Outcome {
        done: names(&["a"]),
        ignored: names(&["b"]),
        errors: [("c".to_owned(), error)].into(),
    }
}

#[track_caller]
fn is_told(result: Result<Outcome>) {
    let expected = (
        names(&["a"]),
        names(&["b"]),
        vec![("c".to_owned(), ErrorKind::NotFound)],
    );
    assert_eq!(parts(result.unwrap()), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_is_one_call_with_its_arguments() {
    let lab = Lab::new(&["a", "b"]).await;
    let owner = lab.owned().await;
    let (pod, ab, none) = (&lab.pod, names(&["a", "b"]), names(&[]));
    let both = r#"containers: "a" containers: "b""#;
    macro_rules! is_call {
        ($call:literal, $asked:expr, $expected:expr) => {
            owner.answer($call, &to_results(outcome()));
            is_told($asked.await);
            let fields = format!("{} {}", $call, $expected);
            assert_eq!(owner.heard(), [fields.trim_end()]);
        };
    }
    is_call!("init", pod.init(&ab), both);
    is_call!("init", pod.init(&none), "");
    is_call!("start", pod.start(&ab, false), both);
    is_call!("start", pod.start(&none, true), "dependencies: true");
    is_call!("stop", pod.stop(&ab, Some(3)), format!("{both} timeout: 3"));
    is_call!("stop", pod.stop(&ab, None), both);
    is_call!(
        "shutdown",
        pod.stop(&none, Some(0)),
        "timeout: 0 keep_paused: true"
    );
    is_call!(
        "restart",
        pod.restart(&ab, Some(3)),
        format!("{both} timeout: 3")
    );
    is_call!("pause", pod.pause(&ab), both);
    is_call!("unpause", pod.unpause(&ab), both);
    is_call!("kill", pod.kill(&ab, 9, false), format!("{both} signal: 9"));
    is_call!("kill", pod.kill(&none, 1, true), "signal: 1 all: true");
    is_call!("sync", pod.sync(&ab), both);
    is_call!("cleanup", pod.cleanup(&ab), both);
    is_call!(
        "remove",
        pod.remove_containers(&ab, true, Some(2)),
        format!("{both} force: true timeout: 2")
    );
    is_call!("remove", pod.remove_containers(&ab, false, None), both);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owners_refusal_is_the_error_of_the_operation() {
    let lab = Lab::new(&["a"]).await;
    let owner = lab.owned().await;
    let (pod, a) = (&lab.pod, names(&["a"]));
    macro_rules! refused {
        ($($call:literal $asked:expr;)*) => {$(
            owner.refuse($call, Code::INVALID_ARGUMENT);
            let error = $asked.await.map(drop).unwrap_err();
            assert!(
                matches!(&error, Error::Remote { kind: ErrorKind::InvalidArgument, message } if *message == concat!($call, " is refused")),
                "{error:?}"
            );
        )*};
    }
    refused! {
        "init" pod.init(&a);
        "start" pod.start(&a, false);
        "stop" pod.stop(&a, None);
        "shutdown" pod.stop(&[], None);
        "restart" pod.restart(&a, None);
        "pause" pod.pause(&a);
        "unpause" pod.unpause(&a);
        "kill" pod.kill(&a, 9, false);
        "sync" pod.sync(&a);
        "cleanup" pod.cleanup(&a);
        "remove" pod.remove_containers(&a, false, None);
        "update" pod.update("a", &Default::default());
        "wait" pod.wait("a");
        "processes" pod.processes("a");
        "stats" pod.usage();
        "mount" pod.mount("a");
        "unmount" pod.unmount("a", false);
        "files_changed" pod.files_changed();
        "remove_exec" pod.remove_exec("a", "x", false);
        "batch" pod.batch(&[]);
        "adopt" pod.create_container(&lab.definition("new"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_not_asked_for() {
    let lab = Lab::new(&["a"]).await;
    let owner = lab.owned().await;
    let missing = names(&["a", "none"]);
    for error in [
        lab.pod.start(&missing, false).await.unwrap_err(),
        lab.pod.restart(&missing, None).await.unwrap_err(),
        lab.pod.lease_rootfs("none").await.unwrap_err(),
    ] {
        assert!(
            matches!(&error, Error::NotFound { what: "container", id } if id == "none"),
            "{error:?}"
        );
    }
    assert!(owner.heard().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_be_read_is_an_error_of_the_start_of_all() {
    let lab = Lab::new(&["a", "bad"]).await;
    let owner = lab.owned().await;
    fs::write(lab.pod.paths().container("bad").unwrap().state(), "").unwrap();
    let done = || {
        to_results(Outcome {
            done: names(&["a"]),
            ..Outcome::default()
        })
    };
    owner.answer("start", &done());
    let (started, _, errors) = parts(lab.pod.start(&[], false).await.unwrap());
    assert_eq!(started, ["a"]);
    assert_eq!(errors, [("bad".to_owned(), ErrorKind::InvalidArgument)]);
    // It is in the way of no other.
    owner.answer("start", &done());
    let (started, _, errors) = parts(lab.pod.start(&names(&["a"]), false).await.unwrap());
    assert_eq!((started, errors), (names(&["a"]), vec![]));
    owner.heard();
    let error = lab.pod.start(&names(&["bad"]), false).await.unwrap_err();
    assert!(matches!(error, Error::BadFile { .. }), "{error:?}");
    assert!(owner.heard().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_answered_by_the_owner() {
    let lab = Lab::new(&["a"]).await;
    let owner = lab.owned().await;
    let usage = PodUsage {
        containers: vec![ContainerUsage {
            container: "a".into(),
            cpu_ns: 1000,
            memory: 2,
            memory_limit: Some(3),
            pids: 4,
            read: 5,
            written: 6,
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(7),
        }],
        vm_memory: 8,
        vm_cpu_ns: 9,
    };
    owner.answer("stats", &to_stats(usage.clone()));
    assert_eq!(lab.pod.usage().await.unwrap(), usage);
    let process = ContainerProcess {
        pid: 1,
        parent: 2,
        uid: 3,
        cpu_ms: 4,
        resident_bytes: 5,
        command: "sh".into(),
    };
    owner.answer("processes", &to_processes(vec![process.clone()]));
    assert_eq!(lab.pod.processes("a").await.unwrap(), [process]);
    let ended = api::WaitResponse {
        exit_code: 7,
        ..Default::default()
    };
    owner.answer("wait", &ended);
    assert_eq!(lab.pod.wait("a").await.unwrap(), 7);
    let at = api::MountResponse {
        path: "/there".into(),
        ..Default::default()
    };
    owner.answer("mount", &at);
    assert_eq!(
        lab.pod.mount("a").await.unwrap(),
        std::path::Path::new("/there")
    );
    lab.pod.unmount("a", true).await.unwrap();
    lab.pod.files_changed().await.unwrap();
    lab.pod.remove_exec("a", "x", true).await.unwrap();
    let limits = serde_json::json!({"pids": {"limit": 9}});
    let limits = serde_json::from_value(limits).unwrap();
    lab.pod.update("a", &limits).await.unwrap();
    assert_eq!(
        owner.heard(),
        [
            "stats",
            r#"processes container: "a""#,
            r#"wait container: "a""#,
            r#"mount container: "a""#,
            r#"unmount container: "a" force: true"#,
            "files_changed",
            r#"remove_exec container: "a" exec: "x" force: true"#,
            r#"update container: "a" resources: "{\"pids\":{\"limit\":9}}""#,
        ]
    );
    assert_eq!(lab.saved("a").limits, None, "the owner writes them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_a_root_file_system_is_not_counted_and_is_given_back() {
    let lab = Lab::new(&["a"]).await;
    let owner = lab.owned().await;
    let at = api::MountResponse {
        path: "/there".into(),
        ..Default::default()
    };
    owner.answer("mount", &at);
    let leased = lab.pod.lease_rootfs("a").await.unwrap();
    assert_eq!(leased.path(), std::path::Path::new("/there"));
    for code in [Code::FAILED_PRECONDITION, Code::NOT_FOUND] {
        owner.refuse("unmount", code);
        owner.answer("mount", &at);
        let other = lab.pod.lease_rootfs("a").await.unwrap();
        lab.pod.release_rootfs(other).await.unwrap();
    }
    owner.heard();
    owner.refuse("unmount", Code::INTERNAL);
    let failed = lab.pod.release_rootfs(leased).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Internal);
    assert_eq!(owner.heard(), [r#"unmount container: "a" visitor: true"#]);
    let leased = lab.pod.lease_rootfs("a").await.unwrap();
    assert_eq!(owner.heard(), [r#"mount container: "a" visitor: true"#]);
    drop(leased);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_container_of_an_owned_pod_is_adopted() {
    let lab = Lab::new(&["a"]).await;
    let owner = lab.owned().await;
    lab.pod
        .create_container(&lab.definition("new"))
        .await
        .unwrap();
    assert_eq!(owner.heard(), [r#"adopt container: "new""#]);
    assert!(lab.pod.view().unwrap().container("new").is_ok());
    let again = lab.pod.create_container(&lab.definition("new")).await;
    assert!(matches!(
        again,
        Err(Error::AlreadyExists {
            what: "container",
            ..
        })
    ));
    assert!(owner.heard().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_changes_of_a_batch_have_an_answer_each() {
    let lab = Lab::new(&["a"]).await;
    let owner = lab.owned().await;
    let results = api::BatchAnswer {
        results: Some(to_results(outcome())).into(),
        ..Default::default()
    };
    let failed = Error::not_found("container", "x");
    let failed = api::BatchAnswer {
        failed: Some(to_result(String::new(), Some(&failed), false)).into(),
        ..Default::default()
    };
    let broken = api::BatchAnswer {
        failed: Some(api::Result::default()).into(),
        ..Default::default()
    };
    let answer = api::BatchResponse {
        answers: vec![results, failed, broken, api::BatchAnswer::default()],
        ..Default::default()
    };
    owner.answer("batch", &answer);
    let changes = [Change::Pause(names(&["a"])), Change::Init(Vec::new())];

    let mut answers = lab.pod.batch(&changes).await.unwrap().into_iter();

    is_told(answers.next().unwrap());
    let kind = |answer: Option<Result<Outcome>>| answer.unwrap().unwrap_err().kind();
    assert_eq!(kind(answers.next()), ErrorKind::NotFound);
    assert_eq!(
        kind(answers.next()),
        ErrorKind::Internal,
        "an error without one"
    );
    let nothing = answers.next().unwrap().unwrap();
    assert_eq!(parts(nothing), (vec![], vec![], vec![]));
    assert!(answers.next().is_none());
    assert_eq!(
        owner.heard(),
        [r#"batch operations {pause {containers: "a"}} operations {init {}}"#]
    );
}
