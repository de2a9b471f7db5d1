//! Commands that act on several pods, containers or volumes: an error of one keeps no other, all
//! errors are printed, and the exit code tells of them. What `--all` and `--filter` select.

use std::fs;
use std::time::{Duration, Instant};

use harness::bed::Bed;
use harness::dist::subject_is_ours;
use harness::pods::{create_container, inspect, pod};
use harness::require;
use harness::run::{Input, Output, run};
use harness::scene::limit;
use serde_json::Value;

/// Creates a container in a pod of its own.
fn create(bed: &Bed, name: &str, words: &[&str], command: &[&str]) {
    let rootfs = bed.rootfs();
    let root = rootfs.to_str().expect("an ASCII path");
    let fixed = ["create", "--name", name, "--rootfs", root];
    let words = [&fixed[..], words, &["--"], command].concat();
    bed.rust_kata(&words).ok();
}

/// Checks what a command has printed on stdout, and that its errors name these.
#[track_caller]
fn printed(output: &Output, out: &str, errors: &[&str]) {
    assert_eq!(output.out(), out, "{output:?}");
    let said = output.err();
    for error in errors {
        assert!(said.contains(error), "{error}: {said}");
    }
    assert_eq!(said.lines().count(), errors.len(), "{said}");
}

/// The printed names, in order: what is done side by side is printed as it is done.
fn sorted(output: &Output) -> String {
    let out = output.out();
    let mut names: Vec<&str> = out.lines().collect();
    names.sort_unstable();
    names.join(" ")
}

fn names(bed: &Bed, words: &[&str]) -> String {
    sorted(&bed.rust_kata(words).ok())
}

#[test]
fn an_error_is_not_lost_if_the_last_pod_works() {
    require!(subject_is_ours());
    let bed = Bed::new();
    pod(&bed, "p", &[], &[("c", &[], "true")]);
    pod(&bed, "q", &[], &[]);
    for verb in ["stop", "pause", "unpause", "kill", "sync"] {
        let words = ["pod", verb, "no1", "q", "no2", "p"];
        let output = bed.rust_kata(&words).exits(125);
        assert_eq!(sorted(&output), "p q", "{verb}");
        printed(&output, &output.out(), &["no1", "no2"]);
    }

    let batch = bed.cli(&["pod", "batch", "p"]);
    let lines = b"kill nope\nstop c\nunpause nope\n".to_vec();
    let output = run(batch, Input::Bytes(lines.clone()), limit()).exits(125);
    printed(&output, "stop c\n", &["nope", "nope"]);

    let shown = bed
        .rust_kata(&["pod", "inspect", "no1", "q", "p"])
        .exits(125);
    printed(&shown, &shown.out(), &["no1"]);
    let shown: Vec<Value> = serde_json::from_str(&shown.out()).expect("JSON");
    assert_eq!(
        (&shown[0]["name"], &shown[1]["name"]),
        (&"q".into(), &"p".into())
    );

    // podman's exit code for what does not exist.
    let output = bed.rust_kata(&["pod", "rm", "no1", "q"]).exits(1);
    printed(&output, "q\n", &["no1"]);
    printed(
        &bed.rust_kata(&["pod", "rm", "-f", "no1", "p"]).ok(),
        "p\n",
        &[],
    );
    bed.assert_clean();
}

#[test]
fn a_container_that_is_not_there_keeps_no_other() {
    require!(subject_is_ours());
    let bed = Bed::new();
    pod(&bed, "p", &[], &[("a", &[], "true"), ("b", &[], "true")]);
    let both = ["a", "nope", "b"];
    let on = |words: &[&str]| bed.rust_kata(&[words, &both[..]].concat()).exits(125);

    let output = on(&["inspect"]);
    printed(&output, &output.out(), &["nope"]);
    let shown: Vec<Value> = serde_json::from_str(&output.out()).expect("JSON");
    assert_eq!(
        (&shown[0]["name"], &shown[1]["name"]),
        (&"a".into(), &"b".into())
    );
    printed(&on(&["stop"]), "a\nb\n", &["nope"]);
    printed(&on(&["cleanup"]), "a\nb\n", &["nope"]);
    // They never ran. As with podman, there is nothing to wait for.
    printed(&on(&["wait"]), "0\n0\n", &["nope"]);
    printed(
        &on(&["wait", "--condition", "created", "--interval", "0"]),
        "-1\n-1\n",
        &["nope"],
    );
    printed(&on(&["kill"]), "", &["nope", "a: ", "b: "]);
    printed(&on(&["pause"]), "", &["nope", "a: ", "b: "]);

    printed(&bed.rust_kata(&["rm", "nope"]).exits(1), "", &["nope"]);
    printed(&bed.rust_kata(&["rm", "-f", "nope"]).ok(), "", &[]);
    printed(
        &bed.rust_kata(&["rm", "nope", "a"]).exits(1),
        "a\n",
        &["nope"],
    );
    printed(&bed.rust_kata(&["rm", "-f", "nope", "b"]).ok(), "b\n", &[]);
    bed.rust_kata(&["pod", "rm", "p"]).ok();

    bed.rust_kata(&["volume", "create", "v"]).ok();
    let shown = bed
        .rust_kata(&["volume", "inspect", "nope", "v"])
        .exits(125);
    assert!(shown.out().contains("\"v\""), "{shown:?}");
    printed(
        &bed.rust_kata(&["volume", "rm", "nope", "v"]).exits(1),
        "v\n",
        &["nope"],
    );
    printed(
        &bed.rust_kata(&["volume", "rm", "-f", "nope"]).ok(),
        "",
        &[],
    );
    bed.assert_clean();
}

#[test]
fn all_pods_but_the_damaged_one_are_acted_on() {
    require!(subject_is_ours());
    let bed = Bed::new();
    for name in ["a", "b"] {
        create(&bed, name, &[], &["true"]);
    }
    pod(&bed, "p", &[], &[("c", &[], "true"), ("d", &[], "true")]);
    let pods = bed.data().join("pods/local");
    fs::write(pods.join("a/state.json"), "{").expect("the bed is ours");
    fs::write(pods.join("p/containers/c/state.json"), "{").expect("the bed is ours");

    for words in [&["stop", "--all"][..], &["cleanup", "--all"]] {
        let output = bed.rust_kata(words).exits(125);
        assert_eq!(sorted(&output), "b d", "{words:?}");
        printed(&output, &output.out(), &["pods/local/a/", "containers/c/"]);
    }
    // Nothing fits.
    let output = bed.rust_kata(&["pause", "--all"]).exits(125);
    printed(&output, "", &["pods/local/a/", "containers/c/"]);
    let output = bed.rust_kata(&["rm", "--all"]).exits(125);
    printed(&output, &output.out(), &["pods/local/a/", "containers/c/"]);
    // By name, too; the removal by force is the cure.
    create_container(&bed, "p", "e", &[], "true").ok();
    let output = bed.rust_kata(&["stop", "c", "e"]).exits(125);
    printed(&output, "e\n", &["containers/c/"]);
    bed.rust_kata(&["rm", "-f", "c", "e"]).ok();
    bed.rust_kata(&["pod", "rm", "-f", "a", "p"]).ok();
    assert_eq!(names(&bed, &["pod", "ls", "-q"]), "");
    bed.assert_clean();
}

#[test]
fn filters_select_as_podmans_do() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let label = |name: &'static str| ["--label", name];
    let both = [label("tier=back"), label("zone=1")].concat();
    pod(
        &bed,
        "web-1",
        &both,
        &[("db", &both, "true"), ("app", &["-l", "tier=back"], "true")],
    );
    pod(&bed, "web-2", &["-l", "tier=back"], &[]);
    let select = |what: &[&str], filters: &[&str]| {
        let filters: Vec<&str> = filters.iter().flat_map(|text| ["--filter", text]).collect();
        names(&bed, &[what, &["-q"], &filters].concat())
    };
    let pods = |filters: &[&str]| select(&["pod", "ps"], filters);
    let containers = |filters: &[&str]| select(&["ps", "-a"], filters);

    assert_eq!(pods(&["label=tier=back"]), "web-1 web-2");
    assert_eq!(pods(&["label=tier=back", "label=zone"]), "web-1");
    assert_eq!(pods(&["label=tier=back", "label=zone=2"]), "");
    assert_eq!(pods(&["name=web"]), "web-1 web-2");
    assert_eq!(pods(&["name=^web-.$", "name=nope"]), "web-1 web-2");
    assert_eq!(pods(&["name=1$"]), "web-1");
    assert_eq!(pods(&["status=created"]), "web-1 web-2");
    assert_eq!(pods(&["status=running"]), "");
    assert_eq!(pods(&["until=2999-01-01T00:00:00Z"]), "web-1 web-2");
    assert_eq!(pods(&["until=1h"]), "");
    assert_eq!(pods(&["ctr-names=^db$"]), "web-1");
    assert_eq!(pods(&["ctr-names=nope"]), "");
    assert_eq!(pods(&["ctr-number=2"]), "web-1");
    assert_eq!(pods(&["ctr-number=0"]), "web-2");
    assert_eq!(pods(&["ctr-status=created"]), "web-1");
    assert_eq!(pods(&["ctr-status=exited"]), "");
    let db = inspect(&bed, "container", "db");
    let id = db["id"].as_str().expect("an id");
    assert_eq!(pods(&[&format!("ctr-ids={}", &id[..10])]), "web-1");
    assert_eq!(containers(&[&format!("id=^{}", &id[..10])]), "db");
    assert_eq!(containers(&["name=b", "status=created"]), "db");
    assert_eq!(containers(&["label=tier=back", "label=zone=1"]), "db");
    assert_eq!(
        containers(&["label=tier", "pod=web-1", "until=1s", "exited=0"]),
        ""
    );

    for (command, bad) in [
        (&["ps"][..], "colour=red"),
        (&["ps"], "status=up"),
        (&["ps"], "name=["),
        (&["ps"], "until=soon"),
        (&["pod", "ps"], "status=up"),
        (&["pod", "ps"], "ctr-status=up"),
        (&["pod", "ps"], "ctr-number=x"),
        (&["pod", "ps"], "ctr-colour=red"),
        (&["start", "--all"], "restart-policy=maybe"),
        (&["start", "--all"], "should-start-on-boot=maybe"),
    ] {
        let refused = bed
            .rust_kata(&[command, &["--filter", bad]].concat())
            .exits(125);
        assert!(refused.err().contains(bad), "{refused:?}");
    }
    bed.rust_kata(&["pod", "rm", "-f", "web-1", "web-2"]).ok();
    bed.assert_clean();
}

#[test]
fn small_options_mean_what_they_mean_to_podman() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let words = ["--cpus", "1.5", "--cgroup-parent", ""];
    pod(&bed, "p", &words, &[]);
    let shown = inspect(&bed, "pod", "p");
    assert_eq!(shown["resources"]["cpu_quota"], 150_000);
    assert_eq!(shown["resources"]["cpu_period"], 100_000);
    assert_eq!(shown["cgroup_parent"], Value::Null);

    // Another container's anonymous volume goes with it, so it cannot be shared.
    create_container(&bed, "p", "a", &["-v", "/data"], "true").ok();
    let volume = inspect(&bed, "container", "a")["volumes"][0]["name"].clone();
    let volume = format!("{}:/d", volume.as_str().expect("a name"));
    let refused = create_container(&bed, "p", "b", &["-v", &volume], "true").exits(125);
    assert!(
        refused.err().contains("anonymous volume of container p/a"),
        "{refused:?}"
    );
    let other = format!("{}:/d", "a".repeat(64));
    create_container(&bed, "p", "b", &["-v", &other], "true").ok();
    bed.rust_kata(&["pod", "rm", "-f", "p"]).ok();
    bed.rust_kata(&["volume", "prune"]).ok();
    bed.assert_clean();
}

#[test]
fn several_are_started_paused_stopped_and_killed() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"];
    for name in ["a", "b", "c"] {
        create(&bed, name, &[], &stubborn);
    }
    create(&bed, "k", &[], &["/bin/nope"]);
    let started = bed.rust_kata(&["start", "a", "k", "b", "c"]).exits(127);
    assert_eq!(started.out(), "a\nb\nc\n");
    assert!(started.err().contains("/bin/nope"), "{started:?}");

    // What does not fit is passed over.
    let on_all = |verb: &str| names(&bed, &[verb, "--all"]);
    assert_eq!(on_all("pause"), "a b c");
    assert_eq!(on_all("pause"), "");
    bed.rust_kata(&["container", "top", "a"]).exits(125);
    let attached = bed.cli(&["attach", "a"]);
    let refused = run(attached, Input::Null, limit()).exits(125);
    assert!(refused.err().contains("paused"), "{refused:?}");
    assert_eq!(on_all("unpause"), "a b c");
    assert_eq!(on_all("unpause"), "");

    // One after the other, they would need half a minute.
    let before = Instant::now();
    let output = bed.rust_kata(&["stop", "--time", "10", "a", "b", "c"]).ok();
    let took = before.elapsed();
    assert_eq!(output.out().lines().count(), 3, "{output:?}");
    assert!(took >= Duration::from_secs(10), "{took:?}");
    assert!(took < Duration::from_secs(30), "{took:?}");

    bed.rust_kata(&["start", "b"]).ok();
    // podman's exit code for containers that run.
    bed.rust_kata(&["rm", "b"]).exits(2);
    bed.rust_kata(&["rm", "b", "nope"]).exits(125);
    assert_eq!(on_all("kill"), "b");
    assert_eq!(bed.rust_kata(&["wait", "b"]).ok().out(), "137\n");
    assert_eq!(on_all("kill"), "");
    assert_eq!(on_all("rm"), "a b c k");
    bed.assert_clean();
}

#[test]
fn a_long_name_is_a_shorter_host_name() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let name = "n".repeat(128);
    let rootfs = bed.rootfs();
    let root = rootfs.to_str().expect("an ASCII path");
    let words = ["run", "--rm", "--name", &name, "--rootfs", root, "hostname"];
    let output = run(bed.cli(&words), Input::Null, limit()).ok();
    assert_eq!(output.out().trim(), "n".repeat(64));
    bed.assert_clean();
}

#[test]
fn an_empty_pod_runs_until_its_policy_ends_it() {
    require!(subject_is_ours());
    let bed = Bed::new();
    bed.rust_kata(&["pod", "run", "--name", "p", "--exit-policy", "stop"])
        .ok();
    assert_eq!(inspect(&bed, "pod", "p")["status"], "Running");
    create_container(&bed, "p", "c", &[], "true").ok();
    bed.rust_kata(&["start", "c"]).ok();
    let deadline = Instant::now() + limit();
    while inspect(&bed, "pod", "p")["status"] != "Exited" {
        assert!(Instant::now() < deadline, "{}", inspect(&bed, "pod", "p"));
        std::thread::sleep(Duration::from_millis(100));
    }
    bed.rust_kata(&["pod", "rm", "-f", "p"]).ok();

    let refused = bed
        .rust_kata(&[
            "pod",
            "run",
            "--name",
            "p",
            "--hook-post-start",
            "/bin/false",
        ])
        .exits(125);
    assert!(refused.err().contains("/bin/false"), "{refused:?}");
    assert_eq!(names(&bed, &["pod", "ls", "-q"]), "");
    bed.assert_clean();
}
