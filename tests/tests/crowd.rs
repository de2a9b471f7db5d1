//! A crowd: 32 processes at a time do random things to 8 pods. Every command
//! ends, nothing that was answered for is lost, nothing is left, and lists wait
//! for nobody.
//!
//! Two pods are started and stopped, the machine has room for so many VMs. Three
//! keep still, and what is put into them is counted. Three are created and removed
//! all the time. `RUST_KATA_TEST_SECONDS` tells how long, `RUST_KATA_TEST_SEED`
//! what the dice show.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use harness::bed::Bed;
use harness::dice::{Dice, number, seed};
use harness::dist::{CLI, binary, patience, subject_is_ours};
use harness::process;
use harness::run::{Input, Output, run};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

const WORKERS: usize = 32;

/// For a command to end: those that start or stop a VM come one after the other,
/// and up to 32 of them stand in line.
const BOUND: Duration = Duration::from_secs(240);

/// So many containers each has in the still pods at a time.
const OWN: usize = 3;

/// Started and stopped.
const LIVE: [&str; 2] = ["live0", "live1"];

/// Never removed.
const STILL: [&str; 3] = ["still0", "still1", "still2"];

/// Created and removed.
const CHURN: [&str; 3] = ["churn0", "churn1", "churn2"];

/// What is never to be said, whatever others do at the same time.
const WRONG: [&str; 8] = [
    "panicked",
    "rm --force",
    "broke off",
    "ends each time",
    "Resource deadlock",
    "state file",
    "No free name",
    "Bad file",
];

/// What all workers have done together.
#[derive(Default)]
struct Tally {
    /// Successful creations less removals of the churning pods.
    pods: BTreeMap<&'static str, i64>,
    commands: BTreeMap<String, usize>,
    refused: usize,
    /// Those of the observer.
    lists: Vec<List>,
}

/// A list that somebody asked for.
#[derive(Debug, Clone, Copy)]
struct List {
    took: Duration,
    /// How long its first thread, which does the work, had a CPU.
    ran: Duration,
    /// How long this machine's host had its CPUs meanwhile, all of them together.
    stolen: Duration,
}

struct Crowd {
    /// That of the bed.
    environment: Vec<(OsString, OsString)>,
    rootfs: String,
    tally: Mutex<Tally>,
}

impl Crowd {
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(binary(CLI));
        command.envs(self.environment.iter().cloned());
        command.args(line.split(' '));
        command
    }

    /// Runs a command that may be refused, as others are at work.
    fn run(&self, line: &str) -> Output {
        let output = run(
            self.command(line),
            Input::Null,
            BOUND.mul_f64(patience(1.0).as_secs_f64()),
        );
        let said = output.err();
        for wrong in WRONG {
            assert!(!said.contains(wrong), "{line}: {output:?}");
        }
        let mut tally = self.tally.lock().expect("no worker panicked");
        let mut words = line.split(' ');
        let name = [words.next(), words.next()].map(Option::unwrap_or_default);
        *tally.commands.entry(name.join(" ")).or_default() += 1;
        tally.refused += usize::from(output.code == 125);
        output
    }

    /// Runs a command that has to be done or refused.
    fn ask(&self, line: &str) -> bool {
        let output = self.run(line);
        assert!(matches!(output.code, 0 | 125), "{line}: {output:?}");
        output.code == 0
    }

    /// Lists pods, one list after the other, before everybody else where it
    /// comes to CPUs: what it waits for is not the machine, but others' work.
    fn observe(&self, until: Instant) {
        // Niceness would not do: it counts among the processes of a session only
        // (sched(7), "The autogroup feature"), and VMs have sessions of their own.
        let real_time = libc::sched_param { sched_priority: 1 };
        // SAFETY: sched_setscheduler(2) reads the parameter; 0 is this thread, and
        // what it starts inherits it.
        let first = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &real_time) };
        if first != 0 {
            eprintln!("the observer has no priority: it waits for CPUs as all do");
        }
        while Instant::now() < until {
            let mut command = self.command("pod ls --format json");
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            let (since, before) = (Instant::now(), stolen());
            let child = command.spawn().expect("the command is there");
            let ran = ended(&child);
            let list = List {
                took: since.elapsed(),
                ran,
                stolen: stolen() - before,
            };
            let output = child.wait_with_output().expect("our child");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{said}");
            let mut tally = self.tally.lock().expect("no worker panicked");
            tally.lists.push(list);
            drop(tally);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn work(&self, worker: usize, seed: u64, until: Instant) -> BTreeSet<(usize, String)> {
        let mut dice = Dice::new(seed ^ (worker as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Containers in the still pods that are this worker's.
        let mut own: BTreeSet<(usize, String)> = BTreeSet::new();
        let mut made = 0;
        while Instant::now() < until {
            match dice.below(16) {
                0 | 1 => assert!(self.ask("pod ls --format json"), "a list is never refused"),
                2 => {
                    let pod = dice.one(&CHURN);
                    if self.ask(&format!("pod create --name {pod}")) {
                        self.count(pod, 1);
                    }
                }
                3 => {
                    let pod = dice.one(&CHURN);
                    if self.ask(&format!("pod rm --force --time 0 {pod}")) {
                        self.count(pod, -1);
                    }
                }
                4 => {
                    let pod = dice.one(&CHURN);
                    let root = &self.rootfs;
                    let name = format!("w{worker}");
                    self.ask(&format!(
                        "container create --pod {pod} --name {name} --rootfs {root} -- true"
                    ));
                }
                5 | 6 if own.len() < OWN => {
                    let pod = dice.below(STILL.len());
                    made += 1;
                    let name = format!("w{worker}n{made}");
                    let root = &self.rootfs;
                    let line = format!(
                        "container create --pod {} --name {name} --rootfs {root} -- true",
                        STILL[pod]
                    );
                    assert!(self.ask(&line), "{line}: nobody else has this name");
                    own.insert((pod, name));
                }
                5..=7 => {
                    if let Some((pod, name)) = own.pop_first() {
                        let line = format!("container rm {}/{name}", STILL[pod]);
                        assert!(self.ask(&line), "{line}: it was there");
                    }
                }
                8 => {
                    if let Some((pod, name)) = own.last() {
                        let line = format!("container inspect {}/{name}", STILL[*pod]);
                        assert!(self.ask(&line), "{line}: it is there");
                    }
                }
                9 => {
                    let quiet = ["pod stop", "pod kill", "pod pause", "pod inspect"];
                    let line = format!("{} {}", dice.one(&quiet), dice.one(&STILL));
                    assert!(self.ask(&line), "{line}: no mistake for a pod");
                }
                10 => drop(self.ask("container ls --all")),
                11 => drop(self.ask(&format!("pod start {}", dice.one(&LIVE)))),
                12 => {
                    let ends = [
                        "stop --time 0",
                        "kill",
                        "restart --time 0",
                        "pause",
                        "unpause",
                    ];
                    let how = ends[[0, 1, 2, 3, 4, 4][dice.below(6)]];
                    self.ask(&format!("pod {how} {}", dice.one(&LIVE)));
                }
                13 => drop(self.ask(&format!("pod stats {}", dice.one(&LIVE)))),
                _ => {
                    let (pod, code) = (dice.one(&LIVE), 1 + dice.below(99));
                    let line = format!("container exec {pod}/main sh -c exit${{IFS}}{code}");
                    let output = self.run(&line);
                    // Its own code, or it was not run, or it was killed with its VM.
                    let fine = [code as i32, 125, 137].contains(&output.code);
                    assert!(fine, "{line}: {output:?}");
                }
            }
        }
        own
    }

    fn count(&self, pod: &'static str, by: i64) {
        let mut tally = self.tally.lock().expect("no worker panicked");
        *tally.pods.entry(pod).or_default() += by;
    }
}

/// Waits for the end of a process, and tells how long its first thread ran.
fn ended(child: &Child) -> Duration {
    let pid = Pid::from_raw(child.id() as i32).expect("a pid");
    waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    )
    .expect("our child");
    // The kernel's Documentation/scheduler/sched-stats: time on the CPU first.
    let path = format!("/proc/{}/schedstat", child.id());
    let text = fs::read_to_string(path).expect("it is a zombie now");
    let ran = text.split(' ').next().and_then(|n| n.parse().ok());
    Duration::from_nanos(ran.expect("a number"))
}

#[test]
fn a_crowd_gets_its_work_done() {
    if !subject_is_ours("crowd") {
        return;
    }
    let seconds = number("RUST_KATA_TEST_SECONDS").unwrap_or(15);
    let seed = seed();
    eprintln!("{WORKERS} workers, {seconds} s, RUST_KATA_TEST_SEED={seed}");
    let bed = Bed::new();
    let crowd = Crowd {
        environment: bed.environment(),
        rootfs: bed.rootfs().to_str().expect("an ASCII path").to_owned(),
        tally: Mutex::default(),
    };
    for pod in LIVE.iter().chain(&STILL) {
        assert!(crowd.ask(&format!("pod create --name {pod} --vm-memory 128")));
    }
    for pod in LIVE {
        let root = &crowd.rootfs;
        assert!(crowd.ask(&format!(
            "container create --pod {pod} --name main --stop-timeout 0 --rootfs {root} -- sleep 1000"
        )));
    }

    let until = Instant::now() + Duration::from_secs(seconds);
    let mut own = BTreeMap::new();
    std::thread::scope(|scope| {
        let crowd = &crowd;
        scope.spawn(move || crowd.observe(until));
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| scope.spawn(move || crowd.work(worker, seed, until)))
            .collect();
        for (pod, name) in workers
            .into_iter()
            .flat_map(|w| w.join().expect("a worker"))
        {
            own.entry(STILL[pod])
                .or_insert_with(BTreeSet::new)
                .insert(name);
        }
    });

    // What was answered for is there, and nothing else.
    for pod in STILL {
        let listed = crowd
            .run(&format!("container ls --all --quiet --pod {pod}"))
            .ok();
        let listed: BTreeSet<String> = listed.out().lines().map(str::to_owned).collect();
        assert_eq!(listed, own.remove(pod).unwrap_or_default(), "in {pod}");
    }
    let listed = crowd.run("pod ls --quiet").ok().out();
    let tally = std::mem::take(&mut *crowd.tally.lock().expect("no worker panicked"));
    for pod in CHURN {
        let there = i64::from(listed.lines().any(|name| name == pod));
        let counted = tally.pods.get(pod).copied().unwrap_or(0);
        assert_eq!(counted, there, "{pod}: created less removed");
    }
    for name in ["main"] {
        for pod in LIVE {
            let inspected = crowd
                .run(&format!("container inspect {pod}/{name}"))
                .ok()
                .out();
            let all: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
            let code = &all[0]["state"]["exit_code"];
            assert!(code.is_null() || code == 137, "{pod}: {code}");
        }
    }
    tell(tally);
    crowd.run("pod rm --force --time 0 --all").ok();
    for process in bed.processes() {
        assert!(
            process::wait_gone(process.pid, patience(20.0)),
            "{process:?} stays"
        );
    }
}

type Part = fn(&List) -> Duration;

fn tell(mut tally: Tally) {
    let total: usize = tally.commands.values().sum();
    eprintln!(
        "{total} commands and {} lists, {} refused",
        tally.lists.len(),
        tally.refused
    );
    for (name, count) in &tally.commands {
        eprintln!("{count:6} {name}");
    }
    let mut at = |share: f64, of: Part| {
        tally.lists.sort_by_key(of);
        of(&tally.lists[((tally.lists.len() - 1) as f64 * share) as usize])
    };
    let parts: [(&str, Part); 2] = [("took", |list| list.took), ("ran", |list| list.ran)];
    for (what, of) in parts {
        let [half, most, all] = [0.5, 0.99, 1.0].map(|share| at(share, of));
        eprintln!("pod ls {what}: median {half:.1?}, 99 % {most:.1?}, longest {all:.1?}");
        assert!(half < patience(0.1), "pod ls {what} {half:?}");
    }
    tally.lists.sort_by_key(|list| list.took);
    for list in tally.lists.iter().rev().take(5) {
        let List { took, ran, stolen } = list;
        eprintln!("pod ls took {took:.1?}, ran {ran:.1?}, the host {stolen:.0?}");
    }
}

/// What the host of this machine has taken of its CPUs (proc(5), field 8 of `cpu` in
/// `stat`), as exactly as the kernel tells.
fn stolen() -> Duration {
    /// USER_HZ of x86-64.
    const TICK: Duration = Duration::from_millis(10);
    let text = fs::read_to_string("/proc/stat").expect("proc");
    let field = text.split_whitespace().nth(8);
    TICK * field.and_then(|text| text.parse().ok()).expect("a number")
}

#[test]
fn a_list_waits_for_no_lock() {
    if !subject_is_ours("crowd") {
        return;
    }
    let bed = Bed::new();
    bed.rust_kata(&["pod", "create", "--name", "p"]).ok();
    let trace = bed.fresh("trace");
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-e", "trace=flock,fcntl", "-o"])
        .arg(&trace);
    strace
        .arg(binary(CLI))
        .args(["pod", "ls"])
        .envs(bed.environment());
    let listed = run(strace, Input::Null, patience(60.0)).ok();
    assert!(listed.out().contains(" p "), "{listed:?}");
    let trace = fs::read_to_string(trace).expect("strace wrote it");
    for line in trace
        .lines()
        .filter(|line| line.contains("LOCK") || line.contains("LKW"))
    {
        let waits = !line.contains("LOCK_NB") && !line.contains("LOCK_UN");
        assert!(!waits, "{line}");
    }
    bed.rust_kata(&["pod", "rm", "p"]).ok();
}
