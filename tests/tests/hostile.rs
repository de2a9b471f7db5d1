//! Guests with a hostile agent: the test plays it, against the real owner of a pod
//! (`harness::guest`). Also processes in a real guest that try to pose as the agent.

use std::path::Path;
use std::time::{Duration, Instant};

use harness::bed::Bed;
use harness::dist::{machine, machine_is_qemu, patience, subject, subject_is_ours};
use harness::guest::{Agent, Call, answer, frame, refusal};
use harness::pods::{self, SLEEP};
use harness::process;
use harness::run::{Input, Running, run};
use harness::scene::{Scene, limit};
use harness::spec::Spec;
use harness::task::{Bundle, Code, Refused, Shim};
use harness::{Reason, require};
use nix::sys::signal::Signal;
use ttrpc::proto::MESSAGE_TYPE_DATA;

/// A pod whose agent behaves as `act` says, and the result of creating its container. Nothing
/// is left of it.
struct Play<'a> {
    bed: &'a Bed,
    bundle: Bundle,
    shim: Shim,
    agent: Agent,
    created: Result<u32, Refused>,
}

impl<'a> Play<'a> {
    fn of(bed: &'a Bed, act: impl FnMut(&Call) -> Vec<u8> + Send + 'static) -> Self {
        let bundle = Bundle::of(bed, "c", &Spec::new(&bed.rootfs(), &["true"]));
        let shim = Shim::start(bed, &subject(), &bundle);
        let (agent, created) = std::thread::scope(|scope| {
            let creating = scope.spawn(|| shim.create(&bundle, None, false));
            let agent = Agent::of_next_pod(bed, limit(), act);
            (agent, creating.join().expect("no panic"))
        });
        Self {
            bed,
            bundle,
            shim,
            agent,
            created: created.map(|answer| answer.pid),
        }
    }

    /// Ends it as containerd does.
    fn end(self) -> Vec<String> {
        let _ = self.shim.shutdown("c");
        self.bundle.delete(self.bed, &subject()).ok();
        let heard = self.agent.hung_up();
        self.bed.assert_clean();
        heard
    }
}

/// The stand-in for the agent works with the sockets of a pod of rust-kata in QEMU.
fn plays() -> Result<(), Reason> {
    subject_is_ours().and_then(|()| machine_is_qemu())
}

/// How the agent breaks the protocol when it is asked to create a container.
#[derive(Clone, Copy)]
enum Breach {
    Data,
    Unasked,
    Long,
}

#[test]
fn an_agent_that_breaks_its_protocol_loses_its_vm() {
    require!(plays());
    for (breach, problem) in [
        (Breach::Data, "a frame of type 3"),
        (Breach::Unasked, "which is not waiting for an answer"),
        (Breach::Long, "an answer of 10485"),
    ] {
        let bed = Bed::new();
        let play = Play::of(&bed, move |call| match (call.method.as_str(), breach) {
            ("CreatePod", _) => answer(call.stream, b""),
            ("NextEvent", _) => Vec::new(),
            (_, Breach::Data) => frame(MESSAGE_TYPE_DATA, call.stream, b""),
            (_, Breach::Unasked) => answer(call.stream + 1000, b""),
            (_, Breach::Long) => answer(call.stream, &[0; 1 << 20]),
        });

        let refused = play.created.as_ref().expect_err("no container");
        assert_eq!(refused.code, Code::UNAVAILABLE, "{refused:?}");
        assert!(
            refused.message.contains("broke its protocol"),
            "{refused:?}"
        );
        assert!(refused.message.contains(problem), "{refused:?}");
        let heard = play.end();
        assert!(heard.len() < 10, "there were further calls: {heard:?}");
    }
}

#[test]
fn words_of_a_guest_reach_containerd_short_and_harmless() {
    require!(plays());
    let bed = Bed::new();
    let text = format!("\x1b]0;owned\x07\n{}", "x".repeat(10_000));
    let play = Play::of(&bed, move |call| match call.method.as_str() {
        "CreateContainer" => refusal(call.stream, &text),
        "NextEvent" => Vec::new(),
        _ => answer(call.stream, b""),
    });
    let refused = play.created.as_ref().expect_err("no container");
    assert_eq!(refused.code, Code::INTERNAL, "{refused:?}");
    let message = &refused.message;
    assert!(message.contains("\\u{1b}]0;owned\\u{7}\\nxxx"), "{message}");
    assert!(!message.contains(char::is_control), "{message:?}");
    assert!(message.len() < 5000, "{}", message.len());
    play.end();
}

#[test]
fn events_without_end_are_taken_slowly_and_fill_no_log() {
    require!(plays());
    let bed = Bed::new();
    let play = Play::of(&bed, |call| match call.method.as_str() {
        // An event of an unknown kind.
        "NextEvent" | "CreatePod" | "CreateContainer" => answer(call.stream, b""),
        _ => Vec::new(),
    });
    play.created.as_ref().expect("a container");
    play.agent.heard();
    let since = Instant::now();
    let log = &play.bundle.log;
    let line = "the agent sent an unknown event";
    log.expect(line, patience(10.0));
    // Wait to measure a rate.
    std::thread::sleep(Duration::from_secs(3));
    let events = play
        .agent
        .heard()
        .iter()
        .filter(|call| *call == "NextEvent")
        .count();
    let most = since.elapsed().as_millis() as usize / 20 + 2;
    assert!(
        (10..=most).contains(&events),
        "{events} events, {most} at the most"
    );
    let lines = log.now().text().matches(line).count();
    assert!((1..=20).contains(&lines), "{lines} lines");
    play.end();
}

#[test]
fn a_created_container_that_does_not_end_is_deleted_all_the_same() {
    require!(plays());
    let bed = Bed::new();
    let play = Play::of(&bed, |call| match call.method.as_str() {
        "NextEvent" | "WaitProcess" => Vec::new(),
        _ => answer(call.stream, b""),
    });
    play.created.as_ref().expect("a container");
    let since = Instant::now();
    let deleted = play.shim.delete("c", "").expect("deleted");
    assert_eq!(deleted.exit_status, 137);
    assert!(since.elapsed() < patience(30.0), "{:?}", since.elapsed());
    play.end();
}

#[test]
fn the_forced_removal_of_an_exec_that_does_not_end_has_a_deadline() {
    require!(plays());
    let bed = Bed::new();
    pods::pod(&bed, "p", &[], &[("c", &[], SLEEP)]);
    let (agent, started) = std::thread::scope(|scope| {
        let start = bed.cli(&["pod", "start", "p"]);
        let starting = scope.spawn(|| run(start, Input::Null, limit()));
        let agent = Agent::of_next_pod(&bed, limit(), |call| match call.method.as_str() {
            "NextEvent" | "WaitProcess" => Vec::new(),
            _ => answer(call.stream, b""),
        });
        (agent, starting.join().expect("no panic"))
    });
    started.ok();
    let id = bed
        .rust_kata(&["container", "exec", "-d", "c", "sleep", "1000"])
        .ok()
        .out();

    let removed = bed.rust_kata(&["container", "session", "rm", "--force", "c", id.trim()]);

    assert_ne!(removed.code, 0, "{removed:?}");
    assert!(
        removed.err().contains("has not ended within 20 s"),
        "{removed:?}"
    );
    assert!(removed.elapsed < patience(30.0), "{removed:?}");
    for machine in bed.named(machine()) {
        process::signal(machine.pid, Signal::SIGKILL);
    }
    agent.hung_up();
    bed.rust_kata(&["pod", "rm", "--force", "p"]).ok();
    bed.assert_clean();
}

/// A process without privileges dials each port of the host as often as it can, and keeps the
/// connections.
#[test]
fn processes_in_the_guest_can_neither_take_streams_nor_fill_a_log() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    let knock = Path::new(env!("CARGO_BIN_EXE_knock"));
    let library = |name: &str| std::fs::canonicalize(name).expect("the host has it");
    let spec = Spec::new(&bed.rootfs(), &["/knock"])
        .set(
            "/process/user",
            serde_json::json!({"uid": 65534, "gid": 65534}),
        )
        .mount("bind", knock, "/knock", &["bind", "ro"])
        .mount("bind", &library("/lib"), "/lib", &["rbind", "ro"])
        .mount("bind", &library("/lib64"), "/lib64", &["rbind", "ro"]);
    let mut knocking = Running::spawn(scene.spec_command("c", &[], &spec), Input::Open);
    knocking
        .stdout
        .expect("knocked 3000 times, 0 open\n", limit());

    let exec = scene.exec_command("c", "e", &[], &["echo", "still here"]);
    assert_eq!(run(exec, Input::Null, limit()).ok().out(), "still here\n");

    let log = bed.log();
    let lines = log.lines().filter(|line| line.contains("stream")).count();
    assert!(lines <= 20, "{lines} lines: {log}");
    knocking.close_stdin();
    knocking.finish(limit()).ok();
    scene.remove("c");
    bed.assert_clean();
}
