//! The example programs of docs/embedding.md, built and run: pods by the library alone.

use std::path::PathBuf;
use std::process::Command;

use harness::bed::Bed;
use harness::dist::{self, subject_is_ours};
use harness::run::{Input, Output, run};
use harness::scene::limit;
use harness::{Reason, require};
use serde_json::Value;

/// Builds an example, as its reader would.
fn example(name: &str) -> Result<PathBuf, Reason> {
    let cargo = std::env::var_os("CARGO").ok_or(Reason::Cargo)?;
    let built = Command::new(cargo)
        .args(["build", "--locked", "--message-format=json"])
        .args(["-p", "rust-kata-runtime", "--example", name])
        .current_dir(dist::workspace())
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
    let messages = String::from_utf8(built.stdout).expect("cargo writes UTF-8");
    let program = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_example = message["target"]["name"] == name;
        message["executable"]
            .as_str()
            .filter(|_| is_example)
            .map(PathBuf::from)
    });
    Ok(program.unwrap_or_else(|| panic!("cargo does not say where it is: {said}")))
}

#[test]
fn the_example_boots_a_vm_runs_a_command_and_leaves_nothing() {
    require!(subject_is_ours());
    let program = require!(example("embed"));
    let bed = Bed::new();
    let rootfs = bed.rootfs();
    std::fs::write(rootfs.join("of-the-host"), "of the host\n").expect("the bed is ours");
    let embed = |words: &[&str]| -> Output {
        let mut command = Command::new(&program);
        command.envs(bed.environment());
        command.args([&dist::dist(), &rootfs]).args(words);
        let output = run(command, Input::Null, limit());
        bed.assert_clean();
        output
    };

    let script = "hostname; pwd; cat /of-the-host; echo err >&2; exit 7";
    let output = embed(&["sh", "-c", script]).exits(7);
    assert_eq!(
        (output.out().as_str(), output.err().as_str()),
        ("embed\n/\nof the host\n", "err\n")
    );

    // What it does without a command; and with one that cannot be run.
    assert!(embed(&[]).ok().out().starts_with("Linux embed "));
    let refused = embed(&["/bin/nope"]).exits(125);
    assert!(refused.err().contains("/bin/nope"), "{refused:?}");
}

#[test]
fn the_engines_example_runs_a_pod_that_another_process_owns_and_removes_it() {
    require!(subject_is_ours());
    let program = require!(example("pods"));
    let bed = Bed::new();
    let mut command = Command::new(&program);
    command.envs(bed.environment());
    command.arg(dist::binary(dist::CLI)).arg(bed.rootfs());
    let output = run(command, Input::Null, limit()).ok();
    let expected = [
        "example is Running",
        "order: db web",
        "web says (\"hello\\n\", 3)",
        "db runs sleep 3600",
        "2 containers use the VM",
        "web is paused",
        "web ended with 137",
        "db is running",
        "example is Exited",
        "removed",
    ];
    assert_eq!(
        output.out().lines().collect::<Vec<_>>(),
        expected,
        "{output:?}"
    );
    bed.assert_clean();
}
