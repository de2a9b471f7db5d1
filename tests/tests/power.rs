//! Power cuts: every operation of `rust-kata` is cut before each change that it makes to the
//! file system. What remains can be listed, inspected, started and removed, and then nothing is
//! left.
//!
//! There are three kinds of cuts: the process that makes the change is killed (the client, or
//! the pod's owner), all processes are killed (a power cut), and all are killed with the loss
//! of everything that was not synced. Most operations have more such moments than a test run
//! has seconds: it takes a part of them, and all with `RUST_KATA_TEST_ALL=1`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use harness::bed::Bed;
use harness::cut::{Cut, Seen, Supervisor};
use harness::dist::{patience, subject_is_ours};
use harness::layout::Layout;
use harness::require;
use harness::run::{Input, Output, run};
use harness::scene::limit;
use serde_json::Value;

/// The kind of a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// The process that makes the change is killed.
    Kill,
    /// All processes are killed.
    Power,
    /// All processes are killed, and what was not synced is lost.
    Lossy,
}

const WAYS: [Way; 3] = [Way::Kill, Way::Power, Way::Lossy];

impl Way {
    fn cut(self, at: usize) -> Cut {
        Cut {
            at,
            all: self != Way::Kill,
            lossy: self == Way::Lossy,
        }
    }
}

/// An operation, and the commands before it. `ROOTFS` stands for a directory, `LAYOUT` for an
/// OCI layout.
#[derive(Debug)]
struct Operation {
    before: &'static [&'static str],
    command: &'static str,
    /// Whether the pod has no owner afterwards.
    ends: bool,
    /// How many of its moments a short run cuts at, in each kind; 0: one moment, in one kind.
    part: usize,
}

/// Operations that need no VM.
const QUIET: &[Operation] = &[
    Operation {
        before: &[],
        command: "pod create --name q --label a=b",
        ends: true,
        part: 7,
    },
    Operation {
        before: &["pod create --name p"],
        command: "container create --pod p --name c --rootfs ROOTFS -- true",
        ends: true,
        part: 5,
    },
    Operation {
        before: &["pod create --name p"],
        command: "pod rm p",
        ends: true,
        part: 4,
    },
    Operation {
        before: &[],
        command: "image load --quiet --tag app LAYOUT",
        ends: true,
        part: 9,
    },
    Operation {
        before: LOADED,
        command: "image rm app",
        ends: true,
        part: 4,
    },
    Operation {
        before: LOADED,
        command: "container create --name c --image app -v v:/v -v /own -- /busybox true",
        ends: true,
        part: 7,
    },
    Operation {
        before: &["volume create v"],
        command: "volume rm v",
        ends: true,
        part: 3,
    },
    Operation {
        before: STOPPED,
        command: "container rm a",
        ends: true,
        part: 4,
    },
    Operation {
        before: STOPPED,
        command: "pod rm --force p",
        ends: true,
        part: 5,
    },
];

const LOADED: &[&str] = &["image load --quiet --tag app LAYOUT"];

const STOPPED: &[&str] = &[
    "pod create --name p --vm-memory 128",
    "container create --pod p --name a --stop-timeout 0 --rootfs ROOTFS -- sleep 1000",
];

const RUNNING: &[&str] = &[STOPPED[0], STOPPED[1], "pod start p"];

/// Operations on a VM.
const LIVE: &[Operation] = &[
    Operation {
        before: STOPPED,
        command: "pod start p",
        ends: false,
        part: 2,
    },
    // A new volume is filled from the image.
    Operation {
        before: &[
            LOADED[0],
            STOPPED[0],
            "container create --pod p --name a --image app -v v:/d -v /d/own -- /busybox true",
        ],
        command: "container start a",
        ends: false,
        part: 0,
    },
    Operation {
        before: STOPPED,
        command: "container init a",
        ends: false,
        part: 0,
    },
    Operation {
        before: RUNNING,
        command: "pod stop p",
        ends: true,
        part: 1,
    },
    Operation {
        before: RUNNING,
        command: "pod restart p",
        ends: false,
        part: 0,
    },
    Operation {
        before: RUNNING,
        command: "pod kill p",
        ends: false,
        part: 0,
    },
    Operation {
        before: RUNNING,
        command: "pod pause p",
        ends: false,
        part: 0,
    },
    Operation {
        before: RUNNING,
        command: "container exec a true",
        ends: false,
        part: 0,
    },
    Operation {
        before: RUNNING,
        command: "container rm --force a",
        ends: false,
        part: 0,
    },
    Operation {
        before: RUNNING,
        command: "pod rm --force p",
        ends: true,
        part: 0,
    },
    Operation {
        before: &[],
        command: "run --rm --name r --rootfs ROOTFS -- true",
        ends: true,
        part: 0,
    },
];

/// Whether to cut at every moment.
fn all() -> bool {
    std::env::var_os("RUST_KATA_TEST_ALL").is_some_and(|value| value != "0")
}

/// The operations that start with `RUST_KATA_TEST_ONLY`, if that is set.
fn asked_for(all: &'static [Operation]) -> impl Iterator<Item = &'static Operation> {
    let only = std::env::var("RUST_KATA_TEST_ONLY").unwrap_or_default();
    all.iter().filter(move |one| one.command.starts_with(&only))
}

/// Numbers from 1 to `last`, evenly spread; different ones for each `turn`.
fn spread(last: usize, part: usize, turn: usize) -> Vec<usize> {
    if all() || part >= last {
        return (1..=last).collect();
    }
    if part == 0 {
        let ours = last % WAYS.len() == turn;
        return ours.then_some(last / 2).into_iter().collect();
    }
    let step = last as f64 / part as f64;
    let first = step * (turn as f64 + 0.5) / WAYS.len() as f64;
    (0..part)
        .map(|n| ((first + step * n as f64) as usize + 1).min(last))
        .collect()
}

struct Lab {
    bed: Bed,
    rootfs: PathBuf,
    layout: Layout,
    /// The number of cuts, by operation and kind.
    cuts: BTreeMap<(&'static str, Way), usize>,
}

impl Lab {
    fn new() -> Self {
        let bed = Bed::new();
        let rootfs = bed.rootfs();
        let layout = Layout::small(bed.fresh("layout"));
        Self {
            bed,
            rootfs,
            layout,
            cuts: BTreeMap::new(),
        }
    }

    fn command(&self, line: &str) -> Command {
        let root = self.rootfs.to_str().expect("an ASCII path");
        let words = line.split(' ');
        let words: Vec<&str> = words
            .map(|word| match word {
                "ROOTFS" => root,
                "LAYOUT" => self.layout.dir().to_str().expect("an ASCII path"),
                word => word,
            })
            .collect();
        self.bed.cli(&words)
    }

    #[track_caller]
    fn run(&self, line: &str) -> Output {
        run(self.command(line), Input::Null, limit())
    }

    /// Runs all commands up to the operation, and the operation with a cut; returns its
    /// changes.
    fn cut(&mut self, operation: &Operation, cut: Option<Cut>) -> Seen {
        let mut supervisor = self.supervisor();
        let start = |line: &str| supervisor.start(self.command(line)).finish(limit());
        for line in operation.before {
            start(line).ok();
        }
        supervisor.arm(cut);
        let output = start(operation.command);
        if operation.ends {
            assert!(
                supervisor.settled(patience(30.0)),
                "{}: the owner still runs",
                operation.command
            );
        }
        let seen = supervisor.disarm();
        assert!(seen.cut || output.code == 0, "{operation:?}: {output:?}");
        seen
    }

    fn supervisor(&self) -> Supervisor {
        let roots = [
            self.bed.data(),
            self.bed.state(),
            PathBuf::from("/sys/fs/cgroup"),
        ];
        Supervisor::new(self.bed.dir(), &roots)
    }

    /// Cuts an operation at many moments, and checks the remains each time.
    fn cut_everywhere(&mut self, operation: &'static Operation) {
        let whole = self.cut(operation, None);
        self.examine(operation, "uncut", false);
        let count = whole.calls.len();
        eprintln!("{}: {count} moments", operation.command);
        for (turn, way) in WAYS.into_iter().enumerate() {
            for at in spread(count, operation.part, turn) {
                let seen = self.cut(operation, Some(way.cut(at)));
                // Not every run makes the same changes.
                let Some(last) = seen.calls.last().filter(|_| seen.cut) else {
                    self.examine(operation, "uncut", false);
                    continue;
                };
                *self.cuts.entry((operation.command, way)).or_default() += 1;
                let what = format!("{way:?} at {at} of {count}: {last:?}");
                eprintln!("  {what}");
                self.examine(operation, &what, at % 8 == turn);
            }
        }
        if all() || operation.part > 0 {
            self.acknowledged(operation);
        }
    }

    /// Checks that acknowledged changes survive a power cut.
    fn acknowledged(&mut self, operation: &'static Operation) {
        let mut supervisor = self.supervisor();
        for line in operation.before.iter().chain([&operation.command]) {
            supervisor.start(self.command(line)).finish(limit()).ok();
        }
        let names = || {
            let pods = self.run("pod ls --quiet").ok().out();
            let containers = self.run("container ls --all --quiet").ok().out();
            let images = self.run("image ls --quiet").ok().out();
            let volumes = self.run("volume ls --quiet").ok().out();
            [pods, containers, images, volumes].concat()
        };
        let before = names();
        supervisor.power_cut(true);
        assert!(supervisor.settled(patience(10.0)));
        assert_eq!(names(), before, "{operation:?}");
        *self
            .cuts
            .entry((operation.command, Way::Lossy))
            .or_default() += 1;
        self.examine(operation, "after its end", false);
    }

    /// Checks that all remains can be listed, inspected, started (with `start`) and removed,
    /// and that nothing is left then.
    #[track_caller]
    fn examine(&self, operation: &Operation, cut: &str, start: bool) {
        let context = format!("{} cut by {cut}", operation.command);
        let listed = self.run("pod ls --format json");
        assert!(
            listed.code == 0 && listed.err().is_empty(),
            "{context}: {listed:?}"
        );
        let pods: Vec<Value> = serde_json::from_str(&listed.out()).expect("JSON");
        let mut removing = false;
        for pod in pods.iter().map(|pod| pod["name"].as_str().expect("a name")) {
            let seen = self.run(&format!("pod inspect {pod}"));
            assert_eq!(seen.code, 0, "{context}: {seen:?}");
            let pod: Value = serde_json::from_str(&seen.out()).expect("JSON");
            removing |= pod[0]["state"]["removing"] == true;
            for container in pod[0]["containers"].as_array().expect("a list") {
                let name = container["name"].as_str().expect("a name");
                let seen = self.run(&format!("container inspect {name}"));
                assert_eq!(seen.code, 0, "{context}: {seen:?}");
                let state = &serde_json::from_str::<Value>(&seen.out()).expect("JSON")[0]["state"];
                let endless = operation.before.contains(&STOPPED[1]);
                if endless && !state["exit_code"].is_null() {
                    assert_eq!(state["exit_code"], 137, "{context}: {state}");
                }
            }
        }
        if start && !pods.is_empty() {
            // The pod may be paused if its owner was not killed.
            self.run("pod unpause --all");
            let started = self.run("pod start --all");
            let cure = removing && started.err().contains("pod rm");
            assert!(started.code == 0 || cure, "{context}: {started:?}");
        }
        if !pods.is_empty() {
            let removed = self.run("pod rm --force --time 0 --all");
            assert_eq!(removed.code, 0, "{context}: {removed:?}");
        }
        self.examine_stores(&context);
        // The next command that changes anything removes the remains.
        self.run("pod create --name next").ok();
        self.run("pod rm next").ok();
        let left = harness::leak::left_after(&self.bed, patience(5.0));
        assert!(
            left.is_empty(),
            "{context}: left behind:\n  {}",
            left.join("\n  ")
        );
        // So that the next pod is the first one again.
        let _ = fs::remove_dir_all(self.bed.data());
    }

    /// Checks that all remaining images and volumes can be inspected and removed.
    #[track_caller]
    fn examine_stores(&self, context: &str) {
        for what in ["image", "volume"] {
            let listed = self.run(&format!("{what} ls --quiet"));
            assert!(
                listed.code == 0 && listed.err().is_empty(),
                "{context}: {listed:?}"
            );
            for name in listed.out().lines() {
                let seen = self.run(&format!("{what} inspect {name}"));
                assert_eq!(seen.code, 0, "{context}: {seen:?}");
            }
        }
        self.run("image prune --all").ok();
        self.run("volume prune").ok();
    }

    fn tell(&self) {
        let mut sum = 0;
        for ((command, way), count) in &self.cuts {
            eprintln!("{count:5} {way:?} {command}");
            sum += count;
        }
        eprintln!("{sum:5} cuts");
    }
}

#[test]
fn operations_on_files_can_be_cut_anywhere() {
    require!(subject_is_ours());
    let mut lab = Lab::new();
    asked_for(QUIET).for_each(|operation| lab.cut_everywhere(operation));
    lab.tell();
}

#[test]
fn operations_on_vms_can_be_cut_anywhere() {
    require!(subject_is_ours());
    let mut lab = Lab::new();
    asked_for(LIVE).for_each(|operation| lab.cut_everywhere(operation));
    lab.tell();
}
