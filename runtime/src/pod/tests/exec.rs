//! Exec sessions, and operations on all kinds of processes.

use oci_spec::runtime::Process as OciProcess;
use ttrpc::Code;

use super::guest::Refusal;
use super::*;

fn process(args: &[&str]) -> OciProcess {
    let mut process = OciProcess::default();
    process.set_args(Some(args.iter().map(|arg| (*arg).to_owned()).collect()));
    process
}

impl Bed {
    async fn add(&self, exec: &str) -> Result<()> {
        let io = ProcessIo::default();
        self.pod.add_exec("a", exec, process(&["true"]), io).await
    }

    /// Starts an exec session. Skips its events and calls.
    async fn exec(&mut self, exec: &str) -> u32 {
        self.add(exec).await.unwrap();
        let pid = self.pod.start_exec("a", exec).await.unwrap();
        assert!(matches!(self.event().await, PodEvent::ExecAdded { .. }));
        assert!(matches!(self.event().await, PodEvent::ExecStarted { .. }));
        self.guest.heard();
        pid
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_process_is_no_signal_to_it() {
    let mut bed = require!(Bed::new().await);
    bed.running("a").await;
    for exec in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"] {
        bed.exec(exec).await;
        bed.guest.end("a", exec, 0);
        bed.ends("a", Some(exec), 0).await;
    }
    // The pid proxies of all of them have ended.
    bed.guest.end("a", "", 0);
    bed.ends("a", None, 0).await;
    let heard = bed.guest.heard();
    let signals = heard
        .iter()
        .filter(|call| call.starts_with("signal_process"));
    assert_eq!(signals.count(), 0, "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_is_added_started_ends_and_is_removed_in_this_order() {
    let mut bed = require!(Bed::new().await);
    bed.running("a").await;
    bed.add("x").await.unwrap();
    assert!(bed.guest.heard().is_empty(), "the guest need not know yet");
    let added = PodEvent::ExecAdded {
        container: "a".into(),
        exec: "x".into(),
    };
    assert_eq!(bed.event().await, added);
    assert_eq!(bed.status("a", Some("x")), Status::Created);
    assert_eq!(bed.saved("a").execs["x"].status, Status::Created);
    let init = bed.pod.state("a", None).unwrap().pid;
    assert_eq!(
        bed.pod.pids("a").unwrap(),
        [PidInfo {
            pid: init,
            exec: None
        }]
    );

    let pid = bed.pod.start_exec("a", "x").await.unwrap();
    assert_eq!(bed.guest.heard(), ["exec_process a/x"]);
    let started = PodEvent::ExecStarted {
        container: "a".into(),
        exec: "x".into(),
        pid,
    };
    assert_eq!(bed.event().await, started);
    assert_eq!(bed.status("a", Some("x")), Status::Running);
    assert_eq!(bed.saved("a").execs["x"].status, Status::Running);
    let exec = Some("x".to_owned());
    let both = [
        PidInfo {
            pid: init,
            exec: None,
        },
        PidInfo { pid, exec },
    ];
    assert_eq!(bed.pod.pids("a").unwrap(), both);
    let early = bed.pod.delete("a", Some("x")).await.unwrap_err();
    assert!(
        matches!(early, Error::WrongState { what: "exec", .. }),
        "{early:?}"
    );
    let twice = bed.pod.start_exec("a", "x").await.unwrap_err();
    assert!(
        matches!(twice, Error::WrongState { what: "exec", .. }),
        "{twice:?}"
    );

    bed.guest.end("a", "x", 4);
    bed.ends("a", Some("x"), 4).await;
    assert_eq!(bed.pod.wait("a", Some("x")).await.unwrap().status, 4);
    assert_eq!(bed.status("a", None), Status::Running);
    assert!(hypervisor::start_time(pid).is_err(), "its pid is free");

    let (of, exit) = bed.pod.delete("a", Some("x")).await.unwrap();
    assert_eq!((of, exit.status), (pid, 4));
    assert_eq!(
        bed.guest.heard(),
        ["remove_process container_id: \"a\" exec_id: \"x\""]
    );
    assert!(bed.saved("a").execs.is_empty());
    assert_eq!(
        bed.pod.state("a", Some("x")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_is_added_to_a_running_container_alone_and_under_a_free_id() {
    let mut bed = require!(Bed::new().await);
    assert_eq!(bed.add("x").await.unwrap_err().kind(), ErrorKind::NotFound);
    let config = bed.config("a");
    bed.pod.create_container(config).await.unwrap();
    let early = bed.add("x").await.unwrap_err();
    assert!(
        matches!(
            early,
            Error::WrongState {
                what: "container",
                ..
            }
        ),
        "{early:?}"
    );
    bed.pod.start("a").await.unwrap();
    bed.event().await;
    bed.event().await;
    bed.guest.heard();
    for args in [None, Some(vec![])] {
        let mut process = OciProcess::default();
        process.set_args(args);
        let refused = bed
            .pod
            .add_exec("a", "x", process, ProcessIo::default())
            .await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    assert_eq!(
        bed.add("../x").await.unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    assert!(bed.guest.heard().is_empty());
    bed.add("x").await.unwrap();
    let taken = bed.add("x").await.unwrap_err();
    assert!(
        matches!(taken, Error::AlreadyExists { what: "exec", .. }),
        "{taken:?}"
    );
    // The deletion of a session that was not started reports success; the guest does not know it.
    let (pid, exit) = bed.pod.delete("a", Some("x")).await.unwrap();
    assert_eq!((pid, exit.status), (0, 0));
    assert!(bed.guest.heard().is_empty());
    bed.add("x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_that_the_guest_refuses_leaves_nothing() {
    let mut bed = require!(Bed::new().await);
    bed.running("a").await;
    bed.guest
        .refuse("exec_process", Refusal::Error(Code::FAILED_PRECONDITION));
    bed.add("x").await.unwrap();
    let refused = bed.pod.start_exec("a", "x").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(bed.guest.heard(), ["exec_process a/x"]);
    bed.pod.delete("a", Some("x")).await.unwrap();
    assert_eq!(
        bed.guest.heard(),
        ["remove_process container_id: \"a\" exec_id: \"x\""]
    );
    assert_eq!(
        bed.pod.state("a", Some("x")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    bed.guest.accept("exec_process");
    bed.add("x").await.unwrap();
    bed.pod.start_exec("a", "x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_run_is_an_end_of_which_nothing_is_known() {
    let mut bed = require!(Bed::new().await);
    bed.running("a").await;
    bed.add("x").await.unwrap();
    bed.event().await;
    bed.guest.refuse("exec_process", Refusal::Command(126));
    let failed = bed.pod.start_exec("a", "x").await.unwrap_err();
    assert!(
        matches!(failed, Error::Command { exit_code: 126, .. }),
        "{failed:?}"
    );
    let state = bed.pod.state("a", Some("x")).unwrap();
    assert_eq!(
        (state.status, state.exit.unwrap().status),
        (Status::Stopped, 255)
    );
    assert_eq!(bed.saved("a").execs["x"].exit.unwrap().status, 255);
    let heard = bed.guest.heard();
    assert!(
        !heard.iter().any(|call| call.starts_with("signal")),
        "{heard:?}"
    );
    let (_, exit) = bed.pod.delete("a", Some("x")).await.unwrap();
    assert_eq!(exit.status, 255);
    // No start was reported for it, so no end is reported either.
    bed.guest.end("a", "", 0);
    bed.ends("a", None, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_whose_start_is_not_answered_is_killed() {
    let mut bed = require!(Bed::with(short(), |_| ()).await);
    bed.running("a").await;
    bed.add("x").await.unwrap();
    bed.guest.refuse("exec_process", Refusal::Silence);
    let failed = bed.pod.start_exec("a", "x").await.unwrap_err();
    assert!(matches!(failed, Error::AgentTimeout { .. }), "{failed:?}");
    let killed = "signal_process container_id: \"a\" exec_id: \"x\" signal: 9";
    bed.guest.has_heard(killed).await;
    assert_eq!(bed.status("a", Some("x")), Status::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_go_to_a_process_or_to_all_of_a_container() {
    let mut bed = require!(Bed::new().await);
    bed.running("a").await;
    bed.exec("x").await;
    for (exec, signal, all, heard) in [
        (None, 15, false, Some("container_id: \"a\" signal: 15")),
        (
            None,
            15,
            true,
            Some("container_id: \"a\" signal: 15 all: true"),
        ),
        (
            Some("x"),
            1,
            false,
            Some("container_id: \"a\" exec_id: \"x\" signal: 1"),
        ),
        (
            Some("x"),
            1,
            true,
            Some("container_id: \"a\" exec_id: \"x\" signal: 1"),
        ),
        // Signal 0 only checks that the process exists; see kill(2).
        (None, 0, false, None),
        (Some("x"), 0, true, None),
    ] {
        bed.pod.kill("a", exec, signal, all).await.unwrap();
        let heard: Vec<String> = heard
            .iter()
            .map(|heard| format!("signal_process {heard}"))
            .collect();
        assert_eq!(bed.guest.heard(), heard);
    }
    bed.add("waits").await.unwrap();
    bed.event().await;
    let early = bed
        .pod
        .kill("a", Some("waits"), 15, false)
        .await
        .unwrap_err();
    assert!(
        matches!(early, Error::WrongState { what: "exec", .. }),
        "{early:?}"
    );
    bed.guest.end("a", "x", 0);
    bed.ends("a", Some("x"), 0).await;
    for signal in [0, 9] {
        let late = bed
            .pod
            .kill("a", Some("x"), signal, false)
            .await
            .unwrap_err();
        assert_eq!(late.kind(), ErrorKind::NotFound);
    }
    bed.guest.heard();
    bed.guest
        .refuse("signal_process", Refusal::Error(Code::INTERNAL));
    let refused = bed.pod.kill("a", None, 9, false).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Internal);
    assert!(bed.pod.guest.check().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_not_answer_to_sigkill_is_killed_unless_others_live_in_it() {
    let mut bed = require!(Bed::with(short(), |_| ()).await);
    bed.running("a").await;
    bed.running("b").await;
    bed.guest.refuse("signal_process", Refusal::Silence);
    let refused = bed.pod.kill("a", None, 9, false).await.unwrap_err();
    assert!(matches!(refused, Error::AgentTimeout { .. }), "{refused:?}");
    bed.guest.end("b", "", 0);
    bed.ends("b", None, 0).await;
    // The answer to another signal may take any time.
    let refused = bed.pod.kill("a", None, 15, false).await.unwrap_err();
    assert!(matches!(refused, Error::AgentTimeout { .. }), "{refused:?}");
    assert!(bed.pod.guest.check().is_ok());

    bed.pod.kill("a", None, 9, false).await.unwrap();

    bed.ends("a", None, 137).await;
    assert!(bed.pod.guest.check().is_err());
    // The guest did not answer to SIGKILL, so the VM was killed.
    assert_eq!(
        bed.guest.heard().last().map(String::as_str),
        Some("kill the VM")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pty_begins_with_the_size_that_was_set_last_before_its_start() {
    let mut bed = require!(Bed::new().await);
    bed.running("a").await;
    let io = ProcessIo {
        terminal: true,
        ..ProcessIo::default()
    };
    let added = bed.pod.add_exec("a", "x", process(&["true"]), io);
    added.await.unwrap();
    for (width, height) in [(132, 50), (80, 25)] {
        let resized = bed.pod.resize_pty("a", Some("x"), width, height);
        resized.await.unwrap();
    }
    assert!(bed.guest.heard().is_empty());
    bed.pod.start_exec("a", "x").await.unwrap();
    assert_eq!(bed.guest.heard(), ["exec_process a/x 80x25"]);
    bed.pod.resize_pty("a", Some("x"), 90, 30).await.unwrap();
    assert_eq!(
        bed.guest.heard(),
        ["resize_pty container_id: \"a\" exec_id: \"x\" width: 90 height: 30"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ptys_alone_have_a_size() {
    let mut bed = require!(Bed::new().await);
    let mut config = bed.config("a");
    config.io.terminal = true;
    bed.pod.create_container(config).await.unwrap();
    bed.pod.start("a").await.unwrap();
    bed.event().await;
    bed.event().await;
    bed.exec("plain").await;
    bed.pod
        .resize_pty("a", Some("plain"), 80, 25)
        .await
        .unwrap();
    assert!(bed.guest.heard().is_empty());
    bed.pod.resize_pty("a", None, 80, 25).await.unwrap();
    assert_eq!(
        bed.guest.heard(),
        ["resize_pty container_id: \"a\" width: 80 height: 25"]
    );
    assert!(bed.pod.state("a", None).unwrap().terminal);
    assert!(!bed.pod.state("a", Some("plain")).unwrap().terminal);
    bed.guest.end("a", "plain", 0);
    bed.ends("a", Some("plain"), 0).await;
    let late = bed
        .pod
        .resize_pty("a", Some("plain"), 80, 25)
        .await
        .unwrap_err();
    assert!(
        matches!(
            late,
            Error::WrongState {
                operation: "resize",
                ..
            }
        ),
        "{late:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containers_end_is_told_after_those_of_its_execs() {
    let mut bed = require!(Bed::new().await);
    bed.running("a").await;
    bed.exec("x").await;
    bed.guest.end("a", "", 1);
    let early = timeout(Duration::from_millis(100), bed.events.recv()).await;
    assert!(early.is_err(), "{early:?}");
    bed.guest.end("a", "x", 2);
    bed.ends("a", Some("x"), 2).await;
    bed.ends("a", None, 1).await;
}
