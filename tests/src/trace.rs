//! The system calls of the VMM's threads in a trace of strace, compared with the rules of their
//! seccomp filters.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hypervisor::jail::ThreadKind;
use hypervisor::jail::seccomp::{Rule, rules};

/// Options of strace for a readable [`Trace`].
pub const OPTIONS: &str = "-e raw=!prctl";

/// The prefix of the trace files in a folder.
pub const PREFIX: &str = "trace-";

/// A system call in a trace.
struct Seen {
    call: String,
    args: Vec<u64>,
}

/// The calls of each kind of thread under its filter.
#[derive(Default)]
pub struct Trace {
    calls: HashMap<ThreadKind, Vec<Seen>>,
}

impl Trace {
    /// Reads all traces in a folder, one per process.
    pub fn read(folder: &Path) -> Self {
        let mut trace = Self::default();
        for file in fs::read_dir(folder).expect("it is ours") {
            let file = file.expect("readable");
            if file.file_name().to_string_lossy().starts_with(PREFIX) {
                trace.add(&fs::read_to_string(file.path()).expect("strace wrote it"));
            }
        }
        trace
    }

    /// Adds the calls of one process.
    fn add(&mut self, trace: &str) {
        let mut names: BTreeMap<&str, &str> = BTreeMap::new();
        let mut confined = BTreeSet::new();
        let mut spawning = false;
        let main = trace.split(' ').next();
        for line in trace.lines() {
            let Some((thread, rest)) = line.split_once(' ') else {
                continue;
            };
            let rest = rest.trim_start();
            let Some((call, args)) = rest
                .split_once('(')
                .filter(|_| !rest.starts_with(['<', '+', '-']))
            else {
                continue;
            };
            if let Some(name) = args.strip_prefix("PR_SET_NAME, \"") {
                let name = name.split('"').next().unwrap_or_default();
                names.insert(thread, name);
            }
            let name = names.get(thread).copied();
            // A new thread has the spawner's filter before its own.
            let kind = if confined.contains(thread) {
                Some(name.map_or(ThreadKind::Main, kind_of))
            } else if spawning && Some(thread) != main {
                Some(ThreadKind::Spawner)
            } else {
                None
            };
            if let Some(kind) = kind {
                let args = args
                    .split([',', ')', '<', ' '])
                    .filter(|arg| !arg.is_empty());
                let args = args.map_while(number).collect();
                let call = call.to_owned();
                self.calls
                    .entry(kind)
                    .or_default()
                    .push(Seen { call, args });
            }
            // The first call under the filter is the one after its installation.
            if call == "seccomp" {
                confined.insert(thread);
                spawning |= name == Some("spawner");
            }
        }
    }

    /// Panics unless there were threads of all these kinds, and they used every rule of theirs
    /// that is not rare. Rules that they share with the kinds `elsewhere` are left to another
    /// test.
    #[track_caller]
    pub fn assert_needed(&self, kinds: &[ThreadKind], elsewhere: &[ThreadKind]) {
        let mut needless = Vec::new();
        for &kind in kinds {
            let calls = self.calls_of(kind);
            for rule in rules(kind).filter(|rule| !rule.rare && !is_used(rule, calls)) {
                let left_out = elsewhere.iter().any(|other| has(*other, rule));
                if !left_out && !self.is_used_by_others(kind, rule) {
                    needless.push(format!("{kind}: {} for {}", rule.name(), rule.why));
                }
            }
        }
        assert!(
            needless.is_empty(),
            "needless rules:\n{}",
            needless.join("\n")
        );
    }

    /// Panics unless there were threads of all these kinds.
    #[track_caller]
    pub fn assert_seen(&self, kinds: &[ThreadKind]) {
        for &kind in kinds {
            self.calls_of(kind);
        }
    }

    #[track_caller]
    fn calls_of(&self, kind: ThreadKind) -> &[Seen] {
        let seen: Vec<_> = self.calls.keys().collect();
        let calls = self.calls.get(&kind);
        calls.unwrap_or_else(|| panic!("no {kind} thread in {seen:?}"))
    }

    /// A group that several kinds share is needed if one of them needs it. The spawner's list
    /// consists of those it hands on, and a few of its own.
    fn is_used_by_others(&self, kind: ThreadKind, rule: &Rule) -> bool {
        ThreadKind::ALL.into_iter().any(|other| {
            let used = self.calls.get(&other);
            let used = used.map_or(kind == ThreadKind::Spawner, |used| is_used(rule, used));
            other != ThreadKind::Spawner && has(other, rule) && used
        })
    }
}

/// Whether a rule is one of the list of this kind, in which groups are shared.
fn has(kind: ThreadKind, rule: &Rule) -> bool {
    rules(kind).any(|theirs| std::ptr::eq(theirs, rule))
}

/// The kind of a thread, by its name.
fn kind_of(thread: &str) -> ThreadKind {
    let prefixes = [
        ("vu-", ThreadKind::VhostUser),
        ("fs-", ThreadKind::Fs),
        ("vsock", ThreadKind::Vsock),
        ("vcpu-", ThreadKind::Vcpu),
        ("machine", ThreadKind::Machine),
        ("disk", ThreadKind::Block),
        ("block-", ThreadKind::Block),
        ("net", ThreadKind::Net),
        ("rng", ThreadKind::Simple),
        ("balloon-", ThreadKind::Simple),
        ("mem", ThreadKind::Simple),
        ("spawner", ThreadKind::Spawner),
    ];
    let known = prefixes
        .into_iter()
        .find(|(prefix, _)| thread.starts_with(prefix));
    known.map_or_else(
        || panic!("unknown kind of thread: {thread:?}"),
        |(_, kind)| kind,
    )
}

fn number(arg: &str) -> Option<u64> {
    match arg {
        "PR_SET_NAME" => Some(libc::PR_SET_NAME as u64),
        "PR_SET_NO_NEW_PRIVS" => Some(libc::PR_SET_NO_NEW_PRIVS as u64),
        "PR_SET_VMA" => Some(libc::PR_SET_VMA as u64),
        _ => match arg.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => arg.parse().ok(),
        },
    }
}

fn is_used(rule: &Rule, calls: &[Seen]) -> bool {
    calls
        .iter()
        .any(|seen| seen.call == rule.name() && rule.args.iter().all(|arg| arg.fits(&seen.args)))
}

/// The unit tests of the crate `hypervisor`: `RUST_KATA_HYPERVISOR_TESTS` on machines without a
/// compiler, otherwise built now.
pub fn unit_tests() -> PathBuf {
    if let Some(path) = std::env::var_os("RUST_KATA_HYPERVISOR_TESTS") {
        return path.into();
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Built together with the tests' own crate, so that common dependencies have the same
    // features.
    let built = Command::new(cargo)
        .args(["test", "--no-run", "--message-format=json"])
        .args(["-p", "rust-kata-hypervisor", "-p", "rust-kata-tests"])
        .current_dir(crate::dist::workspace())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs the tests, so it is there");
    assert!(built.status.success(), "the unit tests do not build");
    String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["kind"][0] == "lib")
        .filter(|message| message["target"]["name"] == "hypervisor")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo prints their path")
}
