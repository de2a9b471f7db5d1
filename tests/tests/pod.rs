//! Pods: containers that are grouped by CRI annotations share one VM and one shim.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::dist::{QEMU, SHIM, VMM, machine, patience, subject_is_ours};
use harness::oracle::compare;
use harness::process;
use harness::require;
use harness::run::{Input, run};
use harness::scene::{Scene, limit};
use harness::spec::Spec;
use serde_json::json;

/// A network namespace, as CNI makes one for a pod.
struct Netns(String);

impl Netns {
    fn new(name: &str) -> Self {
        ip(&["netns", "add", name]);
        ip(&["-n", name, "link", "set", "lo", "up"]);
        Self(name.to_owned())
    }

    fn path(&self) -> PathBuf {
        Path::new("/var/run/netns").join(&self.0)
    }

    fn holds(&self, pid: u32) -> bool {
        let inode = |path: &Path| std::fs::metadata(path).map(|data| data.ino()).ok();
        inode(&self.path()) == inode(Path::new(&format!("/proc/{pid}/ns/net")))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        ip(&["netns", "delete", &self.0]);
    }
}

fn ip(args: &[&str]) {
    let mut command = Command::new("ip");
    command.args(args);
    run(command, Input::Null, patience(10.0)).ok();
}

/// Starts a waiting sandbox `pod` for containers that join it; returns its pid.
fn sandbox(scene: &Scene, netns: &Netns) -> u32 {
    // As with "pause", it ends on SIGTERM even though it is PID 1.
    let script = "trap 'exit 0' TERM; while :; do sleep 0.2; done";
    let spec = Spec::new(&scene.bed.rootfs(), &["sh", "-c", script])
        .sandbox("pod")
        .set("/hostname", json!("the-pod"))
        .namespace("network", Some(&netns.path()));
    scene.detach_spec("pod", &spec);
    scene.pid("pod")
}

fn app(scene: &Scene, sandbox: u32, argv: &[&str]) -> Spec {
    let of = |kind: &str| PathBuf::from(format!("/proc/{sandbox}/ns/{kind}"));
    let mut spec = Spec::new(&scene.bed.rootfs(), argv)
        .in_pod("pod")
        .namespace("network", Some(&of("net")))
        .namespace("ipc", Some(&of("ipc")))
        .namespace("uts", Some(&of("uts")));
    spec.0.as_object_mut().map(|spec| spec.remove("hostname"));
    spec
}

/// The number of processes of each of rust-kata's programs.
fn count(scene: &Scene) -> [usize; 3] {
    [SHIM, VMM, QEMU].map(|name| scene.bed.named(name).len())
}

#[test]
fn containers_of_a_pod_share_vm_and_shim_and_end_one_by_one() {
    compare(|scene| {
        let netns = Netns::new(scene.bed.namespace());
        let pid = sandbox(scene, &netns);
        let one_vm = |when: &str| {
            if scene.is_vm() {
                let qemus = usize::from(machine() == QEMU);
                assert_eq!(count(scene), [1, 1, qemus], "shims, VMMs and QEMUs {when}");
            }
        };
        assert!(
            netns.holds(pid),
            "the sandbox's pid {pid} is not in the pod's network namespace"
        );
        one_vm("with the sandbox alone");
        for found in scene.bed.named(QEMU) {
            assert!(
                netns.holds(found.pid),
                "{found:?} is not in the pod's network namespace"
            );
        }
        for found in scene.bed.named(VMM) {
            assert!(
                !netns.holds(found.pid),
                "{found:?} has a network namespace of its own"
            );
        }

        scene.detach_spec(
            "a",
            &app(
                scene,
                pid,
                &["sh", "-c", "nc -l -p 7000 -e cat & exec sleep 1000"],
            ),
        );
        let script = "hostname; echo err >&2; until echo over loopback | nc 127.0.0.1 7000; do usleep 100000; done; exit 5";
        let b = run(
            scene.spec_command("b", &["--rm"], &app(scene, pid, &["sh", "-c", script])),
            Input::Null,
            limit(),
        );
        scene.see_output("b", &b.exits(5));
        scene.see_events("b");
        one_vm("after b came and went");
        scene.see("the others", (scene.status("pod"), scene.status("a")));

        scene.detach_spec("c", &app(scene, pid, &["sleep", "1000"]));
        let names = |what: &str, exec: &str| {
            scene.see_output(what, &scene.exec(what, exec, &[], &["hostname"]).ok())
        };
        names("a", "e1");
        names("c", "e2");
        scene.task(&["kill", "-s", "KILL", "a"]).ok();
        scene.await_event("a", "/tasks/exit");
        scene.remove("a");
        scene.see_events("a");
        scene.see(
            "after a was removed",
            (scene.status("pod"), scene.status("a"), scene.status("c")),
        );
        names("c", "e3");
        one_vm("after a was removed");

        scene.remove("c");
        scene.remove("pod");
        scene.see_events("pod");
    });
}

/// Ends the sandbox's container by `end` while another runs.
fn outlives_its_sandbox(end: impl Fn(&Scene, u32)) {
    require!(subject_is_ours());
    let bed = harness::bed::Bed::new();
    let scene = &Scene::subject(&bed);
    let netns = Netns::new(bed.namespace());
    let pid = sandbox(scene, &netns);
    scene.detach_spec("a", &app(scene, pid, &["sleep", "1000"]));

    end(scene, pid);
    scene.await_event_within("pod", "/tasks/exit", patience(10.0));

    assert_eq!(scene.status("a").as_deref(), Some("RUNNING"));
    assert_eq!(
        scene.exec("a", "e", &[], &["echo", "lives"]).ok().out(),
        "lives\n"
    );
    let qemus = usize::from(machine() == QEMU);
    assert_eq!(count(scene), [1, 1, qemus]);
    scene.remove("a");
    scene.remove("pod");
}

#[test]
fn a_pod_outlives_its_sandbox_container() {
    outlives_its_sandbox(|scene, _| {
        scene.task(&["kill", "-s", "KILL", "pod"]).ok();
    });
}

#[test]
fn a_signal_to_the_pid_of_the_sandbox_ends_it_alone() {
    // A CRI client then sees NOTREADY, and can still stop and remove the pod.
    outlives_its_sandbox(|_, pid| process::signal(pid, nix::sys::signal::Signal::SIGTERM));
}

#[test]
fn a_bad_container_is_refused_within_two_seconds_and_harms_no_other() {
    compare(|scene| {
        let netns = Netns::new(scene.bed.namespace());
        let pid = sandbox(scene, &netns);
        let refused = |id: &str, spec: Spec, named: &str| {
            let output = run(
                scene.spec_command(id, &["--rm"], &spec),
                Input::Null,
                limit(),
            );
            scene.see_refusal(id, &output, named);
            assert_eq!(output.out(), "", "{output:?}");
            assert!(output.elapsed < patience(2.0), "{id}: {output:?}");
        };

        refused(
            "command",
            app(scene, pid, &["no-such-command"]),
            "no-such-command",
        );
        refused(
            "plain-file",
            app(scene, pid, &["/etc/passwd"]),
            "/etc/passwd",
        );
        let no_root = app(scene, pid, &["true"]).set("/root/path", json!("/no/such/rootfs"));
        refused("rootfs", no_root, "rootfs");
        let no_source =
            app(scene, pid, &["true"]).mount("bind", "/no/such/source".as_ref(), "/v", &["rbind"]);
        refused("source", no_source, "/no/such/source");
        let sysctl =
            app(scene, pid, &["true"]).set("/linux/sysctl", json!({ "kernel.no_such_thing": "1" }));
        refused("sysctl", sysctl, "no_such_thing");
        let seccomp = app(scene, pid, &["true"]).set(
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_NONSENSE" }),
        );
        refused("seccomp", seccomp, "SCMP_ACT_NONSENSE");

        let good = run(
            scene.spec_command("good", &["--rm"], &app(scene, pid, &["echo", "works"])),
            Input::Null,
            limit(),
        );
        scene.see_output("after all that", &good.ok());
        scene.see("the sandbox", scene.status("pod"));
        scene.remove("pod");
    });
}
