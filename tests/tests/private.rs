//! Other users of the host have no access to pods, containers, volumes and images.

use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::bed::Bed;
use harness::dist::subject_is_ours;
use harness::require;
use harness::run::{Input, run};
use harness::scene::{Scene, limit};

/// All paths at and below `dir`, mounts included.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(tree(&path));
        }
        found.push(path);
    }
    found
}

#[test]
fn other_users_reach_nothing_of_pods_containers_and_volumes() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let open = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("the bed is ours");
    };
    // The directories above are open, so that only rust-kata's own keep others out. They exist
    // with the modes of an earlier build.
    open(bed.dir(), 0o755);
    for (dir, mode) in [(bed.state(), 0o711), (bed.data(), 0o755)] {
        fs::create_dir_all(&dir).expect("the bed is ours");
        open(&dir, mode);
    }
    let scene = Scene::subject(&bed);
    scene.detach("c", &[], &["sleep", "1000"]);
    let rootfs = bed.rootfs();
    let root = rootfs.to_str().expect("ASCII");
    let words = ["run", "-d", "--name", "mine", "--volume", "data:/data"];
    let script = "echo secret > /data/file; chmod 666 /data/file; sleep 1000";
    let rest = ["--rootfs", root, "--", "sh", "-c", script];
    run(bed.cli(&[&words[..], &rest].concat()), Input::Null, limit()).ok();

    let paths = [tree(&bed.state()), tree(&bed.data())].concat();
    let has = |wanted: &str| paths.iter().any(|path| path.ends_with(wanted));
    for wanted in ["rootfs/bin/busybox", "config.json", "volumes/data/_data"] {
        assert!(has(wanted), "the test lacks {wanted}");
    }
    let is_socket =
        |path: &&PathBuf| fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket());
    assert!(paths.iter().filter(is_socket).count() > 2, "no sockets");
    let names: Vec<u8> = paths
        .iter()
        .flat_map(|path| [path.as_os_str().as_bytes(), b"\0"].concat())
        .collect();
    let mut stat = Command::new("setpriv");
    stat.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    stat.args(["xargs", "-0", "stat", "--format", "%n"]);
    let output = run(stat, Input::Bytes(names), limit());

    assert_eq!(output.out(), "", "others have access to this");
    assert!(output.err().contains("Permission denied"), "{output:?}");
    bed.rust_kata(&["rm", "--force", "mine"]).ok();
    bed.rust_kata(&["volume", "rm", "data"]).ok();
    scene.remove("c");
    bed.assert_clean();
}
