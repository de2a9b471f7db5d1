//! A pod's VM grows when its containers' limits are raised, and shrinks again.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use harness::bed::{Bed, Plan};
use harness::dist::{machine_is_ours, subject, subject_is_ours};
use harness::require;
use harness::scene::limit;
use harness::spec::Spec;
use harness::task::{Bundle, Shim, Stdio};

/// Prints the number of CPUs and the memory in MiB for each line that it reads.
const TELL: &str = r#"while read turn; do
    kib=$(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo)
    echo "$turn $(nproc) $((kib / 1024)) end"
done"#;

/// Asks until the guest has these CPUs and this memory: plugged memory comes on line in steps.
fn until(stdio: &Stdio, stdin: &mut File, turn: &mut u32, cpus: u64, mib: std::ops::Range<u64>) {
    let end = Instant::now() + limit();
    loop {
        *turn += 1;
        writeln!(stdin, "turn{turn}").expect("the shim reads");
        let answer = format!("turn{turn} ");
        let at = stdio.out.expect(&answer, limit());
        stdio.out.expect_after(at, "end\n", limit());
        let text = stdio.out.now().text();
        let words = text[at..].split(' ');
        let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        if numbers.len() == 2 && numbers[0] == cpus && mib.contains(&numbers[1]) {
            return;
        }
        assert!(
            Instant::now() < end,
            "{numbers:?}, not {cpus} CPUs and {mib:?} MiB"
        );
    }
}

#[test]
fn a_pod_grows_and_shrinks_with_its_limits() {
    require!(subject_is_ours());
    require!(machine_is_ours());
    let bed = Bed::with(Plan {
        config: "max_vcpus = 2\nmax_memory_mib = 1024\n".into(),
        ..Plan::default()
    });
    let bundle = Bundle::of(&bed, "c", &Spec::new(&bed.rootfs(), &["sh", "-c", TELL]));
    let stdio = Stdio::new(&bed);
    let shim = Shim::start(&bed, &subject(), &bundle);
    shim.create(&bundle, Some(&stdio), false).expect("create");
    shim.start_process("c", "").expect("start");
    let mut stdin = stdio.writer();
    let mut turn = 0;
    until(&stdio, &mut stdin, &mut turn, 1, 150..256);

    let more = r#"{"cpu":{"quota":200000,"period":100000},"memory":{"limit":402653184}}"#;
    shim.update("c", more).expect("update to more");
    until(&stdio, &mut stdin, &mut turn, 2, 534..640);

    // Beyond the pod's largest size: it gets that size.
    let most = r#"{"cpu":{"quota":900000,"period":100000},"memory":{"limit":8589934592}}"#;
    shim.update("c", most).expect("update to the most");
    until(&stdio, &mut stdin, &mut turn, 2, 918..1024);

    let less = r#"{"cpu":{"quota":50000,"period":100000},"memory":{"limit":33554432}}"#;
    shim.update("c", less).expect("update to less");
    until(&stdio, &mut stdin, &mut turn, 1, 150..384);

    drop(stdin);
    let _ = shim.kill("c", "", 9, true);
    shim.wait("c", "").expect("wait");
    shim.delete("c", "").expect("delete");
    let _ = shim.shutdown("c");
    bed.assert_clean();
}
