//! Objects that must not be removed stay: containers that others put into a pod that `run`
//! made, and files and nodes that a command did not make.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use harness::bed::Bed;
use harness::dist::{self, subject_is_ours};
use harness::layout::{Layout, Packing, Tar};
use harness::pods::inspect;
use harness::process;
use harness::require;
use harness::run::{Input, Running, run};
use harness::scene::limit;
use serde_json::json;

const SLEEP: [&str; 3] = [
    "sh",
    "-c",
    "trap 'exit 0' TERM; while :; do sleep 0.1; done",
];

/// `rust-kata run -d` of a script that waits.
fn run_detached(bed: &Bed, words: &[&str]) {
    let args = [&["run", "-d"], words, &["--"], &SLEEP[..]].concat();
    run(bed.cli(&args), Input::Null, limit()).ok();
}

fn runs(bed: &Bed, name: &str) -> bool {
    inspect(bed, "container", name)["state"]["status"] == "running"
}

fn is_gone(bed: &Bed, what: &str, name: &str) {
    let gone = bed.rust_kata(&[what, "inspect", name]).exits(125);
    assert!(gone.err().contains("not found"), "{gone:?}");
}

#[test]
fn containers_that_nobody_named_stay_and_the_pod_goes_with_the_last() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let rootfs = bed.rootfs();
    let root = rootfs.to_str().expect("an ASCII path");
    let layout = Layout::new(bed.fresh("layout"));
    let layer = layout.layer(&Tar::busybox().finish(), Packing::Gzip);
    let image = layout.image(&[layer], &json!({}));
    layout.index(&[(&image, None)]);
    let image = layout.reference();

    // The pod was made for `first`, which is removed by the name of its image.
    run_detached(&bed, &["--name", "first", "--image", &image]);
    let in_first = ["--pod", "first", "--rootfs", root];
    let run_in_first = |words: &[&str]| run_detached(&bed, &[&in_first[..], words].concat());
    run_in_first(&["--name", "second", "-v", "v:/v"]);
    run_in_first(&["--name", "third"]);
    run_in_first(&["--name", "fourth"]);
    let refused = bed.rust_kata(&["pod", "rm", "first"]).exits(125);
    for name in ["first", "second", "third", "fourth"] {
        assert!(refused.err().contains(name), "{refused:?}");
    }
    let id = inspect(&bed, "container", "first")["image"].clone();
    let id = id.as_str().map_or_else(
        || {
            let ls = bed.rust_kata(&["image", "ls", "--quiet"]).ok().out();
            ls.trim().to_owned()
        },
        str::to_owned,
    );
    bed.rust_kata(&["image", "rm", "--force", &id]).ok();
    is_gone(&bed, "container", "first");
    for name in ["second", "third", "fourth"] {
        assert!(runs(&bed, name), "{name} after image rm");
    }

    bed.rust_kata(&["volume", "rm", "--force", "v"]).ok();
    is_gone(&bed, "container", "second");
    assert!(runs(&bed, "third") && runs(&bed, "fourth"));

    bed.rust_kata(&["container", "rm", "-f", "third"]).ok();
    is_gone(&bed, "container", "third");
    assert!(runs(&bed, "fourth"), "after container rm");

    bed.rust_kata(&["container", "rm", "-f", "fourth"]).ok();
    is_gone(&bed, "pod", "first");
}

#[test]
fn a_run_that_ends_takes_its_own_container_alone() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let rootfs = bed.rootfs();
    let root = rootfs.to_str().expect("an ASCII path");
    let words = [
        "run",
        "--rm",
        "-i",
        "--name",
        "first",
        "--rootfs",
        root,
        "--",
        "sh",
        "-c",
        "echo up; cat",
    ];
    let mut first = Running::spawn(bed.cli(&words), Input::Open);
    first.stdout.expect("up\n", limit());
    run_detached(
        &bed,
        &["--pod", "first", "--name", "second", "--rootfs", root],
    );
    first.close_stdin();
    first.finish(limit()).ok();
    is_gone(&bed, "container", "first");
    assert!(runs(&bed, "second"), "after the run has ended");

    // The last container takes the pod with it, even if another command started it.
    let words = [
        "run", "--rm", "--pod", "first", "--name", "third", "--rootfs", root,
    ];
    let words = [&words[..], &["--", "true"]].concat();
    run(bed.cli(&words), Input::Null, limit()).ok();
    assert!(runs(&bed, "second"), "after another run has ended");
    bed.rust_kata(&["container", "stop", "second"]).ok();
    bed.rust_kata(&["container", "rm", "second"]).ok();
    is_gone(&bed, "pod", "first");

    // No client waits for this one: its owner removes it.
    let words = ["run", "-d", "--rm", "--name", "alone", "--rootfs", root];
    let words = [&words[..], &["--", "true"]].concat();
    run(bed.cli(&words), Input::Null, limit()).ok();
    for process in bed.named(dist::CLI) {
        assert!(
            process::wait_gone(process.pid, limit()),
            "its owner still runs"
        );
    }
    is_gone(&bed, "pod", "alone");
}

#[test]
fn an_export_that_fails_leaves_what_was_there() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let rootfs = bed.rootfs();
    let root = rootfs.to_str().expect("an ASCII path");
    let create = ["container", "create", "--name", "c", "--rootfs", root];
    bed.rust_kata(&[&create[..], &["--", "true"]].concat()).ok();
    // Too deep to be packed: it fails after everything before it has been written.
    fs::create_dir_all(rootfs.join("zz").join("d/".repeat(450))).expect("ours");
    let out = bed.fresh("out");
    fs::create_dir(&out).expect("ours");
    let (file, fifo, device) = (out.join("file"), out.join("fifo"), out.join("null"));
    fs::write(&file, "the archive of yesterday").expect("ours");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("ours");
    let rw = nix::sys::stat::Mode::from_bits_truncate(0o666);
    nix::unistd::mkfifo(&fifo, rw).expect("ours");
    let null = nix::sys::stat::makedev(1, 3);
    let kind = nix::sys::stat::SFlag::S_IFCHR;
    nix::sys::stat::mknod(&device, kind, rw, null).expect("root makes devices");
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo).expect("a FIFO").len()
    });
    let export = |to: &std::path::Path| {
        let to = to.to_str().expect("text");
        run(
            bed.cli(&["container", "export", "-o", to, "c"]),
            Input::Null,
            limit(),
        )
    };

    for to in [&file, &fifo, &device, &out.join("fresh")] {
        let failed = export(to).exits(125);
        assert!(failed.err().contains("400 directories"), "{failed:?}");
    }

    assert!(reader.join().expect("it reads") > 1 << 20);
    let kind = |path| fs::symlink_metadata(path).expect("it is there").file_type();
    assert!(kind(&fifo).is_fifo() && kind(&device).is_char_device());
    let kept = fs::read_to_string(&file).expect("it is there");
    assert_eq!(kept, "the archive of yesterday");
    assert_eq!(fs::read_dir(&out).expect("ours").count(), 3);

    fs::remove_dir_all(rootfs.join("zz")).expect("ours");
    export(&file).ok();
    let data = fs::metadata(&file).expect("it is there");
    assert!(data.len() > 1 << 20);
    assert_eq!(data.mode() & 0o7777, 0o640);
    assert_eq!(fs::read_dir(&out).expect("ours").count(), 3);
    bed.rust_kata(&["container", "rm", "c"]).ok();
}
