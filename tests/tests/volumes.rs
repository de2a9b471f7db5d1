//! Volumes: which containers see their files, how long they are kept, and how new ones are
//! filled.

use std::fs;
use std::os::unix::fs::MetadataExt;

use harness::bed::Bed;
use harness::dist::subject_is_ours;
use harness::layout::{Layout, Packing, Tar};
use harness::require;
use harness::run::{Input, Output, run};
use harness::scene::limit;
use serde_json::{Value, json};
use tar::EntryType;

/// `rust-kata run --rm` with a busybox directory.
fn run_with(bed: &Bed, words: &[&str], script: &str) -> Output {
    let rootfs = bed.rootfs();
    let root = rootfs.to_str().expect("ASCII");
    let mut args = vec!["run", "--rm", "--rootfs", root];
    args.extend_from_slice(words);
    args.extend_from_slice(&["--", "sh", "-c", script]);
    run(bed.cli(&args), Input::Null, limit())
}

fn volumes(bed: &Bed) -> Vec<Value> {
    let text = bed
        .rust_kata(&["volume", "ls", "--format", "json"])
        .ok()
        .out();
    serde_json::from_str(&text).expect("JSON")
}

fn names(bed: &Bed) -> Vec<String> {
    let text = bed.rust_kata(&["volume", "ls", "--quiet"]).ok().out();
    text.lines().map(str::to_owned).collect()
}

/// An image with files at `/data`, which becomes a volume.
fn image(bed: &Bed, config: &Value) -> String {
    let layout = Layout::new(bed.fresh("layout"));
    let tar = Tar::busybox()
        .entry(EntryType::Directory, "data", 0o750, (1000, 2000), "", b"")
        .entry(
            EntryType::Regular,
            "data/file",
            0o640,
            (1000, 0),
            "",
            b"of the image\n",
        )
        .link("data/link", "file")
        .dir("data/sub", 0o700);
    let layer = layout.layer(&tar.finish(), Packing::Zstd);
    let image = layout.image(&[layer], config);
    layout.index(&[(&image, None)]);
    layout.reference()
}

#[test]
fn a_named_volume_stays_and_is_seen_by_all_that_have_it() {
    require!(subject_is_ours());
    let bed = Bed::new();
    run_with(&bed, &["-v", "data:/data"], "echo one > /data/a").ok();
    assert_eq!(names(&bed), ["data"]);
    let output = run_with(
        &bed,
        &["-v", "data:/other/place:ro"],
        "cat /other/place/a; echo x > /other/place/b",
    )
    .exits(1);
    assert_eq!(output.out(), "one\n");
    assert!(output.err().contains("Read-only"), "{output:?}");

    // A volume of a non-root user belongs to that user.
    let words = ["-v", "mine:/mine", "-u", "user"];
    run_with(&bed, &words, "echo x > /mine/a && stat -c %u:%g /mine").ok();

    // Shared by two containers of a pod at the same time.
    bed.rust_kata(&["pod", "create", "--name", "p"]).ok();
    for (name, script) in [
        ("w", "echo two > /data/w; sleep 100"),
        ("r", "until cat /v/w 2> /dev/null; do sleep 0.1; done"),
    ] {
        let rootfs = bed.rootfs();
        let root = rootfs.to_str().expect("ASCII");
        let target = if name == "w" { "data:/data" } else { "data:/v" };
        let args = [
            "container",
            "create",
            "--pod",
            "p",
            "--name",
            name,
            "--stop-timeout",
            "0",
        ];
        let rest = ["--rootfs", root, "-v", target, "--", "sh", "-c", script];
        bed.rust_kata(&[&args[..], &rest[..]].concat()).ok();
    }
    bed.rust_kata(&["pod", "start", "p"]).ok();
    bed.rust_kata(&["container", "wait", "r"]).ok();
    assert_eq!(
        bed.rust_kata(&["container", "logs", "r"]).ok().out(),
        "two\n"
    );

    // It is in use, whether the containers run or not.
    let refused = bed.rust_kata(&["volume", "rm", "data"]).exits(2);
    assert!(refused.err().contains("p/r, p/w"), "{refused:?}");
    bed.rust_kata(&["pod", "stop", "p"]).ok();
    let refused = bed.rust_kata(&["volume", "rm", "data"]).exits(2);
    assert!(refused.err().contains("--force"), "{refused:?}");
    let pruned = bed.rust_kata(&["volume", "prune"]).ok().out();
    assert_eq!(pruned, "mine\n");

    bed.rust_kata(&["pod", "rm", "--force", "p"]).ok();
    assert_eq!(names(&bed), ["data"]);
    bed.rust_kata(&["volume", "rm", "data"]).ok();
    let gone = bed.rust_kata(&["volume", "rm", "data"]).exits(1);
    assert!(gone.err().contains("\"data\" not found"), "{gone:?}");
}

#[test]
fn a_new_volume_gets_what_the_image_has_and_keeps_what_becomes_of_it() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let image = image(&bed, &json!({}));
    let run_of = |volume: &str, script: &str| {
        let args = [
            "run", "--rm", "--image", &image, "-v", volume, "--", "sh", "-c", script,
        ];
        run(bed.cli(&args), Input::Null, limit()).ok().out()
    };
    let look = "stat -c '%n %a %u:%g' /data /data/*; cat /data/link";
    let expected = "/data 750 1000:2000\n/data/file 640 1000:0\n\
        /data/link 777 0:0\n/data/sub 700 0:0\nof the image\n";
    assert_eq!(run_of("full:/data", look), expected);
    assert_eq!(run_of("full:/data", "rm -r /data/*; ls /data"), "");
    assert_eq!(
        run_of("full:/data", "ls /data"),
        "",
        "it is not filled again"
    );
    assert_eq!(run_of("empty:/data:nocopy", "ls /data"), "");
    // A volume with files is left as it is.
    bed.rust_kata(&["volume", "create", "mine"]).ok();
    let path = bed.data().join("volumes/mine/_data");
    fs::write(path.join("own"), "").expect("it can be written");
    assert_eq!(run_of("mine:/data", "ls /data"), "own\n");
    assert_eq!(fs::metadata(&path).expect("it is there").uid(), 0);
    bed.rust_kata(&["volume", "prune"]).ok();
    bed.rust_kata(&["image", "prune", "--all"]).ok();
}

#[test]
fn anonymous_volumes_go_with_their_container_and_their_pod() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let image = image(&bed, &json!({ "Volumes": { "/data": {}, "/made": {} } }));
    bed.rust_kata(&["pod", "create", "--name", "p"]).ok();
    let script = "cat /data/file; echo x >> /made/note; cat /made/note; echo more >> /data/file";
    for name in ["a", "b"] {
        let args = [
            "container",
            "create",
            "--pod",
            "p",
            "--name",
            name,
            "--image",
            &image,
        ];
        let rest = ["-v", "/own", "-v", "named:/named", "--", "sh", "-c", script];
        bed.rust_kata(&[&args[..], &rest[..]].concat()).ok();
    }
    let anonymous = |bed: &Bed| {
        let all = volumes(bed);
        let found = all.iter().filter(|volume| volume["anonymous"] == true);
        found.cloned().collect::<Vec<_>>()
    };
    assert_eq!(anonymous(&bed).len(), 6);
    // Anonymous volumes are kept from one start to the next.
    for _ in 0..2 {
        bed.rust_kata(&["container", "start", "a"]).ok();
        bed.rust_kata(&["container", "wait", "a"]).ok();
    }
    let said = bed.rust_kata(&["container", "logs", "a"]).ok().out();
    assert_eq!(said, "of the image\nx\nof the image\nmore\nx\nx\n");
    // Their files are not in the container's own layer.
    let upper = bed.data().join("pods/local/p/containers/a/upper");
    assert!(!upper.join("made/note").exists() && !upper.join("data/file").exists());

    let one = &anonymous(&bed)[0];
    let name = one["name"].as_str().expect("a name");
    let refused = bed.rust_kata(&["volume", "rm", name]).exits(2);
    assert!(refused.err().contains("p/"), "{refused:?}");
    bed.rust_kata(&["volume", "inspect", name]).ok();

    bed.rust_kata(&["container", "rm", "a"]).ok();
    assert_eq!(anonymous(&bed).len(), 3);
    bed.rust_kata(&["pod", "rm", "--force", "p"]).ok();
    assert_eq!(names(&bed), ["named"]);

    let run_of = [
        "run", "--rm", "--image", &image, "-v", "/own", "--", "touch", "/own/x",
    ];
    run(bed.cli(&run_of), Input::Null, limit()).ok();
    assert_eq!(names(&bed), ["named"]);
    bed.rust_kata(&["volume", "rm", "named"]).ok();
    bed.rust_kata(&["image", "prune", "--all"]).ok();
}

#[test]
fn volumes_are_created_listed_inspected_and_removed_with_their_containers() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let made = bed
        .rust_kata(&["volume", "create", "--label", "a=b", "v"])
        .ok()
        .out();
    assert_eq!(made, "v\n");
    let again = bed.rust_kata(&["volume", "create", "v"]).exits(125);
    assert!(again.err().contains("already exists"), "{again:?}");
    let unnamed = bed.rust_kata(&["volume", "create"]).ok().out();
    assert_eq!(unnamed.trim().len(), 64);
    let text = bed.rust_kata(&["volume", "inspect", "v"]).ok().out();
    let shown: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(shown[0]["labels"], json!({ "a": "b" }));
    assert_eq!(shown[0]["path"], json!(bed.data().join("volumes/v/_data")));
    assert!(shown[0]["created"].is_string(), "{shown}");
    let refused = bed.rust_kata(&["volume", "create", "a/b"]).exits(125);
    assert!(refused.err().contains("volume name"), "{refused:?}");

    let rootfs = bed.rootfs();
    let root = rootfs.to_str().expect("ASCII");
    let args = [
        "run", "-d", "--name", "c", "--rootfs", root, "-v", "v:/v", "--", "sleep", "100",
    ];
    bed.rust_kata(&args).ok();
    let table = bed.rust_kata(&["volume", "ls"]).ok().out();
    assert!(table.contains("c/c"), "{table}");
    // A damaged file is reported, and hides nothing else.
    let config = bed
        .data()
        .join("volumes")
        .join(unnamed.trim())
        .join("config.json");
    fs::write(&config, "{").expect("it can be written");
    let listed = bed.rust_kata(&["volume", "ls"]).ok();
    assert!(
        listed.out().contains("c/c") && listed.err().contains(unnamed.trim()),
        "{listed:?}"
    );

    bed.rust_kata(&["volume", "rm", "--force", "v"]).ok();
    let gone = bed.rust_kata(&["pod", "inspect", "c"]).exits(125);
    assert!(gone.err().contains("not found"), "{gone:?}");
    bed.rust_kata(&["volume", "rm", unnamed.trim()]).ok();
    assert!(names(&bed).is_empty());
}
