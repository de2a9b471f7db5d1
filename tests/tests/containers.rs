//! `rust-kata run` and `rust-kata container`: a container's properties, its streams, its
//! further processes, its end.

use harness::bed::Bed;
use harness::dist::{self, subject_is_ours};
use harness::pods::inspect;
use harness::process;
use harness::pty::Terminal;
use harness::require;
use harness::run::{Input, Output, Running, noise_sha256, run};
use harness::scene::limit;
use nix::sys::signal::Signal;
use serde_json::Value;

/// `rust-kata run` with these words before the command.
fn attended(bed: &Bed, words: &[&str], command: &[&str], input: Input) -> Output {
    run(run_command(bed, words, command), input, limit())
}

fn run_command(bed: &Bed, words: &[&str], command: &[&str]) -> std::process::Command {
    let rootfs = bed.rootfs();
    let mut args = vec!["run", "--rootfs", rootfs.to_str().expect("an ASCII path")];
    args.extend_from_slice(words);
    args.push("--");
    args.extend_from_slice(command);
    bed.cli(&args)
}

fn state(bed: &Bed, name: &str) -> Value {
    inspect(bed, "container", name)["state"].clone()
}

const SLEEP: &[&str] = &[
    "sh",
    "-c",
    "trap 'exit 0' TERM; while :; do sleep 0.1; done",
];

#[test]
fn streams_and_codes_are_the_containers() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let both = ["sh", "-c", "echo out; echo err >&2; exit 42"];
    let output = attended(&bed, &["--rm"], &both, Input::Null).exits(42);
    assert_eq!(
        (output.out().as_str(), output.err().as_str()),
        ("out\n", "err\n")
    );
    bed.assert_clean();

    let length = 5 << 20;
    let output = attended(&bed, &["--rm", "-i"], &["cat"], Input::Noise(length)).ok();
    assert_eq!(output.stdout.sha256(), noise_sha256(length));

    let missing = attended(&bed, &["--rm"], &["/bin/nope"], Input::Null).exits(127);
    assert!(missing.err().contains("nope"), "{missing:?}");
    attended(&bed, &["--rm"], &["/etc/passwd"], Input::Null).exits(126);

    // Without --rm the container stays, but does not run.
    attended(&bed, &["--name", "c"], &["/bin/nope"], Input::Null).exits(127);
    for process in bed.named(dist::CLI) {
        assert!(
            process::wait_gone(process.pid, limit()),
            "its owner still runs"
        );
    }
    let after = state(&bed, "c");
    assert_eq!(after["status"], "created");
    assert!(
        after["problem"]
            .as_str()
            .is_some_and(|said| said.contains("nope")),
        "{after}"
    );
    bed.rust_kata(&["container", "rm", "c"]).ok();
}

#[test]
fn options_arrive_in_the_container() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let folder = bed.fresh("volume");
    std::fs::create_dir(&folder).expect("the bed is ours");
    std::fs::write(folder.join("file"), "from the host").expect("the bed is ours");
    let volume = format!("{}:/data", folder.display());
    let readonly = format!("{}:/ro:ro", folder.display());
    let script = "id -u; id -g; id -G; echo $WORD; pwd; cat /data/file; echo back > /data/answer; \
                  touch /ro/x 2>/dev/null || echo ro; hostname; grep CapEff /proc/self/status";
    let words = [
        "--rm",
        "--name",
        "c",
        "--user",
        "user",
        "--env",
        "WORD=x y",
        "--workdir",
        "/tmp",
        "--volume",
        &volume,
        "--volume",
        &readonly,
        "--cap-drop",
        "all",
    ];
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .expect("the bed is ours");
    let said = attended(&bed, &words, &["sh", "-c", script], Input::Null)
        .ok()
        .out();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[..5],
        ["1000", "1000", "1000 2000", "x y", "/tmp"],
        "{said}"
    );
    assert!(
        said.contains("from the host") && said.contains("ro\nc\n"),
        "{said}"
    );
    assert!(said.contains("CapEff:\t0000000000000000"), "{said}");
    let answer = std::fs::read_to_string(folder.join("answer")).expect("written");
    assert_eq!(answer, "back\n");
}

#[test]
fn a_detached_container_is_found_execed_into_and_stopped() {
    require!(subject_is_ours());
    let bed = Bed::new();
    run(
        run_command(&bed, &["-d", "--name", "c"], SLEEP),
        Input::Null,
        limit(),
    )
    .ok();
    let listed = bed.rust_kata(&["container", "ls", "--quiet"]).ok().out();
    assert_eq!(listed, "c\n");

    let exec = [
        "container",
        "exec",
        "c",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 3",
    ];
    let output = bed.rust_kata(&exec).exits(3);
    assert_eq!(
        (output.out().as_str(), output.err().as_str()),
        ("out\n", "err\n")
    );
    let user = bed.rust_kata(&["container", "exec", "--user", "user:root", "c", "id", "-g"]);
    assert_eq!(user.ok().out(), "0\n");
    let nobody = bed
        .rust_kata(&["container", "exec", "--user", "ghost", "c", "id"])
        .exits(125);
    assert!(nobody.err().contains("ghost"), "{nobody:?}");
    bed.rust_kata(&["container", "exec", "c", "/bin/nope"])
        .exits(127);
    let piped = bed.cli(&["container", "exec", "-i", "c", "cat"]);
    let length = 1 << 20;
    let output = run(piped, Input::Noise(length), limit()).ok();
    assert_eq!(output.stdout.sha256(), noise_sha256(length));
    let caps = [
        "container",
        "exec",
        "--privileged",
        "c",
        "grep",
        "CapEff",
        "/proc/self/status",
    ];
    assert!(bed.rust_kata(&caps).ok().out().contains("000001ffffffffff"));
    let sessions = state(&bed, "c")["execs"]
        .as_object()
        .expect("sessions")
        .len();
    assert_eq!(sessions, 4, "those that could not be started are not kept");

    let top = bed.rust_kata(&["container", "top", "c"]).ok().out();
    assert!(top.contains("trap 'exit 0' TERM"), "{top}");

    let stats = bed
        .rust_kata(&["pod", "stats", "--format", "json", "c"])
        .ok()
        .out();
    let stats: Value = serde_json::from_str(&stats).expect("JSON");
    assert_eq!(
        (&stats[0]["container"], &stats[1]["container"]),
        (&"c".into(), &"(vm)".into())
    );
    for (row, least) in [(0, 4096), (1, 1 << 20)] {
        assert!(stats[row]["memory_bytes"].as_u64() > Some(least), "{stats}");
        assert!(stats[row]["cpu_ns"].as_u64() > Some(0), "{stats}");
    }

    bed.rust_kata(&["container", "stop", "c"]).ok();
    let after = state(&bed, "c");
    assert_eq!(
        (&after["status"], &after["exit_code"]),
        (&"exited".into(), &0.into())
    );
    bed.rust_kata(&["container", "exec", "c", "true"])
        .exits(125);
    bed.rust_kata(&["container", "rm", "c"]).ok();
}

#[test]
fn who_does_not_stop_is_killed_and_signals_of_a_user_end_restarts() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let deaf = ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"];
    let words = ["-d", "--name", "c", "--restart", "always"];
    run(run_command(&bed, &words, &deaf), Input::Null, limit()).ok();
    bed.rust_kata(&["container", "stop", "--time", "1", "c"])
        .ok();
    let after = state(&bed, "c");
    assert_eq!(after["exit_code"], 137);
    assert_eq!(after["restarts"], 0, "a user stopped it");
    bed.rust_kata(&["container", "rm", "c"]).ok();
}

#[test]
fn a_container_that_fails_is_started_again_as_often_as_its_policy_says() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let words = ["-d", "--name", "c", "--restart", "on-failure:2"];
    run(
        run_command(&bed, &words, &["sh", "-c", "echo run; exit 5"]),
        Input::Null,
        limit(),
    )
    .ok();
    // `wait` returns for each run: until the policy has given up there is an owner.
    let given_up = || {
        let after = state(&bed, "c");
        after["restarts"] == 2 && after["status"] == "exited"
    };
    let deadline = std::time::Instant::now() + limit();
    while !given_up() && std::time::Instant::now() < deadline {
        bed.rust_kata(&["container", "wait", "c"]).ok();
    }
    assert!(given_up(), "{}", state(&bed, "c"));
    bed.rust_kata(&["container", "rm", "c"]).ok();
}

#[test]
fn a_terminal_is_the_containers_until_the_detach_keys() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let words = ["-it", "--name", "c"];
    let command = run_command(&bed, &words, &["sh"]);
    let mut terminal = Terminal::spawn(command, 24, 80);
    terminal.screen.expect("# ", limit());
    terminal.send("stty size\n");
    terminal.screen.expect("24 80\r\n", limit());
    terminal.send("\u{10}\u{11}");
    terminal.finish(limit()).exits(0);
    assert_eq!(state(&bed, "c")["status"], "running");
    let mut again = Terminal::spawn(bed.cli(&["container", "attach", "c"]), 24, 80);
    again.send("echo my''word; exit 9\n");
    again.screen.expect("myword\r\n", limit());
    again.finish(limit()).exits(9);
    bed.rust_kata(&["container", "rm", "-f", "c"]).ok();
}

#[test]
fn who_comes_while_the_owner_leaves_gets_another() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let say = ["sh", "-c", "echo said; exit 3"];
    attended(&bed, &["--name", "c"], &say, Input::Null).exits(3);
    for _ in 0..5 {
        // Started at once, while the owner of the previous run is ending.
        let again = bed.rust_kata(&["start", "--attach", "c"]).exits(3);
        assert_eq!((again.out().as_str(), again.err().as_str()), ("said\n", ""));
    }
    bed.rust_kata(&["container", "rm", "c"]).ok();
}

#[test]
fn it_goes_on_when_its_client_is_killed() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let command = run_command(&bed, &["--name", "c"], &["sh", "-c", "echo up; sleep 1000"]);
    let running = Running::spawn(command, Input::Null);
    running
        .stdout
        .wait(limit(), |said| said.first)
        .expect("output");
    running.signal(Signal::SIGKILL);
    running.finish(limit());
    assert_eq!(state(&bed, "c")["status"], "running");
    bed.rust_kata(&["container", "rm", "--force", "--time", "0", "c"])
        .ok();
}

#[test]
fn what_was_said_is_kept_shown_and_followed() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let script = "echo one; echo two >&2; printf thr; read go; echo ee; exit 4";
    let words = ["-d", "-i", "--name", "c"];
    run(
        run_command(&bed, &words, &["sh", "-c", script]),
        Input::Null,
        limit(),
    )
    .ok();
    let following = Running::spawn(
        bed.cli(&["container", "logs", "--follow", "c"]),
        Input::Null,
    );
    following.stdout.expect("one\nthr", limit());
    let attached = bed.cli(&["container", "attach", "c"]);
    run(attached, Input::Bytes(b"go\n".to_vec()), limit()).exits(4);
    // The follower ends with the container, with all of its output.
    let all = following.finish(limit()).ok();
    assert_eq!(
        (all.out().as_str(), all.err().as_str()),
        ("one\nthree\n", "two\n")
    );

    let tail = bed
        .rust_kata(&["container", "logs", "--tail", "1", "-t", "c"])
        .ok()
        .out();
    let (time, text) = tail.trim_end().split_once(' ').expect("a time");
    assert!(text == "ee" && time.ends_with('Z'), "{tail}");
    let none = bed
        .rust_kata(&["container", "logs", "--since", "0s", "c"])
        .ok()
        .out();
    assert_eq!(none, "");
    bed.rust_kata(&["container", "logs", "--since", "yesterday", "c"])
        .exits(2);
    bed.rust_kata(&["container", "rm", "c"]).ok();
}
