//! The seccomp filters of the VMM under a real guest: each thread has one, a violation is
//! reported, and each rule is needed.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::bed::{Bed, Plan};
use harness::dist::{self, SHIM, VMM, machine_is_ours, machine_is_qemu, subject_is_ours};
use harness::run::{Input, run};
use harness::scene::{Scene, limit};
use harness::spec::Spec;
use harness::trace::{self, Trace};
use harness::{Reason, require};
use hypervisor::jail::ThreadKind;

#[test]
fn every_thread_has_a_filter() {
    require!(subject_is_ours());
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

/// A VMM under strace, which leaves a file `trace-*` per VM in `dir`. The VMM stays the process
/// that its owner started.
fn tracing_vmm(dir: &Path, options: &str) -> PathBuf {
    let wrapper = dir.join(VMM);
    let script = format!(
        "#!/bin/sh\nread -r id < /proc/sys/kernel/random/uuid\n\
         exec /usr/bin/strace -D -f {options} -o {}/{}$id {} \"$@\"\n",
        dir.display(),
        trace::PREFIX,
        dist::binary(VMM).display()
    );
    fs::write(&wrapper, script).expect("the folder is ours");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    wrapper
}

/// A bed with such a VMM.
fn traced(dir: &Path, hypervisor: &str, options: &str) -> Bed {
    let vmm = tracing_vmm(dir, options).display().to_string();
    Bed::with(Plan {
        config: format!("hypervisor = {hypervisor:?}\nvmm = {vmm:?}\n"),
        ..Plan::default()
    })
}

#[test]
fn forbidden_call_ends_the_vm_and_is_named() {
    require!(subject_is_ours());
    let folder = tempfile::tempdir().expect("/tmp is writable");
    // Simulates a thread under an attacker's control: its sync calls are replaced by another
    // system call.
    let bed = traced(
        folder.path(),
        &dist::hypervisor(),
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

/// Asks for a port of the guest on which no process listens.
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
    require!(subject_is_ours());
    require!(machine_is_qemu());
    let folder = tempfile::tempdir().expect("/tmp is writable");
    let bed = traced(folder.path(), "qemu", trace::OPTIONS);
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

    let trace = Trace::read(folder.path());
    let kinds = [
        ThreadKind::Main,
        ThreadKind::Spawner,
        ThreadKind::VhostUser,
        ThreadKind::Fs,
        ThreadKind::Vsock,
    ];
    trace.assert_needed(&kinds, &[]);
}

/// The rules of thread kinds that only rust-kata-vmm's own machines have.
#[test]
fn no_rule_of_a_machine_is_needless() {
    require!(subject_is_ours());
    require!(machine_is_ours());
    let folder = tempfile::tempdir().expect("/tmp is writable");
    let bed = traced(folder.path(), "kvm", trace::OPTIONS);
    let scene = Scene::subject(&bed);

    let output = scene.run_with("c", &[], &["wc", "-c"], Input::Noise(1 << 20));
    assert_eq!(output.ok().out(), "1048576\n");
    bed.assert_clean();

    let trace = Trace::read(folder.path());
    trace.assert_needed(
        &[ThreadKind::Machine, ThreadKind::Vcpu],
        &[ThreadKind::VhostUser],
    );
    trace.assert_seen(&[ThreadKind::Simple, ThreadKind::Fs, ThreadKind::Vsock]);
}

/// A test that needs no KVM takes long in the KVM test host if that is emulated.
fn kvm_is_not_emulated() -> Result<(), Reason> {
    match std::env::var_os("KVM_HOST_NESTED") {
        Some(_) => Err(Reason::Emulated),
        None => Ok(()),
    }
}

/// The rules of devices that are not in every pod, by their unit tests on real disks and taps,
/// with each thread under its filter.
#[test]
fn no_rule_of_a_device_is_needless() {
    require!(subject_is_ours());
    require!(kvm_is_not_emulated());
    let folder = tempfile::tempdir().expect("/tmp is writable");
    let mut command = Command::new("/usr/bin/strace");
    command
        .arg("-f")
        .args(trace::OPTIONS.split(' '))
        .arg("-o")
        .arg(folder.path().join(format!("{}devices", trace::PREFIX)))
        .arg(trace::unit_tests())
        .args([
            "virtio::block::tests",
            "virtio::net::tests",
            "virtio::balloon::tests",
        ])
        .args(["--skip", "stress", "--test-threads=1"])
        .env("RUST_KATA_TEST_CONFINE", "1");

    run(command, Input::Null, limit()).ok();

    let trace = Trace::read(folder.path());
    trace.assert_needed(
        &[ThreadKind::Block, ThreadKind::Net, ThreadKind::Simple],
        &[ThreadKind::Fs],
    );
}
