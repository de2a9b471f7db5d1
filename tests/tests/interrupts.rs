//! Signals to `rust-kata` while it boots a VM, or is attached to a process.

use std::time::Instant;

use harness::bed::Bed;
use harness::dist::{machine, subject_is_ours};
use harness::pods::{create_container, inspect, pod};
use harness::require;
use harness::run::{Input, Output, Running, run};
use harness::scene::{Scene, limit};
use nix::sys::signal::Signal::{self, SIGINT, SIGQUIT, SIGTERM};

/// Sends a signal to a command once it has printed a line.
#[track_caller]
fn interrupt(bed: &Bed, words: &[&str], signals: &[Signal]) -> Output {
    let running = Running::spawn(bed.cli(words), Input::Null);
    running.stdout.expect("up\n", limit());
    for (n, signal) in signals.iter().enumerate() {
        if n > 0 {
            running.stdout.expect("got\n", limit());
        }
        running.signal(*signal);
    }
    running.finish(limit())
}

#[test]
fn a_process_in_a_container_gets_the_signals_of_its_client() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let script = "trap 'exit 7' INT; echo up; while :; do sleep 0.1; done";
    pod(&bed, "p", &[], &[("c", &[], script)]);
    bed.rust_kata(&["container", "init", "c"]).ok();
    // It waits to be started.
    let refused = run(bed.cli(&["attach", "c"]), Input::Null, limit()).exits(125);
    assert!(refused.err().contains("initialized"), "{refused:?}");
    bed.rust_kata(&["start", "c"]).ok();

    for (signal, code) in [(SIGINT, 130), (SIGTERM, 143), (SIGQUIT, 131)] {
        let words = ["exec", "c", "sh", "-c", "echo up; exec sleep 4242"];
        let output = interrupt(&bed, &words, &[signal]).exits(code);
        assert_eq!(output.err(), "");
        let top = bed.rust_kata(&["top", "c"]).ok().out();
        assert!(!top.contains("4242"), "{top}");
    }
    // A process that goes on after the first signal does not hold its client.
    let script = "trap 'echo got' INT TERM; echo up; while :; do sleep 0.1; done";
    let words = ["exec", "c", "sh", "-c", script];
    interrupt(&bed, &words, &[SIGINT, SIGTERM]).exits(143);

    // A frozen process takes no signal.
    let attached = Running::spawn(bed.cli(&["attach", "c"]), Input::Null);
    let events = || bed.rust_kata(&["events", "--filter", "event=attach"]).ok();
    let deadline = Instant::now() + limit();
    while events().out().lines().count() < 1 {
        assert!(Instant::now() < deadline, "it is not attached");
    }
    bed.rust_kata(&["pause", "c"]).ok();
    attached.signal(SIGINT);
    attached.finish(limit()).exits(130);
    bed.rust_kata(&["unpause", "c"]).ok();
    assert_eq!(inspect(&bed, "container", "c")["status"], "running");

    // The start of a running one attaches to it, and its signals are the container's.
    let attached = Running::spawn(bed.cli(&["start", "--attach", "c"]), Input::Null);
    let deadline = Instant::now() + limit();
    while events().out().lines().count() < 2 {
        assert!(Instant::now() < deadline, "it is not attached");
    }
    attached.signal(SIGINT);
    attached.finish(limit()).exits(7);
    bed.rust_kata(&["pod", "rm", "-f", "p"]).ok();
    bed.assert_clean();
}

#[test]
fn so_does_a_process_in_a_container_of_containerd() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    scene.detach("theirs", &[], &["sleep", "1000"]);
    let script = "echo up; exec sleep 4242";
    let words = ["exec", "theirs", "sh", "-c", script];
    interrupt(&bed, &words, &[SIGINT]).exits(130);
    let top = bed.rust_kata(&["top", "theirs"]).ok().out();
    assert!(!top.contains("4242"), "{top}");
    scene.task(&["kill", "-s", "KILL", "theirs"]).ok();
    scene.await_event("theirs", "/tasks/exit");
    scene.remove("theirs");
}

#[test]
fn an_interrupted_boot_leaves_nothing_that_runs() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let rootfs = bed.rootfs();
    let root = rootfs.to_str().expect("an ASCII path");
    // If the boot was faster than the signal, the container ends with the same code.
    let script = "trap 'exit 130' INT; echo up; while :; do sleep 0.1; done";
    let interrupted = |words: &[&str]| {
        let fixed = ["--name", "c", "--rootfs", root, "--", "sh", "-c", script];
        let running = Running::spawn(bed.cli(&[words, &fixed].concat()), Input::Null);
        let deadline = Instant::now() + limit();
        while bed.named(machine()).is_empty() {
            assert!(Instant::now() < deadline, "no VM");
        }
        running.signal(SIGINT);
        running.finish(limit()).exits(130)
    };
    for words in [&["run", "--rm"][..], &["run", "--rm", "-d"]] {
        interrupted(words);
        assert_eq!(bed.rust_kata(&["ps", "-aq"]).ok().out(), "", "{words:?}");
        assert_eq!(bed.rust_kata(&["pod", "ls", "-q"]).ok().out(), "");
        bed.assert_clean();
    }
    interrupted(&["run"]);
    let status = inspect(&bed, "container", "c")["status"].clone();
    assert!(status == "created" || status == "exited", "{status}");
    // It can be started later.
    let started = Running::spawn(bed.cli(&["start", "--attach", "c"]), Input::Null);
    started.stdout.expect("up\n", limit());
    started.signal(SIGINT);
    started.finish(limit()).exits(130);
    bed.rust_kata(&["rm", "c"]).ok();
    bed.assert_clean();
}

#[test]
fn a_session_is_found_by_the_beginning_of_its_id() {
    require!(subject_is_ours());
    let bed = Bed::new();
    pod(&bed, "p", &[], &[]);
    create_container(&bed, "p", "c", &[], "while :; do sleep 0.1; done").ok();
    bed.rust_kata(&["start", "c"]).ok();
    let session = bed
        .rust_kata(&["exec", "-d", "c", "sleep", "1000"])
        .ok()
        .out();
    let short = &session[..6];
    let shown = bed
        .rust_kata(&["container", "session", "inspect", "c", short])
        .ok();
    assert!(shown.out().contains(session.trim()), "{shown:?}");
    let removed = bed
        .rust_kata(&["container", "session", "rm", "-f", "c", short])
        .ok();
    assert_eq!(removed.out(), session);
    bed.rust_kata(&["pod", "rm", "-f", "-t", "0", "p"]).ok();
    bed.assert_clean();
}
