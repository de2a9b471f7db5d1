//! `rust-kata events`: the journal of all events, in order, with podman's words, independent of
//! the program that caused them.

use harness::bed::Bed;
use harness::dist::{CLI, subject_is_ours};
use harness::pods::{create_container, pod};
use harness::process;
use harness::require;
use harness::run::{Input, Running};
use harness::scene::limit;
use nix::sys::signal::Signal;
use serde_json::Value;

const SLEEP: &str = "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done";

/// The events that match a filter, as `type action name`.
fn told(bed: &Bed, words: &[&str]) -> Vec<String> {
    all(bed, words).iter().map(short).collect()
}

fn all(bed: &Bed, words: &[&str]) -> Vec<Value> {
    let args = [&["events", "--format", "json"], words].concat();
    let text = bed.rust_kata(&args).ok().out();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn short(event: &Value) -> String {
    let word = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
    format!("{} {} {}", word("type"), word("action"), word("name"))
}

/// Waits until the container has been started this often.
fn up(bed: &Bed, times: usize) {
    let deadline = std::time::Instant::now() + limit();
    let said = || bed.rust_kata(&["container", "logs", "db"]).ok().out();
    while said().matches("up").count() < times {
        assert!(std::time::Instant::now() < deadline, "{}", said());
    }
}

#[test]
fn a_life_is_told_in_order() {
    require!(subject_is_ours());
    let bed = Bed::new();
    assert!(told(&bed, &[]).is_empty());
    bed.rust_kata(&["pod", "create", "--name", "web", "--label", "tier=front"])
        .ok();
    create_container(&bed, "web", "db", &["--label", "part=store"], SLEEP).ok();
    let follow = [
        "events",
        "--follow",
        "--since",
        "1h",
        "--filter",
        "container=db",
    ];
    let following = Running::spawn(bed.cli(&follow), Input::Null);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    bed.rust_kata(&["container", "exec", "db", "sh", "-c", "exit 9"])
        .exits(9);
    bed.rust_kata(&["container", "exec", "db", "/bin/nope"])
        .exits(127);
    bed.rust_kata(&["pod", "pause", "web"]).ok();
    bed.rust_kata(&["pod", "unpause", "web"]).ok();
    bed.rust_kata(&["container", "kill", "--signal", "USR1", "nope"])
        .exits(125);
    up(&bed, 1);
    bed.rust_kata(&["container", "restart", "db"]).ok();
    up(&bed, 2);
    bed.rust_kata(&["pod", "stop", "web"]).ok();
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();

    let expected = [
        "pod create web",
        "container create db",
        "pod start web",
        "container init db",
        "container start db",
        "container exec db",
        "container exec_died db",
        "container pause db",
        "pod pause web",
        "container unpause db",
        "pod unpause web",
        "container died db",
        "container stop db",
        "container init db",
        "container start db",
        "container restart db",
        "container died db",
        "container stop db",
        "pod stop web",
        "container remove db",
        "pod remove web",
    ];
    let mut seen = told(&bed, &[]);
    // The process that could not be started may have an event as well.
    let nope = all(&bed, &["--filter", "event=exec_died"]);
    assert_eq!(nope[0]["attributes"]["exit_code"], "9");
    if nope.len() == 2 {
        assert_eq!(nope[1]["attributes"]["exit_code"], "127");
        seen.drain(7..9);
    }
    assert_eq!(seen, expected);
    let died = all(&bed, &["--filter", "event=died"]);
    assert!(
        died.iter()
            .all(|event| event["attributes"]["exit_code"] == "3"),
        "{died:?}"
    );
    assert_eq!(died[0]["pod"], "web");
    assert_eq!(died[0]["labels"]["part"], "store");

    // A follower got all events of its container.
    following.stdout.expect("container remove", limit());
    following.signal(Signal::SIGTERM);
    let heard = following.finish(limit());
    let lines = heard.out().lines().count();
    let of_db = all(&bed, &["--filter", "container=db"]).len();
    assert_eq!(lines, of_db, "{heard:?}");

    // Filters, and spans of time.
    let by = |filter: &str| told(&bed, &["--filter", filter]);
    assert_eq!(
        by("event=create"),
        ["pod create web", "container create db"]
    );
    assert_eq!(
        by("type=pod").first().map(String::as_str),
        Some("pod create web")
    );
    assert!(by("pod=web").len() == told(&bed, &[]).len() && by("pod=other").is_empty());
    assert!(
        by("label=tier=front")
            .iter()
            .all(|line| line.starts_with("pod "))
    );
    let pod_events = bed
        .rust_kata(&["pod", "events", "web", "--filter", "event=remove"])
        .ok();
    assert_eq!(pod_events.out().lines().count(), 2, "{pod_events:?}");
    let second = all(&bed, &[])[1]["time"]
        .as_str()
        .expect("a time")
        .to_owned();
    assert_eq!(told(&bed, &["--until", &second]).len(), 2);
    assert_eq!(
        told(&bed, &["--since", &second]).len() + 1,
        told(&bed, &[]).len()
    );
    assert!(told(&bed, &["--namespace", "other"]).is_empty());
    let until = ["events", "--follow", "--until", &second];
    assert_eq!(bed.rust_kata(&until).ok().out(), "");
    bed.rust_kata(&["events", "--filter", "colour=red"])
        .exits(125);
}

#[test]
fn the_end_of_a_killed_owner_is_told_once_by_who_notices_it() {
    require!(subject_is_ours());
    let bed = Bed::new();
    bed.rust_kata(&["pod", "create", "--name", "web"]).ok();
    create_container(&bed, "web", "db", &[], SLEEP).ok();
    bed.rust_kata(&["pod", "start", "web"]).ok();
    bed.rust_kata(&["exec", "--detach", "db", "sleep", "1000"])
        .ok();
    for owner in bed.named(CLI) {
        process::signal(owner.pid, Signal::SIGKILL);
        assert!(process::wait_gone(owner.pid, limit()));
    }
    let ends = || told(&bed, &["--filter", "event=died"]);
    assert!(ends().is_empty());
    // A list of a host's pods after all owners have crashed shows the consequences, and writes
    // nothing.
    let list = bed.rust_kata(&["pod", "ls"]).ok().out();
    assert!(list.contains("Exited") && ends().is_empty(), "{list}");
    for _ in 0..2 {
        bed.rust_kata(&["container", "inspect", "db"]).ok();
        assert_eq!(ends(), ["container died db", "pod died web"]);
    }
    let exec = all(&bed, &["--filter", "event=exec_died"]);
    assert_eq!(exec.len(), 1, "{exec:?}");
    assert_eq!(exec[0]["attributes"]["exit_code"], "137");
    let died = all(
        &bed,
        &["--filter", "event=died", "--filter", "type=container"],
    );
    assert_eq!(died[0]["attributes"]["exit_code"], "137");

    // The owner records the end of a VM, too.
    bed.rust_kata(&["pod", "start", "web"]).ok();
    up(&bed, 1);
    for vmm in bed.named(harness::dist::VMM) {
        process::signal(vmm.pid, Signal::SIGKILL);
    }
    bed.rust_kata(&["container", "wait", "db"]).ok();
    for owner in bed.named(CLI) {
        assert!(process::wait_gone(owner.pid, limit()));
    }
    assert_eq!(ends().len(), 4, "{:?}", ends());
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();
}

#[test]
fn images_and_volumes_have_events_as_well() {
    require!(subject_is_ours());
    let bed = Bed::new();
    bed.rust_kata(&["volume", "create", "data"]).ok();
    bed.rust_kata(&["volume", "rm", "data"]).ok();
    let archive = harness::image::archive();
    let path = archive.to_str().expect("an ASCII path");
    bed.rust_kata(&["image", "load", "--quiet", "--tag", "app:1", path])
        .ok();
    bed.rust_kata(&["image", "tag", "app:1", "app:2"]).ok();
    bed.rust_kata(&["image", "rm", "--force", "app:1"]).ok();
    let of = |kind: &str| -> Vec<String> {
        let events = all(&bed, &["--filter", &format!("type={kind}")]);
        let actions = events
            .iter()
            .map(|event| event["action"].as_str().expect("an action").to_owned());
        actions.collect()
    };
    assert_eq!(of("volume"), ["create", "remove"]);
    let images = of("image");
    assert_eq!(images[..2], ["pull", "tag"], "{images:?}");
    assert_eq!(
        images.last().map(String::as_str),
        Some("remove"),
        "{images:?}"
    );
    assert_eq!(told(&bed, &["--filter", "volume=data"]).len(), 2);
}

#[test]
fn what_is_done_with_the_files_of_a_container_has_events_as_well() {
    require!(subject_is_ours());
    let bed = Bed::new();
    pod(&bed, "p", &[], &[("c", &[], SLEEP)]);
    let out = bed.fresh("out.tar");
    let out = out.to_str().expect("text");
    for words in [
        &["mount", "c"][..],
        &["unmount", "c"],
        &["export", "--output", out, "c"],
        &["cp", "c:/etc/passwd", out],
    ] {
        bed.rust_kata(words).ok();
    }
    bed.rust_kata(&["unmount", "c"]).exits(125);
    assert_eq!(
        told(&bed, &["--filter", "container=c"]),
        ["create", "mount", "unmount", "export", "copy"].map(|what| format!("container {what} c"))
    );
    bed.rust_kata(&["pod", "rm", "p"]).ok();
}
