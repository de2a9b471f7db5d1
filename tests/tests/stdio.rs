//! Input and output: no byte is lost, and none is held back.

use harness::dist::patience;
use harness::oracle::compare;
use harness::run::{Input, noise_sha256};
use harness::scene::limit;

const MIB: u64 = 1 << 20;

/// The container prints it when it runs: `ctr` ignores an end of input before the task is
/// created.
const READY: &str = "ready\n";

#[test]
fn stdin_is_read_to_its_end() {
    compare(|scene| {
        let mut talk = scene.start(
            "c",
            &["--rm"],
            &["sh", "-c", "echo ready; cat; echo; echo end"],
            Input::Open,
        );
        talk.stdout.expect(READY, limit());

        talk.send(b"one\ntwo\nthree");
        talk.close_stdin();

        let output = talk.finish(patience(30.0)).ok();
        scene.see_output("echo", &output);
        assert_eq!(output.out(), "ready\none\ntwo\nthree\nend\n");
    });
}

#[test]
fn an_empty_stdin_ends() {
    compare(|scene| {
        let mut talk = scene.start(
            "c",
            &["--rm"],
            &["sh", "-c", "echo ready; wc -c"],
            Input::Open,
        );
        talk.stdout.expect(READY, limit());

        talk.close_stdin();

        scene.see_output("count", &talk.finish(patience(30.0)).ok());
    });
}

#[test]
fn stdin_may_be_left_unread() {
    compare(|scene| {
        let output = scene.run_with("c", &[], &["true"], Input::Noise(8 * MIB));

        scene.see_output("output", &output.ok());
        scene.see_events("c");
    });
}

#[test]
fn a_conversation_is_not_held_back() {
    compare(|scene| {
        let script = "while read line; do echo got $line; done; echo bye";
        let mut talk = scene.start("c", &["--rm"], &["sh", "-c", script], Input::Open);

        for word in ["a", "b", "c"] {
            talk.send(format!("{word}\n").as_bytes());
            talk.stdout.expect(&format!("got {word}\n"), patience(60.0));
        }
        talk.close_stdin();

        let output = talk.finish(patience(30.0)).ok();
        scene.see_output("conversation", &output);
    });
}

#[test]
fn two_hundred_megabytes_pass_unchanged() {
    compare(|scene| {
        let length = 200 * MIB;

        let output = harness::run::run(
            scene.run_command("c", &["--rm"], &["cat"]),
            Input::Noise(length),
            patience(300.0),
        );

        let output = output.ok();
        scene.see_output("output", &output);
        assert_eq!(output.stdout.length, length);
        assert_eq!(output.stdout.sha256(), noise_sha256(length));
    });
}

#[test]
fn a_burst_before_the_exit_is_not_cut() {
    compare(|scene| {
        let script = "head -c 104857600 /dev/zero | tr '\\0' x; echo last >&2; exit 7";

        let output = harness::run::run(
            scene.run_command("c", &["--rm"], &["sh", "-c", script]),
            Input::Null,
            patience(240.0),
        );

        let output = output.exits(7);
        scene.see("stderr", output.err());
        scene.see_events("c");
        // runc's shim waits two seconds for its copies and then drops the rest.
        if scene.is_vm() {
            assert_eq!(output.stdout.length, 100 * MIB);
        }
    });
}

#[test]
fn a_slow_reader_loses_nothing() {
    compare(|scene| {
        // The pipe of `head` fills, and blocks `ctr`, until it is read.
        let output = scene
            .run(
                "c",
                &[],
                &[
                    "sh",
                    "-c",
                    "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done",
                ],
            )
            .ok();

        scene.see_output("output", &output);
        assert!(output.out().ends_with("line 19999\n"));
    });
}

#[test]
fn a_background_child_with_the_stdout_does_not_hold_back_the_exit() {
    compare(|scene| {
        // In a private pid namespace it is killed with its init; in the host's it would not be.
        let output = scene
            .run("c", &[], &["sh", "-c", "sleep 1000 & echo started"])
            .ok();

        scene.see_output("output", &output);
        scene.see_events("c");
    });
}

#[test]
fn a_container_without_stdio_runs() {
    compare(|scene| {
        scene.detach(
            "c",
            &[],
            &["sh", "-c", "echo to nobody; echo neither >&2; exit 3"],
        );
        scene.await_event("c", "/tasks/exit");

        scene.see("exit code", scene.delete("c"));
        scene.see_events("c");
        scene.remove("c");
    });
}
