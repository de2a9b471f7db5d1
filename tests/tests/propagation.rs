//! Mounts of the host and of containers: containers cannot unmount anything on the host, and
//! later mounts of the host reach the containers that ask for it.

use std::fs;
use std::path::{Path, PathBuf};

use harness::bed::Bed;
use harness::dist::{self, patience, subject_is_ours};
use harness::mounts::{Machine, Tmpfs};
use harness::oracle::compare;
use harness::process;
use harness::require;
use harness::run::{Input, run};
use harness::scene::Scene;
use harness::spec::Spec;
use nix::sys::signal::Signal;
use serde_json::json;

/// A folder of the host with a file system mounted below it.
struct Tree {
    path: PathBuf,
    sub: Tmpfs,
}

impl Tree {
    fn new(bed: &Bed) -> Self {
        let path = bed.fresh("tree");
        let sub = Tmpfs::on(&path.join("sub"));
        fs::write(path.join("sub/file"), "below\n").expect("ours");
        Self { path, sub }
    }

    #[track_caller]
    fn assert_whole(&self) {
        assert!(self.sub.is_there(), "the host's mount is gone");
        let file = fs::read_to_string(self.path.join("sub/file"));
        assert_eq!(file.expect("still there"), "below\n");
    }
}

fn spec(bed: &Bed, script: &str) -> Spec {
    Spec::new(&bed.rootfs(), &["sh", "-c", script])
}

#[test]
fn a_container_that_goes_leaves_the_mounts_of_the_host() {
    compare(|scene| {
        let tree = Tree::new(scene.bed);
        let spec = spec(
            scene.bed,
            "cat /tree/sub/file; test -e /host/proc/1 && echo host",
        )
        .mount("bind", &tree.path, "/tree", &["rbind", "rw"])
        .mount("bind", Path::new("/"), "/host", &["rbind", "ro"]);

        let output = scene.run_spec("c", &spec).ok();

        scene.see("stdout", output.out());
        tree.assert_whole();
        assert_eq!(scene.bed.machine_mounts().changes(), [""; 0]);
    });
}

#[test]
fn so_does_one_that_failed_or_was_lost() {
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    let tree = Tree::new(&bed);
    let mounted =
        |script: &str| spec(&bed, script).mount("bind", &tree.path, "/tree", &["rbind", "rw"]);

    let failed = mounted("true").set("/process/args", json!(["/no/such/program"]));
    let output = scene.run_spec("failed", &failed);
    assert_ne!(output.code, 0, "{output:?}");
    tree.assert_whole();

    if subject_is_ours().is_ok() {
        scene.detach_spec("lost", &mounted("sleep 1000"));
        for shim in bed.named(dist::SHIM) {
            process::signal(shim.pid, Signal::SIGKILL);
        }
        scene.await_event("lost", "/tasks/exit");
        scene.remove("lost");
    }
    tree.assert_whole();
}

#[test]
fn run_and_rust_kata_leave_them_too() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let tree = Tree::new(&bed);

    let bundle = bed.fresh("bundle");
    fs::create_dir(&bundle).expect("ours");
    spec(&bed, "cat /tree/sub/file")
        .mount("bind", &tree.path, "/tree", &["rbind", "rw"])
        .write(&bundle.join("config.json"));
    let mut by_shim = std::process::Command::new(dist::binary(dist::SHIM));
    by_shim.envs(bed.environment());
    by_shim
        .args(["run", "--id", "by-shim", "--bundle"])
        .arg(&bundle);
    assert_eq!(
        run(by_shim, Input::Null, patience(90.0)).ok().out(),
        "below\n"
    );
    tree.assert_whole();

    let rootfs = bed.rootfs();
    let volume = format!("{}:/tree", tree.path.display());
    let words = ["run", "--rm", "--volume", &volume, "--rootfs"];
    let words = [
        &words[..],
        &[rootfs.to_str().expect("ASCII"), "cat", "/tree/sub/file"],
    ]
    .concat();
    assert_eq!(bed.rust_kata(&words).ok().out(), "below\n");
    tree.assert_whole();
}

/// Mounts a file system below a volume while a container runs; returns what the container sees
/// of it before, during and after the mount.
fn later_mount(scene: &Scene, id: &str, options: &[&str], root: Option<&str>) -> Vec<String> {
    let host = scene.bed.fresh("later");
    fs::create_dir_all(host.join("sub")).expect("ours");
    let mut spec = Spec::new(&scene.bed.rootfs(), &["sleep", "1000"]);
    spec = spec.mount("bind", &host, "/later", options);
    if let Some(root) = root {
        spec = spec.set("/linux/rootfsPropagation", json!(root));
    }
    scene.detach_spec(id, &spec);
    let look = |turn: &str| {
        let script = "cat /later/sub/file 2>/dev/null || echo nothing";
        let output = scene.exec(id, turn, &[], &["sh", "-c", script]);
        output.ok().out()
    };

    let mut seen = vec![look("before")];
    let tmpfs = Tmpfs::on(&host.join("sub"));
    fs::write(host.join("sub/file"), "mounted later\n").expect("ours");
    seen.push(look("mounted"));
    drop(tmpfs);
    seen.push(look("unmounted"));

    scene.remove(id);
    seen
}

#[test]
fn later_mounts_of_the_host_reach_those_that_ask_for_them() {
    compare(|scene| {
        let cases: [(&str, &[&str], Option<&str>); 4] = [
            ("rslave", &["rbind", "rslave"], Some("rslave")),
            ("rprivate", &["rbind", "rprivate"], None),
            ("default", &["rbind"], None),
            ("read-only", &["rbind", "rslave", "ro"], Some("rslave")),
        ];
        for (id, options, root) in cases {
            scene.see(id, later_mount(scene, id, options, root));
        }
    });
}

#[test]
fn sharing_with_the_host_is_refused_by_name() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let scene = Scene::subject(&bed);
    let host = bed.fresh("host");
    fs::create_dir(&host).expect("ours");
    let shared = spec(&bed, "true").mount("bind", &host, "/shared", &["rbind", "rshared"]);
    let output = scene.run_spec("mount", &shared);
    scene.see_refusal(
        "a shared mount",
        &output,
        "mount on /shared: rshared (Bidirectional",
    );

    let root = spec(&bed, "true").set("/linux/rootfsPropagation", json!("shared"));
    let output = scene.run_spec("root", &root);
    scene.see_refusal("a shared root", &output, "linux.rootfsPropagation: shared");
}

#[test]
fn read_only_is_for_mounts_below_as_with_runc() {
    compare(|scene| {
        let tree = Tree::new(scene.bed);
        let script = "for at in /ro /rro; do
            touch $at/new 2>&1 | grep -o 'Read-only.*'
            touch $at/sub/new-$$ 2>&1 | grep -o 'Read-only.*'
            done; ls /ro/sub | grep -c new";
        let spec = spec(scene.bed, script)
            .mount("bind", &tree.path, "/ro", &["rbind", "rprivate", "ro"])
            .mount("bind", &tree.path, "/rro", &["rbind", "rprivate", "rro"]);

        let output = scene.run_spec("c", &spec).ok();

        scene.see("stdout", output.out());
        let lines = output.out().lines().count();
        assert_eq!(lines, 4, "{output:?}");
        tree.assert_whole();
    });
}

#[test]
fn a_mount_of_the_machine_that_is_missing_or_new_is_told() {
    let dir = tempfile::tempdir().expect("/tmp is writable");
    let before = Machine::now();
    let tmpfs = Tmpfs::on(dir.path());
    let with = Machine::now();
    assert_eq!(
        before.changes(),
        [format!("mount {}", dir.path().display())]
    );
    drop(tmpfs);
    assert_eq!(
        with.changes(),
        [format!("unmounted: {}", dir.path().display())]
    );
    assert_eq!(before.changes(), [""; 0]);
}
