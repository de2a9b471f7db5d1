//! Further processes in a running container.

use harness::dist::patience;
use harness::oracle::compare;
use harness::run::{Input, Running, noise_sha256};
use harness::scene::{Scene, limit};
use harness::spec::Spec;

/// Runs `play` with a container that waits to be killed.
fn within(scene: &Scene, play: impl FnOnce()) {
    scene.detach("c", &[], &["sleep", "1000"]);
    play();
    scene.task(&["kill", "-s", "KILL", "c"]).ok();
    scene.await_event("c", "/tasks/exit");
    assert_eq!(scene.delete("c"), 137);
    scene.see_events("c");
    scene.remove("c");
}

#[test]
fn streams_codes_user_and_folder() {
    compare(|scene| {
        within(scene, || {
            let script = "echo out; echo err >&2; pwd; id; echo $PATH; exit 42";
            let flags = ["--cwd", "/tmp", "--user", "1000:2000"];
            scene.see_output(
                "as a user",
                &scene
                    .exec("c", "e1", &flags, &["sh", "-c", script])
                    .exits(42),
            );
            scene.see_output("false", &scene.exec("c", "e2", &[], &["false"]).exits(1));
            scene.see_output(
                "killed",
                &scene
                    .exec("c", "e3", &[], &["sh", "-c", "kill -9 $$"])
                    .exits(137),
            );
            let long = "y".repeat(20_000);
            scene.see_output(
                "long",
                &scene.exec("c", "e4", &[], &["echo", "a b", &long]).ok(),
            );
            let sees = scene.exec(
                "c",
                "e5",
                &[],
                &[
                    "sh",
                    "-c",
                    "ps -o comm | grep -c sleep; hostname > /dev/null",
                ],
            );
            scene.see_output("the first process", &sees.ok());
        });
    });
}

#[test]
fn input_and_much_output() {
    compare(|scene| {
        within(scene, || {
            let command = scene.exec_command(
                "c",
                "e1",
                &[],
                &["sh", "-c", "echo ready; cat; echo; echo end"],
            );
            let mut talk = Running::spawn(command, Input::Open);
            talk.stdout.expect("ready\n", limit());
            talk.send(b"words");
            talk.close_stdin();
            scene.see_output("words", &talk.finish(patience(30.0)).ok());

            let length = 20 << 20;
            let output = scene
                .exec_with("c", "e2", &[], &["cat"], Input::Noise(length))
                .ok();
            assert_eq!(output.stdout.sha256(), noise_sha256(length));
            scene.see_output("noise", &output);
        });
    });
}

#[test]
fn a_command_that_cannot_start_is_refused_and_harms_nothing() {
    compare(|scene| {
        within(scene, || {
            let unknown = scene.exec("c", "e1", &[], &["no-such-command", "x"]);
            scene.see_refusal("unknown command", &unknown, "no-such-command");
            assert!(unknown.elapsed < patience(2.0), "{unknown:?}");
            let folder = scene.exec("c", "e2", &[], &["/tmp"]);
            scene.see_refusal("a folder", &folder, "/tmp");
            let plain = scene.exec("c", "e3", &[], &["/etc/passwd"]);
            scene.see_refusal("not executable", &plain, "/etc/passwd");
            let user = scene.exec("c", "e4", &["--user", "nobody-knows"], &["true"]);
            scene.see_refusal("unknown user", &user, "");
            let terminal = scene.exec("c", "e5", &[], &["nor-this"]);
            scene.see_refusal("unknown again", &terminal, "nor-this");
            scene.see_output(
                "after that",
                &scene.exec("c", "e1", &[], &["echo", "works"]).ok(),
            );
        });
    });
}

#[test]
fn an_exec_id_is_not_given_twice() {
    compare(|scene| {
        within(scene, || {
            scene.exec("c", "same", &["-d"], &["sleep", "1000"]).ok();
            let again = scene.exec("c", "same", &[], &["true"]);
            scene.see_refusal("the id again", &again, "exists");
            let unknown = scene.exec("nobody", "e", &[], &["true"]);
            scene.see_refusal("no such container", &unknown, "not found");
            scene
                .task(&["kill", "--exec-id", "same", "-s", "KILL", "c"])
                .ok();
            let wanted = |event: &harness::events::Event| {
                event.topic == "/tasks/exit" && event.exec() == "same"
            };
            assert!(
                scene.bed.events.wait(limit(), wanted).is_some(),
                "no exit of the exec"
            );
            let deleted = scene.task(&["rm", "--exec-id", "same", "c"]);
            scene.see("code of the deleted exec", deleted.code);
        });
    });
}

#[test]
fn an_exec_ends_with_its_container() {
    compare(|scene| {
        scene.detach("c", &[], &["sleep", "1000"]);
        let command = scene.exec_command("c", "e", &[], &["sh", "-c", "echo ready; sleep 1000"]);
        let exec = Running::spawn(command, Input::Null);
        exec.stdout.expect("ready\n", limit());

        scene.task(&["kill", "-s", "KILL", "c"]).ok();

        let output = exec.finish(patience(30.0));
        scene.see("exit code of the exec", output.code);
        scene.remove("c");
    });
}

#[test]
fn execs_side_by_side() {
    compare(|scene| {
        scene.detach("c", &[], &["sleep", "1000"]);
        let talks: Vec<Running> = (0..6)
            .map(|n| {
                let script = format!("echo {n}; cat; echo err {n} >&2; exit {n}");
                let argv = ["sh", "-c", script.as_str()];
                Running::spawn(
                    scene.exec_command("c", &format!("e{n}"), &[], &argv),
                    Input::Open,
                )
            })
            .collect();
        for (n, mut talk) in talks.into_iter().enumerate() {
            talk.stdout.expect(&format!("{n}\n"), limit());
            talk.send(format!("to {n}\n").as_bytes());
            talk.close_stdin();
            let output = talk.finish(limit()).exits(n as i32);
            assert_eq!(output.out(), format!("{n}\nto {n}\n"));
            assert_eq!(output.err(), format!("err {n}\n"));
        }
        scene.remove("c");
        scene.await_event("c", "/tasks/delete");
        // The order between concurrent processes is random, that within each is not.
        for n in 0..6 {
            let own = format!("exec=e{n}");
            let events: Vec<String> = scene
                .events("c")
                .into_iter()
                .filter(|event| event.contains(&own))
                .collect();
            scene.see(&own, events);
        }
    });
}

#[test]
fn rights_of_an_exec_are_those_of_the_container() {
    compare(|scene| {
        let spec = Spec::new(&scene.bed.rootfs(), &["sleep", "1000"]).capabilities(&["CAP_CHOWN"]).set(
            "/linux/seccomp",
            serde_json::json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }],
            }),
        );
        scene.detach_spec("c", &spec);

        let script = "grep -E 'Cap(Eff|Bnd|Prm)|Seccomp:|NoNewPrivs' /proc/self/status; mkdir /tmp/x || echo denied";
        let output = scene.exec("c", "e", &[], &["sh", "-c", script]).ok();

        scene.see_output("rights", &output);
        scene.remove("c");
    });
}
