//! `make bench-kvm`: the costs of rust-kata-vmm on KVM, as ratios to references of the same
//! run. It is meant for the KVM test host, which counts time in instructions, so that numbers
//! do not depend on other load on the machine. `BENCH_TURNS` (default 5) sets the number of
//! measurements. On that host idle waits may add time, so the minimum counts.

mod boot;
mod throughput;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use boot::Boots;
use harness::bed::{Bed, Plan};
use harness::dist::{SHIM, VMM, binary};
use harness::process;
use harness::run::{Input, Running};
use harness::scene::{Scene, limit};
use harness::spec::Spec;
use harness::table::{Samples, Table};

/// The memory of a pod's guest.
const POD_MIB: u64 = 256;

fn main() {
    let turns: u32 = std::env::var("BENCH_TURNS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(5);
    throughput::instead(turns);
    let boots = Boots::new().expect("a built tree");
    let bed = Bed::with(Plan {
        config: format!("memory_mib = {POD_MIB}"),
        ..Plan::default()
    });
    let mut table = Table::default();

    // The first boot of each fills the page cache.
    boots.qemu();
    boots.ours();
    first_byte_of_pod(&bed);
    let [mut qemu, mut ours, mut pod]: [Samples; 3] = Default::default();
    for _ in 0..turns {
        qemu.add_time(boots.qemu());
        ours.add_time(boots.ours());
        pod.add_time(first_byte_of_pod(&bed));
    }
    table.ratio(
        "start to init, to QEMU microvm",
        "ms",
        ours.min(),
        qemu.min(),
        Some(0.7),
    );
    table.ratio(
        "pod start by run, to a bare boot",
        "ms",
        pod.min(),
        ours.min(),
        Some(1.25),
    );
    memory(&bed, &mut table);
    throughput::measure(turns, &mut table);
    table.print();
}

/// The time from the start of `run` to the first byte of its container.
fn first_byte_of_pod(bed: &Bed) -> Duration {
    let bundle = bed.fresh("bundle");
    fs::create_dir(&bundle).expect("the bed is ours");
    Spec::new(&bed.rootfs(), &["echo", "up"]).write(&bundle.join("config.json"));
    let mut command = Command::new(binary(SHIM));
    command
        .envs(bed.environment())
        .args(["run", "--bundle"])
        .arg(&bundle);
    let since = Instant::now();
    let running = Running::spawn(command, Input::Null);
    let first = running.stdout.wait(limit(), |said| said.first);
    let output = running.finish(limit()).ok();
    first.unwrap_or_else(|| panic!("no output: {output:?}")) - since
}

/// The memory of a pod's VMM beside the guest's pages.
fn memory(bed: &Bed, table: &mut Table) {
    let scene = Scene::subject(bed);
    scene.detach("c", &[], &["sleep", "100000"]);
    let vmms = bed.named(VMM);
    let [vmm] = &vmms[..] else {
        panic!("one pod has {} VMMs: {vmms:?}", vmms.len());
    };
    let private = process::private_beside_guest(vmm.pid, POD_MIB << 20)
        .unwrap_or_else(|why| panic!("cannot separate the guest's memory from the VMM's: {why}"));
    let mib = private as f64 / f64::from(1 << 20);
    table.number(
        "memory: private to the VMM, without guest RAM",
        "MiB",
        mib,
        Some(5.0),
    );
    scene.remove("c");
}
