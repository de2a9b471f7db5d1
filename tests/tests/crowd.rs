//! A crowd: 32 processes at a time run random commands on 8 pods. Every command ends, no
//! acknowledged change is lost, nothing is left, and lists do not wait for locks.
//!
//! Two pods are started and stopped; the machine has memory for that many VMs. Three are never
//! removed, and their containers are counted. Three are created and removed all the time.
//! `RUST_KATA_TEST_SECONDS` sets the duration, `RUST_KATA_TEST_SEED` the seed of the random
//! numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use harness::bed::Bed;
use harness::dice::{Dice, number, seed};
use harness::dist::{CLI, binary, patience, subject_is_ours};
use harness::process;
use harness::require;
use harness::run::{Input, Output, run};

const WORKERS: usize = 32;

/// The time limit of a command: those that start or stop a VM run one after the other, and up
/// to 32 of them may be waiting.
const BOUND: Duration = Duration::from_secs(240);

/// The time limit of a list.
const LONG: Duration = Duration::from_millis(100);

/// How many containers of a worker are in the still pods at a time.
const OWN: usize = 3;

/// Pods that are started and stopped.
const LIVE: [&str; 2] = ["live0", "live1"];

/// Pods that are never removed.
const STILL: [&str; 3] = ["still0", "still1", "still2"];

/// Pods that are created and removed.
const CHURN: [&str; 3] = ["churn0", "churn1", "churn2"];

/// Texts that no error may contain, with any other commands at the same time.
const WRONG: [&str; 8] = [
    "panicked",
    "rm --force",
    "internal error",
    "keeps exiting",
    "Resource deadlock",
    "state file",
    "no free name",
    "Bad file",
];

/// The results of all workers together.
#[derive(Default)]
struct Tally {
    /// The successful creations of the churning pods minus their removals.
    pods: BTreeMap<&'static str, i64>,
    commands: BTreeMap<String, usize>,
    refused: usize,
}

/// One measured list (see `src/bin/observer.rs`).
#[derive(Debug, Clone, Copy)]
struct List {
    took: Duration,
    ran: Duration,
    stolen: Duration,
    /// How long `true` took after it.
    reference: Duration,
}

impl List {
    fn parse(line: &str) -> Self {
        let numbers = line.split(' ').map(|n| n.parse().expect("nanoseconds"));
        let times: Vec<_> = numbers.map(Duration::from_nanos).collect();
        let [took, ran, stolen, reference] = times[..] else {
            panic!("{line:?}");
        };
        Self {
            took,
            ran,
            stolen,
            reference,
        }
    }
}

struct Crowd {
    /// The bed's environment.
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

    /// Runs a command that may fail because of the other workers' commands.
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

    /// Runs a command that must either succeed or be refused.
    fn ask(&self, line: &str) -> bool {
        let output = self.run(line);
        // 1 and 2: of a removal, of what does not exist or is in use.
        assert!(matches!(output.code, 0..=2 | 125), "{line}: {output:?}");
        output.code == 0
    }

    /// Lists pods repeatedly, until its input ends.
    fn observer(&self, lists: File) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_observer"));
        command.envs(self.environment.iter().cloned());
        command.arg(binary(CLI));
        command.args(["pod", "ls", "--format", "json"]);
        let command = command.stdin(Stdio::piped()).stdout(lists);
        command.spawn().expect("built with this test")
    }

    fn work(&self, worker: usize, seed: u64, until: Instant) -> BTreeSet<(usize, String)> {
        let mut dice = Dice::new(seed ^ (worker as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // This worker's containers in the still pods.
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
                    // A pod that another worker has removed is no error, and is not printed.
                    let removed = self.run(&format!("pod rm --force --time 0 {pod}")).ok();
                    if removed.out().trim() == pod {
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
                    assert!(self.ask(&line), "{line}: the name is free");
                    own.insert((pod, name));
                }
                5..=7 => {
                    if let Some((pod, name)) = own.pop_first() {
                        let line = format!("container rm {}/{name}", STILL[pod]);
                        assert!(self.ask(&line), "{line}: it existed");
                    }
                }
                8 => {
                    if let Some((pod, name)) = own.last() {
                        let line = format!("container inspect {}/{name}", STILL[*pod]);
                        assert!(self.ask(&line), "{line}: it exists");
                    }
                }
                9 => {
                    let quiet = ["pod stop", "pod kill", "pod pause", "pod inspect"];
                    let line = format!("{} {}", dice.one(&quiet), dice.one(&STILL));
                    assert!(self.ask(&line), "{line}: not an error for a pod");
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
                    // The command's own code, or that of a refusal, or of a kill with its VM.
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

#[test]
fn a_crowd_gets_its_work_done() {
    require!(subject_is_ours());
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

    let lists = bed.fresh("lists");
    let mut observer = crowd.observer(File::create(&lists).expect("a new file"));
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut own = BTreeMap::new();
    std::thread::scope(|scope| {
        let crowd = &crowd;
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

    drop(observer.stdin.take());
    let status = observer.wait().expect("our child");
    assert!(status.success(), "the observer: {status}");

    // Every acknowledged container exists, and no other.
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
        assert_eq!(counted, there, "{pod}: created minus removed");
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
    tell(&tally);
    let lists = fs::read_to_string(lists).expect("the observer wrote it");
    tell_lists(lists.lines().map(List::parse).collect());
    crowd.run("pod rm --force --time 0 --all").ok();
    for process in bed.processes() {
        assert!(
            process::wait_gone(process.pid, patience(20.0)),
            "{process:?} stays"
        );
    }
}

fn tell(tally: &Tally) {
    let total: usize = tally.commands.values().sum();
    eprintln!("{total} commands, {} refused", tally.refused);
    for (name, count) in &tally.commands {
        eprintln!("{count:6} {name}");
    }
}

fn tell_lists(mut lists: Vec<List>) {
    type Part = fn(&List) -> Duration;
    let parts: [(&str, Part); 3] = [
        ("pod ls took", |list| list.took),
        ("pod ls ran", |list| list.ran),
        ("true took", |list| list.reference),
    ];
    eprintln!("{} lists", lists.len());
    for (what, of) in parts {
        lists.sort_by_key(of);
        let at = |share: f64| of(&lists[((lists.len() - 1) as f64 * share) as usize]);
        let [half, usual, most, all] = [0.5, 0.95, 0.99, 1.0].map(at);
        eprintln!("{what}: median {half:.1?}, 99 % {most:.1?}, longest {all:.1?}");
        // The host may take CPU time at any moment, but not this often.
        assert!(usual < patience(LONG.as_secs_f64()), "{what} {usual:?}");
    }
    let long = |of: Part| lists.iter().filter(|list| of(list) > LONG).count();
    eprintln!(
        "pod ls took more than {LONG:?}: {} times, {} of them without the time that the host took",
        long(|list| list.took),
        long(|list| list.took.saturating_sub(list.stolen)),
    );
    lists.sort_by_key(|list| list.took);
    for list in lists.iter().rev().take(10) {
        eprintln!("{list:.0?}");
    }
}

#[test]
fn a_list_waits_for_no_lock() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let (_, made) = waits(&bed, &["pod", "create", "--name", "p"]);
    let (listed, waited) = waits(&bed, &["pod", "ls"]);
    let (_, removed) = waits(&bed, &["pod", "rm", "p"]);

    assert!(listed.contains(" p "), "{listed:?}");
    assert_eq!(waited, [""; 0]);
    // The trace shows a wait where there is one.
    assert!(!made.is_empty() || !removed.is_empty());
}

/// The output of a command, and the calls in which it takes a lock and would wait for it.
fn waits(bed: &Bed, args: &[&str]) -> (String, Vec<String>) {
    let trace = bed.fresh("trace");
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-e", "trace=flock,fcntl", "-o"])
        .arg(&trace)
        .arg(binary(CLI))
        .args(args)
        .envs(bed.environment());
    let output = run(strace, Input::Null, patience(60.0)).ok();
    let trace = fs::read_to_string(trace).expect("strace wrote it");
    let takes =
        |line: &&str| line.contains("LOCK_SH") || line.contains("LOCK_EX") || line.contains("LKW");
    let waits = trace
        .lines()
        .filter(takes)
        .filter(|line| !line.contains("LOCK_NB"));
    (output.out(), waits.map(str::to_owned).collect())
}
