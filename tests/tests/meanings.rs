//! The meaning of options and spec fields: users and groups, variables, terminal sizes, host
//! names, namespaces of the host.

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::bed::Bed;
use harness::dist::{SHIM, patience, subject, subject_is_ours};
use harness::oracle::compare;
use harness::pty::Terminal;
use harness::require;
use harness::run::{Input, Output, run};
use harness::scene::{Scene, limit};
use harness::spec::Spec;
use harness::task::{Bundle, Shim, Stdio};
use serde_json::json;

/// `rust-kata run` of this root file system, with these words before the command.
fn kata_run(bed: &Bed, rootfs: &Path, words: &[&str], command: &[&str]) -> Command {
    let mut args = vec!["run", "--rootfs", rootfs.to_str().expect("an ASCII path")];
    args.extend_from_slice(words);
    args.push("--");
    args.extend_from_slice(command);
    bed.cli(&args)
}

const IDS: &str = "id -u; id -g; grep ^Groups /proc/self/status | tr -s '\\t ' ' '";

#[test]
fn a_number_is_an_id_and_the_primary_group_is_among_the_groups() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let rootfs = bed.rootfs();
    let add = |file: &str, line: &str| {
        let path = rootfs.join("etc").join(file);
        let text = fs::read_to_string(&path).expect("the bed is ours");
        fs::write(&path, format!("{line}\n{text}")).expect("the bed is ours");
    };
    // If these were taken as names, they would mean root and its group.
    add("passwd", "1234:x:0:0::/root:/bin/sh");
    add("group", "77:x:0:");
    let run_as = |words: &[&str]| -> Output {
        let words = [&["--rm"], words].concat();
        let command = kata_run(&bed, &rootfs, &words, &["sh", "-c", IDS]);
        run(command, Input::Null, limit())
    };

    assert_eq!(run_as(&["-u", "1234"]).ok().out(), "1234\n0\nGroups: 0 \n");
    let refused = run_as(&["-u", "4294967295"]).exits(125);
    assert!(refused.err().contains("4294967295"), "{refused:?}");

    // The others as execs, which reach the same code in another way.
    let sleep = ["-d", "--name", "c", "-u", "user"];
    let sleep = kata_run(&bed, &rootfs, &sleep, &["sleep", "1000"]);
    run(sleep, Input::Null, limit()).ok();
    let exec_as = |words: &[&str]| {
        let words = [&["exec"], words, &["c", "sh", "-c", IDS]].concat();
        bed.rust_kata(&words).ok().out()
    };
    assert_eq!(exec_as(&[]), "1000\n1000\nGroups: 1000 2000 \n");
    assert_eq!(exec_as(&["-u", "1234:77"]), "1234\n77\nGroups: 77 \n");
    assert_eq!(exec_as(&["-u", "0"]), "0\n0\nGroups: 0 \n");
    bed.rust_kata(&["container", "rm", "-f", "c"]).ok();

    assert_eq!(run_as(&[]).ok().out(), "0\n0\nGroups: 0 \n");
}

#[test]
fn a_user_that_is_no_id_does_not_run_as_root() {
    compare(|scene| {
        let spec = Spec::new(&scene.bed.rootfs(), &["id", "-u"])
            .set("/process/user", json!({ "uid": u32::MAX, "gid": 0 }));

        let output = scene.run_spec("c", &spec);

        assert_ne!(output.code, 0, "{output:?}");
        scene.see("stdout", output.out());
    });
}

#[test]
fn a_variable_without_a_value_is_the_callers_or_none() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let words = ["HERE=x y", "EMPTY=", "MINE", "NOBODYS"].map(|word| ["-e", word]);
    let words = words.concat();
    let script = "env | grep -E '^(HERE|EMPTY|MINE|NOBODYS)' | sort";
    let said = "EMPTY=\nHERE=x y\nMINE=of the caller\n";
    let with = |mut command: Command| {
        command.env("MINE", "of the caller").env_remove("NOBODYS");
        run(command, Input::Null, limit())
    };

    let started = [&["-d", "--name", "c"], &words[..]].concat();
    let started = kata_run(
        &bed,
        &bed.rootfs(),
        &started,
        &["sh", "-c", "env; sleep 1000"],
    );
    with(started).ok();
    let exec = [&["exec"], &words[..], &["c", "sh", "-c", script]].concat();
    assert_eq!(with(bed.cli(&exec)).ok().out(), said);
    // The init's variables, which an exec has, too.
    let inherited = bed.cli(&["exec", "c", "sh", "-c", script]);
    assert_eq!(run(inherited, Input::Null, limit()).ok().out(), said);
    let nameless = bed.cli(&["exec", "-e", "=x", "c", "true"]);
    let nameless = run(nameless, Input::Null, limit()).exits(125);
    assert!(
        nameless.err().contains("invalid variable \"=x\""),
        "{nameless:?}"
    );
    bed.rust_kata(&["container", "rm", "-f", "c"]).ok();
}

/// Checks the first output of a command on a terminal of 33 × 111, which is that of `stty
/// size`.
#[track_caller]
fn first_size(command: Command) {
    let terminal = Terminal::spawn(command, 33, 111);
    let output = terminal.finish(patience(60.0)).ok();
    assert_eq!(output.out().trim(), "33 111", "{output:?}");
}

#[test]
fn a_process_finds_its_terminals_size_at_its_first_look() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let rootfs = bed.rootfs();
    let size = ["stty", "size"];
    first_size(kata_run(&bed, &rootfs, &["--rm", "-it"], &size));

    let sleep = kata_run(&bed, &rootfs, &["-d", "--name", "c"], &["sleep", "1000"]);
    run(sleep, Input::Null, limit()).ok();
    for _ in 0..10 {
        first_size(bed.cli(&["exec", "-it", "c", "stty", "size"]));
    }
    bed.rust_kata(&["container", "rm", "-f", "c"]).ok();

    // A pod of containerd.
    let scene = Scene::subject(&bed);
    scene.detach("theirs", &[], &["sleep", "1000"]);
    for _ in 0..5 {
        first_size(bed.cli(&["exec", "-it", "theirs", "stty", "size"]));
    }
    scene.task(&["kill", "-s", "KILL", "theirs"]).ok();
    scene.await_event("theirs", "/tasks/exit");
    scene.remove("theirs");
}

#[test]
fn a_terminal_begins_with_the_size_of_the_spec() {
    compare(|scene| {
        let spec = Spec::new(&scene.bed.rootfs(), &["stty", "size"])
            .terminal()
            .set(
                "/process/consoleSize",
                json!({ "height": 40, "width": 120 }),
            );
        let command = scene.spec_command("c", &["--rm", "-t"], &spec);

        // `ctr` later sets its own terminal's size, which is the same.
        let output = Terminal::spawn(command, 40, 120).finish(limit()).ok();

        assert_eq!(output.out().trim(), "40 120", "{output:?}");
        scene.see("exit code", output.code);
    });
}

#[test]
fn a_size_that_is_told_before_the_start_of_an_exec_is_the_first_one() {
    let bed = Bed::new();
    let bundle = Bundle::of(&bed, "c", &Spec::new(&bed.rootfs(), &["sleep", "1000"]));
    let shim = Shim::start(&bed, &subject(), &bundle);
    shim.create(&bundle, None, false).expect("create");
    shim.start_process("c", "").expect("start");
    let process = json!({
        "args": ["stty", "size"], "cwd": "/", "env": ["PATH=/bin"],
        "user": { "uid": 0, "gid": 0 }, "terminal": true
    });

    for turn in 0..5 {
        let (exec, stdio) = (format!("e{turn}"), Stdio::new(&bed));
        shim.exec("c", &exec, &process, Some(&stdio), true)
            .expect("exec");
        shim.resize("c", &exec, 111, 33).expect("resize");
        shim.start_process("c", &exec).expect("start");
        shim.wait("c", &exec).expect("wait");
        stdio.out.expect("33 111", patience(10.0));
        shim.delete("c", &exec).expect("delete");
    }

    shim.kill("c", "", 9, true).expect("kill");
    shim.wait("c", "").expect("wait");
    shim.delete("c", "").expect("delete");
    let _ = shim.shutdown("c");
}

#[test]
fn without_a_hostname_a_container_has_the_hosts() {
    compare(|scene| {
        let spec = Spec::new(&scene.bed.rootfs(), &["hostname"]);
        assert!(spec.0.get("hostname").is_none(), "{spec:?}");

        let output = scene.run_spec("c", &spec).ok();

        scene.see_output("hostname", &output);
        let host = nix::unistd::gethostname().expect("the host has one");
        assert_eq!(output.out().trim(), host.to_str().expect("ASCII"));
    });
}

#[test]
fn namespaces_of_the_host_are_refused_by_name() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    let without = |kind: &str| {
        let mut spec = Spec::new(&bed.rootfs(), &["true"]);
        let list = spec.0["linux"]["namespaces"].as_array_mut();
        list.expect("a list").retain(|one| one["type"] != kind);
        spec
    };
    let own = |kind: &str, file: &str| {
        // This process's namespace, which is the host's; that of process 1 may not be readable.
        let path = format!("/proc/{}/ns/{file}", std::process::id());
        Spec::new(&bed.rootfs(), &["true"]).namespace(kind, Some(path.as_ref()))
    };
    let cases = [
        ("network", without("network")),
        ("ipc", without("ipc")),
        // As the CRI asks for it.
        ("pid", without("pid").sandbox("host-pid")),
        // As Docker asks for it.
        ("network", own("network", "net")),
        ("ipc", own("ipc", "ipc")),
    ];
    for (n, (word, spec)) in cases.into_iter().enumerate() {
        let output = scene.run_spec(&format!("c{n}"), &spec);
        assert_ne!(output.code, 0, "{word}: {output:?}");
        let said = output.err();
        assert!(
            said.contains("linux.namespaces") && said.contains(word) && said.contains("leave"),
            "{word}: {said}"
        );
        bed.assert_clean();
    }
    let output = scene.run("by-flag", &["--net-host"], &["true"]);
    assert_ne!(output.code, 0, "{output:?}");
    assert!(output.err().contains("hostNetwork"), "{output:?}");
    assert!(bed.named(SHIM).is_empty());

    // Without containerd.
    let bundle = Bundle::of(&bed, "by-run", &without("network"));
    let mut command = Command::new(harness::task::binary(&subject()));
    command
        .envs(bed.environment())
        .args(["run", "--bundle"])
        .arg(&bundle.path);
    let refused = run(command, Input::Null, limit()).exits(125);
    assert!(refused.err().contains("linux.namespaces"), "{refused:?}");
}
