//! The owner of a foreign pod, whose VM and agent are played (`pod::tests`).

use std::sync::Arc;

use test_support::{Reason, require};

use super::*;
use crate::config::Timeouts;
use crate::engine::foreign::owner::{ForeignOwner, is_foreign_exec};
use crate::engine::owner::exec::{self, ExecHost, Starter};
use crate::engine::owner::service::{InitAttach, PodService};
use crate::engine::records::exec::{ExecRequest, ExecSession};
use crate::engine::usage::{ContainerProcess, ContainerUsage, PodUsage};
use crate::pod::tests::{Bed, PATIENCE};

struct Lab {
    owner: Arc<ForeignOwner>,
    bed: Bed,
}

impl Lab {
    /// A pod of containerd with running containers.
    async fn new(containers: &[&str]) -> Result<Self, Reason> {
        let change = |spec: &mut PodConfig| {
            spec.managed_by = ManagedBy::Containerd;
            spec.outlives_containers = true;
        };
        let mut bed = Bed::with(Timeouts::default(), change).await?;
        for id in containers {
            bed.running(id).await;
            let bundle = bed.pod.state(id, None).unwrap().bundle;
            let spec = serde_json::json!({
                "ociVersion": "1.0.2",
                "root": {"path": "rootfs"},
                "process": {
                    "args": ["sh"], "cwd": "/work", "env": ["A=b"],
                    "user": {"uid": 7, "gid": 8}
                }
            });
            std::fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        }
        let owner = ForeignOwner::new(bed.pod.clone());
        Ok(Self { owner, bed })
    }

    fn sessions(&self, container: &str) -> Vec<(String, ExecSession)> {
        let all = self.owner.change_sessions(container, |all| all.clone());
        all.unwrap().into_iter().collect()
    }

    async fn end(&self, container: &str) {
        self.bed.guest.end(container, "", 3);
        self.owner.wait(container).await.unwrap();
    }
}

fn request() -> ExecRequest {
    ExecRequest {
        command: vec!["ls".into()],
        ..ExecRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_process_is_that_of_its_container_with_an_id_of_its_own() {
    let lab = require!(Lab::new(&["a"]).await);
    let ran = exec::run(&lab.owner, "a", request(), Starter::default());
    let (id, connected) = ran.await.unwrap();
    assert!(is_foreign_exec(&id) && !is_foreign_exec("x"), "{id}");
    assert_eq!(lab.bed.guest.heard(), [format!("exec_process a/{id}")]);
    let (name, session) = lab.sessions("a").remove(0);
    assert_eq!((&name, session.status), (&id, ContainerStatus::Running));
    assert_ne!(session.pid, 0);
    assert_eq!(session.request.cwd.as_deref(), Some("/work"));
    assert_eq!(session.request.env, ["A=b"]);

    lab.bed.guest.end("a", &id, 5);
    let exit = tokio::time::timeout(PATIENCE, connected.exit).await;
    assert_eq!(exit.unwrap().unwrap().status, 5);
    let (_, session) = lab.sessions("a").remove(0);
    assert_eq!(
        (session.status, session.exit_code, session.pid),
        (ContainerStatus::Exited, Some(5), 0)
    );
    exec::remove(&lab.owner, "a", &id, false).await.unwrap();
    assert!(lab.sessions("a").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_processes_of_a_container_are_forgotten_with_it() {
    let lab = require!(Lab::new(&["a", "b"]).await);
    let waiting = exec::create(&*lab.owner, "a", request()).unwrap();
    let (id, connected) = exec::run(&lab.owner, "a", request(), Starter::default())
        .await
        .unwrap();
    exec::create(&*lab.owner, "b", request()).unwrap();
    assert_eq!(lab.sessions("a").len(), 2);
    // It ends with its container, whoever removes that.
    lab.bed.guest.end("a", &id, 137);
    lab.end("a").await;
    let exit = tokio::time::timeout(PATIENCE, connected.exit).await;
    assert_eq!(exit.unwrap().unwrap().status, 137);
    let end = lab.owner.end_of("a", &waiting).unwrap();
    lab.bed.pod.delete("a", None).await.unwrap();
    assert_eq!(lab.sessions("b").len(), 1);
    let killed = tokio::time::timeout(PATIENCE, end).await;
    assert_eq!(killed.unwrap().unwrap().status, 137);
    let gone = lab.owner.change_sessions("a", |_| ()).unwrap_err();
    assert!(
        matches!(&gone, Error::NotFound { what: "container", id } if id == "a"),
        "{gone:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_needs_a_container_that_runs() {
    let lab = require!(Lab::new(&["a"]).await);
    lab.bed.pod.pause("a").await.unwrap();
    match exec::create(&*lab.owner, "a", request()).unwrap_err() {
        Error::WrongState {
            what: "container",
            id,
            operation: "run a process in",
            state,
        } => assert_eq!((&*id, &*state), ("a", "paused")),
        other => panic!("{other:?}"),
    }
    let missing = exec::create(&*lab.owner, "none", request()).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_for_the_named_ones_or_for_all_that_run() {
    let lab = require!(Lab::new(&["a", "b"]).await);
    let signal = |container: &str, rest: &str| {
        format!("signal_process container_id: \"{container}\" signal: 10{rest}")
    };
    let all = lab.owner.kill(&[], 10, true).await.unwrap();
    assert_eq!(all.done, ["a", "b"]);
    assert_eq!(
        lab.bed.guest.heard(),
        [signal("a", " all: true"), signal("b", " all: true")]
    );
    lab.end("a").await;
    lab.bed.guest.heard();
    let all = lab.owner.kill(&[], 10, false).await.unwrap();
    assert_eq!(
        (all.done, all.ignored),
        (vec!["b".to_owned()], vec!["a".to_owned()])
    );
    assert_eq!(lab.bed.guest.heard(), [signal("b", "")]);
    let named = lab.owner.kill(&["a".into()], 10, false).await.unwrap();
    assert!(named.errors.contains_key("a") && named.ignored.is_empty());
    let missing = lab
        .owner
        .kill(&["none".into()], 10, false)
        .await
        .unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_of_the_named_ones_or_of_all_that_run() {
    let lab = require!(Lab::new(&["a", "b"]).await);
    let names = |usage: PodUsage| -> Vec<String> {
        let used = usage.containers.into_iter();
        used.map(|usage| usage.container).collect()
    };
    let one = lab
        .owner
        .usage(&["a".into()])
        .await
        .unwrap()
        .containers
        .remove(0);
    let expected = ContainerUsage {
        container: "a".into(),
        cpu_ns: 2000,
        memory: 3,
        memory_limit: Some(4),
        pids: 5,
        read: 66,
        written: 770,
        at: one.at,
    };
    assert_eq!(one, expected);
    assert_eq!(names(lab.owner.usage(&[]).await.unwrap()), ["a", "b"]);
    let process = ContainerProcess {
        pid: 7,
        parent: 1,
        uid: 8,
        cpu_ms: 9,
        resident_bytes: 10,
        command: lab.bed.pod.processes("a").await.unwrap().processes[0]
            .command
            .clone(),
    };
    assert_eq!(lab.owner.processes("a").await.unwrap(), [process]);
    lab.end("a").await;
    assert_eq!(names(lab.owner.usage(&[]).await.unwrap()), ["b"]);
    let ended = lab.owner.usage(&["a".into()]).await.unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::FailedPrecondition);
    let missing = lab.owner.usage(&["none".into()]).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_init_is_the_managers() {
    let lab = require!(Lab::new(&["a"]).await);
    let refused = lab
        .owner
        .attach("a", InitAttach::default(), Starter::default())
        .await;
    let refused = refused.map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unimplemented);
    assert_eq!(refused.to_string(), lab.owner.refusal().to_string());
    lab.bed.guest.end("a", "", 3);
    assert_eq!(lab.owner.wait("a").await.unwrap().status, 3);
}
