//! Further processes of containers, by their owner.

use test_support::require;

use super::*;
use crate::engine::owner::exec::{self, Starter};
use crate::engine::records::exec::{ExecRequest, ExecSession, PreservedFd};

fn request() -> ExecRequest {
    ExecRequest {
        command: vec!["sh".into(), "-c".into()],
        ..ExecRequest::default()
    }
}

impl Lab {
    fn create_exec(&self) -> String {
        exec::create(&*self.owner, "a", request()).unwrap()
    }

    async fn start_exec(&self, id: &str) -> Result<exec::Connected> {
        exec::start(&self.owner, "a", id, Starter::default()).await
    }

    async fn remove_exec(&self, id: &str, force: bool) -> Result<()> {
        exec::remove(&self.owner, "a", id, force).await
    }

    fn session(&self, id: &str) -> Option<ExecSession> {
        self.now("a").execs.get(id).cloned()
    }

    fn holds_streams(&self, id: &str) -> bool {
        let container = self.owner.tracked("a").unwrap();
        lock(&container.execs).contains_key(id)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_is_recorded_run_and_ends() {
    let lab = require!(Lab::started(&["a"]).await);
    let before = lab.journal().len();
    let id = lab.create_exec();
    assert_eq!(id.len(), 12);
    assert_ne!(lab.create_exec(), id);
    let session = lab.session(&id).unwrap();
    assert_eq!(session.status, ContainerStatus::Configured);
    assert_eq!(session.request.cwd.as_deref(), Some("/"));
    lab.is_saved("a");
    assert!(lab.guest.heard().is_empty(), "it is only recorded");

    let connected = lab.start_exec(&id).await.unwrap();
    let session = lab.session(&id).unwrap();
    assert_eq!(session.status, ContainerStatus::Running);
    assert_ne!(session.pid, 0);
    assert_eq!(lab.guest.heard(), [format!("exec_process a/{id}")]);
    assert!(lab.holds_streams(&id));
    let twice = lab.start_exec(&id).await.map(drop).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::FailedPrecondition);

    lab.guest.end("a", &id, 5);
    let exit = tokio::time::timeout(PATIENCE, connected.exit).await;
    assert_eq!(exit.unwrap().unwrap().status, 5);
    let session = lab.session(&id).unwrap();
    assert_eq!(
        (session.status, session.exit_code, session.pid),
        (ContainerStatus::Exited, Some(5), 0)
    );
    lab.until("it is told", |lab| lab.journal().len() == before + 2)
        .await;
    assert_eq!(
        lab.journal()[before..],
        [
            format!("a exec command=sh -c exec={id}"),
            format!("a exec_died exec={id} exit_code=5")
        ]
    );
    assert!(!lab.holds_streams(&id));
    assert_eq!(lab.status("a"), ContainerStatus::Running);
    let missing = lab.start_exec("none").await.map(drop).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_an_exec_is_refused_before_it_is_recorded() {
    let lab = require!(Lab::new(&["a"]).await);
    let refused = |container: &str, change: fn(&mut ExecRequest)| {
        let mut request = request();
        change(&mut request);
        let refused = exec::create(&*lab.owner, container, request);
        refused.unwrap_err().kind()
    };
    assert_eq!(
        refused("a", |_| ()),
        ErrorKind::FailedPrecondition,
        "it does not run"
    );
    lab.start().await;
    assert_eq!(refused("none", |_| ()), ErrorKind::NotFound);
    assert_eq!(
        refused("a", |exec| exec.command.clear()),
        ErrorKind::InvalidArgument
    );
    assert_eq!(
        refused("a", |exec| exec.user = Some("nobody".into())),
        ErrorKind::InvalidArgument
    );
    let fd = PreservedFd {
        number: 2,
        direction: crate::stdio::descriptor::Direction::Out,
    };
    let ran = ExecRequest {
        preserve_fds: vec![fd],
        ..request()
    };
    let ran = exec::run(&lab.owner, "a", ran, Starter::default()).await;
    assert_eq!(
        ran.map(drop).unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    assert!(lab.now("a").execs.is_empty());
    assert!(lab.guest.heard().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_run_leaves_its_end_in_the_journal_alone() {
    let lab = require!(Lab::started(&["a"]).await);
    let id = lab.create_exec();
    lab.guest.refuse("exec_process", Refusal::Command(126));
    let failed = lab.start_exec(&id).await.map(drop);
    assert!(matches!(failed, Err(Error::Command { exit_code: 126, .. })));
    assert!(lab.session(&id).is_none() && !lab.holds_streams(&id));
    assert_eq!(
        lab.journal().last().unwrap(),
        &format!("a exec_died exec={id} exit_code=126")
    );
    lab.is_saved("a");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_is_removed_when_it_has_ended_or_by_force() {
    let lab = require!(Lab::started(&["a"]).await);
    let waits = lab.create_exec();
    lab.remove_exec(&waits, false).await.unwrap();
    assert!(lab.session(&waits).is_none());
    let id = lab.create_exec();
    lab.start_exec(&id).await.unwrap();
    lab.guest.heard();
    let runs = lab.remove_exec(&id, false).await.unwrap_err();
    assert_eq!(runs.kind(), ErrorKind::FailedPrecondition);
    assert!(lab.session(&id).is_some());
    lab.remove_exec(&id, true).await.unwrap();
    assert!(lab.session(&id).is_none());
    assert_eq!(
        lab.guest.heard()[0],
        format!("signal_process container_id: \"a\" exec_id: \"{id}\" signal: 9")
    );
    let missing = lab.remove_exec(&id, true).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    lab.is_saved("a");
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_are_passed_on_to_what_is_not_built_yet() {
    use crate::stdio::descriptor::Direction;
    let lab = require!(Lab::new(&["a"]).await);
    let wanted = [PreservedFd {
        number: 3,
        direction: Direction::Out,
    }];
    let end = || std::os::unix::net::UnixStream::pair().unwrap().0;
    let none = lab.owner.pass_fds("a", &wanted, Vec::new()).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::InvalidArgument);
    lab.owner.pass_fds("a", &wanted, vec![end()]).unwrap();
    lab.owner.pass_fds("a", &[], Vec::new()).unwrap();
    lab.start().await;
    let late = lab.owner.pass_fds("a", &wanted, vec![end()]).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::FailedPrecondition);
    lab.owner.pass_fds("a", &[], Vec::new()).unwrap();
}
