//! `make bench`: the costs of rust-kata, as ratios to references measured in the same run.
//! `BENCH_TURNS` (default 5) sets the number of measurements; the table shows medians.
//! `BENCH_ONLY=pods` measures only what needs no VM. References: a bare QEMU boot (see
//! [`bare`]), runc, and the same command on the host.

mod bare;
mod pods;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bare::Bare;
use harness::bed::Bed;
use harness::dist::{QEMU, RUNC, RUST_KATA, SHIM, VMM, binary};
use harness::process;
use harness::run::{Input, Running, run};
use harness::scene::{Scene, limit};
use harness::spec::Spec;
use harness::table::{Samples, Table};
use harness::task::{Bundle, Shim};

const MIB: u64 = 1 << 20;

/// The number of bytes through stdin and stdout.
const STREAM: u64 = 100 * MIB;

/// Operations on files in an empty folder: name and script.
const FILE_WORK: [(&str, &str); 3] = [
    (
        "files: write 64 MiB",
        "dd if=/dev/zero of=big bs=1M count=64 conv=fsync 2>/dev/null",
    ),
    (
        "files: read 64 MiB",
        "dd if=big of=/dev/null bs=1M 2>/dev/null",
    ),
    (
        "files: make, stat and remove 500",
        "i=0; while [ $i -lt 500 ]; do : > f$i; i=$((i+1)); done; ls -l | wc -l; rm f*",
    ),
];

fn main() {
    let turns = std::env::var("BENCH_TURNS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(5);
    let bed = Bed::new();
    let mut table = Table::default();
    pods::measure(&bed, turns, &mut table);
    if std::env::var("BENCH_ONLY").is_ok_and(|only| only == "pods") {
        return table.print();
    }
    let kata = Scene::new(&bed, RUST_KATA);
    let runc = Scene::new(&bed, RUNC);
    kata.detach("kata", &[], &["sleep", "100000"]);
    runc.detach("runc", &[], &["sleep", "100000"]);
    memory(&bed, &mut table);
    let bare = bed
        .named(QEMU)
        .first()
        .map(|qemu| Bare::like(qemu.pid).expect("a bare machine"));
    execs(&kata, &runc, turns * 2, &mut table);
    streams(&kata, &runc, &mut table);
    files(&bed, &kata, turns, &mut table);
    kata.remove("kata");
    runc.remove("runc");
    starts(&bed, &kata, &runc, bare.as_ref(), turns, &mut table);
    shim_starts(&bed, turns * 2, &mut table);
    table.print();
}

/// The proportional memory of a pod's processes, without the guest's memory.
fn memory(bed: &Bed, table: &mut Table) {
    let total = |name: &str| -> f64 {
        let sizes = bed
            .named(name)
            .into_iter()
            .filter_map(|found| process::pss(found.pid, "/memfd:"));
        sizes
            .map(|(all, guest)| (all - guest) as f64 / MIB as f64)
            .sum()
    };
    let [shim, vmm, qemu] = [SHIM, VMM, QEMU].map(total);
    let guest: u64 = bed
        .processes()
        .iter()
        .filter_map(|found| Some(process::pss(found.pid, "/memfd:")?.1))
        .sum();
    table.number("memory: shim and VMM (PSS)", "MiB", shim + vmm, Some(25.0));
    table.number("memory: of that the shim", "MiB", shim, None);
    table.number("memory: QEMU (PSS without guest RAM)", "MiB", qemu, None);
    table.number(
        "memory: guest RAM that is resident",
        "MiB",
        guest as f64 / MIB as f64,
        None,
    );
}

/// `ctr task exec true`, end to end.
fn execs(kata: &Scene, runc: &Scene, turns: u32, table: &mut Table) {
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for turn in 0..turns {
        let exec = format!("e{turn}");
        ours.add_time(kata.exec("kata", &exec, &[], &["true"]).ok().elapsed);
        theirs.add_time(runc.exec("runc", &exec, &[], &["true"]).ok().elapsed);
    }
    table.ratio(
        "exec round trip, to runc",
        "ms",
        ours.median(),
        theirs.median(),
        None,
    );
}

/// The throughput of `cat`.
fn streams(kata: &Scene, runc: &Scene, table: &mut Table) {
    let rate = |scene: &Scene, id: &str| {
        let command = scene.exec_command(id, "stream", &[], &["cat"]);
        let output = run(command, Input::Noise(STREAM), limit()).ok();
        assert_eq!(output.stdout.length, STREAM, "bytes were lost");
        (STREAM / MIB) as f64 / output.elapsed.as_secs_f64()
    };
    table.ratio(
        "stdin to stdout, to runc",
        "MB/s",
        rate(kata, "kata"),
        rate(runc, "runc"),
        None,
    );
}

/// The same shell script in a shared folder, run by the guest and by the host.
fn files(bed: &Bed, kata: &Scene, turns: u32, table: &mut Table) {
    let folder = bed.fresh("files");
    fs::create_dir(&folder).expect("the bed is ours");
    let spec = Spec::new(&bed.rootfs(), &["sleep", "100000"]).mount(
        "bind",
        &folder,
        "/files",
        &["rbind", "rw"],
    );
    kata.detach_spec("files", &spec);
    let guest = |exec: &str, script: &str| {
        kata.exec("files", exec, &["--cwd", "/files"], &["sh", "-c", script])
            .ok()
            .elapsed
    };
    let empty: Samples = (0..turns)
        .map(|turn| guest(&format!("empty{turn}"), ""))
        .collect();
    for (index, (what, script)) in FILE_WORK.iter().enumerate() {
        let ours: Samples = (0..turns)
            .map(|turn| guest(&format!("w{index}-{turn}"), script))
            .collect();
        let host: Samples = (0..turns).map(|_| on_host(&folder, script)).collect();
        // The time of the script alone, without that of the exec.
        table.ratio(
            what,
            "ms",
            ours.median() - empty.median(),
            host.median(),
            None,
        );
    }
    kata.remove("files");
}

fn on_host(folder: &Path, script: &str) -> Duration {
    let mut command = Command::new("/bin/busybox");
    command.current_dir(folder).args(["sh", "-c", script]);
    run(command, Input::Null, limit()).ok().elapsed
}

/// The time from the creation of the pod to the first byte of its container, compared with a
/// bare boot. `ctr run` does more than that with any runtime (snapshot, container, lease): it
/// is compared with itself under runc.
fn starts(
    bed: &Bed,
    kata: &Scene,
    runc: &Scene,
    bare: Option<&Bare>,
    turns: u32,
    table: &mut Table,
) {
    const HELLO: [&str; 2] = ["echo", "up"];
    let bundle = bed.fresh("bundle");
    fs::create_dir(&bundle).expect("the bed is ours");
    Spec::new(&bed.rootfs(), &HELLO).write(&bundle.join("config.json"));
    let [mut boot, mut by_task, mut by_run, mut whole, mut whole_runc]: [Samples; 5] =
        Default::default();
    // Alternating, so that other load on the machine affects all alike.
    for turn in 0..turns {
        boot.add_time(bare.map_or(Duration::ZERO, Bare::boot));
        let id = format!("t{turn}");
        run(kata.create_command(&id, &HELLO), Input::Null, limit()).ok();
        by_task.add_time(first_byte(kata.task_command(&["start", &id])));
        kata.remove(&id);
        let mut command = Command::new(binary(SHIM));
        command
            .envs(bed.environment())
            .arg("run")
            .arg("--bundle")
            .arg(&bundle);
        by_run.add_time(first_byte(command));
        for (scene, times) in [(kata, &mut whole), (runc, &mut whole_runc)] {
            let id = format!("w{turn}{}", scene.is_vm());
            times.add_time(first_byte(scene.run_command(&id, &["--rm"], &HELLO)));
        }
    }
    for (what, times) in [
        ("pod start by ctr task start, to a bare boot", &by_task),
        ("pod start by run, to a bare boot", &by_run),
    ] {
        table.ratio(what, "ms", times.median(), boot.median(), Some(1.6));
    }
    table.ratio(
        "all of ctr run, to runc",
        "ms",
        whole.median(),
        whole_runc.median(),
        None,
    );
}

fn first_byte(command: Command) -> Duration {
    let since = Instant::now();
    let running = Running::spawn(command, Input::Null);
    let first = running.stdout.wait(limit(), |said| said.first);
    let output = running.finish(limit()).ok();
    first.unwrap_or_else(|| panic!("no output: {output:?}")) - since
}

/// The shim's `start`, until it has printed its address.
fn shim_starts(bed: &Bed, turns: u32, table: &mut Table) {
    let mut times = Samples::default();
    for turn in 0..turns {
        let bundle = Bundle::of(
            bed,
            &format!("shim{turn}"),
            &Spec::new(&bed.rootfs(), &["true"]),
        );
        let started = bundle.start(bed, RUST_KATA).ok();
        times.add_time(started.elapsed);
        let _ = Shim::connect(started.out().trim()).shutdown(&bundle.id);
        bundle.delete(bed, RUST_KATA).ok();
    }
    table.number(
        "shim start to its address",
        "ms",
        times.median(),
        Some(50.0),
    );
}
