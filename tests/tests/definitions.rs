//! The definition of a pod: its limits, its cgroup, its hooks, its shared namespaces, and its
//! exit policy.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use harness::bed::Bed;
use harness::dist::{CLI, VMM, subject_is_ours};
use harness::pods::{SLEEP, exec, inspect, pod};
use harness::process;
use harness::require;
use harness::scene::limit;

/// Waits for a condition; each check is a command that waits for others.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + limit();
    while !is() {
        assert!(std::time::Instant::now() < deadline, "{what}");
    }
}

#[test]
fn limits_are_changed_at_once_and_for_later_starts() {
    require!(subject_is_ours());
    let bed = Bed::new();
    pod(&bed, "web", &[], &[("c", &["--memory", "64m"], SLEEP)]);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let limits = || {
        exec(
            &bed,
            "c",
            "cd /sys/fs/cgroup; cat memory.max pids.max cpu.max",
        )
        .ok()
        .out()
    };
    assert_eq!(limits(), format!("{}\nmax\nmax 100000\n", 64 << 20));

    bed.rust_kata(&[
        "container",
        "update",
        "--memory",
        "96m",
        "--pids-limit",
        "33",
        "c",
    ])
    .ok();
    assert_eq!(limits(), format!("{}\n33\nmax 100000\n", 96 << 20));
    bed.rust_kata(&["container", "restart", "--time", "0", "c"])
        .ok();
    assert_eq!(limits(), format!("{}\n33\nmax 100000\n", 96 << 20));

    // For a stopped container, the change applies to the next start.
    bed.rust_kata(&["pod", "stop", "--time", "0", "web"]).ok();
    bed.rust_kata(&["container", "update", "--cpus", "0.5", "c"])
        .ok();
    bed.rust_kata(&["pod", "start", "web"]).ok();
    assert_eq!(limits(), format!("{}\n33\n50000 100000\n", 96 << 20));
    let state = &inspect(&bed, "container", "c")["state"];
    assert_eq!(state["limits"]["pids"]["limit"], 33);
    bed.rust_kata(&["container", "update", "c"]).exits(125);
    bed.rust_kata(&["container", "update", "--cpu-shares", "1", "c"])
        .exits(125);
    bed.rust_kata(&["pod", "rm", "--force", "--time", "0", "web"])
        .ok();
}

#[test]
fn hooks_are_told_of_the_pods_start_and_stop() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let program = |name: &str, script: &str| -> String {
        let path = bed.dir().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("the bed is ours");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("the bed is ours");
        path.display().to_string()
    };
    let told = bed.dir().join("told");
    let tell = program(
        "tell",
        &format!("cat >> {}; echo \" $1\" >> {0}", told.display()),
    );
    let (start, stop) = (format!("{tell} up"), format!("{tell} down"));
    let words = [
        "--hook-post-start",
        &start,
        "--hook-post-stop",
        &stop,
        "--label",
        "a=b",
    ];
    pod(&bed, "web", &words, &[("c", &[], SLEEP)]);
    let id = inspect(&bed, "pod", "web")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let heard = || std::fs::read_to_string(&told).unwrap_or_default();
    let first = heard();
    assert!(
        first.contains(&id) && first.contains("running") && first.ends_with(" up\n"),
        "{first}"
    );
    assert!(first.contains("\"a\":\"b\""), "{first}");
    bed.rust_kata(&["pod", "stop", "--time", "0", "web"]).ok();
    until("the stop hook has run", || {
        bed.rust_kata(&["pod", "ls"]).ok();
        heard().ends_with(" down\n")
    });
    assert_eq!(heard().matches(" up\n").count(), 1);
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();

    let fail = program("fail", "echo no licence >&2; exit 3");
    pod(
        &bed,
        "web",
        &["--hook-post-start", &fail],
        &[("c", &[], SLEEP)],
    );
    let refused = bed.rust_kata(&["pod", "start", "web"]).exits(125);
    assert!(refused.err().contains("no licence"), "{refused:?}");
    assert_eq!(inspect(&bed, "container", "c")["status"], "created");
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();
    let relative = [
        "pod",
        "create",
        "--name",
        "web",
        "--hook-post-start",
        "true",
    ];
    bed.rust_kata(&relative).exits(125);
}

/// The files of this name in the cgroups of a pod below `parent`.
fn cgroup_files(parent: &str, id: &str, name: &str) -> Vec<PathBuf> {
    let controllers = std::fs::read_dir("/sys/fs/cgroup").expect("cgroups are mounted");
    let mut dirs: Vec<PathBuf> = controllers.map(|dir| dir.expect("listed").path()).collect();
    dirs.push("/sys/fs/cgroup".into());
    let files = dirs.iter().map(|dir| dir.join(parent).join(id).join(name));
    files.filter(|file| file.exists()).collect()
}

#[test]
fn a_pods_cgroup_has_its_limits_and_goes_with_its_vm() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let parent = format!("/{}", bed.namespace());
    let words = [
        "--cgroup-parent",
        &parent,
        "--cpus",
        "0.75",
        "--cpu-shares",
        "512",
    ];
    let words = [&words[..], &["--cpuset-cpus", "0"]].concat();
    pod(&bed, "web", &words, &[("c", &[], SLEEP)]);
    let id = inspect(&bed, "pod", "web")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let read = |name: &str| {
        let files = cgroup_files(bed.namespace(), &id, name);
        files.first().map(|file| {
            std::fs::read_to_string(file)
                .expect("read")
                .trim()
                .to_owned()
        })
    };
    assert_eq!(read("cgroup.procs"), None);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let v2 = harness::scene::cgroups_are_unified();
    let expected = if v2 {
        [
            ("cpu.max", "75000 100000"),
            ("cpu.weight", "20"),
            ("cpuset.cpus", "0"),
        ]
    } else {
        [
            ("cpu.cfs_quota_us", "75000"),
            ("cpu.shares", "512"),
            ("cpuset.cpus", "0"),
        ]
    };
    for (file, value) in expected {
        assert_eq!(read(file).as_deref(), Some(value), "{file}");
    }
    let vmm = bed.named(VMM)[0].pid.to_string();
    let processes = read("cgroup.procs").expect("its cgroup");
    assert!(processes.lines().any(|pid| pid == vmm), "{processes}");
    bed.rust_kata(&["pod", "stop", "--time", "0", "web"]).ok();
    assert_eq!(read("cgroup.procs"), None);
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();

    // Without a parent it is not in the cgroup of the caller either.
    pod(&bed, "plain", &[], &[("d", &[], SLEEP)]);
    let plain = inspect(&bed, "pod", "plain");
    let id = plain["id"].as_str().expect("an id");
    assert_eq!(plain["cgroup_path"], format!("/rust-kata/{id}"));
    bed.rust_kata(&["pod", "start", "plain"]).ok();
    let vmm = bed.named(VMM)[0].pid.to_string();
    let files = cgroup_files("rust-kata", id, "cgroup.procs");
    assert!(!files.is_empty());
    for file in &files {
        let processes = std::fs::read_to_string(file).expect("read");
        let here = processes.lines().any(|pid| pid == vmm);
        assert!(here, "{}: {processes}", file.display());
    }
    bed.rust_kata(&["pod", "rm", "--force", "--time", "0", "plain"])
        .ok();
    assert!(files.iter().all(|file| !file.exists()));

    for bad in [
        &["--cgroup-parent", "relative"][..],
        &["--cgroup-parent", "/a/b.slice"],
        &["--cgroup-parent", "web.slice"],
        &["--cgroup-parent", "a--b.slice"],
        &["--cpu-shares", "1"],
        &["--cpuset-cpus", "x"],
        &["--cpu-period", "1"],
    ] {
        let args = [&["pod", "create", "--name", "bad"], bad].concat();
        let refused = bed.rust_kata(&args).exits(125);
        assert!(
            !refused.err().contains('\n') || refused.err().lines().count() == 1,
            "{refused:?}"
        );
    }
}

#[test]
fn the_exit_policy_says_whether_a_pod_stays_without_containers() {
    require!(subject_is_ours());
    let bed = Bed::new();
    pod(
        &bed,
        "web",
        &["--exit-policy", "stop"],
        &[("c", &[], "exit 4")],
    );
    bed.rust_kata(&["pod", "start", "web"]).ok();
    assert_eq!(bed.rust_kata(&["container", "wait", "c"]).ok().out(), "4\n");
    for owner in bed.named(CLI) {
        assert!(
            process::wait_gone(owner.pid, limit()),
            "its owner still runs"
        );
    }
    assert_eq!(inspect(&bed, "pod", "web")["status"], "Exited");
    assert!(bed.named(VMM).is_empty());
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();

    pod(&bed, "web", &[], &[("c", &[], "exit 4")]);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    bed.rust_kata(&["container", "wait", "c"]).ok();
    assert_eq!(inspect(&bed, "pod", "web")["infra_running"], true);
    assert_eq!(bed.named(VMM).len(), 1);
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();
    bed.rust_kata(&["pod", "create", "--exit-policy", "maybe"])
        .exits(125);

    // A pod without containers can be up.
    let made = bed.rust_kata(&["pod", "run", "--name", "empty"]).ok().out();
    assert_eq!(made, "empty\n");
    assert_eq!(inspect(&bed, "pod", "empty")["status"], "Running");
    bed.rust_kata(&["pod", "rm", "--force", "empty"]).ok();
}

#[test]
fn containers_of_a_pod_share_their_processes_if_asked() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let named = "sleep 1000 & wait; echo left; exit 6";
    let containers: [(&str, &[&str], &str); 2] = [("a", &[], named), ("b", &[], SLEEP)];
    pod(&bed, "web", &["--share", "+pid"], &containers);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let seen = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done";
    until("b sees a's process", || {
        exec(&bed, "b", seen).ok().out().contains("sleep 1000")
    });
    assert_eq!(exec(&bed, "b", "cat /proc/1/comm").ok().out(), "pod\n");
    // And it may signal processes of the other; a's init then ends by itself, and b stays.
    let kill = "for p in /proc/[0-9]*; do [ \"$(tr '\\0' ' ' < $p/cmdline)\" != 'sleep 1000 ' ] || kill ${p#/proc/}; done";
    exec(&bed, "b", kill).ok();
    assert_eq!(bed.rust_kata(&["container", "wait", "a"]).ok().out(), "6\n");
    assert_eq!(inspect(&bed, "container", "b")["status"], "running");
    assert!(!exec(&bed, "b", seen).ok().out().contains("sleep 1000"));
    // It can be started again in the same namespace, and stopped with the processes that it
    // left.
    bed.rust_kata(&["container", "start", "a"]).ok();
    until("b sees a's process", || {
        exec(&bed, "b", seen).ok().out().contains("sleep 1000")
    });
    bed.rust_kata(&["container", "stop", "--time", "0", "a"])
        .ok();
    until("the processes that a left have ended", || {
        !exec(&bed, "b", seen).ok().out().contains("sleep 1000")
    });
    bed.rust_kata(&["pod", "rm", "--force", "--time", "0", "web"])
        .ok();

    pod(&bed, "web", &[], &containers);
    bed.rust_kata(&["pod", "start", "web"]).ok();
    assert!(!exec(&bed, "b", seen).ok().out().contains("sleep 1000"));
    bed.rust_kata(&["pod", "rm", "--force", "--time", "0", "web"])
        .ok();
    let bad = bed
        .rust_kata(&["pod", "create", "--share", "mount"])
        .exits(125);
    assert!(bad.err().contains("invalid namespace \"mount\""), "{bad:?}");
}
