//! A reboot of the host: containers that ran can be started again, and podman's `start --all
//! --filter` starts containers by their policies. The commands after the "boot" see another
//! boot id and an empty `/run`.

use std::process::Command;
use std::time::Instant;

use harness::bed::Bed;
use harness::dist::{CLI, binary, patience, subject_is_ours};
use harness::leak;
use harness::process;
use harness::require;
use harness::run::{Input, Output, run};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The pods of a host that is about to be rebooted.
struct Host {
    bed: Bed,
    boot: Option<String>,
}

impl Host {
    fn run(&self, args: &[&str]) -> Output {
        let mut command = match &self.boot {
            None => Command::new(binary(CLI)),
            Some(boot) => {
                let mut unshare = Command::new("unshare");
                // In a mount namespace of its own, which the owner inherits.
                let script = "mount --bind $0 /proc/sys/kernel/random/boot_id && exec \"$@\"";
                unshare.args(["--mount", "--propagation", "slave"]);
                unshare.args(["sh", "-c", script, boot]).arg(binary(CLI));
                unshare
            }
        };
        command.args(args).envs(self.bed.environment());
        run(command, Input::Null, patience(90.0))
    }

    fn create(&self, pod: &str, name: &str, restart: &str) {
        let rootfs = self.bed.rootfs();
        let root = rootfs.to_str().expect("an ASCII path");
        let mut args = vec!["container", "create", "--pod", pod, "--name", name];
        args.extend_from_slice(&["--restart", restart, "--rootfs", root]);
        args.extend_from_slice(&["--stop-timeout", "0", "--", "sleep", "1000"]);
        self.run(&args).ok();
    }

    /// Ends all processes, empties `/run`, and changes the boot id.
    fn boot(&mut self) {
        let deadline = Instant::now() + patience(30.0);
        loop {
            let running = self.bed.processes();
            assert!(Instant::now() < deadline, "they go on: {running:?}");
            for process in &running {
                process::signal(process.pid, Signal::SIGKILL);
            }
            for process in &running {
                assert!(process::wait_gone(process.pid, patience(10.0)));
            }
            if running.is_empty() {
                break;
            }
        }
        leak::unmount(&self.bed.state());
        std::fs::remove_dir_all(self.bed.state()).expect("nothing is mounted there");
        let file = self.bed.fresh("boot-id");
        let id = "00000000-1111-2222-3333-444444444444\n";
        std::fs::write(&file, id).expect("the bed is ours");
        self.boot = Some(file.to_str().expect("an ASCII path").to_owned());
    }

    fn container(&self, name: &str) -> Value {
        let text = self.run(&["container", "inspect", name]).ok().out();
        let all: Value = serde_json::from_str(&text).expect("JSON");
        all[0].clone()
    }

    fn status(&self, name: &str) -> String {
        let container = self.container(name);
        container["status"].as_str().expect("a status").to_owned()
    }
}

#[test]
fn what_ran_before_a_boot_can_be_started_after_it() {
    require!(subject_is_ours());
    let mut host = Host {
        bed: Bed::new(),
        boot: None,
    };
    host.run(&["pod", "create", "--name", "p", "--vm-memory", "128"])
        .ok();
    host.run(&["pod", "create", "--name", "q"]).ok();
    for (name, restart) in [
        ("always", "always"),
        ("unless", "unless-stopped"),
        ("stopped", "unless-stopped"),
        ("never", "no"),
    ] {
        host.create("p", name, restart);
    }
    host.create("q", "idle", "on-failure:3");
    host.run(&["pod", "start", "p"]).ok();
    host.run(&["container", "stop", "stopped"]).ok();

    host.boot();

    for name in ["always", "unless", "never"] {
        let state = host.container(name)["state"].clone();
        assert_eq!(state["exit_code"], 137, "never an invented 0: {state}");
        let problem = state["problem"].as_str().expect("why it ended");
        assert!(problem.contains("started again"), "{problem}");
    }
    let list = host.run(&["pod", "ls"]).ok().out();
    assert!(
        list.contains("Exited") && list.contains("Created"),
        "{list}"
    );

    // As podman-restart.service does.
    let on_boot = "should-start-on-boot=true";
    let started = host
        .run(&["container", "start", "--all", "--filter", on_boot])
        .ok();
    assert_eq!(started.out(), "always\nunless\n");
    for name in ["always", "unless"] {
        assert_eq!(host.status(name), "running");
    }
    for name in ["stopped", "never"] {
        assert_eq!(host.status(name), "exited");
    }
    assert_eq!(host.status("idle"), "created");
    let none = [
        "container",
        "start",
        "--all",
        "--filter",
        "restart-policy=on-failure",
    ];
    let none = [&none[..], &["--filter", on_boot]].concat();
    assert_eq!(host.run(&none).ok().out(), "");
    host.run(&["pod", "start", "p"]).ok();
    assert_eq!(host.status("never"), "running");
    host.run(&["pod", "rm", "--force", "--time", "0", "--all"])
        .ok();
}
