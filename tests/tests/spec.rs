//! Containers get what their spec asks for: devices, limits, and all reductions of rights.

use std::fs;

use harness::oracle::compare;
use harness::spec::Spec;
use serde_json::json;

#[test]
fn the_usual_devices_and_one_more() {
    compare(|scene| {
        let script = "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a %F' /dev/$d; done
            ls -l /dev/fd /dev/stdin /dev/stdout /dev/stderr /dev/ptmx | sed 's/.* \\//\\//'
            stat -c '%n %t:%T %a %u:%g %F' /dev/mine; head -c 4 /dev/mine | od -An -tx1
            echo x > /dev/full || echo no space; head -c 8 /dev/urandom | wc -c; echo gone > /dev/null
            mknod /tmp/sda b 8 0 && head -c 1 /tmp/sda || echo not allowed";
        let spec = Spec::new(&scene.bed.rootfs(), &["sh", "-c", script])
            .push(
                "/linux/devices",
                json!({ "path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8 }),
            )
            .push("/linux/resources/devices", json!({ "allow": true, "type": "c", "major": 1, "minor": 5, "access": "r" }));

        let output = scene.run_spec("c", &spec).ok();

        scene.see("stdout", output.out());
        assert!(output.out().contains("not allowed"), "{output:?}");
    });
}

#[test]
fn resource_limits_of_the_process() {
    compare(|scene| {
        let spec = Spec::new(&scene.bed.rootfs(), &["cat", "/proc/self/limits"]).set(
            "/process/rlimits",
            json!([
                { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
                { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
                { "type": "RLIMIT_NPROC", "soft": 50, "hard": 60 },
                { "type": "RLIMIT_STACK", "soft": 1 << 20, "hard": 8 << 20 },
                { "type": "RLIMIT_FSIZE", "soft": 1 << 30, "hard": 1 << 30 },
            ]),
        );

        let output = scene.run_spec("c", &spec).ok();

        let text = output.out();
        let line = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_default();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let set = [
            "Max open files",
            "Max core",
            "Max processes",
            "Max stack",
            "Max file size",
        ];
        scene.see("limits", set.map(line));
        assert_eq!(line("Max open files"), "Max open files 100 200 files");
    });
}

#[test]
fn capabilities_are_those_of_the_spec() {
    compare(|scene| {
        let script = "grep Cap /proc/self/status; chown 1 /tmp/f 2>/dev/null || echo no chown
            hostname x 2>/dev/null || echo no hostname; mount -t tmpfs t /mnt 2>/dev/null || echo no mount";
        let rootfs = scene.bed.rootfs();
        fs::write(rootfs.join("tmp/f"), "").expect("ours");
        let sets = [
            vec![],
            vec!["CAP_CHOWN", "CAP_KILL"],
            vec!["CAP_SYS_ADMIN", "CAP_NET_ADMIN"],
        ];
        for (index, set) in sets.iter().enumerate() {
            let id = format!("c{index}");
            let spec = Spec::new(&rootfs, &["sh", "-c", script]).capabilities(set);

            let output = scene.run_spec(&id, &spec).ok();

            scene.see(&format!("with {set:?}"), output.out());
        }
        let user = Spec::new(&rootfs, &["grep", "Cap", "/proc/self/status"])
            .set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
            .set(
                "/process/capabilities/inheritable",
                json!(["CAP_NET_BIND_SERVICE"]),
            )
            .set(
                "/process/capabilities/ambient",
                json!(["CAP_NET_BIND_SERVICE"]),
            );
        scene.see(
            "as a user, with an ambient one",
            scene.run_spec("user", &user).ok().out(),
        );
    });
}

#[test]
fn seccomp_no_new_privileges_and_hidden_paths() {
    compare(|scene| {
        let script = "mkdir /tmp/d || echo no mkdir; chmod 600 /tmp/f; echo chmod $?; touch /tmp/x && echo touched
            grep -E 'Seccomp:|NoNewPrivs' /proc/self/status
            cat /proc/kcore 2>/dev/null | wc -c; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/panic || echo read-only
            cat /etc/hidden | wc -c; ls /masked | wc -l; touch /frozen/x || echo frozen";
        let rootfs = scene.bed.rootfs();
        fs::write(rootfs.join("tmp/f"), "").expect("ours");
        fs::write(rootfs.join("etc/hidden"), "secret").expect("ours");
        fs::create_dir(rootfs.join("masked")).expect("ours");
        fs::write(rootfs.join("masked/secret"), "secret").expect("ours");
        fs::create_dir(rootfs.join("frozen")).expect("ours");
        let spec = Spec::new(&rootfs, &["sh", "-c", script])
            .push("/linux/maskedPaths", json!("/etc/hidden"))
            .push("/linux/maskedPaths", json!("/masked"))
            .push("/linux/readonlyPaths", json!("/frozen"))
            .set("/process/noNewPrivileges", json!(true))
            .set(
                "/linux/seccomp",
                json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
                    "syscalls": [
                        { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 },
                        // Only the mode 0o600.
                        { "names": ["chmod"], "action": "SCMP_ACT_ERRNO",
                          "args": [{ "index": 1, "value": 0o600, "op": "SCMP_CMP_EQ" }] },
                    ],
                }),
            );

        let output = scene.run_spec("c", &spec);

        scene.see_output("what was denied", &output);
        assert!(
            output.err().contains("not supported"),
            "errnoRet is EOPNOTSUPP: {output:?}"
        );
        assert!(output.out().contains("Seccomp:\t2"), "{output:?}");
    });
}

#[test]
fn a_seccomp_kill_ends_the_process_with_sigsys() {
    compare(|scene| {
        let spec = Spec::new(
            &scene.bed.rootfs(),
            &["sh", "-c", "sh -c 'mkdir /tmp/d'; echo code $?"],
        )
        .set(
            "/linux/seccomp",
            json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS" }],
            }),
        );

        let output = scene.run_spec("c", &spec);

        scene.see("stdout", output.out());
        assert_eq!(output.out(), "code 159\n");
    });
}

#[test]
fn the_default_seccomp_profile_of_containerd_works() {
    compare(|scene| {
        let output = scene
            .shell(
                "c",
                &["--seccomp"],
                "grep Seccomp: /proc/self/status; unshare -m true || echo denied",
            )
            .ok();

        scene.see("stdout", output.out());
        assert!(output.out().contains("Seccomp:\t2\n"), "{output:?}");
    });
}

#[test]
fn sysctls_are_set() {
    compare(|scene| {
        let spec = Spec::new(
            &scene.bed.rootfs(),
            &[
                "cat",
                "/proc/sys/kernel/msgmax",
                "/proc/sys/net/ipv4/ip_unprivileged_port_start",
                "/proc/sys/kernel/shmmni",
            ],
        )
        .set(
            "/linux/sysctl",
            json!({
                "kernel.msgmax": "4321",
                "kernel/shmmni": "1234",
                "net.ipv4.ip_unprivileged_port_start": "80",
            }),
        );

        let output = scene.run_spec("c", &spec).ok();

        scene.see_output("sysctls", &output);
        assert_eq!(output.out(), "4321\n80\n1234\n");
    });
}

#[test]
fn a_limit_of_processes_holds() {
    compare(|scene| {
        let script = "i=0; while [ $i -lt 30 ]; do sleep 100 & i=$((i+1)); done; echo all";
        let spec = Spec::new(&scene.bed.rootfs(), &["sh", "-c", script])
            .set("/linux/resources/pids", json!({ "limit": 10 }));

        let output = scene.run_spec("c", &spec);

        scene.see("exit code", output.code);
        scene.see("stdout", output.out());
        assert!(output.err().contains("fork"), "{output:?}");
    });
}

#[test]
fn out_of_memory_kills_with_137_and_is_told() {
    compare(|scene| {
        let spec = Spec::new(&scene.bed.rootfs(), &["tail", "/dev/zero"]).set(
            "/linux/resources/memory",
            json!({ "limit": 32 << 20, "swap": 32 << 20 }),
        );
        let running = scene.start_spec("c", &[], &spec, harness::run::Input::Null);

        let output = running.finish(harness::scene::limit());

        scene.see("exit code", output.exits(137).code);
        scene.await_event("c", "/tasks/oom");
        let mut events = scene.events("c");
        // The kernel reports the OOM kill and the exit in two ways, so their order may vary.
        events.retain(|event| event != "/tasks/oom");
        scene.see("other events", events);
        scene.remove("c");
    });
}

#[test]
fn an_out_of_memory_child_is_told_and_its_parent_lives() {
    compare(|scene| {
        let spec = Spec::new(
            &scene.bed.rootfs(),
            &["sh", "-c", "tail /dev/zero; echo child $?; exit 4"],
        )
        .set(
            "/linux/resources/memory",
            json!({ "limit": 32 << 20, "swap": 32 << 20 }),
        );

        let output = scene.run_spec("c", &spec).exits(4);

        scene.see("stdout", output.out());
        assert_eq!(output.out(), "child 137\n");
        scene.await_event("c", "/tasks/oom");
    });
}

#[test]
fn a_memory_limit_above_the_usual_size_is_to_be_had() {
    compare(|scene| {
        let spec = Spec::new(
            &scene.bed.rootfs(),
            &["sh", "-c", "mount | grep -c /dev/shm; dd if=/dev/zero of=/dev/shm/x bs=1M count=400 2>/dev/null; echo $?"],
        )
        .set("/linux/resources/memory", json!({ "limit": 512_i64 << 20 }));
        let spec = spec.mount(
            "tmpfs",
            "shm".as_ref(),
            "/dev/shm",
            &["nosuid", "nodev", "mode=1777", "size=500m"],
        );

        let output = scene.run_spec("c", &spec);

        scene.see(
            "code of the writer",
            output.out().lines().last().map(str::to_owned),
        );
        assert!(output.out().ends_with("\n0\n"), "{output:?}");
    });
}

#[test]
fn namespaces_are_private() {
    compare(|scene| {
        let script = "hostname; ls /proc/self/ns | sort; wc -l < /proc/sysvipc/shm; ls /sys/class/net; set -- /proc/[0-9]*; echo $#";
        let spec =
            Spec::new(&scene.bed.rootfs(), &["sh", "-c", script]).set("/hostname", json!("inside"));

        let output = scene.run_spec("c", &spec).ok();

        scene.see("stdout", output.out());
    });
}
