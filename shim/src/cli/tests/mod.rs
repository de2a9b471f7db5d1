//! What each command asks of the owner of a pod, what it changes in files, and what it prints.

mod batch;
mod programs;

use protos::management as api;
use serde_json::json;

use super::testing::{Answers, Scene};

#[test]
fn verbs_of_pods_are_asked_of_their_owners() {
    let scene = Scene::with_a_pod();
    let owner = scene.owner();
    for (line, asked) in [
        ("pod start p", "start dependencies: true"),
        ("pod stop p", "shutdown keep_paused: true"),
        (
            "pod stop --time 7 p",
            "shutdown timeout: 7 keep_paused: true",
        ),
        ("pod restart --time 0 p", "restart timeout: 0"),
        ("pod restart p", "restart"),
        ("pod pause p", "pause"),
        ("pod unpause p", "unpause"),
        ("pod kill p", "kill signal: 9"),
        ("pod kill --signal TERM --all", "kill signal: 15"),
        ("pod sync p", "sync"),
    ] {
        assert_eq!(scene.says(line), "p\n", "{line}");
        assert_eq!(owner.asked(), [asked], "{line}");
    }
}

#[test]
fn verbs_of_containers_are_asked_of_the_owners_of_their_pods() {
    let scene = Scene::with_a_pod();
    let owner = scene.owner();
    let both = r#"containers: "a" containers: "b""#;
    for (line, asked) in [
        ("start a b", format!("start {both} dependencies: true")),
        ("start --no-dependencies a b", format!("start {both}")),
        ("start --all", format!("start {both} dependencies: true")),
        ("init a b", format!("init {both}")),
        ("stop a b", format!("stop {both}")),
        ("stop --all --time 3", format!("stop {both} timeout: 3")),
        ("restart --time 4 a b", format!("restart {both} timeout: 4")),
        ("container restart --all", format!("restart {both}")),
        ("pause p/a b", format!("pause {both}")),
        ("unpause a b", format!("unpause {both}")),
        ("kill a b", format!("kill {both} signal: 9")),
        (
            "kill --signal 10 --all-processes a b",
            format!("kill {both} signal: 10 all: true"),
        ),
        ("cleanup --all", format!("cleanup {both}")),
        (
            "rm --force --time 2 a b",
            format!("remove {both} force: true timeout: 2"),
        ),
        ("ctr rm a b", format!("remove {both}")),
    ] {
        assert_eq!(scene.says(line), "a\nb\n", "{line}");
        assert_eq!(owner.asked(), [asked], "{line}");
    }
}

#[test]
fn all_are_those_that_a_verb_fits() {
    let scene = Scene::with_a_pod();
    let owner = scene.owner();
    scene.put("b", "running");
    let some = |line: &str, out: &str| {
        assert_eq!(scene.says(line), out, "{line}");
        owner.asked()
    };
    let only = r#"containers: "b""#;
    assert_eq!(some("pause --all", "b\n"), [format!("pause {only}")]);
    let killed = format!("kill {only} signal: 9");
    assert_eq!(some("kill --all", "b\n"), [killed]);
    let cleaned = r#"cleanup containers: "a""#;
    assert_eq!(some("cleanup --all", "a\n"), [cleaned]);
    assert!(some("unpause --all", "").is_empty());
    scene.put("b", "paused");
    assert_eq!(some("unpause --all", "b\n"), [format!("unpause {only}")]);
    assert!(some("pause --all", "").is_empty());
}

#[test]
fn the_error_of_each_pod_and_container_is_told() {
    let scene = Scene::with_a_pod();
    let gone = scene.refuses(125, "pod pause p none q");
    for name in ["none", "q"] {
        assert!(
            gone.contains(&format!("pod \"{name}\" not found")),
            "{gone}"
        );
    }
    let failed = |container: &str, error: &str| api::Result {
        container: container.into(),
        error: error.into(),
        code: 13,
        ..Default::default()
    };
    let ignored = api::Result {
        container: "c".into(),
        ignored: true,
        ..Default::default()
    };
    let stopped = api::Results {
        results: vec![failed("a", "first"), failed("b", "second"), ignored],
        ..Default::default()
    };
    let owner = scene.owner_that(Answers {
        stopped: Some(stopped),
        ..Answers::default()
    });
    let said = scene.run(&["stop", "a", "b"]);
    assert_eq!((said.code, said.out.as_str()), (125, "c\n"));
    assert!(
        said.err.contains("a: first") && said.err.contains("second"),
        "{}",
        said.err
    );
    assert_eq!(owner.asked().len(), 1);
}

#[test]
fn nothing_runs_without_an_owner() {
    let scene = Scene::with_a_pod();
    for (line, out) in [
        ("pod stop p", "p\n"),
        ("pod pause --all", "p\n"),
        ("pod kill p", "p\n"),
        ("stop a b", "a\nb\n"),
    ] {
        assert_eq!(scene.says(line), out, "{line}");
    }
    // It never ran.
    assert_eq!(scene.says("wait a"), "0\n");
    for line in ["pause a", "kill a", "top a", "unpause a", "attach a"] {
        scene.refuses(125, line);
    }
    // The program of the owner is not beside that of the tests.
    for line in [
        "pod start p",
        "start a",
        "init a",
        "restart a",
        "pod restart p",
        "pod run",
    ] {
        let said = scene.refuses(125, line);
        assert!(
            said.contains("DIR") || said.contains("/rust-kata"),
            "{line}: {said}"
        );
    }
}

#[test]
fn pods_are_removed_with_what_they_hold() {
    let scene = Scene::with_a_pod();
    assert_eq!(scene.says("rm a"), "a\n");
    assert_eq!(scene.says("ls --all --quiet"), "b\n");
    assert_eq!(scene.says("pod rm --force p"), "p\n");
    assert_eq!(scene.says("pod ls --quiet"), "");
    // A pod that was made for one container goes with it.
    assert_eq!(
        scene.says("create --name alone --rootfs DIR/rootfs true"),
        "alone\n"
    );
    assert_eq!(scene.says("pod ls --quiet"), "alone\n");
    assert_eq!(scene.says("rm --all"), "alone\n");
    assert_eq!(scene.says("pod ls --quiet"), "");
}

#[test]
fn limits_are_changed_by_the_owner() {
    let scene = Scene::with_a_pod();
    let owner = scene.owner();
    assert_eq!(
        scene.says("update --memory 1m --pids-limit 9 a b"),
        "a\nb\n"
    );
    let limits = r#"{"memory":{"limit":1048576},"pids":{"limit":9}}"#;
    assert_eq!(
        owner.asked(),
        ["a", "b"].map(|name| format!("update {name} {limits}"))
    );
    assert_eq!(scene.says("update --cpus 0.5 --cpu-shares 2 a"), "a\n");
    let cpu = r#"update a {"cpu":{"shares":2,"quota":50000,"period":100000}}"#;
    assert_eq!(owner.asked(), [cpu]);
    scene.refuses(125, "update a");
    assert!(owner.asked().is_empty());
}

#[test]
fn sessions_are_made_without_a_client_and_removed() {
    let scene = Scene::with_a_pod();
    let owner = scene.owner();
    let line = "exec --detach --user u --workdir /w --env A=1 --tty --privileged a sh -c x";
    assert_eq!(scene.says(line), "e1\n");
    let made = r#"attach exec {process {container: "a" command: "sh" command: "-c" command: "x" env: "A=1" cwd: "/w" user: "u" terminal: true privileged: true}}"#;
    assert_eq!(owner.asked(), [made]);
    assert_eq!(scene.says("session rm --force a e1"), "e1\n");
    let removed = r#"remove_exec container: "a" exec: "e1" force: true"#;
    assert_eq!(owner.asked(), [removed]);
    assert_eq!(scene.says("session rm a e2"), "e2\n");
    assert_eq!(owner.asked(), [r#"remove_exec container: "a" exec: "e2""#]);
}

#[test]
fn the_end_of_containers_is_waited_for() {
    let scene = Scene::with_a_pod();
    let owner = scene.owner_that(Answers {
        exit_code: 42,
        ..Answers::default()
    });
    scene.put("a", "running");
    scene.put("b", "running");
    assert_eq!(scene.says("wait a p/b"), "42\n42\n");
    let waits = ["a", "b"].map(|name| format!("wait container: \"{name}\""));
    assert_eq!(owner.asked(), waits);
    // A state that it has needs no owner.
    assert_eq!(scene.says("wait --condition running a"), "-1\n");
    assert!(owner.asked().is_empty());
}

#[test]
fn root_file_systems_are_mounted_by_the_owner() {
    let scene = Scene::with_a_pod();
    let owner = scene.owner();
    assert_eq!(scene.says("mount a"), "/mounted/a\n");
    assert_eq!(scene.says("mount a b"), "a /mounted/a\nb /mounted/b\n");
    assert_eq!(
        owner.asked(),
        ["a", "a", "b"].map(|name| format!("mount container: \"{name}\""))
    );
    assert_eq!(scene.says("unmount --force a"), "a\n");
    assert_eq!(scene.says("umount b"), "b\n");
    let asked = [
        r#"unmount container: "a" force: true"#,
        r#"unmount container: "b""#,
    ];
    assert_eq!(owner.asked(), asked);
    assert_eq!(scene.says("unmount --all"), "");
    assert_eq!(scene.says("mount"), "POD  CONTAINER  MOUNTS  PATH\n");
    assert_eq!(scene.shows("mount --format json"), json!([]));
}

#[test]
fn mounts_are_listed_and_undone_together() {
    let scene = Scene::with_a_pod();
    assert_eq!(scene.says("mount a"), "DIR/rootfs\n");
    assert_eq!(scene.says("mount a"), "DIR/rootfs\n");
    assert_eq!(
        scene.says("mount"),
        "POD  CONTAINER  MOUNTS  PATH\np    a          2       DIR/rootfs\n"
    );
    let listed = json!([{ "pod": "p", "container": "a", "mounts": 2, "path": "DIR/rootfs" }]);
    assert_eq!(scene.shows("mount --format json"), listed);
    assert_eq!(scene.says("unmount a"), "a\n");
    assert_eq!(scene.says("unmount --all --force"), "a\n");
    assert_eq!(scene.says("mount"), "POD  CONTAINER  MOUNTS  PATH\n");
}

#[test]
fn processes_are_shown_in_a_table() {
    let scene = Scene::with_a_pod();
    let process = api::Process {
        pid: 12,
        parent: 3,
        uid: 1000,
        cpu_ms: 61_000,
        resident_bytes: 5 << 20,
        command: "sleep 9".into(),
        ..Default::default()
    };
    let list = api::ProcessList {
        processes: vec![process],
        ..Default::default()
    };
    let owner = scene.owner_that(Answers {
        processes: api::ProcessesResponse {
            list: Some(list).into(),
            ..Default::default()
        },
        ..Answers::default()
    });
    let expected = "PID  PPID  UID   CPU s  MiB  COMMAND\n12   3     1000  61.00  5.0  sleep 9\n";
    assert_eq!(scene.says("top a"), expected);
    assert_eq!(owner.asked(), [r#"processes container: "a""#]);
    // None of the pod's containers runs.
    assert_eq!(
        scene.says("pod top p"),
        "CONTAINER  PID  PPID  UID  CPU s  MiB  COMMAND\n"
    );
    assert_eq!(scene.shows("pod top --format json p"), json!([]));
    assert!(owner.asked().is_empty());
}

#[test]
fn usage_is_measured_twice() {
    let scene = Scene::with_a_pod();
    let usage = api::Usage {
        cpu: Some(api::CpuUsage {
            usage_usec: 5,
            ..Default::default()
        })
        .into(),
        memory: Some(api::MemoryUsage {
            usage: 3 << 20,
            limit: 8 << 20,
            ..Default::default()
        })
        .into(),
        pids: Some(api::PidsUsage {
            current: 4,
            ..Default::default()
        })
        .into(),
        io: vec![api::IoUsage {
            read_bytes: 1 << 20,
            written_bytes: 2 << 20,
            ..Default::default()
        }],
        ..Default::default()
    };
    let stats = api::StatsResponse {
        containers: vec![api::ContainerStats {
            container: "a".into(),
            usage: Some(usage).into(),
            read_at: 7,
            ..Default::default()
        }],
        vm_memory: 64 << 20,
        vm_cpu_ns: 1,
        ..Default::default()
    };
    let owner = scene.owner_that(Answers {
        stats,
        ..Answers::default()
    });
    let expected = "\
        POD  CONTAINER  CPU %  MEMORY    LIMIT    PIDS  READ     WRITTEN\n\
        p    a          0.00   3.0 MiB   8.0 MiB  4     1.0 MiB  2.0 MiB\n\
        p    (vm)       0.00   64.0 MiB  -        -     0.0 MiB  0.0 MiB\n";
    assert_eq!(scene.says("pod stats --no-stream p"), expected);
    assert_eq!(owner.asked(), ["stats", "stats"]);
    assert_eq!(scene.says("pod stats"), expected);
    let shown = scene.shows("pod stats --format json p");
    assert_eq!(shown[0]["container"], "a");
    assert_eq!(shown[1]["container"], "(vm)");
    let gone = scene.refuses(125, "pod stats q");
    assert!(gone.contains("pod \"q\" not found"), "{gone}");
}

#[test]
fn a_command_is_connected_to_the_process_that_it_runs() {
    let scene = Scene::with_a_pod();
    let owner = scene.owner_that(Answers {
        exit_code: 42,
        ..Answers::default()
    });
    let attached = |line: &str, asked: &str, out: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let said = scene.run_with("input", &words);
        assert_eq!(
            (said.code, said.out.as_str()),
            (42, out),
            "{line}: {}",
            said.err
        );
        assert!(said.err.ends_with("err\n"), "{}", said.err);
        assert_eq!(owner.asked(), [format!("attach {asked}")], "{line}");
    };
    let process = r#"process {container: "a" command: "id"}"#;
    let all = "stdout: true stderr: true";
    attached("exec a id", &format!("exec {{{process} {all}}}"), "out\n");
    attached(
        "exec -i a id",
        &format!("exec {{{process} stdin: true {all}}}"),
        "out\ninput",
    );
    let container = r#"container: "a""#;
    scene.put("a", "running");
    attached(
        "attach a",
        &format!("request {{{container} stdin: true {all}}}"),
        "out\ninput",
    );
    let silent = format!("request {{{container} {all}}}");
    attached("attach --no-stdin a", &silent, "out\n");
    attached(
        "start --attach a",
        &format!("request {{{container} {all} start: true}}"),
        "out\n",
    );
    let started = format!("request {{{container} stdin: true {all} start: true}}");
    attached("start --attach --interactive a", &started, "out\ninput");
    scene.refuses(125, "start --attach a b");
}

#[test]
fn a_container_that_is_run_is_started_and_connected() {
    let scene = Scene::with_a_pod();
    let owner = scene.owner_that(Answers {
        exit_code: 300,
        ..Answers::default()
    });
    let said = scene.run(&[
        "run",
        "--pod",
        "p",
        "--name",
        "c",
        "--rootfs",
        "DIR/rootfs",
        "true",
    ]);
    // A code that is none of a process.
    assert_eq!(
        (said.code, said.out.as_str()),
        (255, "out\n"),
        "{}",
        said.err
    );
    let request = r#"attach request {container: "c" stdout: true stderr: true start: true}"#;
    assert_eq!(owner.asked(), [r#"adopt container: "c""#, request]);
    let detached = scene.says("run --pod p --detach --name d --rootfs DIR/rootfs true");
    assert_eq!(detached, "d\n");
    let start = r#"start containers: "d" dependencies: true"#;
    assert_eq!(owner.asked(), [r#"adopt container: "d""#, start]);
    assert_eq!(scene.says("ls --all --quiet"), "a\nb\nc\nd\n");
}
