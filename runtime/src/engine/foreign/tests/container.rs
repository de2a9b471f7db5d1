//! Calls to the owner of a foreign pod.

use std::time::Duration;

use protos::management as api;
use protos::management::attach_output;
use ttrpc::Code;

use super::*;
use crate::engine::handle::attach::ClientStreams;
use crate::engine::handle::tests::owner::{Owned, PlayedOwner};
use crate::engine::records::exec::{ExecRequest, PreservedFd};
use crate::engine::status::Outcome;
use crate::engine::usage::{ContainerProcess, PodUsage};
use crate::engine::wire::errors::to_results;
use crate::engine::wire::usage::{to_processes, to_stats};

struct Lab {
    root: tempfile::TempDir,
    dir: RunPaths,
}

impl Lab {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = pod(root.path(), "theirs", ManagedBy::Containerd);
        Self { root, dir }
    }

    async fn owned(&self) -> Owned {
        PlayedOwner::of(&self.dir, &self.dir.management()).await
    }

    fn container(&self) -> ForeignContainer {
        let pod = ListedPod::read(self.root.path(), "default", "theirs").unwrap();
        ForeignContainer {
            pod,
            container: "c".into(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_is_one_call_of_the_owner() {
    let lab = Lab::new();
    let owner = lab.owned().await;
    let container = lab.container();
    let outcome = Outcome {
        done: vec!["c".into()],
        ..Outcome::default()
    };
    owner.answer("kill", &to_results(outcome));
    assert_eq!(container.kill(9, true).await.unwrap().done, ["c"]);
    let ended = api::WaitResponse {
        exit_code: 7,
        ..Default::default()
    };
    owner.answer("wait", &ended);
    assert_eq!(container.wait().await.unwrap(), 7);
    let process = ContainerProcess {
        pid: 1,
        parent: 2,
        uid: 3,
        cpu_ms: 4,
        resident_bytes: 5,
        command: "sh".into(),
    };
    owner.answer("processes", &to_processes(vec![process.clone()]));
    assert_eq!(container.processes().await.unwrap(), [process]);
    let usage = PodUsage {
        vm_memory: 8,
        vm_cpu_ns: 9,
        ..PodUsage::default()
    };
    owner.answer("stats", &to_stats(usage.clone()));
    assert_eq!(container.pod.usage().await.unwrap(), usage);
    assert_eq!(
        owner.heard(),
        [
            r#"kill containers: "c" signal: 9 all: true"#,
            r#"wait container: "c""#,
            r#"processes container: "c""#,
            "stats",
        ]
    );
    owner.refuse("kill", Code::NOT_FOUND);
    let refused = container.kill(9, false).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    let refused = container.refusal().to_string();
    assert!(
        refused.starts_with("container \"c\" is managed by containerd"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_does_not_answer_is_unavailable() {
    let lab = Lab::new();
    let ended = lab.container();
    assert_eq!(ended.pod.usage().await.unwrap(), PodUsage::default());
    // It ended with its owner, so that nothing needs to be asked.
    assert_eq!(ended.wait().await.unwrap(), 137);
    let owner = lab.owned().await;
    let container = lab.container();
    owner.leave();
    for error in [
        container.kill(9, false).await.map(drop).unwrap_err(),
        container.wait().await.map(drop).unwrap_err(),
        container.processes().await.map(drop).unwrap_err(),
        container
            .exec(&ExecRequest::default(), ClientStreams::ALL)
            .await
            .map(drop)
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let said = error.to_string();
        assert!(said.contains("\"theirs\" of containerd"), "{said}");
    }
    assert_eq!(container.pod.usage().await.unwrap(), PodUsage::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_has_ended_is_not_waited_for() {
    let lab = Lab::new();
    let path = lab.dir.container("c").join("state.json");
    let mut state: ContainerRunState = state_dir::read(&path).unwrap();
    state.init.status = Status::Stopped;
    state.init.exit = Some(Exit {
        status: 5,
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
    });
    state_dir::write(&path, &state).unwrap();
    let owner = lab.owned().await;
    assert_eq!(lab.container().wait().await.unwrap(), 5);
    assert!(owner.heard().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_process_is_run_by_the_owner() {
    let lab = Lab::new();
    let owner = lab.owned().await;
    let container = lab.container();
    let request = ExecRequest {
        command: vec!["sh".into()],
        ..ExecRequest::default()
    };
    let answer = async || {
        let (mut stream, first, _) = owner.attached().await;
        let attached = api::Attached {
            exec: "rust-kata.x".into(),
            ..Default::default()
        };
        let message = api::AttachOutput {
            kind: Some(attach_output::Kind::Attached(attached)),
            ..Default::default()
        };
        let sent = crate::engine::wire::attach::send(&mut stream, &message);
        sent.await.unwrap();
        protobuf::text_format::print_to_string(&first)
    };
    let (attached, first) = tokio::join!(container.exec(&request, ClientStreams::ALL), answer());
    assert_eq!(attached.unwrap().exec.as_deref(), Some("rust-kata.x"));
    assert_eq!(
        first,
        r#"exec {process {container: "c" command: "sh"} stdin: true stdout: true stderr: true}"#
    );
    let (id, first) = tokio::join!(container.exec_detached(&request), answer());
    assert_eq!(id.unwrap(), "rust-kata.x");
    assert_eq!(first, r#"exec {process {container: "c" command: "sh"}}"#);

    let with_fd = ExecRequest {
        preserve_fds: vec![PreservedFd {
            number: 3,
            direction: crate::stdio::descriptor::Direction::Out,
        }],
        ..request
    };
    let refused = container.exec_detached(&with_fd).await.unwrap_err();
    assert!(matches!(refused, Error::Descriptor(_)), "{refused:?}");
}
