//! SIGKILL at random moments: while `rust-kata` runs various commands, the command, the owner
//! of a pod, any process of a VM or all of them are killed. After each kill the pods can be
//! listed and inspected. At regular intervals they are started and removed, and nothing is
//! left.
//!
//! `RUST_KATA_TEST_KILLS` sets the number of processes to kill.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use harness::bed::Bed;
use harness::dice::{Dice, number, seed};
use harness::dist::{CLI, patience, subject_is_ours};
use harness::layout::Layout;
use harness::leak;
use harness::process::{self, Process};
use harness::require;
use harness::run::{Input, Output, Running, run};
use harness::scene::limit;
use nix::sys::signal::Signal;
use serde_json::Value;

/// How many kills come before everything is started, removed and checked.
const ROUND: usize = 25;

/// Commands that need no VM. `POD` and `NAME` stand for one of a few names, `ROOTFS` for a
/// directory, `LAYOUT` for an OCI layout.
const QUIET: [&str; 16] = [
    "pod create --name POD --label a=b",
    "pod create --name POD",
    "pod rm --force --time 0 POD",
    "pod inspect POD",
    "pod ls",
    "container create --pod POD --name NAME --rootfs ROOTFS -- sleep 1000",
    "container create --pod POD --name NAME --image app -v data:/v -v /own -- /busybox sleep 1000",
    "container update --memory 64m POD/NAME",
    "container rm POD/NAME",
    "container rm --force POD/NAME",
    "image load --quiet --tag app LAYOUT",
    "image tag app other",
    "image rm other",
    "volume create data",
    "volume rm data",
    "volume prune",
];

/// Commands that need a VM, that of the pod `live`.
const LIVE: [&str; 12] = [
    MADE[0],
    MADE[1],
    "pod start live",
    "pod start live",
    "pod stop --time 0 live",
    "pod restart --time 0 live",
    "pod kill live",
    "pod pause live",
    "pod unpause live",
    "container exec live/main true",
    "container rm --force live/main",
    "pod rm --force --time 0 live",
];

/// The commands that make the pod `live`.
const MADE: [&str; 2] = [
    "pod create --name live --vm-memory 128",
    "container create --pod live --name main --stop-timeout 0 --rootfs ROOTFS -- sleep 1000",
];

struct Range {
    bed: Bed,
    rootfs: PathBuf,
    layout: Layout,
    dice: Dice,
    /// The longest time of each command without a kill.
    spans: BTreeMap<&'static str, Duration>,
    /// The number of killed processes, by name.
    killed: BTreeMap<String, usize>,
}

impl Range {
    fn command(&mut self, line: &str) -> Command {
        let pod = format!("p{}", self.dice.below(3));
        let name = format!("c{}", self.dice.below(2));
        let root = self.rootfs.to_str().expect("an ASCII path");
        let layout = self.layout.dir().to_str().expect("an ASCII path");
        let filled = line
            .replace("POD", &pod)
            .replace("NAME", &name)
            .replace("ROOTFS", root)
            .replace("LAYOUT", layout);
        self.bed.cli(&filled.split(' ').collect::<Vec<_>>())
    }

    #[track_caller]
    fn run(&mut self, line: &str) -> Output {
        let command = self.command(line);
        let output = run(command, Input::Null, limit());
        fine(line, &output);
        output
    }

    /// Runs a command, and kills a process at a random moment.
    fn shoot(&mut self, line: &'static str) {
        // The first run measures how long it takes.
        let Some(span) = self.spans.get(line).copied() else {
            let output = self.run(line);
            // The time of a refused command does not count.
            if output.code == 0 {
                self.spans.insert(line, output.elapsed);
            }
            return;
        };
        let moment = span.mul_f64(self.dice.below(1000) as f64 / 900.0);
        let command = self.command(line);
        let running = Running::spawn(command, Input::Null);
        std::thread::sleep(moment);
        let victims = self.victims(running.pid());
        for victim in &victims {
            // Processes that have ended meanwhile do not count.
            if process::state(victim.pid).is_some_and(|state| state != 'Z') {
                process::signal(victim.pid, Signal::SIGKILL);
                *self.killed.entry(name_of(victim)).or_default() += 1;
            }
        }
        let output = running.finish(limit());
        fine(line, &output);
    }

    /// The command in four of eight cases, an owner in two, any process in one, all in one.
    fn victims(&mut self, command: u32) -> Vec<Process> {
        let mut all = self.bed.processes();
        let which = self.dice.below(8);
        match which {
            0..4 => all.retain(|process| process.pid == command),
            4..6 => all.retain(|process| process.is(CLI) && process.pid != command),
            _ => {}
        }
        if which < 7 && !all.is_empty() {
            let one = self.dice.below(all.len());
            all = vec![all.swap_remove(one)];
        }
        all
    }

    /// Checks that all pods can be listed and inspected, and that no exit code was made up.
    fn examine(&mut self) {
        let listed = self.run("pod ls --format json").ok();
        assert!(listed.err().is_empty(), "{listed:?}");
        let pods: Vec<Value> = serde_json::from_str(&listed.out()).expect("JSON");
        for pod in pods.iter().map(|pod| pod["name"].as_str().expect("a name")) {
            let seen = self.run(&format!("pod inspect {pod}")).ok();
            let seen: Value = serde_json::from_str(&seen.out()).expect("JSON");
            for container in seen[0]["containers"].as_array().expect("a list") {
                let name = container["name"].as_str().expect("a name");
                let seen = self.run(&format!("container inspect {pod}/{name}")).ok();
                let seen: Value = serde_json::from_str(&seen.out()).expect("JSON");
                let code = &seen[0]["state"]["exit_code"];
                // All of them sleep for longer than the test takes.
                assert!(code.is_null() || code == 137, "{pod}/{name}: {seen}");
            }
        }
        for what in ["image", "volume"] {
            let listed = self.run(&format!("{what} ls --quiet")).ok();
            assert!(listed.err().is_empty(), "{listed:?}");
            for name in listed.out().lines() {
                self.run(&format!("{what} inspect {name}")).ok();
            }
        }
    }

    /// Starts the pod with a VM, then removes everything and checks that nothing is left.
    fn clear(&mut self) {
        let removing = {
            let seen = self.run("pod inspect live");
            let seen: Value = serde_json::from_str(&seen.out()).unwrap_or_default();
            seen[0]["state"]["removing"] == true
        };
        if !removing {
            for line in MADE {
                // It may exist.
                self.run(line);
            }
            // It may be paused.
            self.run("pod unpause live");
            self.run("pod start live").ok();
            self.run("container exec live/main true").ok();
        }
        self.run("pod rm --force --time 0 --all").ok();
        self.run("image prune --all").ok();
        self.run("volume prune").ok();
        // The next command that changes anything removes the remains.
        self.run("pod create --name next").ok();
        self.run("pod rm next").ok();
        let left = leak::left_after(&self.bed, patience(10.0));
        assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    }
}

fn name_of(process: &Process) -> String {
    let mut words = process.command.split(' ');
    let path = words.next().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    match words.next() {
        Some(word) if name == CLI && word == runtime::engine::OWN => format!("{name} {word}"),
        _ => name.to_owned(),
    }
}

/// Checks that a command succeeded, was refused, or was killed; a panic or a damaged file is a
/// failure.
#[track_caller]
fn fine(line: &str, output: &Output) {
    // 1 and 2: of a removal, of what does not exist or is in use.
    let known = [0, 1, 2, 125, 137].contains(&output.code);
    let said = output.err();
    let wrong = ["panicked", "state file", "internal error"];
    let wrong = wrong.iter().any(|word| said.contains(word));
    assert!(known && !wrong, "{line}: {output:?}");
}

#[test]
fn kills_at_random_leave_what_can_be_used_and_removed() {
    require!(subject_is_ours());
    let kills = number("RUST_KATA_TEST_KILLS").unwrap_or(50) as usize;
    let seed = seed();
    eprintln!("{kills} kills, RUST_KATA_TEST_SEED={seed}");
    let bed = Bed::new();
    let mut range = Range {
        rootfs: bed.rootfs(),
        layout: Layout::small(bed.fresh("layout")),
        bed,
        dice: Dice::new(seed),
        spans: BTreeMap::new(),
        killed: BTreeMap::new(),
    };
    let mut next = 0;
    for shot in 0.. {
        assert!(
            shot < 100 + 20 * kills,
            "most commands end before they are killed"
        );
        let killed: usize = range.killed.values().sum();
        if killed >= next {
            range.clear();
            if killed >= kills {
                break;
            }
            for line in MADE {
                range.run(line).ok();
            }
            next = kills.min(killed + ROUND);
        }
        let line = match range.dice.below(4) {
            0 => LIVE[range.dice.below(LIVE.len())],
            _ => QUIET[range.dice.below(QUIET.len())],
        };
        range.shoot(line);
        range.examine();
    }
    for (name, count) in &range.killed {
        eprintln!("{count:5} {name}");
    }
}
