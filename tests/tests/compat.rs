//! The current build with what the previous build left: running pods, ended pods, and pods
//! whose owner was killed, of `rust-kata` and of containerd.
//!
//! `make test-compat` builds the previous build (`tests/compat/BASE`) and runs these tests with
//! it. With RUST_KATA_FIXTURES=DIR they also copy its state files there: `runtime/fixtures` is
//! made that way.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::bed::{Bed, Plan};
use harness::dist::{self, CLI, SHIM, patience};
use harness::images;
use harness::layout::Layout;
use harness::leak;
use harness::pods::inspect;
use harness::process;
use harness::run::{Input, Output, run};
use harness::scene::{Scene, limit};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const BASE: &str = "RUST_KATA_BASE_DIST";

/// A host on which the previous build is replaced by the current one.
struct Host {
    bed: Bed,
    /// Its link `bin`, which is in PATH, points to one or the other build.
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bin = folder.path().join("bin");
        symlink(base().join("bin"), &bin).expect("the folder is ours");
        let mut path = bin.into_os_string();
        path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let bed = Bed::with(Plan {
            path: Some(path),
            ..Plan::default()
        });
        Self { bed, folder }
    }

    /// Runs a command line of the previous build.
    fn before(&self, args: &[&str]) -> Output {
        let mut command = Command::new(base().join("bin").join(CLI));
        command.args(args).envs(self.bed.environment());
        run(command, Input::Null, limit())
    }

    /// Makes containerd use the current build from now on.
    fn replace(&self, fixtures: &str) {
        if let Some(to) = std::env::var_os("RUST_KATA_FIXTURES") {
            keep_state(self.bed.dir(), &Path::new(&to).join(fixtures));
        }
        let bin = self.folder.path().join("bin");
        fs::remove_file(&bin).expect("the folder is ours");
        symlink(dist::dist().join("bin"), bin).expect("the folder is ours");
    }
}

fn base() -> PathBuf {
    let base = std::env::var_os(BASE);
    let base = PathBuf::from(base.unwrap_or_else(|| panic!("{BASE} is not set: make test-compat")));
    assert_ne!(base, dist::dist(), "the previous build is the current one");
    base
}

/// Copies state files, without the contents of images and containers.
fn keep_state(bed: &Path, to: &Path) {
    for (from, to) in [("kata", to.join("run")), ("data", to.join("data"))] {
        let from = bed.join(from);
        for (path, _) in leak::tree(&from) {
            let below = path.strip_prefix(&from).expect("it is below");
            let is_content = below.iter().any(|part| {
                ["fs", "rootfs", "shared", "bundle", "upper"]
                    .iter()
                    .any(|name| part == *name)
            });
            let is_state = path.extension().is_some_and(|end| end == "json")
                || ["lock", "owner", "log"]
                    .iter()
                    .any(|name| path.ends_with(name));
            let is_file = path.symlink_metadata().is_ok_and(|data| data.is_file());
            if is_content || !is_state || !is_file {
                continue;
            }
            let to = to.join(below);
            fs::create_dir_all(to.parent().expect("it has one")).expect("it can be written");
            fs::copy(&path, to).expect("it can be written");
        }
    }
}

fn listed(bed: &Bed, what: &str) -> Vec<(String, String)> {
    let text = bed.rust_kata(&[what, "ls", "--format", "json"]).ok().out();
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = all.as_array().expect("a list").iter();
    rows.map(|row| (text(&row["name"]), text(&row["status"])))
        .collect()
}

#[test]
#[ignore = "needs the binaries of the build before: make test-compat"]
fn pods_of_the_build_before_are_listed_inspected_stopped_and_removed() {
    let host = Host::new();
    let bed = &host.bed;
    let image = Layout::new(bed.fresh("layout"));
    let manifest = images::busybox(&image, &json!({ "User": "user", "Labels": { "a": "b" } }));
    image.index(&[(&manifest, None)]);
    let rootfs = bed.rootfs();
    let root = rootfs.to_str().expect("an ASCII path");

    // A running pod with an image, a volume, and an exec that has ended.
    let app = "echo of the volume > /data/file; trap 'exit 7' TERM; while :; do sleep 0.1; done";
    let create = ["container", "create", "--pod", "web"];
    host.before(&["volume", "create", "data"]).ok();
    host.before(&[
        "pod",
        "create",
        "--name",
        "web",
        "--label",
        "tier=front",
        "--memory",
        "256m",
    ])
    .ok();
    let words = [
        &create[..],
        &["--name", "side", "--rootfs", root, "--", "sleep", "1000"],
    ];
    host.before(&words.concat()).ok();
    let reference = image.reference();
    let words = [
        "--name",
        "app",
        "--image",
        &reference,
        "-u",
        "root",
        "-v",
        "data:/data",
    ];
    let rest = [
        "--requires",
        "side",
        "--memory",
        "64m",
        "--",
        "sh",
        "-c",
        app,
    ];
    host.before(&[&create[..], &words, &rest].concat()).ok();
    host.before(&["pod", "start", "web"]).ok();
    host.before(&["container", "exec", "app", "true"]).ok();
    host.before(&["container", "update", "--memory", "80m", "app"])
        .ok();
    // A pod that has ended, one that was never started, and one whose owner is killed.
    let run_words = |name| ["run", "--name", name, "--rootfs", root];
    let ended = [
        &run_words("ended")[..],
        &["--", "sh", "-c", "echo said; exit 3"],
    ];
    host.before(&ended.concat()).exits(3);
    host.before(&["pod", "create", "--name", "never"]).ok();
    let lost = [&run_words("lost")[..], &["-d", "--", "sleep", "1000"]];
    host.before(&lost.concat()).ok();
    let lost = inspect(bed, "pod", "lost");
    let owner = lost["owner_pid"].as_u64().expect("it has an owner") as u32;
    process::signal(owner, Signal::SIGKILL);
    assert!(process::wait_gone(owner, patience(10.0)));

    host.replace("rust-kata");

    let status = |of: &str, what: &str| {
        let all = listed(bed, what);
        let found = all.into_iter().find(|(name, _)| name == of);
        found.map(|(_, status)| status).unwrap_or_default()
    };
    let pods = ["web", "ended", "never", "lost"].map(|name| status(name, "pod"));
    assert_eq!(pods, ["Running", "Exited", "Created", "Exited"]);
    assert_eq!(status("app", "container"), "running");
    let web = inspect(bed, "pod", "web");
    assert_eq!(web["labels"]["tier"], "front", "{web}");
    let app = inspect(bed, "container", "app");
    assert_eq!(
        app["state"]["execs"].as_object().map(|all| all.len()),
        Some(1),
        "{app}"
    );
    let ended = inspect(bed, "container", "ended");
    assert_eq!(ended["state"]["exit_code"], 3, "{ended}");
    let lost = inspect(bed, "container", "lost");
    assert_eq!(lost["state"]["exit_code"], 137, "{lost}");
    assert_eq!(bed.rust_kata(&["logs", "ended"]).ok().out(), "said\n");

    // Its owner is of the previous build, and answers.
    let said = bed.rust_kata(&["exec", "app", "cat", "/data/file"]).ok();
    assert_eq!(said.out(), "of the volume\n");
    bed.rust_kata(&["exec", "-d", "app", "sleep", "1000"]).ok();
    assert!(
        bed.rust_kata(&["top", "app"])
            .ok()
            .out()
            .contains("sleep 1000")
    );
    bed.rust_kata(&["exec", "app", "/bin/nope"]).exits(127);
    let stats = ["pod", "stats", "--no-stream", "--format", "json", "web"];
    let stats: Value = serde_json::from_str(&bed.rust_kata(&stats).ok().out()).expect("JSON");
    assert!(stats[0]["memory_bytes"].as_u64() > Some(4096), "{stats}");
    bed.rust_kata(&["container", "pause", "app"]).ok();
    bed.rust_kata(&["container", "unpause", "app"]).ok();
    bed.rust_kata(&["container", "stop", "app"]).ok();
    let app = inspect(bed, "container", "app");
    assert_eq!(app["state"]["exit_code"], 7, "{app}");
    bed.rust_kata(&["pod", "stop", "--time", "1", "web"]).ok();
    assert_eq!(status("web", "pod"), "Exited");

    // The pods can be started again by the current build.
    bed.rust_kata(&["pod", "start", "web"]).ok();
    let said = bed.rust_kata(&["exec", "app", "cat", "/data/file"]).ok();
    assert_eq!(said.out(), "of the volume\n");

    // Its owner answers clients of the build before.
    let said = host.before(&["exec", "app", "cat", "/data/file"]).ok();
    assert_eq!(said.out(), "of the volume\n");
    host.before(&["exec", "-d", "app", "sleep", "1000"]).ok();
    assert!(
        host.before(&["top", "app"])
            .ok()
            .out()
            .contains("sleep 1000")
    );
    let stats = ["pod", "stats", "--no-stream", "--format", "json", "web"];
    let stats: Value = serde_json::from_str(&host.before(&stats).ok().out()).expect("JSON");
    assert!(stats[0]["memory_bytes"].as_u64() > Some(4096), "{stats}");
    host.before(&["container", "stop", "--time", "1", "side"])
        .ok();
    let side = inspect(bed, "container", "side");
    assert_eq!(side["state"]["status"], "exited", "{side}");

    for pod in ["web", "ended", "never", "lost"] {
        bed.rust_kata(&["pod", "rm", "--force", pod]).ok();
    }
    assert_eq!(listed(bed, "pod"), []);
    bed.rust_kata(&["volume", "rm", "data"]).ok();
    images::prune(bed);
}

#[test]
#[ignore = "needs the binaries of the build before: make test-compat"]
fn containerd_ends_pods_of_the_build_before_with_the_shim_of_now() {
    let host = Host::new();
    let bed = &host.bed;
    let scene = Scene::subject(bed);
    for id in ["asked", "killed", "forced"] {
        scene.detach(id, &[], &["sleep", "1000"]);
    }
    let shims = bed.named(SHIM);
    let of_before = base().join("bin");
    let of_before = of_before.canonicalize().expect("it is there");
    let programs = || {
        let programs = shims.iter().map(|shim| format!("/proc/{}/exe", shim.pid));
        programs.filter_map(|path| fs::read_link(path).ok())
    };
    assert!(programs().count() >= 3 && programs().all(|path| path.starts_with(&of_before)));

    host.replace("containerd");

    let mut names: Vec<_> = listed(bed, "container");
    names.sort();
    let running = ["asked", "forced", "killed"].map(|id| (id.to_owned(), "running".to_owned()));
    assert_eq!(names, running);
    assert_eq!(inspect(bed, "pod", "asked")["front_door"], "containerd");
    assert_eq!(
        bed.rust_kata(&["exec", "asked", "echo", "in"]).ok().out(),
        "in\n"
    );
    assert_eq!(
        scene.exec("asked", "e", &[], &["echo", "in"]).ok().out(),
        "in\n"
    );

    // containerd calls `delete` of the new shim after each of these.
    scene.task(&["kill", "-s", "KILL", "asked"]).ok();
    scene.await_event("asked", "/tasks/exit");
    scene.remove("asked");
    // Their shims hang or are gone, so `delete` does the removal.
    let shim_of = |id: &str| {
        let pod = inspect(bed, "pod", id);
        pod["owner_pid"].as_u64().expect("its shim") as u32
    };
    let (killed, forced) = (shim_of("killed"), shim_of("forced"));
    process::signal(killed, Signal::SIGKILL);
    let exit = scene.await_event("killed", "/tasks/exit");
    assert_eq!(exit.status(), Some(137), "{exit}");
    scene.remove("killed");
    process::signal(forced, Signal::SIGSTOP);
    let mut delete = Command::new(dist::binary(SHIM));
    let bundle = bed.dir().join("state/io.containerd.runtime.v2.task");
    let bundle = bundle.join(bed.namespace()).join("forced");
    delete
        .envs(bed.environment())
        .args(["-namespace", bed.namespace(), "-id", "forced", "-address"])
        .arg(bed.socket())
        .arg("-bundle")
        .arg(&bundle)
        .arg("delete")
        .current_dir(&bundle);
    run(delete, Input::Null, patience(10.0)).ok();
    assert!(
        process::wait_gone(forced, patience(5.0)),
        "its shim is left"
    );
    scene.await_event("forced", "/tasks/exit");
    scene.remove("forced");
    assert_eq!(listed(bed, "pod"), []);
}
