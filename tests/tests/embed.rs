//! The example program of docs/embedding.md, built and run: a pod by the library alone.

use std::path::PathBuf;
use std::process::Command;

use harness::bed::Bed;
use harness::dist::{self, subject_is_ours};
use harness::run::{Input, Output, run};
use harness::scene::limit;
use harness::{Reason, require};
use serde_json::Value;

/// Builds the example, as its reader would.
fn example() -> Result<PathBuf, Reason> {
    let cargo = std::env::var_os("CARGO").ok_or(Reason::Cargo)?;
    let built = Command::new(cargo)
        .args(["build", "--locked", "--message-format=json"])
        .args(["-p", "rust-kata-runtime", "--example", "embed"])
        .current_dir(dist::workspace())
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
    let messages = String::from_utf8(built.stdout).expect("cargo writes UTF-8");
    let program = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_example = message["target"]["name"] == "embed";
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
    let program = require!(example());
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
