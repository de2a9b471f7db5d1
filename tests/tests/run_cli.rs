//! `containerd-shim-rust-kata-v2 run`: a pod for one bundle, without containerd.

use std::path::Path;
use std::process::Command;

use harness::bed::Bed;
use harness::dist::{self, QEMU, SHIM, VMM, machine_is_ours, patience, subject_is_ours};
use harness::pty::Terminal;
use harness::require;
use harness::run::{Input, Output, Running, noise_sha256, run};
use harness::scene::limit;
use harness::spec::Spec;
use nix::sys::signal::Signal;

/// A bundle folder with a root file system beside its `config.json`.
fn bundle(bed: &Bed, argv: &[&str]) -> std::path::PathBuf {
    bundle_of(bed, |rootfs| Spec::new(rootfs, argv))
}

fn bundle_of(bed: &Bed, make: impl FnOnce(&Path) -> Spec) -> std::path::PathBuf {
    let folder = bed.fresh("bundle");
    std::fs::create_dir(&folder).expect("the bed is ours");
    harness::image::make_rootfs(&folder.join("rootfs"));
    make(Path::new("rootfs")).write(&folder.join("config.json"));
    folder
}

fn command(bed: &Bed, bundle: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(dist::binary(SHIM));
    command
        .envs(bed.environment())
        .arg("run")
        .arg("--bundle")
        .arg(bundle)
        .args(flags);
    command
}

fn run_bundle(bed: &Bed, argv: &[&str], flags: &[&str], input: Input) -> Output {
    run(command(bed, &bundle(bed, argv), flags), input, limit())
}

#[test]
fn streams_and_codes_are_the_containers() {
    require!(subject_is_ours());
    let bed = Bed::new();
    for (script, code) in [
        ("echo out; echo err >&2", 0),
        ("exit 42", 42),
        ("sh -c 'kill -9 $$'; exit $?", 137),
    ] {
        let output = run_bundle(&bed, &["sh", "-c", script], &[], Input::Null).exits(code);
        if code == 0 {
            assert_eq!(
                (output.out().as_str(), output.err().as_str()),
                ("out\n", "err\n")
            );
        }
        bed.assert_clean();
    }
}

#[test]
fn input_is_piped_to_its_end() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let length = 20 << 20;

    let output = run_bundle(&bed, &["cat"], &[], Input::Noise(length)).ok();

    assert_eq!(output.stdout.sha256(), noise_sha256(length));
    let short = run_bundle(&bed, &["wc", "-c"], &[], Input::Bytes(b"abc".to_vec())).ok();
    assert_eq!(short.out().trim(), "3");
}

#[test]
fn a_terminal_is_raw_resized_and_given_back() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let bundle = bundle_of(&bed, |rootfs| Spec::new(rootfs, &["sh"]).terminal());
    let mut terminal = Terminal::spawn(command(&bed, &bundle, &[]), 24, 80);
    terminal.screen.expect("# ", limit());
    assert!(!terminal.is_cooked(), "the terminal is not raw");

    terminal.send("stty size\n");
    let at = terminal.screen.expect("24 80\r\n", limit());
    terminal.send("until stty size | grep 132; do usleep 10000; done\n");
    let at = terminal.resize_until(50, 132, at, "50 132\r\n", limit());
    terminal.send("(echo as''leep; sleep 1000)\n");
    let at = terminal.screen.expect_after(at, "asleep\r\n", limit());
    terminal.send("\u{3}");
    terminal.send("echo code $?\n");
    terminal.screen.expect_after(at, "code 130\r\n", limit());
    terminal.send("exit 5\n");

    assert!(harness::process::wait_gone(terminal.pid(), patience(20.0)));
    assert!(terminal.is_cooked(), "the terminal stays raw");
    terminal.finish(patience(5.0)).exits(5);
}

#[test]
fn signals_are_forwarded() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let script = "trap 'echo got term; exit 9' TERM; trap 'echo got int' INT; echo ready; while :; do sleep 0.05; done";
    let running = Running::spawn(
        command(&bed, &bundle(&bed, &["sh", "-c", script]), &[]),
        Input::Null,
    );
    running.stdout.expect("ready\n", limit());

    running.signal(Signal::SIGINT);
    running.stdout.expect("got int\n", patience(20.0));
    running.signal(Signal::SIGTERM);

    let output = running.finish(patience(20.0)).exits(9);
    assert!(output.out().ends_with("got term\n"), "{output:?}");
}

#[test]
fn options_size_the_machine_and_tell_the_steps() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let script = "nproc; awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo";
    let hypervisor = dist::hypervisor();
    let flags = [
        "--id",
        "named",
        "--memory",
        "512",
        "--vcpus",
        "2",
        "--hypervisor",
        &hypervisor,
        "--verbose",
    ];

    let output = run_bundle(&bed, &["sh", "-c", script], &flags, Input::Null).ok();

    let lines: Vec<u64> = output
        .out()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    assert_eq!(lines[0], 2, "{output:?}");
    assert!((350..=512).contains(&lines[1]), "{output:?}");
    assert!(
        output.err().lines().count() >= 4,
        "steps with times: {output:?}"
    );
}

/// The guest reports when it began; only rust-kata-vmm listens for that.
#[test]
fn boot_mark_is_told() {
    require!(subject_is_ours());
    require!(machine_is_ours());
    let bed = Bed::new();

    let output = run_bundle(&bed, &["true"], &["--verbose"], Input::Null).ok();

    let told = output.err();
    let (before, mark) = told
        .split_once(" ms  guest ready (its agent ran ")
        .unwrap_or_else(|| panic!("no boot mark: {told}"));
    let ready: u64 = before.rsplit(' ').next().unwrap_or("").parse().expect("ms");
    let mark: u64 = mark.split(' ').next().unwrap_or("").parse().expect("ms");
    assert!(mark > 0 && mark <= ready, "{mark} of {ready} ms");
    bed.assert_clean();
}

#[test]
fn help_teaches_and_mistakes_are_told() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let help = |args: &[&str]| {
        let mut command = Command::new(dist::binary(SHIM));
        command.args(args);
        run(command, Input::Null, patience(5.0))
    };
    let text = help(&["run", "--help"]).ok().out();
    for wanted in [
        "--bundle",
        "--id",
        "--hypervisor",
        "--memory",
        "--vcpus",
        "--verbose",
    ] {
        assert!(text.contains(wanted), "no {wanted} in {text}");
    }
    assert_ne!(help(&["run"]).code, 0);
    assert!(help(&["run"]).err().contains("--bundle"));
    let no_folder = run(
        command(&bed, Path::new("/no/such/bundle"), &[]),
        Input::Null,
        patience(5.0),
    );
    assert_ne!(no_folder.code, 0);
    assert!(no_folder.err().contains("/no/such/bundle"), "{no_folder:?}");
    assert!(
        no_folder.err().trim().lines().count() <= 2,
        "one clear error: {no_folder:?}"
    );
}

#[test]
fn an_end_by_force_leaves_no_process() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let folder = bundle(&bed, &["sh", "-c", "echo ready; sleep 1000"]);
    let running = Running::spawn(command(&bed, &folder, &["--id", "forced"]), Input::Null);
    running.stdout.expect("ready\n", limit());

    running.signal(Signal::SIGKILL);
    running.finish(patience(5.0)).exits(137);

    for name in [VMM, QEMU] {
        for process in bed.named(name) {
            assert!(
                harness::process::wait_gone(process.pid, patience(5.0)),
                "{process:?} outlives `run`"
            );
        }
    }
    // Its state is found and removed by the next run of the same name.
    let again = run(
        command(&bed, &bundle(&bed, &["echo", "again"]), &["--id", "forced"]),
        Input::Null,
        limit(),
    );
    assert_eq!(again.ok().out(), "again\n");
}

#[test]
fn hooks_run_on_the_host_and_in_the_guest() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let (state, stopped) = (bed.fresh("state"), bed.fresh("stopped"));
    let keep = format!("cat > {}", state.display());
    let with_hooks = |create: &str| {
        let hooks = serde_json::json!({
            "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", create]}],
            "startContainer": [{"path": "/bin/touch", "args": ["touch", "/tmp/by-hook"]}],
            "poststop": [{"path": "/bin/touch", "args": ["touch", stopped]}],
        });
        bundle_of(&bed, |rootfs| {
            Spec::new(rootfs, &["ls", "/tmp/by-hook"]).set("/hooks", hooks)
        })
    };

    let id = format!("hooks-{}", std::process::id());
    let folder = with_hooks(&keep);
    let output = run(command(&bed, &folder, &["--id", &id]), Input::Null, limit()).ok();

    assert_eq!(output.out(), "/tmp/by-hook\n");
    let told = std::fs::read(&state).expect("createRuntime ran on the host");
    let told: serde_json::Value = serde_json::from_slice(&told).expect("the OCI state");
    assert_eq!(
        (&told["id"], &told["status"]),
        (&id.into(), &"created".into())
    );
    assert!(stopped.exists(), "poststop ran on the host");

    let folder = with_hooks("echo refused >&2; exit 3");
    let refused = run(command(&bed, &folder, &[]), Input::Null, limit()).exits(125);
    assert!(refused.err().contains("refused"), "{}", refused.err());
    bed.assert_clean();
}
