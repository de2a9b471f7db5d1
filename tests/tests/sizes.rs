//! Virtual machines of all sizes boot: the agent runs a container that prints the size.

use std::path::Path;
use std::process::Command;

use harness::bed::Bed;
use harness::dist::{self, SHIM, subject_is_ours};
use harness::require;
use harness::run::{Input, run};
use harness::scene::limit;
use harness::spec::Spec;

/// The most memory that a guest's kernel keeps for itself: page structures, its image, the
/// initrd.
fn least_total(mib: u64) -> u64 {
    mib * 9 / 10 - 64
}

fn boots(mib: u64, vcpus: u32) {
    require!(subject_is_ours());
    let bed = Bed::new();
    let bundle = bed.fresh("bundle");
    std::fs::create_dir(&bundle).expect("the bed is ours");
    harness::image::make_rootfs(&bundle.join("rootfs"));
    let script = "nproc; sed -n 's/MemTotal: *//p' /proc/meminfo";
    Spec::new(Path::new("rootfs"), &["sh", "-c", script]).write(&bundle.join("config.json"));
    let mut command = Command::new(dist::binary(SHIM));
    command
        .envs(bed.environment())
        .arg("run")
        .arg("--bundle")
        .arg(&bundle)
        .args(["--memory", &mib.to_string()])
        .args(["--vcpus", &vcpus.to_string()]);

    let output = run(command, Input::Null, limit()).ok().out();

    let (cpus, memory) = output.split_once('\n').expect("two lines");
    assert_eq!(cpus, vcpus.to_string());
    let kib: u64 = memory
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number");
    let total = kib >> 10;
    assert!(
        (least_total(mib)..=mib).contains(&total),
        "{total} MiB of {mib}"
    );
    bed.assert_clean();
}

#[test]
fn m128_with_one_cpu() {
    boots(128, 1);
}

#[test]
fn m256_with_two_cpus() {
    boots(256, 2);
}

/// Exactly up to the gap in the address space.
#[test]
fn m3072_with_one_cpu() {
    boots(3072, 1);
}

/// On both sides of the gap.
#[test]
fn m3200_with_two_cpus() {
    boots(3200, 2);
}

#[test]
fn m6144_with_one_cpu() {
    boots(6144, 1);
}

#[test]
fn m6144_with_two_cpus() {
    boots(6144, 2);
}
