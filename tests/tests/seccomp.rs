//! The seccomp filters of the VMM under a real guest: each thread has one, a violation
//! is told, and no rule is there without need.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::bed::{Bed, Plan};
use harness::dist::{self, SHIM, VMM, subject_is_ours};
use harness::run::{Input, run};
use harness::scene::{Scene, limit};
use harness::spec::Spec;
use hypervisor::jail::ThreadKind;
use hypervisor::jail::seccomp::{Rule, rules};

#[test]
fn every_thread_has_a_filter() {
    if !subject_is_ours("seccomp") {
        return;
    }
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    scene.detach("c", &[], &["sleep", "1000"]);

    let [vmm] = bed.named(VMM).try_into().expect("one VMM");

    for task in fs::read_dir(format!("/proc/{}/task", vmm.pid)).expect("it runs") {
        let status = task.expect("readable").path().join("status");
        let status = fs::read_to_string(status).expect("it runs");
        let mode = status
            .lines()
            .find_map(|line| line.strip_prefix("Seccomp:"));
        assert_eq!(mode.map(str::trim), Some("2"), "{status}");
    }
    scene.remove("c");
    bed.assert_clean();
}

/// A system call seen in a trace.
struct Seen {
    call: String,
    args: Vec<u64>,
}

/// A VMM under strace, which leaves a file `trace-*` per VM in `dir`. The VMM stays the
/// process that its owner started.
fn tracing_vmm(dir: &Path, options: &str) -> PathBuf {
    let wrapper = dir.join(VMM);
    let script = format!(
        "#!/bin/sh\nread -r id < /proc/sys/kernel/random/uuid\n\
         exec /usr/bin/strace -D -f {options} -o {}/trace-$id {} \"$@\"\n",
        dir.display(),
        dist::binary(VMM).display()
    );
    fs::write(&wrapper, script).expect("the folder is ours");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    wrapper
}

/// A bed with such a VMM.
fn traced(dir: &Path, options: &str) -> Bed {
    let vmm = tracing_vmm(dir, options).display().to_string();
    Bed::with(Plan {
        config: format!("hypervisor = \"qemu\"\nvmm = {vmm:?}\n"),
        ..Plan::default()
    })
}

#[test]
fn forbidden_call_ends_the_vm_and_is_named() {
    if !subject_is_ours("seccomp") {
        return;
    }
    let folder = tempfile::tempdir().expect("/tmp is writable");
    // A thread that is out of its mind: where it wants to sync, it asks who it is.
    let bed = traced(
        folder.path(),
        "-e inject=fdatasync,fsync:retval=0:syscall=getuid",
    );
    let bundle = bed.fresh("bundle");
    harness::image::make_rootfs(&bundle.join("rootfs"));
    let script = "dd if=/dev/zero of=/tmp/file count=1 conv=fsync; sleep 1000";
    Spec::new(Path::new("rootfs"), &["sh", "-c", script])
        .set("/root/readonly", serde_json::json!(false))
        .write(&bundle.join("config.json"));
    let mut command = Command::new(dist::binary(SHIM));
    command
        .envs(bed.environment())
        .args(["run", "--verbose", "--bundle"])
        .arg(&bundle);

    let output = run(command, Input::Null, limit());

    assert_ne!(output.code, 0, "{output:?}");
    let reason = "rust-kata-vmm ended with exit code 159: seccomp: a thread of kind fs called getuid (102) with ";
    assert!(output.err().contains(reason), "{output:?}");
    bed.assert_clean();
}

fn kind_of(thread: &str) -> ThreadKind {
    match thread {
        "spawner" => ThreadKind::Spawner,
        name if name.starts_with("vu-") => ThreadKind::VhostUser,
        name if name.starts_with("fs-") => ThreadKind::Fs,
        name if name.starts_with("vsock") => ThreadKind::Vsock,
        "rng" => ThreadKind::Simple,
        name => panic!("of what kind is the thread {name:?}?"),
    }
}

/// What the threads of each kind called once they had their filter.
type Calls = BTreeMap<String, Vec<Seen>>;

/// Adds what a trace tells of one VM.
fn read_trace(trace: &str, calls: &mut Calls) {
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
        // A new thread has the spawner's filter before it has its own.
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
            calls
                .entry(kind.to_string())
                .or_default()
                .push(Seen { call, args });
        }
        // The first call with the filter is the one after the one that installs it.
        if call == "seccomp" {
            confined.insert(thread);
            spawning |= name == Some("spawner");
        }
    }
}

fn number(arg: &str) -> Option<u64> {
    match arg {
        "PR_SET_NAME" => Some(libc::PR_SET_NAME as u64),
        "PR_SET_NO_NEW_PRIVS" => Some(libc::PR_SET_NO_NEW_PRIVS as u64),
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

/// Asks for a port of the guest's at which nobody listens.
fn refused_by_the_guest(bed: &Bed) {
    let vms = fs::read_dir(bed.state().join(".vm")).expect("a VM runs");
    let vm = vms.last().expect("a VM runs").expect("readable").path();
    let mut socket = UnixStream::connect(vm.join("sockets/vsock")).expect("the VMM listens");
    socket.write_all(b"CONNECT 9999\n").expect("the VMM reads");
    let mut answer = String::new();
    socket
        .read_to_string(&mut answer)
        .expect("the VMM hangs up");
    assert_eq!(answer, "");
}

#[test]
fn no_rule_is_needless() {
    if !subject_is_ours("seccomp") {
        return;
    }
    let folder = tempfile::tempdir().expect("/tmp is writable");
    let bed = traced(folder.path(), "-e raw='!prctl'");
    let scene = Scene::subject(&bed);
    let volume = bed.fresh("volume");
    fs::create_dir(&volume).expect("the bed is ours");
    let workout = Path::new(env!("CARGO_BIN_EXE_workout"));
    let library = |name: &str| fs::canonicalize(name).expect("the host has it");
    let spec = Spec::new(&bed.rootfs(), &["/workout", "/volume"])
        .mount("bind", workout, "/workout", &["bind", "ro"])
        .mount("bind", &library("/lib"), "/lib", &["rbind", "ro"])
        .mount("bind", &library("/lib64"), "/lib64", &["rbind", "ro"])
        .mount("bind", &volume, "/volume", &["rbind"]);

    // Also over the root file system, which the guest may cache, and with streams.
    let output = scene.run_spec("volume", &spec).ok();
    assert_eq!(output.out(), "done\n");
    let spec = spec.set("/process/args", serde_json::json!(["/workout", "/tmp"]));
    let output = scene.run_spec("rootfs", &spec).ok();
    assert_eq!(output.out(), "done\n");
    let noise = scene.run_with(
        "c",
        &[],
        &["sh", "-c", "cat >&2; yes | head -c 3000000"],
        Input::Noise(1 << 20),
    );
    assert_eq!(noise.ok().stdout.length, 3_000_000);
    scene.detach("d", &[], &["sleep", "1000"]);
    refused_by_the_guest(&bed);
    scene.remove("d");
    bed.assert_clean();

    let mut calls_of = Calls::new();
    for file in fs::read_dir(folder.path()).expect("it is ours") {
        let file = file.expect("readable");
        if file.file_name().to_string_lossy().starts_with("trace-") {
            let trace = fs::read_to_string(file.path()).expect("strace wrote it");
            read_trace(&trace, &mut calls_of);
        }
    }
    let mut needless = Vec::new();
    for kind in ThreadKind::ALL {
        let Some(calls) = calls_of.get(&kind.to_string()) else {
            // Devices that only machines on KVM have.
            continue;
        };
        for rule in rules(kind).filter(|rule| !rule.rare && !is_used(rule, calls)) {
            // A group that several kinds share is needed if one of them needs it. The
            // spawner's list is what it hands on, and a few for itself.
            let elsewhere = ThreadKind::ALL.into_iter().any(|other| {
                let shared = rules(other).any(|theirs| std::ptr::eq(theirs, rule));
                let used = calls_of.get(&other.to_string());
                let used = used.map_or(kind == ThreadKind::Spawner, |used| is_used(rule, used));
                other != ThreadKind::Spawner && shared && used
            });
            if !elsewhere {
                needless.push(format!("{kind}: {} for {}", rule.name(), rule.why));
            }
        }
    }
    let seen: Vec<_> = calls_of.keys().collect();
    for kind in ["main", "spawner", "vhost-user", "fs", "vsock"] {
        assert!(calls_of.contains_key(kind), "no {kind} thread in {seen:?}");
    }
    assert!(
        needless.is_empty(),
        "needless rules:\n{}",
        needless.join("\n")
    );
}
