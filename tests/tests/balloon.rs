//! Memory that a guest frees is returned to the host (free page reporting).

use std::time::Instant;

use harness::bed::Bed;
use harness::dist::{VMM, machine_is_ours, subject_is_ours};
use harness::process;
use harness::require;
use harness::run::{Input, Running};
use harness::scene::limit;

/// Executes each line of its input, and reports when it is done.
const OBEY: &str = "n=0; while read word; do
    case $word in
        fill) dd if=/dev/zero of=/t/file bs=1M count=100 2>/dev/null ;;
        free) rm /t/file ;;
    esac
    n=$((n + 1)); echo \"$word $n done\"
done";

struct Guest<'a> {
    bed: &'a Bed,
    run: Running,
    turn: u32,
}

impl Guest<'_> {
    /// Makes the guest do something; returns the host's memory of its VM in MiB.
    fn ask(&mut self, word: &str) -> u64 {
        self.turn += 1;
        self.run.send(format!("{word}\n").as_bytes());
        let answer = format!("{word} {} done\n", self.turn);
        self.run.stdout.expect(&answer, limit());
        let [vmm] = self.bed.named(VMM).try_into().expect("one VMM");
        let (bytes, _) = process::pss(vmm.pid, "").expect("it runs");
        bytes >> 20
    }
}

#[test]
fn memory_that_the_guest_frees_goes_back_to_the_host() {
    require!(subject_is_ours());
    require!(machine_is_ours());
    let bed = Bed::new();
    let rootfs = bed.rootfs();
    let root = rootfs.to_str().expect("an ASCII path");
    let args = ["run", "--rm", "-i"];
    let args = [&args[..], &["--tmpfs", "/t", "--rootfs", root]].concat();
    let args = [&args[..], &["--", "sh", "-c", OBEY]].concat();
    let mut guest = Guest {
        bed: &bed,
        run: Running::spawn(bed.cli(&args), Input::Open),
        turn: 0,
    };
    let before = guest.ask("look");
    let filled = guest.ask("fill");
    assert!(filled >= before + 95, "{before} MiB, then {filled}");
    let mut freed = guest.ask("free");
    let end = Instant::now() + limit();
    // The guest reports after two seconds, in steps (mm/page_reporting.c).
    while freed > filled - 75 {
        assert!(Instant::now() < end, "{filled} MiB, freed to {freed}");
        freed = guest.ask("look");
    }
    eprintln!("{before} MiB before, {filled} filled, {freed} freed");
    guest.run.close_stdin();
    guest.run.finish(limit()).ok();
    bed.assert_clean();
}
