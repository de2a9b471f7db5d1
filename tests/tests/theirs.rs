//! Pods of containerd in `rust-kata`: listed, inspected and entered, but changed only by
//! containerd.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use harness::bed::Bed;
use harness::dist::{self, SHIM, subject_is_ours};
use harness::leak;
use harness::process;
use harness::pty::Terminal;
use harness::require;
use harness::run::{Input, noise_sha256, run};
use harness::scene::{Scene, limit};
use harness::spec::Spec;
use serde_json::{Value, json};

fn asked(bed: &Bed, args: &[&str]) -> Value {
    let text = bed.rust_kata(args).ok().out();
    serde_json::from_str(&text).expect("JSON")
}

const SLEEP: &[&str] = &[
    "sh",
    "-c",
    "echo said; trap 'exit 7' TERM; while :; do sleep 0.1; done",
];

#[test]
fn they_are_listed_inspected_measured_and_their_processes_shown() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    scene.detach("c", &[], SLEEP);

    let pods = asked(&bed, &["pod", "ls", "--format", "json"]);
    let pod = &pods[0];
    assert_eq!(pod["name"], "c");
    assert_eq!(pod["front_door"], "containerd");
    assert_eq!(pod["namespace"], bed.namespace());
    assert_eq!(pod["status"], "Running");
    let listed = bed.rust_kata(&["pod", "ls"]).ok().out();
    assert!(
        listed.contains("MANAGED BY") && listed.contains("containerd"),
        "{listed}"
    );
    let containers = asked(&bed, &["container", "ls", "--format", "json"]);
    assert_eq!(containers[0]["name"], "c");
    assert_eq!(containers[0]["front_door"], "containerd");
    assert_eq!(containers[0]["pid"], scene.pid("c"));
    assert_eq!(containers[0]["command"][0], "sh");

    let pod = asked(&bed, &["pod", "inspect", "c"]);
    assert_eq!(pod[0]["owner_pid"], bed.named(SHIM)[0].pid);
    let container = asked(&bed, &["container", "inspect", "c"]);
    assert_eq!(container[0]["state"]["status"], "running");
    assert_eq!(container[0]["spec"]["process"]["args"][0], "sh");

    let top = bed.rust_kata(&["container", "top", "c"]).ok().out();
    assert!(top.contains("trap 'exit 7' TERM"), "{top}");
    let stats = asked(&bed, &["pod", "stats", "--format", "json", "c"]);
    assert_eq!(stats[0]["container"], "c");
    assert!(stats[0]["memory_bytes"].as_u64() > Some(4096), "{stats}");
    assert_eq!(stats[1]["container"], "(vm)");

    // The sockets are for root alone, and are removed with the shim.
    let sockets = || -> Vec<_> {
        let all = leak::tree(&bed.state()).into_iter().map(|(path, _)| path);
        all.filter(|path| path.to_string_lossy().contains("/manage"))
            .collect()
    };
    assert_eq!(sockets().len(), 2);
    for socket in sockets() {
        let mode = socket.metadata().expect("a socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", socket.display());
    }
    scene.task(&["kill", "-s", "KILL", "c"]).ok();
    scene.await_event("c", "/tasks/exit");
    let after = asked(&bed, &["container", "inspect", "c"]);
    assert_eq!(after[0]["status"], "exited");
    assert_eq!(
        bed.rust_kata(&["container", "wait", "c"]).ok().out(),
        "137\n"
    );
    scene.remove("c");
    assert!(sockets().is_empty());
    assert_eq!(
        asked(&bed, &["pod", "ls", "--format", "json"]),
        Value::Array(Vec::new())
    );
}

#[test]
fn containers_of_kubernetes_are_found_by_pod_name_and_short_id() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    // As with the CRI: ids of 64 digits; the sandbox has the pod's id.
    let [pod, app] = ["5a", "a9"].map(|start| format!("{start}{}", "0123456789".repeat(7)));
    let [pod, app] = [&pod[..64], &app[..64]];
    scene.detach_spec(pod, &Spec::new(&bed.rootfs(), SLEEP).sandbox(pod));
    scene.detach_spec(app, &Spec::new(&bed.rootfs(), SLEEP).in_pod(pod));

    let pods = asked(&bed, &["pod", "ls", "--format", "json"]);
    assert_eq!(pods.as_array().map(Vec::len), Some(1), "{pods}");
    assert_eq!(
        (&pods[0]["id"], &pods[0]["name"]),
        (&json!(pod), &json!("pod"))
    );
    assert_eq!(pods[0]["containers"], 2);
    let short = &pod[..12];
    for of in [short, "pod"] {
        let all = ["container", "ls", "--format", "json", "--pod", of];
        let all = asked(&bed, &all);
        let found = all.as_array().expect("a list").iter();
        let found = found.map(|c| (c["id"].as_str(), c["name"].as_str()));
        let both = [(Some(pod), Some(pod)), (Some(app), Some("app"))];
        assert!(found.eq(both), "{all}");
    }
    let filter = format!("pod={short}");
    let all = ["container", "ls", "--quiet", "--filter", &filter];
    let all = bed.rust_kata(&all).ok().out();
    assert_eq!(all, format!("{pod}\napp\n"));

    for name in [&app[..12], &format!("{short}/{app}"), "pod/app", "app"] {
        let said = bed.rust_kata(&["container", "exec", name, "hostname"]);
        assert!(!said.ok().out().is_empty(), "{name}");
    }
    let stats = asked(&bed, &["pod", "stats", "--format", "json", short]);
    let of: Vec<&Value> = stats
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| &row["container"])
        .collect();
    assert_eq!(of, [pod, app, "(vm)"], "{stats}");
    // One of them ends, and the pod continues with the other.
    scene.task(&["kill", "-s", "KILL", app]).ok();
    scene.await_event(app, "/tasks/exit");
    let status = |what: &str, id: &str| asked(&bed, &[what, "inspect", id])[0]["status"].clone();
    assert_eq!(status("container", "pod/app"), "exited");
    assert_eq!(status("pod", short), "Degraded");
    scene.task(&["kill", "-s", "KILL", pod]).ok();
    scene.await_event(pod, "/tasks/exit");
    scene.remove(app);
    scene.remove(pod);
    let none = asked(&bed, &["pod", "ls", "--format", "json"]);
    assert_eq!(none, Value::Array(Vec::new()));
}

#[test]
fn they_are_entered_and_containerd_hears_nothing_of_it() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    scene.detach("c", &[], SLEEP);
    let before = scene.events("c");

    let script = "echo out; echo err >&2; exit 3";
    let output = bed
        .rust_kata(&["container", "exec", "c", "sh", "-c", script])
        .exits(3);
    assert_eq!(
        (output.out().as_str(), output.err().as_str()),
        ("out\n", "err\n")
    );
    bed.rust_kata(&["container", "exec", "c", "/bin/nope"])
        .exits(127);
    let words = [
        "container",
        "exec",
        "--user",
        "user:root",
        "--env",
        "A=b",
        "-w",
        "/tmp",
        "c",
    ];
    let who = [&words[..], &["sh", "-c", "id -u; id -g; echo $A; pwd"]].concat();
    assert_eq!(bed.rust_kata(&who).ok().out(), "1000\n0\nb\n/tmp\n");
    bed.rust_kata(&["container", "exec", "--user", "ghost", "c", "id"])
        .exits(125);
    let piped = bed.cli(&["container", "exec", "-i", "c", "cat"]);
    let length = 1 << 20;
    let output = run(piped, Input::Noise(length), limit()).ok();
    assert_eq!(output.stdout.sha256(), noise_sha256(length));

    // Descriptors, opened as in a shell.
    let (from, to) = (bed.fresh("from"), bed.fresh("to"));
    std::fs::write(&from, "passed on").expect("the bed is ours");
    let line = r#"exec "$0" exec --preserve-fds 2 c sh -c 'cat <&3 >&4' 3<"$1" 4>"$2""#;
    let mut shell = Command::new("sh");
    shell.envs(bed.environment()).args(["-c", line]);
    shell.arg(dist::binary(dist::CLI)).args([&from, &to]);
    run(shell, Input::Null, limit()).ok();
    let there = std::fs::read_to_string(&to).expect("the bed is ours");
    assert_eq!(there, "passed on");

    let command = bed.cli(&["container", "exec", "-it", "c", "sh"]);
    let mut terminal = Terminal::spawn(command, 24, 80);
    terminal.screen.expect("# ", limit());
    terminal.send("stty size\n");
    terminal.screen.expect("24 80\r\n", limit());
    terminal.send("exit 5\n");
    terminal.finish(limit()).exits(5);

    // A process that is left running ends with its container.
    let detached = bed
        .rust_kata(&["container", "exec", "-d", "c", "sleep", "1000"])
        .ok();
    let top = bed.rust_kata(&["container", "top", "c"]).ok().out();
    assert!(top.contains("sleep 1000"), "{top}");
    let taken = scene.exec("c", detached.out().trim(), &[], &["true"]);
    assert_ne!(taken.code, 0, "{taken:?}");

    assert_eq!(
        scene.events("c"),
        before,
        "containerd gets only its own events"
    );
    // The container's own processes are not affected.
    assert_eq!(
        scene.exec("c", "e", &[], &["echo", "own"]).ok().out(),
        "own\n"
    );

    let signal = ["container", "kill", "--signal", "TERM", "c"];
    bed.rust_kata(&signal).ok();
    assert_eq!(bed.rust_kata(&["container", "wait", "c"]).ok().out(), "7\n");
    scene.remove("c");
}

#[test]
fn what_is_containerds_to_change_is_refused_with_the_cure() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    scene.detach("c", &[], SLEEP);
    let cure = format!("ctr -n {} task", bed.namespace());
    for verb in [
        "start", "stop", "restart", "pause", "unpause", "rm", "init", "attach", "logs",
    ] {
        let refused = bed.rust_kata(&["container", verb, "c"]).exits(125);
        assert!(refused.err().contains(&cure), "{verb}: {refused:?}");
    }
    for verb in ["start", "stop", "restart", "pause", "kill", "rm"] {
        let refused = bed.rust_kata(&["pod", verb, "c"]).exits(125);
        assert!(refused.err().contains(&cure), "{verb}: {refused:?}");
    }
    // By another client of the shim's socket, and by one of a build with a single service.
    let management = bed.dir().join("kata/.vm");
    let mut sockets = leak::tree(&management).into_iter().map(|(path, _)| path);
    let socket = sockets.find(|path| path.ends_with("manage"));
    let socket = socket.expect("the shim serves its pod");
    let client = ttrpc::Client::connect(&format!("unix://{}", socket.display()));
    let client = client.expect("the shim serves its pod");
    for service in ["Engine", "Management"] {
        for method in ["Start", "Shutdown", "Remove", "Mount"] {
            let request = ttrpc::Request {
                service: format!("rust_kata.management.v1.{service}"),
                method: method.to_owned(),
                ..Default::default()
            };
            let Err(ttrpc::Error::RpcStatus(refused)) = client.request(request) else {
                panic!("{service}/{method} was not refused");
            };
            assert_eq!(refused.code(), ttrpc::Code::UNIMPLEMENTED, "{refused}");
            let said = &refused.message;
            assert!(
                said.contains("managed by containerd") && said.contains(&cure),
                "{said}"
            );
        }
    }
    assert_eq!(scene.status("c").as_deref(), Some("RUNNING"));

    // The containers of a killed shim are shown as ended, until containerd has removed them.
    for shim in bed.named(SHIM) {
        process::signal(shim.pid, nix::sys::signal::Signal::SIGKILL);
    }
    scene.await_event("c", "/tasks/exit");
    scene.remove("c");
    assert_eq!(
        asked(&bed, &["pod", "ls", "--format", "json"]),
        Value::Array(Vec::new())
    );
}
