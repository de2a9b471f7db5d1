//! Attachments that start a container, signals to further processes, and what comes during a
//! start.

use std::os::unix::net::UnixStream;
use std::pin::pin;

use futures::poll;
use test_support::require;

use super::*;
use crate::engine::owner::exec::{self, Connected, Starter};
use crate::engine::owner::service::{InitAttach, PodService};
use crate::engine::records::exec::ExecRequest;

impl Lab {
    async fn attach_client(&self, start: bool, client: UnixStream) -> Result<Connected> {
        let how = InitAttach {
            start,
            ..InitAttach::default()
        };
        let starter = Starter {
            client: Some(client.into()),
            ..Starter::default()
        };
        self.owner.attach("a", how, starter).await
    }

    fn has_heard_a_start(&self) -> bool {
        let heard = self.guest.heard();
        heard.iter().any(|line| line.starts_with("start_container"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_not_started_for_a_client_that_has_left() {
    let lab = require!(Lab::new(&["a", "b"]).await);
    lab.owner.start(&names(&["b"]), false).await.unwrap();
    lab.guest.heard();
    let (near, far) = UnixStream::pair().unwrap();
    drop(far);
    let left = lab.attach_client(true, near).await.map(drop).unwrap_err();
    assert_eq!(left.kind(), ErrorKind::Unavailable);
    assert!(left.to_string().contains("left before its start"), "{left}");
    assert!(!lab.has_heard_a_start());
    assert_eq!(lab.status("a"), ContainerStatus::Configured);
    lab.is_saved("a");

    // For one that stays it is, also if it was built before.
    for built in [false, true] {
        if built {
            lab.owner.stop(&names(&["a"]), Some(0)).await.unwrap();
            lab.owner.init(&names(&["a"])).await.unwrap();
            lab.guest.heard();
        }
        let (near, _far) = UnixStream::pair().unwrap();
        lab.attach_client(true, near).await.map(drop).unwrap();
        assert!(lab.has_heard_a_start());
        assert_eq!(lab.status("a"), ContainerStatus::Running);
    }

    // The start of one that runs is an attachment.
    let (near, _far) = UnixStream::pair().unwrap();
    lab.attach_client(true, near).await.map(drop).unwrap();
    assert!(!lab.has_heard_a_start());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_by_force_during_a_start_removes_what_then_runs() {
    let lab = require!(Lab::new(&["a", "b"]).await);
    lab.owner.start(&names(&["b"]), false).await.unwrap();
    let itself = names(&["a"]);
    let op = lab.owner.op.lock().await;
    let mut removal = pin!(lab.owner.remove(&itself, true, Some(0)));
    assert!(poll!(&mut removal).is_pending());
    let started = lab.owner.start_locked(&itself, false).await.unwrap();
    assert_eq!(started.done, itself);
    drop(op);
    let removed = tokio::time::timeout(PATIENCE, removal).await.unwrap();
    assert_eq!(parts(removed.unwrap()), (itself.clone(), vec![], vec![]));
    assert!(lab.owner.tracked("a").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_reaches_a_process_that_runs() {
    let lab = require!(Lab::started(&["a"]).await);
    let request = ExecRequest {
        command: vec!["sh".into()],
        ..ExecRequest::default()
    };
    let id = exec::create(&*lab.owner, "a", request).unwrap();
    let signal = async |exec: &str, number| {
        let sent = exec::signal(&*lab.owner, "a", exec, number).await;
        sent.map_err(|error| error.kind())
    };
    let refused = ErrorKind::FailedPrecondition;
    assert_eq!(signal(&id, 2).await, Err(refused), "it was not started");
    let starter = Starter::default();
    let connected = exec::start(&lab.owner, "a", &id, starter).await.unwrap();
    lab.guest.heard();
    assert_eq!(signal(&id, 2).await, Ok(()));
    let heard = lab.guest.heard().join("\n");
    assert!(
        heard.contains(&id) && heard.contains("signal: 2"),
        "{heard}"
    );
    for bad in [0, 65] {
        assert_eq!(signal(&id, bad).await, Err(ErrorKind::InvalidArgument));
    }
    assert_eq!(signal("none", 2).await, Err(ErrorKind::NotFound));
    lab.guest.end("a", &id, 130);
    tokio::time::timeout(PATIENCE, connected.exit)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(signal(&id, 2).await, Err(refused), "it has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_processes_of_a_paused_container_are_not_listed() {
    let lab = require!(Lab::started(&["a"]).await);
    lab.owner.pause(&names(&["a"])).await.unwrap();
    let listed = lab.owner.list_processes("a").await;
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_pod_stays_up_whatever_its_exit_policy() {
    use crate::engine::records::definition::ExitPolicy;
    let stop = |pod: &mut PodDefinition| pod.exit_policy = ExitPolicy::Stop;
    let lab = require!(Lab::with(&[], stop, |_| ()).await);
    lab.owner.start(&[], true).await.unwrap();
    lab.has_not_ended();
    let lab = require!(Lab::with(&["a"], stop, |_| ()).await);
    lab.owner.start(&[], true).await.unwrap();
    lab.guest.end("a", "", 0);
    lab.has_ended().await;
}
