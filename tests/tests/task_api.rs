//! The task API without containerd: a shim started by hand, every call of the service, and the
//! gRPC code of every refusal.

use std::io::Write;

use containerd_shim_protos::api::{CheckpointTaskRequest, Empty, Status};
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::Message;
use harness::bed::Bed;
use harness::dist::{patience, subject, subject_is_ours};
use harness::process;
use harness::require;
use harness::scene::{Scene, cgroups_are_unified, limit};
use harness::spec::Spec;
use harness::task::{Answer, Bundle, Code, Shim, Stdio, any};
use serde_json::{Value, json};

fn sleeper(bed: &Bed) -> Spec {
    Spec::new(&bed.rootfs(), &["sleep", "1000"])
}

fn process_spec(argv: &[&str]) -> Value {
    json!({ "args": argv, "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 } })
}

fn status(shim: &Shim, id: &str, exec: &str) -> Status {
    shim.state(id, exec)
        .expect("the process exists")
        .status
        .enum_value_or_default()
}

/// Checks that a call is refused with this code and with a message.
#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Answer<T>, code: Code) {
    let refusal = answer.expect_err("a refusal");
    assert!(!refusal.message.trim().is_empty(), "{code:?} without words");
    // runc's shim answers UNKNOWN if it has no specific code.
    assert!(
        refusal.code == code || (subject() == harness::dist::RUNC && refusal.code == Code::UNKNOWN),
        "expected {code:?}, got {refusal:?}"
    );
}

/// Kills and deletes the container, and lets the shim end.
#[track_caller]
fn end(shim: &Shim, bundle: &Bundle) {
    let _ = shim.kill(&bundle.id, "", 9, true);
    shim.wait(&bundle.id, "").expect("wait");
    shim.delete(&bundle.id, "").expect("delete");
    let _ = shim.shutdown(&bundle.id);
}

#[test]
fn every_call_of_a_life() {
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    let script = "read line; echo got $line; cat; echo bye >&2; exec sleep 1000";
    let bundle = Bundle::of(&bed, "c", &Spec::new(&bed.rootfs(), &["sh", "-c", script]));
    let stdio = Stdio::new(&bed);
    let shim = Shim::start(&bed, &subject(), &bundle);

    let created = shim.create(&bundle, Some(&stdio), false).expect("create");
    assert!(created.pid > 1, "pid {}", created.pid);
    assert_eq!(status(&shim, "c", ""), Status::CREATED);
    let connect = shim.connect_task("c").expect("connect");
    assert_eq!(connect.task_pid, created.pid);
    assert!(
        process::state(connect.shim_pid).is_some(),
        "no shim with pid {}",
        connect.shim_pid
    );
    shim.stats("c").expect("stats of a created task");

    let started = shim.start_process("c", "").expect("start");
    assert_eq!(started.pid, created.pid);
    assert_eq!(status(&shim, "c", ""), Status::RUNNING);
    let mut stdin = stdio.writer();
    stdin.write_all(b"a line\nmore").expect("the shim reads");
    stdio.out.expect("got a line\nmore", limit());
    drop(stdin);
    shim.close_stdin("c", "").expect("close stdin");
    stdio.err.expect("bye\n", limit());

    let pids: Vec<u32> = shim
        .pids("c")
        .expect("pids")
        .processes
        .iter()
        .map(|process| process.pid)
        .collect();
    assert!(
        pids.contains(&created.pid),
        "{} is not among {pids:?}",
        created.pid
    );
    shim.update("c", r#"{"memory":{"limit":67108864},"pids":{"limit":77}}"#)
        .expect("update");
    let stats = shim.stats("c").expect("stats").stats;
    // The metrics have the form of the host's cgroup version.
    let (pids, limit_of_memory, memory, cpu) = if cgroups_are_unified() {
        assert_eq!(stats.type_url, "io.containerd.cgroups.v2.Metrics");
        let told = v2::Metrics::parse_from_bytes(&stats.value).expect("metrics");
        let pids = (told.pids.current, told.pids.limit);
        let memory = &told.memory;
        (pids, memory.usage_limit, memory.usage, told.cpu.usage_usec)
    } else {
        assert_eq!(stats.type_url, "io.containerd.cgroups.v1.Metrics");
        let told = v1::Metrics::parse_from_bytes(&stats.value).expect("metrics");
        let pids = (told.pids.current, told.pids.limit);
        let memory = &told.memory.usage;
        (pids, memory.limit, memory.usage, told.cpu.usage.total)
    };
    assert_eq!((pids, limit_of_memory), ((1, 77), 64 << 20));
    assert!(memory > 0 && cpu > 0, "memory {memory}, cpu {cpu}");

    shim.pause("c").expect("pause");
    assert_eq!(status(&shim, "c", ""), Status::PAUSED);
    shim.resume("c").expect("resume");
    assert_eq!(status(&shim, "c", ""), Status::RUNNING);

    let exec = Stdio::new(&bed);
    shim.exec(
        "c",
        "e",
        &process_spec(&["sh", "-c", "echo exec; exit 3"]),
        Some(&exec),
        false,
    )
    .expect("exec");
    assert_eq!(status(&shim, "c", "e"), Status::CREATED);
    assert!(shim.start_process("c", "e").expect("start of the exec").pid > 0);
    assert_eq!(
        shim.wait("c", "e").expect("wait for the exec").exit_status,
        3
    );
    exec.out.expect("exec\n", limit());
    assert!(
        exec.out.finish(patience(10.0)).ended,
        "the shim keeps the output of an ended exec open"
    );
    assert_eq!(status(&shim, "c", "e"), Status::STOPPED);
    let deleted = shim.delete("c", "e").expect("delete of the exec");
    assert_eq!(deleted.exit_status, 3);
    assert!(deleted.exited_at.is_some(), "no time of exit");

    let waiter = {
        let again = Shim::connect(&shim.address);
        std::thread::spawn(move || again.wait("c", "").expect("wait").exit_status)
    };
    shim.kill("c", "", 9, false).expect("kill");
    assert_eq!(waiter.join().expect("no panic"), 137);
    assert_eq!(
        shim.wait("c", "").expect("wait after the exit").exit_status,
        137
    );
    assert_eq!(status(&shim, "c", ""), Status::STOPPED);
    let deleted = shim.delete("c", "").expect("delete");
    assert_eq!((deleted.exit_status, deleted.pid), (137, created.pid));
    assert!(
        stdio.out.finish(patience(10.0)).ended,
        "the shim keeps the output of a deleted task open"
    );
    let _ = shim.shutdown("c");
    assert!(
        process::wait_gone(connect.shim_pid, patience(10.0)),
        "the shim lives after Shutdown"
    );
    bundle.delete(&bed, &subject()).ok();

    scene.await_event("c", "/tasks/delete");
    assert_eq!(
        scene.events("c"),
        [
            "/tasks/create",
            "/tasks/start",
            "/tasks/paused",
            "/tasks/resumed",
            "/tasks/exec-added exec=e",
            "/tasks/exec-started exec=e",
            "/tasks/exit exec=e status=3",
            "/tasks/exit status=137",
            "/tasks/delete status=137",
        ]
    );
}

#[test]
fn what_is_unknown_is_not_found() {
    let bed = Bed::new();
    let bundle = Bundle::of(&bed, "c", &sleeper(&bed));
    let shim = Shim::start(&bed, &subject(), &bundle);
    let nobody = |shim: &Shim, id: &str, exec: &str| {
        refused(shim.state(id, exec), Code::NOT_FOUND);
        refused(shim.start_process(id, exec), Code::NOT_FOUND);
        refused(shim.kill(id, exec, 9, false), Code::NOT_FOUND);
        refused(shim.delete(id, exec), Code::NOT_FOUND);
        refused(shim.wait(id, exec), Code::NOT_FOUND);
        refused(shim.resize(id, exec, 1, 1), Code::NOT_FOUND);
        refused(shim.close_stdin(id, exec), Code::NOT_FOUND);
    };
    let no_task = |shim: &Shim, id: &str| {
        nobody(shim, id, "");
        refused(shim.pids(id), Code::NOT_FOUND);
        refused(shim.pause(id), Code::NOT_FOUND);
        refused(shim.resume(id), Code::NOT_FOUND);
        refused(shim.stats(id), Code::NOT_FOUND);
        refused(shim.update(id, "{}"), Code::NOT_FOUND);
        refused(
            shim.exec(id, "e", &process_spec(&["true"]), None, false),
            Code::NOT_FOUND,
        );
    };

    no_task(&shim, "c");
    shim.create(&bundle, None, false).expect("create");
    shim.start_process("c", "").expect("start");
    nobody(&shim, "c", "no-such-exec");
    // A runc shim serves one id.
    if subject_is_ours().is_ok() {
        no_task(&shim, "other");
    }
    end(&shim, &bundle);
}

#[test]
fn what_comes_at_the_wrong_time_is_refused() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let bundle = Bundle::of(&bed, "c", &sleeper(&bed));
    let shim = Shim::start(&bed, &subject(), &bundle);
    shim.create(&bundle, None, false).expect("create");

    refused(shim.create(&bundle, None, false), Code::ALREADY_EXISTS);
    refused(shim.pause("c"), Code::FAILED_PRECONDITION);
    refused(shim.resume("c"), Code::FAILED_PRECONDITION);
    shim.resize("c", "", 80, 24)
        .expect("resize of a created task without a terminal");
    shim.stats("c").expect("stats of a created task");
    shim.start_process("c", "").expect("start");
    refused(shim.start_process("c", ""), Code::FAILED_PRECONDITION);
    refused(shim.resume("c"), Code::FAILED_PRECONDITION);
    refused(shim.delete("c", ""), Code::FAILED_PRECONDITION);

    shim.exec("c", "e", &process_spec(&["sleep", "1000"]), None, false)
        .expect("exec");
    refused(
        shim.exec("c", "e", &process_spec(&["true"]), None, false),
        Code::ALREADY_EXISTS,
    );
    assert_eq!(
        shim.delete("c", "e")
            .expect("delete of an exec never started")
            .exit_status,
        0
    );
    shim.exec("c", "e", &process_spec(&["sleep", "1000"]), None, false)
        .expect("the id again");
    shim.start_process("c", "e").expect("start");
    refused(shim.start_process("c", "e"), Code::FAILED_PRECONDITION);
    refused(shim.delete("c", "e"), Code::FAILED_PRECONDITION);
    shim.pause("c").expect("pause");
    refused(shim.pause("c"), Code::FAILED_PRECONDITION);
    refused(
        shim.exec("c", "f", &process_spec(&["true"]), None, false),
        Code::FAILED_PRECONDITION,
    );
    shim.resume("c").expect("resume");

    shim.kill("c", "", 9, true).expect("kill");
    assert_eq!(shim.wait("c", "").expect("wait").exit_status, 137);
    assert_eq!(
        shim.wait("c", "e")
            .expect("an exec ends with its container")
            .exit_status,
        137
    );
    refused(shim.kill("c", "", 9, false), Code::NOT_FOUND);
    refused(shim.start_process("c", ""), Code::FAILED_PRECONDITION);
    refused(shim.pause("c"), Code::FAILED_PRECONDITION);
    end(&shim, &bundle);
}

#[test]
fn what_makes_no_sense_is_an_invalid_argument() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let bundle = Bundle::of(&bed, "c", &sleeper(&bed));
    let shim = Shim::start(&bed, &subject(), &bundle);
    let bad = Bundle {
        id: "../escape".into(),
        path: bundle.path.clone(),
        log: harness::capture::Capture::default(),
    };
    refused(shim.create(&bad, None, false), Code::INVALID_ARGUMENT);
    let unnamed = Bundle {
        id: String::new(),
        path: bundle.path.clone(),
        log: harness::capture::Capture::default(),
    };
    refused(shim.create(&unnamed, None, false), Code::INVALID_ARGUMENT);
    let request = CheckpointTaskRequest {
        id: "c".into(),
        ..Default::default()
    };
    refused(
        shim.call::<Empty>("Checkpoint", &request),
        Code::UNIMPLEMENTED,
    );
    refused(
        shim.call::<Empty>("NoSuchCall", &request),
        Code::UNIMPLEMENTED,
    );

    shim.create(&bundle, None, false).expect("create");
    shim.start_process("c", "").expect("start");
    let half = any(
        "types.containerd.io/opencontainers/runtime-spec/1/Process",
        r#"{"args":["#.into(),
    );
    refused(
        shim.exec_any("c", "e", Some(half), None, false),
        Code::INVALID_ARGUMENT,
    );
    refused(
        shim.exec_any("c", "e", None, None, false),
        Code::INVALID_ARGUMENT,
    );
    refused(
        shim.exec("c", "e", &process_spec(&[]), None, false),
        Code::INVALID_ARGUMENT,
    );
    refused(
        shim.exec("c", "", &process_spec(&["true"]), None, false),
        Code::INVALID_ARGUMENT,
    );
    refused(
        shim.exec("c", "../e", &process_spec(&["true"]), None, false),
        Code::INVALID_ARGUMENT,
    );
    refused(shim.update("c", "{\"memory\":"), Code::INVALID_ARGUMENT);
    refused(shim.kill("c", "", 999, false), Code::INVALID_ARGUMENT);
    assert_eq!(status(&shim, "c", ""), Status::RUNNING);
    end(&shim, &bundle);
}

#[test]
fn a_task_killed_before_its_start_has_one_exit() {
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    let bundle = Bundle::of(&bed, "c", &sleeper(&bed));
    let shim = Shim::start(&bed, &subject(), &bundle);
    shim.create(&bundle, None, false).expect("create");

    shim.kill("c", "", 9, false).expect("kill");

    assert_eq!(shim.wait("c", "").expect("wait").exit_status, 137);
    shim.delete("c", "").expect("delete");
    let _ = shim.shutdown("c");
    scene.await_event("c", "/tasks/delete");
    assert_eq!(
        scene.events("c"),
        [
            "/tasks/create",
            "/tasks/exit status=137",
            "/tasks/delete status=137"
        ]
    );
}

#[test]
fn a_terminal_by_hand() {
    let bed = Bed::new();
    let spec = Spec::new(
        &bed.rootfs(),
        &[
            "sh",
            "-c",
            "stty size; read x; stty size; read x; echo end $x; exit 6",
        ],
    );
    let bundle = Bundle::of(&bed, "c", &spec.terminal());
    let stdio = Stdio::new(&bed);
    let shim = Shim::start(&bed, &subject(), &bundle);
    shim.create(&bundle, Some(&stdio), true).expect("create");
    shim.resize("c", "", 100, 40)
        .expect("resize before the start");
    let mut stdin = stdio.writer();

    shim.start_process("c", "").expect("start");
    let at = stdio.out.expect("40 100\r\n", limit());
    shim.resize("c", "", 90, 30).expect("resize");
    stdin.write_all(b"\n").expect("the shim reads");
    let at = stdio.out.expect_after(at, "30 90\r\n", limit());
    stdin.write_all(b"of it\n").expect("the shim reads");
    stdio.out.expect_after(at, "end of it\r\n", limit());

    assert_eq!(shim.wait("c", "").expect("wait").exit_status, 6);
    end(&shim, &bundle);
}

#[test]
fn a_command_that_is_not_there_fails_create_and_leaves_no_exit() {
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    let bundle = Bundle::of(&bed, "c", &Spec::new(&bed.rootfs(), &["no-such-command"]));
    let shim = Shim::start(&bed, &subject(), &bundle);

    let refusal = shim.create(&bundle, None, false).expect_err("a refusal");

    assert!(refusal.message.contains("no-such-command"), "{refusal:?}");
    let _ = shim.delete("c", "");
    let _ = shim.shutdown("c");
    bundle.delete(&bed, &subject()).ok();
    assert!(
        !scene.events("c").iter().any(|event| event.contains("exit")),
        "{:?}",
        scene.events("c")
    );
}

#[test]
fn delete_is_idempotent_and_needs_no_shim() {
    let bed = Bed::new();
    let bundle = Bundle::of(&bed, "c", &sleeper(&bed));
    let shim = Shim::start(&bed, &subject(), &bundle);
    shim.create(&bundle, None, false).expect("create");
    shim.start_process("c", "").expect("start");
    let pid = shim.connect_task("c").expect("connect").shim_pid;

    process::signal(pid, nix::sys::signal::Signal::SIGKILL);
    assert!(process::wait_gone(pid, patience(5.0)));
    for turn in 0..3 {
        let output = bundle.delete(&bed, &subject());
        assert_eq!(output.code, 0, "delete number {turn}: {output:?}");
        assert!(
            output.elapsed < patience(5.0),
            "containerd waits 5 s: {output:?}"
        );
    }
    if subject() == harness::dist::RUNC {
        // containerd, not runc's shim, removes the socket of a dead shim.
        let _ = std::fs::remove_file(harness::leak::shim_socket(&bed, "c"));
    }
}
