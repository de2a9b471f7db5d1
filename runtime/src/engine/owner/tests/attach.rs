//! Attachments to the init of a container, which may start it.

use test_support::require;
use ttrpc::Code;

use super::*;
use crate::engine::owner::exec::{Connected, Starter};
use crate::engine::owner::service::{InitAttach, PodService};
use crate::engine::records::exec::PreservedFd;
use crate::error::DescriptorError;
use crate::stdio::descriptor::Direction;

fn starting(fds: &[u32]) -> InitAttach {
    let fd = |number: &u32| PreservedFd {
        number: *number,
        direction: Direction::Out,
    };
    InitAttach {
        start: true,
        preserve_fds: fds.iter().map(fd).collect(),
    }
}

fn starter(ends: usize, size: Option<(u32, u32)>) -> Starter {
    let end = |_| std::os::unix::net::UnixStream::pair().unwrap().0;
    Starter {
        ends: (0..ends).map(end).collect(),
        size,
        ..Starter::default()
    }
}

impl Lab {
    async fn attach(&self, how: InitAttach, starter: Starter) -> Result<Connected> {
        self.owner.attach("a", how, starter).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_to_what_runs_has_its_output_and_its_end() {
    let lab = require!(Lab::started(&["a"]).await);
    let before = lab.journal().len();
    let connected = lab
        .attach(InitAttach::default(), starter(0, Some((7, 8))))
        .await;
    let connected = connected.unwrap();
    assert_eq!(lab.journal()[before..], ["a attach"]);
    let heard = lab.guest.heard();
    assert!(
        heard.is_empty() || heard[0].starts_with("resize_pty"),
        "{heard:?}"
    );
    lab.guest.end("a", "", 3);
    let exit = tokio::time::timeout(PATIENCE, connected.exit).await;
    assert_eq!(exit.unwrap().unwrap().status, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_run_is_started_only_on_request() {
    let lab = require!(Lab::new(&["a"]).await);
    let refused = lab.attach(InitAttach::default(), starter(0, None)).await;
    match refused.map(drop).unwrap_err() {
        Error::WrongState {
            what: "container",
            id,
            operation: "attach to",
            state,
        } => assert_eq!((&*id, &*state), ("a", "created")),
        other => panic!("{other:?}"),
    }
    lab.attach(starting(&[]), starter(0, None)).await.unwrap();
    assert_eq!(lab.status("a"), ContainerStatus::Running);
    assert_eq!(
        lab.guest.heard(),
        ["create_container a", "start_container container_id: \"a\""]
    );
    assert_eq!(lab.journal(), ["a attach", "a attach", "a init", "a start"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_are_given_to_what_is_started_and_one_end_for_each() {
    let lab = require!(Lab::new(&["a"]).await);
    for (fds, ends) in [(&[3][..], 0), (&[], 1), (&[3], 2), (&[2], 1)] {
        let refused = lab.attach(starting(fds), starter(ends, None)).await;
        let refused = refused.map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{fds:?} {ends}");
        assert!(lab.guest.heard().is_empty());
    }
    lab.start().await;
    let running = lab.attach(InitAttach::default(), starter(1, None)).await;
    match running.map(drop).unwrap_err() {
        Error::Descriptor(DescriptorError::Running { process }) => assert_eq!(process, "a"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_leaves_no_descriptors_for_the_next() {
    let lab = require!(Lab::new(&["a"]).await);
    lab.guest
        .refuse("create_container", Refusal::Error(Code::INVALID_ARGUMENT));
    let refused = lab.attach(starting(&[3]), starter(1, None)).await;
    assert_eq!(
        refused.map(drop).unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    assert!(!lab.status("a").is_live());
    let container = lab.owner.tracked("a").unwrap();
    assert!(lock(&container.passed_fds).is_empty());
}
