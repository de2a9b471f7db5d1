//! Bad input gives one clear error soon, and leaves nothing.

use std::fs;
use std::process::Command;

use harness::bed::{Bed, Plan};
use harness::dist::{self, SHIM, patience, subject, subject_is_ours};
use harness::oracle::compare;
use harness::require;
use harness::run::{Input, Output, run};
use harness::scene::Scene;
use harness::spec::Spec;
use harness::task::{Bundle, Code, Shim};
use serde_json::json;

#[test]
fn specs_that_cannot_be_met_are_refused() {
    compare(|scene| {
        let rootfs = scene.bed.rootfs();
        let good = || Spec::new(&rootfs, &["true"]);
        let cases = [
            (
                "command",
                Spec::new(&rootfs, &["no-such-command"]),
                "no-such-command",
            ),
            (
                "rootfs",
                good().set("/root/path", json!("/no/such/rootfs")),
                "rootfs",
            ),
            (
                "source",
                good().mount("bind", "/no/such/source".as_ref(), "/v", &["rbind"]),
                "/no/such/source",
            ),
        ];
        for (id, spec, named) in cases {
            let output = scene.run_spec(id, &spec);

            scene.see_refusal(id, &output, named);
            scene.see(&format!("{id}: stdout"), output.out());
            scene.see(&format!("{id}: events"), scene.events(id));
            scene.bed.assert_clean();
        }
    });
}

/// Starts a shim for the bundle and makes it create the container; returns the error of either.
fn refusal_of(bed: &Bed, bundle: &Bundle) -> String {
    let started = bundle.start(bed, &subject());
    if started.code != 0 {
        assert_eq!(started.out(), "", "output on the stream of the address");
        return started.err();
    }
    let shim = Shim::connect(started.out().trim());
    let refusal = shim.create(bundle, None, false).expect_err("a refusal");
    if subject() == dist::RUST_KATA {
        assert_eq!(refusal.code, Code::INVALID_ARGUMENT, "{refusal:?}");
    }
    let _ = shim.delete(&bundle.id, "");
    let _ = shim.shutdown(&bundle.id);
    let _ = bundle.delete(bed, &subject());
    refusal.message
}

#[test]
fn a_bundle_without_or_with_half_a_config_is_refused() {
    let bed = Bed::new();
    let whole = Spec::new(&bed.rootfs(), &["true"]).0.to_string();
    let cases = [
        ("none", None),
        ("half", Some(&whole[..whole.len() / 2])),
        ("empty", Some("")),
        ("not-json", Some("\u{0}\u{1}\u{2}")),
    ];
    for (id, config) in cases {
        let since = std::time::Instant::now();

        let words = refusal_of(&bed, &Bundle::new(&bed, id, config));

        assert!(
            since.elapsed() < patience(2.0),
            "{id} took {:?}",
            since.elapsed()
        );
        assert!(!words.trim().is_empty(), "{id}: no words");
        if subject() == dist::RUST_KATA {
            assert!(words.contains("config.json"), "{id}: {words}");
        }
        bed.assert_clean();
    }
}

#[test]
fn specs_of_the_wrong_shape_are_refused() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let good = || Spec::new(&bed.rootfs(), &["true"]);
    let cases = [
        ("no-process", good().set("/process", json!(null)), "process"),
        ("no-args", good().set("/process/args", json!([])), "args"),
        ("no-root", good().set("/root", json!(null)), "root"),
        (
            "relative-cwd",
            good().set("/process/cwd", json!("here")),
            "cwd",
        ),
        (
            "wrong-type",
            good().set("/process/args", json!(7)),
            "config.json",
        ),
    ];
    for (id, spec, named) in cases {
        let words = refusal_of(&bed, &Bundle::of(&bed, id, &spec));

        assert!(words.contains(named), "{id}: {words}");
        bed.assert_clean();
    }
}

/// Checks that `ctr` fails within 2 s with an error that names the fault.
#[track_caller]
fn refused_soon(scene: &Scene, spec: &Spec, named: &[&str]) {
    let output = scene.run_spec("c", spec);
    told_soon(&output, named);
    scene.bed.assert_clean();
}

#[track_caller]
fn told_soon(output: &Output, named: &[&str]) {
    assert_ne!(output.code, 0, "{output:?}");
    assert_eq!(output.out(), "", "{output:?}");
    for word in named {
        assert!(output.err().contains(word), "no {word:?} in {output:?}");
    }
    assert!(
        output.err().trim().lines().count() <= 8,
        "one clear error: {output:?}"
    );
    assert!(output.elapsed < patience(2.0), "{output:?}");
}

#[test]
fn a_machine_too_small_or_too_large_is_refused() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    for (memory, cpus) in [
        ("1", "1"),
        ("99999999", "1"),
        ("many", "1"),
        ("256", "0"),
        ("256", "100000"),
    ] {
        let spec = Spec::new(&bed.rootfs(), &["true"])
            .set("/annotations/io.rust-kata.memory_mib", json!(memory))
            .set("/annotations/io.rust-kata.vcpus", json!(cpus));
        refused_soon(
            &scene,
            &spec,
            &[if memory == "256" { cpus } else { memory }],
        );
    }
}

/// Checks a configuration without a required part, through `ctr` and through `run`.
fn misconfigured(config: &str, named: &[&str]) {
    with_plan(
        Plan {
            config: config.to_owned(),
            path: None,
        },
        named,
    );
}

fn with_plan(plan: Plan, named: &[&str]) {
    require!(subject_is_ours());
    let bed = Bed::with(plan);
    let scene = Scene::subject(&bed);
    refused_soon(&scene, &Spec::new(&bed.rootfs(), &["true"]), named);

    let folder = bed.fresh("bundle");
    fs::create_dir(&folder).expect("the bed is ours");
    Spec::new(&bed.rootfs(), &["true"]).write(&folder.join("config.json"));
    let mut command = Command::new(dist::binary(SHIM));
    command
        .envs(bed.environment())
        .arg("run")
        .arg("--bundle")
        .arg(&folder);
    told_soon(&run(command, Input::Null, harness::scene::limit()), named);
    bed.assert_clean();
}

#[test]
fn no_kernel() {
    misconfigured("kernel = \"/no/such/vmlinux\"", &["/no/such/vmlinux"]);
}

#[test]
fn a_kernel_that_is_none() {
    misconfigured("kernel = \"/etc/passwd\"", &["/etc/passwd"]);
}

#[test]
fn no_initrd() {
    misconfigured("initrd = \"/no/such/initrd\"", &["/no/such/initrd"]);
}

#[test]
fn an_initrd_too_large_for_the_memory() {
    let file = tempfile::NamedTempFile::new().expect("/tmp is writable");
    file.as_file().set_len(100 << 20).expect("ours");
    misconfigured(
        &format!("memory_mib = 64\ninitrd = {:?}", file.path()),
        &["64 MiB"],
    );
}

#[test]
fn qemu_missing_by_path() {
    misconfigured(
        "hypervisor = \"qemu\"\nqemu = \"/no/such/qemu\"",
        &["/no/such/qemu"],
    );
}

#[test]
fn qemu_missing_in_the_search_path() {
    let folder = tempfile::tempdir().expect("/tmp is writable");
    let mut path = dist::dist().join("bin").into_os_string();
    path.push(":");
    path.push(folder.path());
    with_plan(
        Plan {
            config: "hypervisor = \"qemu\"".to_owned(),
            path: Some(path),
        },
        &["qemu-system-x86_64"],
    );
}

#[test]
fn no_vmm() {
    misconfigured("vmm = \"/no/such/vmm\"", &["/no/such/vmm"]);
}

#[test]
fn a_configuration_with_a_mistake() {
    misconfigured("memroy_mib = 3", &["rust-kata.toml", "memroy_mib"]);
}

#[test]
fn kvm_asked_for_where_it_cannot_be_had() {
    require!(subject_is_ours());
    let output = run_without_kvm("kvm");

    told_soon(&output, &["kvm"]);
}

#[test]
fn an_unreadable_dev_kvm_is_no_obstacle() {
    require!(subject_is_ours());
    let output = run_without_kvm("auto").ok();

    assert_eq!(output.out(), "runs\n");
}

/// `run` with this hypervisor and something else in place of `/dev/kvm`.
fn run_without_kvm(hypervisor: &str) -> Output {
    let bed = Bed::with(Plan {
        config: format!("hypervisor = {hypervisor:?}"),
        path: None,
    });
    let folder = bed.fresh("bundle");
    fs::create_dir(&folder).expect("the bed is ours");
    Spec::new(&bed.rootfs(), &["echo", "runs"]).write(&folder.join("config.json"));
    let mut command = Command::new("unshare");
    command
        .envs(bed.environment())
        .args([
            "--mount",
            "sh",
            "-c",
            "mount --bind /dev/null /dev/kvm && exec \"$@\"",
            "sh",
        ])
        .arg(dist::binary(SHIM))
        .arg("run")
        .arg("--bundle")
        .arg(&folder);
    let output = run(command, Input::Null, harness::scene::limit());
    bed.assert_clean();
    output
}

#[test]
fn an_initrd_that_does_not_boot_is_told_with_the_console() {
    require!(subject_is_ours());
    let file = tempfile::NamedTempFile::new().expect("/tmp is writable");
    fs::write(file.path(), "this is no initrd").expect("ours");
    let bed = Bed::with(Plan {
        config: format!("initrd = {:?}\n[timeouts]\nboot = 30", file.path()),
        path: None,
    });
    let scene = Scene::subject(&bed);

    let output = scene.run_spec("c", &Spec::new(&bed.rootfs(), &["true"]));

    assert_ne!(output.code, 0, "{output:?}");
    assert!(!output.err().trim().is_empty(), "{output:?}");
    bed.assert_clean();
}
