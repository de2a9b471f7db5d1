//! Stops that wait, containers that are removed at their end, and a full disk.

use std::process::Command;

use harness::bed::Bed;
use harness::dist::{CLI, patience, subject_is_ours};
use harness::pods::{SLEEP, inspect, pod};
use harness::process;
use harness::require;
use harness::run::{Input, Running, run};
use harness::scene::limit;
use nix::sys::signal::Signal;

/// Ignores the stop signal, and has said so.
const STUBBORN: &str = "trap '' TERM; echo ready; while :; do sleep 0.1; done";

fn status(bed: &Bed, container: &str) -> String {
    let state = inspect(bed, "container", container)["state"]["status"].clone();
    state.as_str().expect("a status").to_owned()
}

/// Waits for `status` of a container, which a state file shows.
fn await_status(bed: &Bed, container: &str, status: &str) {
    let wait = ["container", "wait", "--condition", status, container];
    run(bed.cli(&wait), Input::Null, limit()).ok();
}

/// A pod with stubborn containers, which run and have set their traps.
fn stubborn(bed: &Bed, names: &[&str]) {
    let containers: Vec<(&str, &[&str], &str)> = names
        .iter()
        .map(|name| (*name, &[][..], STUBBORN))
        .collect();
    pod(bed, "p", &[], &containers);
    bed.rust_kata(&["pod", "start", "p"]).ok();
    for name in names {
        let following = Running::spawn(bed.cli(&["logs", "--follow", name]), Input::Null);
        following.stdout.expect("ready\n", limit());
    }
}

#[test]
fn others_go_on_while_one_stops_and_a_shorter_time_overtakes() {
    require!(subject_is_ours());
    let bed = Bed::new();
    stubborn(&bed, &["a", "b", "c"]);
    let waiting = Running::spawn(bed.cli(&["stop", "--time", "3600", "a"]), Input::Null);
    await_status(&bed, "a", "stopping");

    for words in [
        &["stop", "--time", "0", "b"][..],
        &["start", "b"],
        &["pause", "b"],
        &["unpause", "b"],
        &["restart", "--time", "0", "b"],
        &["rm", "--force", "--time", "0", "c"],
    ] {
        bed.rust_kata(words).ok();
        assert_eq!(status(&bed, "a"), "stopping", "{words:?}");
    }
    let refused = bed.rust_kata(&["start", "a"]).exits(125);
    assert!(refused.err().contains("stopping"), "{refused:?}");

    bed.rust_kata(&["stop", "--time", "0", "a"]).ok();
    waiting.finish(limit()).ok();
    assert_eq!(status(&bed, "a"), "exited");

    bed.rust_kata(&["start", "a"]).ok();
    let waiting = Running::spawn(bed.cli(&["stop", "--time", "3600", "a"]), Input::Null);
    await_status(&bed, "a", "stopping");
    bed.rust_kata(&["pod", "rm", "--force", "--time", "0", "p"])
        .ok();
    let ended = waiting.finish(limit());
    assert!(
        [0, 125].contains(&ended.code),
        "it is stopped, or gone: {ended:?}"
    );
    bed.assert_clean();
}

#[test]
fn who_kills_may_remove_at_once() {
    require!(subject_is_ours());
    let bed = Bed::new();
    stubborn(&bed, &["a", "b"]);
    bed.rust_kata(&["kill", "a"]).ok();
    bed.rust_kata(&["rm", "a"]).ok();
    bed.rust_kata(&["pod", "rm", "--force", "--time", "0", "p"])
        .ok();
}

#[test]
fn one_that_goes_at_its_end_leaves_its_name_free() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let rootfs = bed.rootfs();
    let root = rootfs.to_str().expect("an ASCII path");
    let start = |command: &[&str]| {
        let options = ["run", "-d", "--rm", "--name", "x", "--rootfs", root, "--"];
        run(bed.cli(&[&options, command].concat()), Input::Null, limit())
    };
    let is_gone = || {
        let deadline = std::time::Instant::now() + limit();
        while !bed
            .rust_kata(&["pod", "ls", "--quiet"])
            .ok()
            .out()
            .is_empty()
        {
            assert!(std::time::Instant::now() < deadline, "the pod stays");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    start(&["true"]).ok();
    is_gone();
    start(&["no-such-command"]).exits(127);
    assert_eq!(bed.rust_kata(&["pod", "ls", "--quiet"]).ok().out(), "");

    // Its owner is killed.
    start(&["sleep", "1000"]).ok();
    let owner = inspect(&bed, "pod", "x")["owner_pid"].as_u64();
    let owner = owner.expect("an owner") as u32;
    process::signal(owner, Signal::SIGKILL);
    assert!(process::wait_gone(owner, patience(10.0)));
    start(&["true"]).ok();
    is_gone();
    bed.assert_clean();
}

#[test]
fn a_container_that_others_need_stays_when_it_ends() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let web = ("web", &["--requires", "db"][..], SLEEP);
    pod(&bed, "p", &[], &[("db", &["--rm"], SLEEP), web]);
    bed.rust_kata(&["pod", "start", "p"]).ok();
    bed.rust_kata(&["kill", "db"]).ok();
    let refused = bed.rust_kata(&["restart", "--time", "0", "web"]).exits(125);
    assert!(refused.err().contains("dependent on db"), "{refused:?}");
    assert_eq!(status(&bed, "web"), "running", "it is not stopped");
    bed.rust_kata(&["stop", "--time", "0", "web"]).ok();
    assert_eq!(status(&bed, "db"), "exited");
    bed.rust_kata(&["start", "web"]).ok();
    assert_eq!(status(&bed, "db"), "running");
    bed.rust_kata(&["pod", "rm", "--force", "p"]).ok();
}

#[test]
fn a_full_disk_keeps_no_container_running_and_no_pod() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let data = bed.data();
    std::fs::create_dir_all(&data).expect("a folder");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m,mode=700", "none"])
        .arg(&data)
        .status();
    assert!(mounted.expect("mount").success());
    let rootfs = bed.rootfs();
    let root = rootfs.to_str().expect("an ASCII path");
    for stopped in [false, true] {
        let fill = "while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done";
        let words = [
            "run", "-d", "--name", "x", "--rootfs", root, "sh", "-c", fill,
        ];
        run(bed.cli(&words), Input::Null, limit()).ok();
        let deadline = std::time::Instant::now() + limit();
        while nix::sys::statvfs::statvfs(&data)
            .expect("a file system")
            .blocks_available()
            > 0
        {
            assert!(std::time::Instant::now() < deadline, "it is not full");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        if stopped {
            for _ in 0..2 {
                bed.rust_kata(&["stop", "--time", "0", "x"]).ok();
                // Its owner may still be ending.
                let mut left = bed.processes();
                left.retain(|process| !process.is(CLI));
                assert!(left.is_empty(), "{left:?}");
            }
        }
        bed.rust_kata(&["pod", "rm", "--force", "--time", "0", "x"])
            .ok();
        assert_eq!(bed.rust_kata(&["pod", "ls", "--quiet"]).ok().out(), "");
    }
    nix::mount::umount(&data).expect("nothing is left in it");
    bed.assert_clean();
}
