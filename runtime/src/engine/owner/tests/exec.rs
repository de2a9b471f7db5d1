//! Further processes of containers, by their owner.

use test_support::require;

use super::*;

fn request(id: &str) -> ExecRequest {
    ExecRequest {
        id: id.into(),
        command: vec!["sh".into(), "-c".into()],
        ..ExecRequest::default()
    }
}

impl Lab {
    async fn exec(&self, id: &str) {
        self.owner.create_exec("a", request(id)).unwrap();
        let starter = Starter::default();
        self.owner.start_exec("a", id, starter).await.unwrap();
        self.guest.heard();
    }

    fn has_exec(&self, id: &str) -> bool {
        self.now("a").execs.contains_key(id)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_is_recorded_run_and_ends() {
    let lab = require!(Lab::started(&["a"]).await);
    let before = lab.journal().len();
    let id = lab.owner.create_exec("a", request("")).unwrap();
    assert_eq!(id.len(), 12);
    assert_eq!(lab.owner.create_exec("a", request("x")).unwrap(), "x");
    let session = lab.now("a").execs["x"].clone();
    assert_eq!(
        (session.status, &*session.cwd),
        (ContainerStatus::Configured, "/")
    );
    lab.is_saved("a");
    assert!(lab.guest.heard().is_empty(), "it is only recorded");

    lab.owner
        .start_exec("a", "x", Starter::default())
        .await
        .unwrap();
    let session = lab.now("a").execs["x"].clone();
    assert_eq!(session.status, ContainerStatus::Running);
    assert_ne!(session.pid, 0);
    assert_eq!(
        lab.guest.heard(),
        [
            "exec_process a/x",
            "start_process container_id: \"a\" exec_id: \"x\""
        ]
    );
    assert!(lab.owner.streams("a", Some("x")).is_ok());
    let twice = lab
        .owner
        .start_exec("a", "x", Starter::default())
        .await
        .map(drop);
    assert_eq!(twice.unwrap_err().kind(), ErrorKind::FailedPrecondition);

    lab.guest.end("a", "x", 5);
    let exit = tokio::time::timeout(PATIENCE, lab.owner.wait("a", Some("x"))).await;
    assert_eq!(exit.unwrap().unwrap().status, 5);
    let session = lab.now("a").execs["x"].clone();
    assert_eq!(
        (session.status, session.exit_code, session.pid),
        (ContainerStatus::Exited, Some(5), 0)
    );
    lab.until("it is told", |lab| lab.journal().len() == before + 2)
        .await;
    assert_eq!(
        lab.journal()[before..],
        [
            "a exec command=sh -c exec=x",
            "a exec_died exec=x exit_code=5"
        ]
    );
    assert_eq!(lab.status("a"), ContainerStatus::Running);
    let missing = lab.owner.wait("a", Some("none")).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_an_exec_is_refused_before_it_is_recorded() {
    let lab = require!(Lab::new(&["a"]).await);
    let refused = |request: ExecRequest| lab.owner.create_exec("a", request).unwrap_err().kind();
    assert_eq!(
        refused(request("x")),
        ErrorKind::FailedPrecondition,
        "it does not run"
    );
    lab.start().await;
    let with = |change: fn(&mut ExecRequest)| {
        let mut request = request("x");
        change(&mut request);
        refused(request)
    };
    assert_eq!(
        with(|exec| exec.id = "../x".into()),
        ErrorKind::InvalidArgument
    );
    assert_eq!(
        with(|exec| exec.command.clear()),
        ErrorKind::InvalidArgument
    );
    assert_eq!(
        with(|exec| exec.user = Some("nobody".into())),
        ErrorKind::InvalidArgument
    );
    assert!(lab.now("a").execs.is_empty());
    lab.owner.create_exec("a", request("x")).unwrap();
    assert_eq!(refused(request("x")), ErrorKind::AlreadyExists);
    let missing = lab.owner.create_exec("none", request("x")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(
        lab.owner.streams("a", Some("x")).is_err(),
        "it does not run yet"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_run_leaves_its_end_in_the_journal_alone() {
    let lab = require!(Lab::started(&["a"]).await);
    lab.owner.create_exec("a", request("x")).unwrap();
    lab.guest.refuse("start_process", Refusal::Command(126));
    let failed = lab
        .owner
        .start_exec("a", "x", Starter::default())
        .await
        .map(drop);
    assert!(matches!(failed, Err(Error::Command { exit_code: 126, .. })));
    assert!(!lab.has_exec("x"));
    assert_eq!(
        lab.journal().last().unwrap(),
        "a exec_died exec=x exit_code=126"
    );
    lab.is_saved("a");
    // One that the guest has not taken was none.
    lab.owner.create_exec("a", request("y")).unwrap();
    let before = lab.journal().len();
    lab.guest
        .refuse("exec_process", Refusal::Error(ttrpc::Code::INTERNAL));
    let failed = lab
        .owner
        .start_exec("a", "y", Starter::default())
        .await
        .map(drop);
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Internal);
    assert!(!lab.has_exec("y"));
    assert_eq!(lab.journal().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_is_removed_when_it_has_ended_or_by_force() {
    let lab = require!(Lab::started(&["a"]).await);
    lab.owner.create_exec("a", request("waits")).unwrap();
    lab.owner.remove_exec("a", "waits", false).await.unwrap();
    assert!(!lab.has_exec("waits"));
    lab.exec("x").await;
    let runs = lab.owner.remove_exec("a", "x", false).await.unwrap_err();
    assert_eq!(runs.kind(), ErrorKind::FailedPrecondition);
    assert!(lab.has_exec("x"));
    lab.owner.remove_exec("a", "x", true).await.unwrap();
    assert!(!lab.has_exec("x"));
    assert_eq!(
        lab.guest.heard()[0],
        "signal_process container_id: \"a\" exec_id: \"x\" signal: 9"
    );
    let missing = lab.owner.remove_exec("a", "x", true).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    lab.is_saved("a");
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_are_passed_on_to_what_is_not_built_yet() {
    use crate::engine::records::record::PreservedFd;
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
