//! One container: output, exit codes, environment, arguments, identity.

use harness::oracle::compare;
use harness::spec::Spec;
use serde_json::json;

#[test]
fn output_and_errors_stay_apart() {
    compare(|scene| {
        let output = scene.shell("c", &[], "echo out; echo err >&2; echo more");

        scene.see_output("two streams", &output);
        assert_eq!(
            (output.out().as_str(), output.err().as_str()),
            ("out\nmore\n", "err\n")
        );
        scene.see_events("c");
    });
}

#[test]
fn exit_codes_come_back() {
    compare(|scene| {
        for (id, script, code) in [
            ("one", "exit 1", 1),
            ("many", "exit 42", 42),
            ("killed", "sh -c 'kill -9 $$'; exit $?", 137),
        ] {
            let output = scene.shell(id, &[], script);

            scene.see_output(id, &output.exits(code));
            scene.see_events(id);
        }
    });
}

#[test]
fn environment_arguments_folder_and_hostname_arrive() {
    compare(|scene| {
        let long = "x".repeat(20_000);
        let spec = Spec::new(
            &scene.bed.rootfs(),
            &[
                "sh",
                "-c",
                "env | sort; pwd; hostname; for a; do echo \"<$a>\"; done",
                "sh",
                "a b",
                "",
                "ü*\n$",
                &long,
            ],
        )
        .set(
            "/process/env",
            json!(["PATH=/bin", "EMPTY=", "TEXT=a = b $HOME", "LANG=ü"]),
        )
        .set("/process/cwd", json!("/tmp"))
        .set("/hostname", json!("a-name"));

        let output = scene.run_spec("c", &spec).ok();

        scene.see_output("what the process got", &output);
        for wanted in [
            "EMPTY=\n",
            "TEXT=a = b $HOME\n",
            "/tmp\na-name\n<a b>\n<>\n<ü*\n$>\n",
            &long,
        ] {
            assert!(output.out().contains(wanted), "no {wanted:?} in {output:?}");
        }
    });
}

#[test]
fn flags_of_ctr_run_arrive() {
    compare(|scene| {
        let flags = [
            "--env",
            "A=1",
            "--env",
            "B=2 3",
            "--cwd",
            "/var",
            "--read-only",
        ];

        let output = scene
            .shell("c", &flags, "echo $A $B; pwd; touch /var/x || echo refused")
            .ok();

        scene.see_output("what the process got", &output);
        assert!(
            output.out().contains("1 2 3\n/var\nrefused\n"),
            "{output:?}"
        );
    });
}

#[test]
fn a_missing_working_folder_is_as_under_runc() {
    compare(|scene| {
        let output = scene.shell("c", &["--cwd", "/made/on/demand"], "pwd");

        scene.see("exit code", output.code);
        scene.see("stdout", output.out());
    });
}

#[test]
fn user_and_groups_are_those_of_the_spec() {
    compare(|scene| {
        let probe = "id; grep -E '^(Uid|Gid|Groups)' /proc/self/status; umask; touch /tmp/mine; stat -c %u:%g /tmp/mine";
        let spec = Spec::new(&scene.bed.rootfs(), &["sh", "-c", probe]).set(
            "/process/user",
            json!({ "uid": 1000, "gid": 1000, "additionalGids": [2000, 3000], "umask": 0o027 }),
        );

        let output = scene.run_spec("c", &spec).ok();

        scene.see_output("identity", &output);
        assert!(
            output.out().contains("groups=2000(extra),3000"),
            "{output:?}"
        );
    });
}

#[test]
fn the_machine_is_the_guest_and_pid_1_the_command() {
    compare(|scene| {
        let output = scene
            .shell(
                "c",
                &[],
                "echo pid $$; uname -r; grep MemTotal /proc/meminfo",
            )
            .ok();

        let text = output.out();
        assert!(text.starts_with("pid 1\n"), "{text}");
        let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
        let same = text.contains(&format!("\n{}\n", host.trim()));
        assert_eq!(
            same,
            !scene.is_vm(),
            "kernel of the host is {host}, the container saw {text}"
        );
    });
}

#[test]
fn ids_of_64_characters_work() {
    compare(|scene| {
        let id = "0123456789abcdef".repeat(4);

        let output = scene.shell(&id, &[], "echo here").ok();

        scene.see_output("output", &output);
        scene.see_events(&id);
    });
}
