//! What of pods and containers can be changed, shared, limited and waited for,
//! and what all of a pod says and does.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use harness::bed::Bed;
use harness::dist::{CLI, VMM, subject_is_ours};
use harness::process;
use harness::run::{Input, Output, Running, run};
use harness::scene::limit;
use nix::sys::signal::Signal;
use serde_json::Value;

const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn pod(bed: &Bed, words: &[&str], containers: &[(&str, &[&str], &str)]) {
    let create = [&["pod", "create", "--name", "web"], words].concat();
    bed.rust_kata(&create).ok();
    for (name, words, script) in containers {
        let rootfs = bed.rootfs();
        let root = rootfs.to_str().expect("an ASCII path");
        let fixed = [
            "container",
            "create",
            "--pod",
            "web",
            "--name",
            name,
            "--rootfs",
            root,
        ];
        let args = [&fixed[..], words, &["--", "sh", "-c", script]].concat();
        bed.rust_kata(&args).ok();
    }
}

fn exec(bed: &Bed, name: &str, script: &str) -> Output {
    bed.rust_kata(&["container", "exec", name, "sh", "-c", script])
}

fn inspect(bed: &Bed, what: &str, name: &str) -> Value {
    let text = bed.rust_kata(&[what, "inspect", name]).ok().out();
    let all: Value = serde_json::from_str(&text).expect("JSON");
    all[0].clone()
}

/// Waits until something is so; each look is a command that waits for others.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + limit();
    while !is() {
        assert!(std::time::Instant::now() < deadline, "{what}");
    }
}

#[test]
fn limits_are_changed_at_once_and_for_later_starts() {
    if !subject_is_ours("changes") {
        return;
    }
    let bed = Bed::new();
    pod(&bed, &[], &[("c", &["--memory", "64m"], SLEEP)]);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let limits = || {
        exec(
            &bed,
            "c",
            "cd /sys/fs/cgroup; cat memory.max pids.max cpu.max",
        )
        .ok()
        .out()
    };
    assert_eq!(limits(), format!("{}\nmax\nmax 100000\n", 64 << 20));

    bed.rust_kata(&[
        "container",
        "update",
        "--memory",
        "96m",
        "--pids-limit",
        "33",
        "c",
    ])
    .ok();
    assert_eq!(limits(), format!("{}\n33\nmax 100000\n", 96 << 20));
    bed.rust_kata(&["container", "restart", "--time", "0", "c"])
        .ok();
    assert_eq!(limits(), format!("{}\n33\nmax 100000\n", 96 << 20));

    // Of one that does not run, it is for the next start.
    bed.rust_kata(&["pod", "stop", "--time", "0", "web"]).ok();
    bed.rust_kata(&["container", "update", "--cpus", "0.5", "c"])
        .ok();
    bed.rust_kata(&["pod", "start", "web"]).ok();
    assert_eq!(limits(), format!("{}\n33\n50000 100000\n", 96 << 20));
    let state = &inspect(&bed, "container", "c")["state"];
    assert_eq!(state["limits"]["pids"]["limit"], 33);
    bed.rust_kata(&["container", "update", "c"]).exits(125);
    bed.rust_kata(&["container", "update", "--cpu-shares", "1", "c"])
        .exits(125);
    bed.rust_kata(&["pod", "rm", "--force", "--time", "0", "web"])
        .ok();
}

#[test]
fn all_of_a_pod_is_heard_and_seen_at_once() {
    if !subject_is_ours("changes") {
        return;
    }
    let bed = Bed::new();
    let script =
        |name: &str| format!("echo {name} one; echo {name} two >&2; read go; echo {name} last");
    let (a, b) = (script("a"), script("b"));
    pod(
        &bed,
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
    if !subject_is_ours("changes") {
        return;
    }
    let bed = Bed::new();
    pod(&bed, &[], &[("c", &[], SLEEP)]);
    let wait = |state: &str| {
        // Looked at once an hour: what ends it sooner is the change.
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
fn hooks_are_told_of_the_pods_start_and_stop() {
    if !subject_is_ours("changes") {
        return;
    }
    let bed = Bed::new();
    let program = |name: &str, script: &str| -> String {
        let path = bed.dir().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("the bed is ours");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("the bed is ours");
        path.display().to_string()
    };
    let told = bed.dir().join("told");
    let tell = program(
        "tell",
        &format!("cat >> {}; echo \" $1\" >> {0}", told.display()),
    );
    let (start, stop) = (format!("{tell} up"), format!("{tell} down"));
    let words = [
        "--hook-post-start",
        &start,
        "--hook-post-stop",
        &stop,
        "--label",
        "a=b",
    ];
    pod(&bed, &words, &[("c", &[], SLEEP)]);
    let id = inspect(&bed, "pod", "web")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let heard = || std::fs::read_to_string(&told).unwrap_or_default();
    let first = heard();
    assert!(
        first.contains(&id) && first.contains("running") && first.ends_with(" up\n"),
        "{first}"
    );
    assert!(first.contains("\"a\":\"b\""), "{first}");
    bed.rust_kata(&["pod", "stop", "--time", "0", "web"]).ok();
    until("the stop is told", || {
        bed.rust_kata(&["pod", "ls"]).ok();
        heard().ends_with(" down\n")
    });
    assert_eq!(heard().matches(" up\n").count(), 1);
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();

    let fail = program("fail", "echo no licence >&2; exit 3");
    pod(&bed, &["--hook-post-start", &fail], &[("c", &[], SLEEP)]);
    let refused = bed.rust_kata(&["pod", "start", "web"]).exits(125);
    assert!(refused.err().contains("no licence"), "{refused:?}");
    assert_eq!(inspect(&bed, "container", "c")["status"], "created");
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();
    let relative = [
        "pod",
        "create",
        "--name",
        "web",
        "--hook-post-start",
        "true",
    ];
    bed.rust_kata(&relative).exits(125);
}

/// The files of this name in the cgroups of a pod below `parent`.
fn cgroup_files(parent: &str, id: &str, name: &str) -> Vec<PathBuf> {
    let controllers = std::fs::read_dir("/sys/fs/cgroup").expect("cgroups are mounted");
    let mut dirs: Vec<PathBuf> = controllers.map(|dir| dir.expect("listed").path()).collect();
    dirs.push("/sys/fs/cgroup".into());
    let files = dirs.iter().map(|dir| dir.join(parent).join(id).join(name));
    files.filter(|file| file.exists()).collect()
}

#[test]
fn a_pods_cgroup_has_its_limits_and_goes_with_its_vm() {
    if !subject_is_ours("changes") {
        return;
    }
    let bed = Bed::new();
    let parent = format!("/{}", bed.namespace());
    let words = [
        "--cgroup-parent",
        &parent,
        "--cpus",
        "0.75",
        "--cpu-shares",
        "512",
    ];
    let words = [&words[..], &["--cpuset-cpus", "0"]].concat();
    pod(&bed, &words, &[("c", &[], SLEEP)]);
    let id = inspect(&bed, "pod", "web")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let read = |name: &str| {
        let files = cgroup_files(bed.namespace(), &id, name);
        files.first().map(|file| {
            std::fs::read_to_string(file)
                .expect("read")
                .trim()
                .to_owned()
        })
    };
    assert_eq!(read("cgroup.procs"), None);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let v2 = harness::scene::cgroups_are_unified();
    let expected = if v2 {
        [
            ("cpu.max", "75000 100000"),
            ("cpu.weight", "20"),
            ("cpuset.cpus", "0"),
        ]
    } else {
        [
            ("cpu.cfs_quota_us", "75000"),
            ("cpu.shares", "512"),
            ("cpuset.cpus", "0"),
        ]
    };
    for (file, value) in expected {
        assert_eq!(read(file).as_deref(), Some(value), "{file}");
    }
    let vmm = bed.named(VMM)[0].pid.to_string();
    let processes = read("cgroup.procs").expect("its cgroup");
    assert!(processes.lines().any(|pid| pid == vmm), "{processes}");
    bed.rust_kata(&["pod", "stop", "--time", "0", "web"]).ok();
    assert_eq!(read("cgroup.procs"), None);
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();

    for bad in [
        &["--cgroup-parent", "relative"][..],
        &["--cgroup-parent", "/a/b.slice"],
        &["--cgroup-parent", "a--b.slice"],
        &["--cpu-shares", "1"],
        &["--cpuset-cpus", "x"],
        &["--cpu-period", "1"],
    ] {
        let args = [&["pod", "create", "--name", "bad"], bad].concat();
        let refused = bed.rust_kata(&args).exits(125);
        assert!(
            !refused.err().contains('\n') || refused.err().lines().count() == 1,
            "{refused:?}"
        );
    }
}

#[test]
fn the_exit_policy_says_whether_a_pod_stays_without_containers() {
    if !subject_is_ours("changes") {
        return;
    }
    let bed = Bed::new();
    pod(&bed, &["--exit-policy", "stop"], &[("c", &[], "exit 4")]);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    assert_eq!(bed.rust_kata(&["container", "wait", "c"]).ok().out(), "4\n");
    for owner in bed.named(CLI) {
        assert!(process::wait_gone(owner.pid, limit()), "its owner stays");
    }
    assert_eq!(inspect(&bed, "pod", "web")["status"], "Exited");
    assert!(bed.named(VMM).is_empty());
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();

    pod(&bed, &[], &[("c", &[], "exit 4")]);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    bed.rust_kata(&["container", "wait", "c"]).ok();
    assert_eq!(inspect(&bed, "pod", "web")["infra_running"], true);
    assert_eq!(bed.named(VMM).len(), 1);
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();
    bed.rust_kata(&["pod", "create", "--exit-policy", "maybe"])
        .exits(125);

    // One without containers is up by itself.
    let made = bed.rust_kata(&["pod", "run", "--name", "empty"]).ok().out();
    assert_eq!(made, "empty\n");
    assert_eq!(inspect(&bed, "pod", "empty")["status"], "Running");
    bed.rust_kata(&["pod", "rm", "--force", "empty"]).ok();
}

#[test]
fn containers_of_a_pod_share_their_processes_if_asked() {
    if !subject_is_ours("changes") {
        return;
    }
    let bed = Bed::new();
    let named = "sleep 1000 & wait; echo left; exit 6";
    let containers: [(&str, &[&str], &str); 2] = [("a", &[], named), ("b", &[], SLEEP)];
    pod(&bed, &["--share", "+pid"], &containers);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let seen = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done";
    until("b sees a's process", || {
        exec(&bed, "b", seen).ok().out().contains("sleep 1000")
    });
    assert_eq!(exec(&bed, "b", "cat /proc/1/comm").ok().out(), "pod\n");
    // And may signal it; a's init then ends by itself, and b stays.
    let kill = "for p in /proc/[0-9]*; do [ \"$(tr '\\0' ' ' < $p/cmdline)\" != 'sleep 1000 ' ] || kill ${p#/proc/}; done";
    exec(&bed, "b", kill).ok();
    assert_eq!(bed.rust_kata(&["container", "wait", "a"]).ok().out(), "6\n");
    assert_eq!(inspect(&bed, "container", "b")["status"], "running");
    assert!(!exec(&bed, "b", seen).ok().out().contains("sleep 1000"));
    // It can be started again in the same namespace, and stopped with what it left.
    bed.rust_kata(&["container", "start", "a"]).ok();
    until("b sees a's process", || {
        exec(&bed, "b", seen).ok().out().contains("sleep 1000")
    });
    bed.rust_kata(&["container", "stop", "--time", "0", "a"])
        .ok();
    until("what a left is gone", || {
        !exec(&bed, "b", seen).ok().out().contains("sleep 1000")
    });
    bed.rust_kata(&["pod", "rm", "--force", "--time", "0", "web"])
        .ok();

    pod(&bed, &[], &containers);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    assert!(!exec(&bed, "b", seen).ok().out().contains("sleep 1000"));
    bed.rust_kata(&["pod", "rm", "--force", "--time", "0", "web"])
        .ok();
    let bad = bed
        .rust_kata(&["pod", "create", "--share", "mount"])
        .exits(125);
    assert!(bad.err().contains("--share mount"), "{bad:?}");
}

#[test]
fn changes_in_a_row_are_made_under_one_lock() {
    if !subject_is_ours("changes") {
        return;
    }
    let bed = Bed::new();

    pod(
        &bed,
        &["--infra", "false"],
        &[("a", &[], SLEEP), ("b", &["--requires", "a"], SLEEP)],
    );
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let vmm = bed.named(VMM)[0].pid;
    let file = bed.fresh("changes");
    // Without the lock the VM would end with the last container.
    let lines = "# all of it\npause a\nunpause a\nkill=KILL b\nstop a b\nstart\nkill nope\n";
    std::fs::write(&file, lines).expect("the bed is ours");
    let path = file.to_str().expect("an ASCII path");
    let made = bed.rust_kata(&["pod", "batch", "web", path]).exits(125);
    assert_eq!(
        made.out(),
        "pause a\nunpause a\nkill=KILL b\nstop a b\nstart\n"
    );
    assert!(made.err().contains("nope"), "{made:?}");
    assert_eq!(bed.named(VMM)[0].pid, vmm, "it is the same VM");
    assert_eq!(inspect(&bed, "pod", "web")["status"], "Running");

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

    // To ask the guest writes nothing where nothing has changed.
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
    if !subject_is_ours("changes") {
        return;
    }
    let bed = Bed::new();
    pod(&bed, &[], &[("c", &[], SLEEP)]);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    for owner in bed.named(CLI) {
        process::signal(owner.pid, Signal::SIGKILL);
        assert!(process::wait_gone(owner.pid, limit()));
    }
    // What a host finds after its boot: the state of another one.
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
    if !subject_is_ours("changes") {
        return;
    }
    let bed = Bed::new();
    pod(&bed, &[], &[("c", &[], SLEEP)]);
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

    // What runs keeps what it is in: its session and its container.
    let rm = |words: &[&str]| bed.rust_kata(&[&["container", "session", "rm"], words].concat());
    rm(&["c", &running]).exits(125);
    bed.rust_kata(&["container", "rm", "c"]).exits(125);
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
    if !subject_is_ours("changes") {
        return;
    }
    let bed = Bed::new();
    pod(&bed, &[], &[("c", &[], SLEEP), ("d", &[], SLEEP)]);
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
    bed.rust_kata(&["container", "cleanup", "c", "d"]).ok();
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
    if !subject_is_ours("changes") {
        return;
    }
    let bed = Bed::new();
    let deaf = "trap '' TERM; while :; do sleep 0.1; done";
    pod(&bed, &[], &[("c", &[], deaf)]);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let stop = bed.cli(&["pod", "stop", "--time", "4", "web"]);
    let terminal = harness::pty::Terminal::spawn(stop, 24, 80);
    terminal.screen.expect("Stopping pod web (", limit());
    terminal.finish(limit()).exits(0);
    // Elsewhere there is nothing but the answer.
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let stopped = bed.rust_kata(&["pod", "stop", "--time", "3", "web"]).ok();
    assert_eq!(
        (stopped.out().as_str(), stopped.err().as_str()),
        ("web\n", "")
    );
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();
}
