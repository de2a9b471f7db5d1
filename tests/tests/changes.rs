//! Changes of existing pods and containers, waiting for them, and the output of all containers
//! of a pod.

use harness::bed::Bed;
use harness::dist::{CLI, VMM, subject_is_ours};
use harness::pods::{SLEEP, exec, inspect, pod};
use harness::process;
use harness::require;
use harness::run::{Input, Running, run};
use harness::scene::limit;
use nix::sys::signal::Signal;
use serde_json::Value;

#[test]
fn all_of_a_pod_is_heard_and_seen_at_once() {
    require!(subject_is_ours());
    let bed = Bed::new();
    // Control characters are shown, and do not reach the terminal.
    let clear = ": \x1b[2J";
    let script = |name: &str| {
        format!("{clear}; echo {name} one; echo {name} two >&2; read go; echo {name} last")
    };
    let (a, b) = (script("a"), script("b"));
    pod(
        &bed,
        "web",
        &[],
        &[("a", &["-i"], &a), ("b", &["-i", "--requires", "a"], &b)],
    );
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let follow = ["pod", "logs", "--follow", "web"];
    let following = Running::spawn(bed.cli(&follow), Input::Null);
    following.stdout.expect("b | b one", limit());
    following.stderr.expect("b | b two", limit());

    let top = bed
        .rust_kata(&["pod", "top", "--format", "json", "web"])
        .ok()
        .out();
    let top: Vec<Value> = serde_json::from_str(&top).expect("JSON");
    let of = |name: &str| top.iter().filter(|row| row["container"] == name).count();
    assert_eq!((of("a"), of("b")), (1, 1), "{top:?}");
    let table = bed.rust_kata(&["pod", "top", "web"]).ok().out();
    assert!(table.starts_with("CONTAINER"), "{table}");
    let list = bed.rust_kata(&["container", "ls"]).ok().out();
    // A guest's text is made safe on arrival, the rest when it is shown.
    assert!(table.contains(r": \u{1b}[2J;"), "{table:?}");
    assert!(list.contains(": .[2J;"), "{list:?}");

    for name in ["a", "b"] {
        let attached = bed.cli(&["container", "attach", name]);
        run(attached, Input::Bytes(b"go\n".to_vec()), limit()).ok();
    }
    let all = following.finish(limit()).ok();
    assert_eq!(all.out(), "a | a one\nb | b one\na | a last\nb | b last\n");
    assert_eq!(all.err(), "a | a two\nb | b two\n");
    let last = bed
        .rust_kata(&["pod", "logs", "--tail", "1", "-t", "web"])
        .ok()
        .out();
    let lines: Vec<&str> = last.lines().collect();
    assert_eq!(lines.len(), 2, "{last}");
    assert!(
        lines[0].starts_with("a | 20") && lines[0].ends_with("Z a last"),
        "{last}"
    );
    let one = bed.rust_kata(&["pod", "logs", "-c", "b", "web"]).ok();
    assert_eq!(one.out(), "b | b one\nb | b last\n");
    bed.rust_kata(&["pod", "logs", "-c", "nope", "web"])
        .exits(125);
    bed.rust_kata(&["pod", "rm", "--force", "--time", "0", "web"])
        .ok();
}

#[test]
fn a_state_is_waited_for() {
    require!(subject_is_ours());
    let bed = Bed::new();
    pod(&bed, "web", &[], &[("c", &[], SLEEP)]);
    let wait = |state: &str| {
        // The interval is an hour, so only the change itself can end the wait sooner.
        let words = [
            "container",
            "wait",
            "--condition",
            state,
            "--interval",
            "1h",
            "c",
        ];
        Running::spawn(bed.cli(&words), Input::Null)
    };
    let names = |words: &[&str]| bed.rust_kata(words).ok().out();
    assert_eq!(
        names(&["pod", "ls", "-q", "--filter", "status=created"]),
        "web\n"
    );
    assert_eq!(names(&["pod", "ls", "-q", "--filter", "name=other"]), "");
    assert_eq!(
        names(&[
            "ps",
            "-aq",
            "--filter",
            "pod=web",
            "--filter",
            "status=created"
        ]),
        "c\n"
    );
    bed.rust_kata(&["ps", "--filter", "colour=red"]).exits(125);
    let running = wait("running");
    bed.rust_kata(&["pod", "start", "web"]).ok();
    assert_eq!(running.finish(limit()).ok().out(), "-1\n");
    let paused = wait("paused");
    bed.rust_kata(&["container", "pause", "c"]).ok();
    assert_eq!(paused.finish(limit()).ok().out(), "-1\n");
    let exited = wait("stopped");
    bed.rust_kata(&["container", "stop", "--time", "0", "c"])
        .ok();
    assert_eq!(exited.finish(limit()).ok().out(), "137\n");
    assert_eq!(wait("exited").finish(limit()).ok().out(), "137\n");
    let removed = wait("running");
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();
    assert!(
        removed
            .finish(limit())
            .exits(125)
            .err()
            .contains("not found")
    );
}

#[test]
fn changes_in_a_row_are_made_under_one_lock() {
    require!(subject_is_ours());
    let bed = Bed::new();

    pod(
        &bed,
        "web",
        &["--infra", "false"],
        &[("a", &[], SLEEP), ("b", &["--requires", "a"], SLEEP)],
    );
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let vmm = bed.named(VMM)[0].pid;
    let file = bed.fresh("changes");
    // Without the batch, the VM would end with the last container.
    let lines = "# all of it\npause a\nunpause a\nkill=KILL b\nupdate --pids-limit 77 a\n\
                 stop a b\nstart\nkill nope\n";
    std::fs::write(&file, lines).expect("the bed is ours");
    let path = file.to_str().expect("an ASCII path");
    let made = bed.rust_kata(&["pod", "batch", "web", path]).exits(125);
    assert_eq!(
        made.out(),
        "pause a\nunpause a\nkill=KILL b\nupdate --pids-limit 77 a\nstop a b\nstart\n"
    );
    assert!(made.err().contains("nope"), "{made:?}");
    assert_eq!(bed.named(VMM)[0].pid, vmm, "it is the same VM");
    assert_eq!(inspect(&bed, "pod", "web")["status"], "Running");
    let state = &inspect(&bed, "container", "a")["state"];
    assert_eq!(state["limits"]["pids"]["limit"], 77);

    let nothing = run(
        bed.cli(&["pod", "batch", "web"]),
        Input::Bytes(b"pause a\ndance b\n".to_vec()),
        limit(),
    );
    assert!(nothing.exits(125).err().contains("dance b"));
    assert_eq!(
        inspect(&bed, "container", "a")["status"],
        "running",
        "nothing was done"
    );

    // `sync` does not write anything if nothing has changed.
    let state = bed.data().join("pods/local/web/containers/a/state.json");
    let written = || {
        state
            .metadata()
            .expect("its state")
            .modified()
            .expect("a time")
    };
    let before = written();
    assert_eq!(bed.rust_kata(&["pod", "sync", "web"]).ok().out(), "web\n");
    assert_eq!(written(), before);
    for owner in bed.named(CLI) {
        process::signal(owner.pid, Signal::SIGKILL);
        assert!(process::wait_gone(owner.pid, limit()));
    }
    bed.rust_kata(&["pod", "sync", "web"]).ok();
    let text = std::fs::read_to_string(&state).expect("its state");
    assert!(
        text.contains("\"exited\"") && text.contains("137"),
        "{text}"
    );
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();
}

#[test]
fn after_a_reboot_what_ran_can_be_started_again() {
    require!(subject_is_ours());
    let bed = Bed::new();
    pod(&bed, "web", &[], &[("c", &[], SLEEP)]);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    for owner in bed.named(CLI) {
        process::signal(owner.pid, Signal::SIGKILL);
        assert!(process::wait_gone(owner.pid, limit()));
    }
    // The state of an earlier boot, as after a reboot of the host.
    let path = bed.data().join("pods/local/web/state.json");
    let text = std::fs::read_to_string(&path).expect("its state");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("read");
    let text = text.replace(boot.trim(), "00000000-0000-0000-0000-000000000000");
    std::fs::write(&path, text).expect("its state");
    let container = inspect(&bed, "container", "c");
    assert_eq!(container["status"], "exited");
    let problem = container["state"]["problem"].as_str().expect("a reason");
    assert!(problem.contains("host was started again"), "{problem}");
    bed.rust_kata(&["pod", "start", "web"]).ok();
    assert_eq!(inspect(&bed, "container", "c")["status"], "running");
    bed.rust_kata(&["pod", "rm", "--force", "--time", "0", "web"])
        .ok();
}

#[test]
fn sessions_are_listed_inspected_and_removed() {
    require!(subject_is_ours());
    let bed = Bed::new();
    pod(&bed, "web", &[], &[("c", &[], SLEEP)]);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    exec(&bed, "c", "exit 7").exits(7);
    let words = [
        "container",
        "exec",
        "-d",
        "--user",
        "user",
        "c",
        "sleep",
        "1000",
    ];
    let running = bed.rust_kata(&words).ok().out().trim().to_owned();

    let listed = bed
        .rust_kata(&["container", "session", "ls", "--format", "json", "c"])
        .ok()
        .out();
    let listed: Vec<Value> = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed.len(), 2, "{listed:?}");
    let ended = listed
        .iter()
        .find(|one| one["exit_code"] == 7)
        .expect("the first");
    let ended = ended["id"].as_str().expect("an id");
    let shown = bed
        .rust_kata(&["container", "session", "inspect", "c", &running])
        .ok()
        .out();
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(
        (&shown[0]["user"], &shown[0]["status"]),
        (&"user".into(), &"running".into())
    );
    assert_eq!(shown[0]["command"][1], "1000");

    // A running session stays, and so does its container.
    let rm = |words: &[&str]| bed.rust_kata(&[&["container", "session", "rm"], words].concat());
    rm(&["c", &running]).exits(125);
    bed.rust_kata(&["container", "rm", "c"]).exits(2);
    bed.rust_kata(&["container", "cleanup", "c"]).exits(125);
    rm(&["c", ended]).ok();
    rm(&["--force", "c", &running]).ok();
    rm(&["c", &running]).exits(125);
    let left = bed
        .rust_kata(&["container", "session", "ls", "--quiet", "c"])
        .ok()
        .out();
    assert_eq!(left, "");
    let top = bed.rust_kata(&["container", "top", "c"]).ok().out();
    assert!(!top.contains("sleep 1000"), "{top}");
    bed.rust_kata(&["pod", "rm", "--force", "--time", "0", "web"])
        .ok();
}

#[test]
fn what_a_run_left_is_cleaned_up_and_made_again() {
    require!(subject_is_ours());
    let bed = Bed::new();
    pod(&bed, "web", &[], &[("c", &[], SLEEP), ("d", &[], SLEEP)]);
    let bundle = bed.data().join("pods/local/web/containers/c/bundle");
    bed.rust_kata(&["container", "init", "c"]).ok();
    assert!(bundle.exists());
    assert_eq!(inspect(&bed, "container", "c")["status"], "initialized");
    bed.rust_kata(&["container", "cleanup", "c"]).ok();
    assert!(!bundle.exists());
    assert_eq!(inspect(&bed, "container", "c")["status"], "created");

    bed.rust_kata(&["pod", "start", "web"]).ok();
    bed.rust_kata(&["pod", "stop", "--time", "0", "web"]).ok();
    assert!(bundle.exists());
    bed.rust_kata(&["container", "cleanup", "--all"]).ok();
    assert!(!bundle.exists());
    assert_eq!(
        inspect(&bed, "container", "c")["state"]["exit_code"],
        137,
        "it is kept"
    );
    bed.rust_kata(&["pod", "start", "web"]).ok();
    assert_eq!(inspect(&bed, "pod", "web")["status"], "Running");
    bed.rust_kata(&["pod", "rm", "--force", "--time", "0", "web"])
        .ok();
}

#[test]
fn on_a_terminal_what_takes_its_time_is_shown() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let deaf = "trap '' TERM; while :; do sleep 0.1; done";
    pod(&bed, "web", &[], &[("c", &[], deaf)]);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let stop = bed.cli(&["pod", "stop", "--time", "4", "web"]);
    let terminal = harness::pty::Terminal::spawn(stop, 24, 80);
    terminal.screen.expect("Stopping pod web (", limit());
    terminal.finish(limit()).exits(0);
    // The usage is shown repeatedly.
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let mut stats = harness::pty::Terminal::spawn(bed.cli(&["pod", "stats"]), 24, 120);
    let first = stats.screen.expect("web", limit());
    stats.screen.expect_after(first, "\x1b[H\x1b[J", limit());
    stats.send("\x03");
    stats.finish(limit()).exits(130);
    let once = bed.cli(&["pod", "stats", "--no-stream", "web"]);
    let once = harness::pty::Terminal::spawn(once, 24, 120);
    assert_eq!(once.finish(limit()).ok().out().matches("POD").count(), 1);
    // Without a terminal, only the answer is printed.
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let stopped = bed.rust_kata(&["pod", "stop", "--time", "3", "web"]).ok();
    assert_eq!(
        (stopped.out().as_str(), stopped.err().as_str()),
        ("web\n", "")
    );
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();
}
