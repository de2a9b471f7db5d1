//! Many processes in one pod at once.

use std::process::Command;
use std::time::Duration;

use harness::bed::{Bed, Plan};
use harness::dist::{self, patience, subject_is_ours};
use harness::pods::{self, SLEEP};
use harness::require;
use harness::run::{Input, Running, run};
use harness::scene::limit;

/// More than an owner has blocking threads, at two streams each.
const EXECS: usize = 300;

/// How many are started at a time.
const WAVE: usize = 10;

#[test]
fn three_hundred_execs_live_at_once_and_all_answer() {
    require!(subject_is_ours());
    let bed = Bed::with(Plan {
        config: "memory_mib = 1024\n".into(),
        ..Plan::default()
    });
    pods::pod(&bed, "p", &[], &[("c", &[], SLEEP)]);
    // A shell's usual limit, which the pod's owner inherits.
    let mut start = Command::new("sh");
    let script = "ulimit -Sn 1024; exec \"$0\" pod start p";
    start.envs(bed.environment()).args(["-c", script]);
    start.arg(dist::binary(dist::CLI));
    run(start, Input::Null, limit()).ok();
    let long: Duration = patience(120.0);

    let mut execs: Vec<Running> = Vec::new();
    while execs.len() < EXECS {
        let wave = (0..WAVE).map(|_| {
            let words = [
                "container",
                "exec",
                "-i",
                "c",
                "sh",
                "-c",
                "echo ready; read x; echo $x",
            ];
            Running::spawn(bed.cli(&words), Input::Open)
        });
        let wave: Vec<Running> = wave.collect();
        for exec in &wave {
            let ready = exec
                .stdout
                .wait(long, |said| (said.text() == "ready\n").then_some(()));
            let (count, said) = (execs.len(), exec.stderr.now().text());
            assert!(ready.is_some(), "beside {count} others: {said}");
        }
        execs.extend(wave);
    }
    assert!(execs.iter_mut().all(Running::is_running));

    for (n, exec) in execs.iter_mut().enumerate() {
        exec.send(format!("answer {n}\n").as_bytes());
    }
    for (n, exec) in execs.into_iter().enumerate() {
        let output = exec.finish(long).ok();
        assert_eq!(output.out(), format!("ready\nanswer {n}\n"));
    }
    bed.rust_kata(&["pod", "rm", "--force", "p"]).ok();
    bed.assert_clean();
}
