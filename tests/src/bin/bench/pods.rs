//! Pods without VMs: the time of a list of a thousand pods compared with podman's, the number
//! of syncs per change, and the time of a pod's lock.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use harness::bed::Bed;
use harness::cut::{Kind, Supervisor};
use harness::run::{Input, run};
use harness::scene::limit;
use harness::table::{Samples, Table};
use runtime::engine::Engine;
use runtime::engine::records::definition::PodDefinition;
use runtime::{Config, PodLock};

/// How often a lock is taken for one sample.
const LOCKS: u32 = 1000;

pub(super) fn measure(bed: &Bed, turns: u32, table: &mut Table) {
    syncs(bed, table);
    let count = std::env::var("BENCH_PODS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1000);
    let file = bed.dir().join("rust-kata.toml");
    let config = Config::load(Some(&file)).expect("the bed's configuration");
    let engine = Engine::new(config, None).expect("the bed is ours");
    let mut created = Samples::default();
    for n in 0..count {
        let definition = PodDefinition::new("local", &format!("p{n}"));
        let since = Instant::now();
        engine.create_pod(definition).expect("a new name");
        created.add_time(since.elapsed());
    }
    table.number("create a pod, in the library", "ms", created.median(), None);
    locks(&engine, turns, table);
    // These take only a few milliseconds each, so more samples are needed for a stable median.
    lists(bed, count, turns * 4, table);
    run(
        bed.cli(&["pod", "rm", "--force", "--all"]),
        Input::Null,
        limit(),
    )
    .ok();
}

/// Compares `pod ls` with `podman pod ps`, each with the same number of pods of its own.
fn lists(bed: &Bed, count: usize, turns: u32, table: &mut Table) {
    let at = |name: &str| bed.dir().join(name).display().to_string();
    let podman = |args: &[&str]| {
        let mut podman = Command::new("podman");
        podman
            .args(["--root", &at("podman"), "--runroot", &at("podman-run")])
            .args(["--tmpdir", &at("podman-tmp"), "--storage-driver", "vfs"])
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"])
            .args(["--log-level", "error"])
            .args(args);
        podman
    };
    if run_to_end(podman(&["--version"])).is_none() {
        eprintln!("podman (package podman) is not installed: no list to compare with");
        return;
    }
    for n in 0..count {
        let name = format!("p{n}");
        let create = podman(&["pod", "create", "--infra=false", "--name", &name]);
        run(create, Input::Null, limit()).ok();
    }
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for _ in 0..turns {
        for (command, times) in [
            (bed.cli(&["pod", "ls"]), &mut ours),
            (podman(&["pod", "ps"]), &mut theirs),
        ] {
            let listed = run(command, Input::Null, limit()).ok();
            assert_eq!(
                listed.out().lines().count(),
                count + 1,
                "a head, a line a pod"
            );
            times.add_time(listed.elapsed);
        }
    }
    // podman's locks are shared by the whole host: there are 2,048.
    run(podman(&["pod", "rm", "--all"]), Input::Null, limit()).ok();
    let what = format!("pod ls of {count}, to podman pod ps");
    table.ratio(&what, "ms", ours.median(), theirs.median(), Some(0.1));
}

fn run_to_end(mut command: Command) -> Option<()> {
    let output = command.output().ok()?;
    output.status.success().then_some(())
}

/// The time of taking and releasing a pod's lock without contention.
fn locks(engine: &Engine, turns: u32, table: &mut Table) {
    let pod = engine.pod("local", "p0").expect("it was made");
    let mut times = Samples::default();
    for _ in 0..turns {
        let since = Instant::now();
        for _ in 0..LOCKS {
            drop(PodLock::exclusive(pod.paths()).expect("the lock is free"));
        }
        times.add(since.elapsed().as_secs_f64() * 1e6 / f64::from(LOCKS));
    }
    table.number("take and free a pod's lock", "µs", times.median(), None);
}

/// The number of syncs, which is the same on every machine.
fn syncs(bed: &Bed, table: &mut Table) {
    let rootfs = bed.rootfs().display().to_string();
    let create = |name: &'static str| {
        let words = [
            "container",
            "create",
            "--pod",
            "p",
            "--name",
            name,
            "--rootfs",
        ];
        let words = words.map(str::to_owned).into_iter();
        words
            .chain([rootfs.clone(), "--".into(), "true".into()])
            .collect()
    };
    let words = |line: &str| line.split(' ').map(str::to_owned).collect();
    let steps: [(&str, Vec<String>, f64); 4] = [
        // The last sync of each is the journal's. The others are for two files, their
        // directory, and the one above.
        ("pod create", words("pod create --name p"), 5.0),
        ("container create", create("c"), 5.0),
        // For the directory above.
        ("container rm", words("container rm c"), 2.0),
        // For the intent (a file and its directory), and for the removal.
        ("pod rm", words("pod rm p"), 4.0),
    ];
    // The directories that all pods share are made once, before the count.
    for line in [["pod", "create", "first"], ["pod", "rm", "first"]] {
        let mut line = line.to_vec();
        if line[1] == "create" {
            line.insert(2, "--name");
        }
        run(bed.cli(&line), Input::Null, limit()).ok();
    }
    let roots: [PathBuf; 1] = [bed.data()];
    let supervisor = Supervisor::new(bed.dir(), &roots);
    for (what, words, most) in steps {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        supervisor.arm(None);
        supervisor.start(bed.cli(&words)).finish(limit()).ok();
        let calls = supervisor.disarm().calls;
        let syncs = calls.iter().filter(|call| call.kind == Kind::Sync).count();
        table.number(&format!("{what}: syncs"), "", syncs as f64, Some(most));
    }
}
