//! `rust-kata pod`: pods that users define, start, stop and start again.

use harness::bed::Bed;
use harness::dist::{CLI, patience, subject_is_ours};
use harness::pods::{SLEEP, create_container, inspect, pod};
use harness::process;
use harness::require;
use harness::run::{Input, Running};
use harness::scene::limit;
use nix::sys::signal::Signal;
use serde_json::Value;

/// The status of a pod.
fn status(bed: &Bed, pod: &str) -> String {
    inspect(bed, "pod", pod)["status"]
        .as_str()
        .expect("a status")
        .to_owned()
}

fn container(bed: &Bed, name: &str) -> Value {
    inspect(bed, "container", name)
}

#[test]
fn a_pod_is_started_in_order_stopped_and_started_again() {
    require!(subject_is_ours());
    let bed = Bed::new();
    // When its name is in the output, it may be stopped: the trap is set.
    let app = SLEEP.replace("TERM;", "TERM; hostname;");
    // Named so that alphabetical order would be the wrong start order.
    pod(
        &bed,
        "web",
        &[],
        &[("zdb", &[], SLEEP), ("app", &["--requires", "zdb"], &app)],
    );
    assert_eq!(status(&bed, "web"), "Created");

    bed.rust_kata(&["pod", "start", "web"]).ok();
    assert_eq!(status(&bed, "web"), "Running");
    let started = |name: &str| {
        container(&bed, name)["state"]["started"]
            .as_str()
            .map(str::to_owned)
    };
    assert!(started("zdb").is_some() && started("zdb") < started("app"));
    // It may not have printed it yet.
    let following = bed.cli(&["container", "logs", "--follow", "app"]);
    let following = Running::spawn(following, Input::Null);
    following.stdout.expect("web\n", limit());

    // Repeating a command is not an error.
    bed.rust_kata(&["pod", "start", "web"]).ok();

    bed.rust_kata(&["pod", "stop", "web"]).ok();
    following.finish(limit()).ok();
    assert_eq!(status(&bed, "web"), "Exited");
    assert_eq!(container(&bed, "app")["state"]["exit_code"], 0);
    for owner in bed.named(CLI) {
        let gone = process::wait_gone(owner.pid, patience(10.0));
        assert!(gone, "the owner ends with the pod");
    }
    bed.rust_kata(&["pod", "stop", "web"]).ok();

    bed.rust_kata(&["pod", "restart", "web"]).ok();
    assert_eq!(status(&bed, "web"), "Running");
    let refused = bed.rust_kata(&["pod", "rm", "web"]).exits(125);
    for word in ["app", "zdb", "--force"] {
        assert!(refused.err().contains(word), "{refused:?}");
    }
    // One that is paused counts as running, and one that waits for its start does not.
    bed.rust_kata(&["pause", "app"]).ok();
    bed.rust_kata(&["stop", "zdb"]).ok();
    let refused = bed.rust_kata(&["pod", "rm", "web"]).exits(125);
    assert!(!refused.err().contains("zdb"), "{refused:?}");
    container(&bed, "zdb");
    bed.rust_kata(&["unpause", "app"]).ok();
    bed.rust_kata(&["stop", "app"]).ok();
    bed.rust_kata(&["init", "zdb"]).ok();
    bed.rust_kata(&["pod", "rm", "web"]).ok();
    let gone = bed.rust_kata(&["pod", "inspect", "web"]).exits(125);
    assert!(gone.err().contains("\"web\" not found"), "{gone:?}");
}

#[test]
fn pausing_signals_and_states_go_container_by_container() {
    require!(subject_is_ours());
    let bed = Bed::new();
    pod(&bed, "p", &[], &[("a", &[], SLEEP), ("b", &[], SLEEP)]);
    // Nothing runs: for a pod this is not an error.
    bed.rust_kata(&["pod", "pause", "p"]).ok();
    let refused = bed.rust_kata(&["container", "pause", "a"]).exits(125);
    assert!(refused.err().contains("created"), "{refused:?}");

    bed.rust_kata(&["container", "start", "a"]).ok();
    assert_eq!(status(&bed, "p"), "Degraded");
    bed.rust_kata(&["pod", "start", "p"]).ok();
    bed.rust_kata(&["pod", "pause", "p"]).ok();
    assert_eq!(status(&bed, "p"), "Paused");
    let refused = bed.rust_kata(&["pod", "start", "p"]).exits(125);
    let said = refused.err();
    assert!(
        ["\"a\": it is paused", "\"b\": it is paused"]
            .iter()
            .all(|part| said.contains(part)),
        "{said}"
    );
    bed.rust_kata(&["container", "unpause", "a"]).ok();
    assert_eq!(status(&bed, "p"), "Degraded");
    bed.rust_kata(&["pod", "unpause", "p"]).ok();
    assert_eq!(status(&bed, "p"), "Running");

    bed.rust_kata(&["pod", "kill", "--signal", "KILL", "p"])
        .ok();
    for name in ["a", "b"] {
        let code = bed.rust_kata(&["container", "wait", name]).ok().out();
        assert_eq!(code, "137\n");
    }
    // The infra container, that is, the VM, is still up.
    assert_eq!(status(&bed, "p"), "Degraded");
    bed.rust_kata(&["pod", "rm", "-f", "p"]).ok();
}

#[test]
fn bad_pods_are_refused_by_name() {
    require!(subject_is_ours());
    let bed = Bed::new();
    bed.rust_kata(&["pod", "create", "--name", "p"]).ok();
    for (args, named) in [
        (&["pod", "create", "--name", "p"][..], "already exists"),
        (&["pod", "create", "--name", "a/b"], "a/b"),
        (
            &["pod", "create", "--infra", "false", "--share", "net"],
            "infra",
        ),
        (&["pod", "create", "--share", "mount"], "mount"),
        (&["pod", "create", "--cgroup-parent", "x/y.slice"], "slice"),
        (&["pod", "start", "nope"], "nope"),
        (&["container", "start", "nope"], "nope"),
        (
            &["run", "--rootfs", "/nonexistent", "--", "true"],
            "/nonexistent",
        ),
        (
            &[
                "run",
                "--rootfs",
                "/",
                "--restart",
                "sometimes",
                "--",
                "true",
            ],
            "unless-stopped",
        ),
    ] {
        let refused = bed.rust_kata(args).exits(125);
        assert!(refused.err().contains(named), "{args:?}: {refused:?}");
        assert_eq!(refused.err().lines().count(), 1, "{refused:?}");
    }
    let missing = create_container(&bed, "p", "c", &["--requires", "db"], "true").exits(125);
    assert!(missing.err().contains("db"), "{missing:?}");
    // If the container of a new pod cannot be created, the pod is removed with it.
    let names = bed.rust_kata(&["pod", "ls", "--quiet"]).ok().out();
    assert_eq!(names, "p\n");
    bed.rust_kata(&["pod", "rm", "p"]).ok();
}

#[test]
fn a_killed_owner_leaves_a_pod_that_starts_again() {
    require!(subject_is_ours());
    let bed = Bed::new();
    pod(&bed, "p", &[], &[("a", &[], SLEEP)]);
    bed.rust_kata(&["pod", "start", "p"]).ok();
    let owner = inspect(&bed, "pod", "p")["owner_pid"].as_u64();
    let owner = owner.expect("an owner") as u32;

    process::signal(owner, Signal::SIGKILL);
    assert!(process::wait_gone(owner, patience(10.0)));

    assert_eq!(status(&bed, "p"), "Exited");
    let state = container(&bed, "a")["state"].clone();
    assert_eq!(state["exit_code"], 137, "never an invented 0: {state}");
    bed.rust_kata(&["pod", "start", "p"]).ok();
    assert_eq!(status(&bed, "p"), "Running");
    bed.rust_kata(&["pod", "rm", "-f", "p"]).ok();
}

#[test]
fn damaged_files_are_named_harm_no_other_pod_and_can_be_removed() {
    require!(subject_is_ours());
    let bed = Bed::new();
    pod(&bed, "good", &[], &[("a", &[], SLEEP)]);
    for name in [
        "state.json",
        "config.json",
        "lock",
        "containers/b/state.json",
    ] {
        pod(&bed, "bad", &[], &[("b", &[], SLEEP)]);
        let file = bed.data().join("pods/local/bad").join(name);
        let whole = std::fs::read(&file).expect("a state file");
        let mut damaged: Vec<Vec<u8>> = (0..whole.len())
            .step_by(whole.len().div_ceil(5).max(1))
            .map(|n| whole[..n].to_vec())
            .collect();
        damaged.push(vec![0; whole.len()]);
        damaged.push(br#"{"version": 99}"#.to_vec());
        if whole.is_empty() {
            std::fs::remove_file(&file).expect("our folder is writable");
            damaged.clear();
        }
        let of_pod = !name.contains('/');
        let listed = |code| {
            let list = bed.rust_kata(&["pod", "ls"]).exits(code);
            assert!(list.out().contains("good"), "{list:?}");
            list
        };
        for text in damaged {
            std::fs::write(&file, &text).expect("our folder is writable");
            let list = listed(if of_pod { 125 } else { 0 });
            assert!(!of_pod || list.err().contains(name), "{list:?}");
        }
        let all = bed.rust_kata(&["container", "ls", "--all"]);
        assert_eq!(all.code, 125, "{all:?}");
        assert!(
            all.err().contains(name) && all.out().contains(" good"),
            "{all:?}"
        );
        let refused = bed.rust_kata(&["pod", "start", "bad"]).exits(125);
        assert!(refused.err().contains(name), "{refused:?}");
        assert!(refused.err().contains("rm --force"), "{refused:?}");
        let refused = bed.rust_kata(&["pod", "rm", "bad"]).exits(125);
        assert!(refused.err().contains(name), "{refused:?}");
        if !of_pod {
            // The remedy works, here while the pod's owner lives.
            bed.rust_kata(&["container", "rm", "--force", "bad/b"]).ok();
            assert_eq!(status(&bed, "bad"), "Running");
        }
        bed.rust_kata(&["pod", "rm", "--force", "bad"]).ok();
        listed(0);
    }
    bed.rust_kata(&["pod", "rm", "--force", "good"]).ok();
}

#[test]
fn who_looks_waits_for_nobody_that_changes_a_pod() {
    require!(subject_is_ours());
    let bed = Bed::new();
    pod(&bed, "p", &[], &[("a", &[], SLEEP)]);
    // As by a process that is stopped within a change.
    let lock = bed.data().join("pods/local/p/lock");
    let mut stopped = std::process::Command::new("flock");
    stopped.arg("--close").arg(&lock);
    stopped.args(["sh", "-c", "echo held; kill -STOP $PPID; read x"]);
    let stopped = Running::spawn(stopped, Input::Open);
    stopped.stdout.expect("held\n", limit());
    bed.rust_kata(&["pod", "ls"]).ok();
    assert_eq!(status(&bed, "p"), "Created");
    assert_eq!(container(&bed, "a")["status"], "created");
    bed.rust_kata(&["container", "ls", "--all"]).ok();
    let held_up = bed.rust_kata(&["pod", "rm", "--force", "p"]).exits(125);
    let by = format!("process {}", stopped.pid());
    assert!(held_up.err().contains(&by), "{held_up:?}");
    // The kernel releases it at once.
    drop(stopped);
    bed.rust_kata(&["pod", "rm", "--force", "p"]).ok();
}

#[test]
fn an_owner_that_is_stopped_and_has_lost_its_file_is_ended_by_force() {
    require!(subject_is_ours());
    let bed = Bed::new();
    pod(&bed, "p", &[], &[("a", &[], SLEEP)]);
    bed.rust_kata(&["pod", "start", "p"]).ok();
    let owner = inspect(&bed, "pod", "p")["owner_pid"].as_u64();
    let owner = owner.expect("an owner") as u32;
    let file = bed.data().join("pods/local/p/owner");
    std::fs::write(&file, "{").expect("our folder is writable");
    // The owner is found by its socket instead.
    bed.rust_kata(&["container", "exec", "a", "true"]).ok();
    process::signal(owner, Signal::SIGSTOP);
    // Readers and signals do not depend on a process that does not answer.
    bed.rust_kata(&["pod", "ls"]).ok();
    bed.rust_kata(&["pod", "rm", "--force", "--time", "0", "p"])
        .ok();
    assert!(process::wait_gone(owner, patience(5.0)));
}
