//! Images: their sources, containers made from them, and their removal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use harness::bed::Bed;
use harness::dist::subject_is_ours;
use harness::images::{busybox, layout, left, list, prune, run_of};
use harness::layout::{Layout, Packing, Tar, text};
use harness::require;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tar::EntryType;

#[test]
fn a_container_sees_the_layers_of_its_image_as_they_were_packed() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let layout = layout(&bed);
    let base = Tar::busybox()
        .dir("d", 0o755)
        .file("d/gone", "gone")
        .file("d/kept", "below")
        .dir("o", 0o755)
        .file("o/hidden", "x")
        .dir("secret", 0o700)
        .file("secret/old", "x");
    let middle = Tar::new()
        .file("d/.wh.gone", "")
        .file("d/kept", "above")
        .file("o/.wh..wh..opq", "")
        .file("o/new", "y")
        .file("secret/new", "z");
    let top = Tar::new()
        .file("d/first", "twice")
        .entry(EntryType::Link, "d/second", 0o644, (0, 0), "d/first", b"")
        .entry(
            EntryType::Regular,
            "suid",
            0o4711,
            (1000, 2000),
            "",
            b"#!/bin/sh\n",
        )
        .entry(EntryType::Char, "null", 0o622, (0, 5), "", b"")
        .link("way", "/d/../d/kept");
    let layers = [
        layout.layer(&base.finish(), Packing::Plain),
        layout.layer(&middle.finish(), Packing::Gzip),
        layout.layer(&top.finish(), Packing::Zstd),
    ];
    let image = layout.image(&layers, &json!({}));
    layout.index(&[(&image, None)]);

    let script = "ls d o; cat d/kept way; \
        stat -c '%n %a %u:%g %F %Y' suid secret null; stat -c '%h' d/first; \
        stat -c '%t:%T' null; echo mine > d/kept; cat d/kept";
    let output = run_of(&bed, &layout.reference(), &[], &["sh", "-c", script]).ok();
    let expected = "d:\nfirst\nkept\nsecond\n\no:\nnew\nabove\
        above\
        suid 4711 1000:2000 regular file 1700000000\n\
        secret 700 0:0 directory 1700000000\n\
        null 622 0:5 character special file 1700000000\n\
        2\n1:3\nmine\n";
    assert_eq!(output.out(), expected);
    // Its changes were its own.
    let again = run_of(&bed, &layout.reference(), &[], &["cat", "d/kept"]).ok();
    assert_eq!(again.out(), "above");
    assert_eq!(list(&bed).len(), 1, "imported once");
    prune(&bed);
}

#[test]
fn what_an_image_says_of_its_containers_holds_unless_they_say_otherwise() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let layout = layout(&bed);
    let image = busybox(
        &layout,
        &json!({
            "Entrypoint": ["sh", "-c", "\"$0\" \"$@\"; echo end"],
            "Cmd": ["sh", "-c", "pwd; id -un; id -G; echo $A $B $HOME"],
            "Env": ["PATH=/bin", "A=image", "B=image"],
            "WorkingDir": "/var/made/here",
            "User": "user",
            "StopSignal": "SIGUSR1",
            "Labels": { "of": "image", "both": "image" },
        }),
    );
    layout.index(&[(&image, Some("1"))]);
    let reference = layout.reference();
    let output = run_of(&bed, &reference, &[], &[]).ok();
    assert_eq!(
        output.out(),
        "/var/made/here\nuser\n1000 2000\nimage image /tmp\nend\n"
    );

    let words = [
        "-e",
        "A=mine",
        "-w",
        "/",
        "-u",
        "0",
        "--entrypoint",
        "[\"sh\", \"-c\"]",
    ];
    let script = "pwd; id -un; echo $A $B";
    let output = run_of(&bed, &reference, &words, &[script]).ok();
    assert_eq!(output.out(), "/\nroot\nmine image\n");

    let words = [
        "container",
        "create",
        "--name",
        "c",
        "-l",
        "both=mine",
        "--image",
    ];
    let words = [&words[..], &[reference.as_str()]].concat();
    bed.rust_kata(&words).ok();
    let text = bed.rust_kata(&["container", "inspect", "c"]).ok().out();
    let shown: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(shown[0]["labels"], json!({ "of": "image", "both": "mine" }));
    assert_eq!(shown[0]["stop_signal"], Signal::SIGUSR1 as i32);
    bed.rust_kata(&["pod", "rm", "--force", "c"]).ok();
    prune(&bed);
}

#[test]
fn layouts_and_archives_are_taken_in_by_their_tags() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let layout = layout(&bed);
    let one = busybox(&layout, &json!({ "Env": ["N=1"] }));
    let two = busybox(&layout, &json!({ "Env": ["N=2"] }));
    // For another platform, and for several.
    let base = layout.layer(&Tar::new().file("x", "x").finish(), Packing::Plain);
    let foreign = layout.image_for("s390x", &[base], &json!({}));
    let many = layout.list(&[("s390x", &foreign), ("amd64", &two)]);
    let tags = [
        (&one, Some("one")),
        (&many, Some("many")),
        (&foreign, Some("foreign")),
    ];
    layout.index(&tags);
    let path = layout.dir().to_str().expect("an ASCII path").to_owned();

    let refused = bed
        .rust_kata(&["image", "pull", &format!("oci:{path}")])
        .exits(125);
    assert!(refused.err().contains("foreign, many, one"), "{refused:?}");
    let refused = bed
        .rust_kata(&["image", "pull", &format!("oci:{path}:no")])
        .exits(125);
    assert!(refused.err().contains("no image of the tag"), "{refused:?}");
    let refused = bed
        .rust_kata(&["image", "pull", &format!("oci:{path}:foreign")])
        .exits(125);
    assert!(refused.err().contains("linux/s390x"), "{refused:?}");
    let refused = bed
        .rust_kata(&["image", "pull", "oci:/nonexistent"])
        .exits(125);
    assert!(refused.err().contains("/nonexistent"), "{refused:?}");

    let id = bed
        .rust_kata(&["image", "pull", &format!("oci:{path}:many")])
        .ok()
        .out();
    bed.rust_kata(&["image", "tag", id.trim(), "app:2"]).ok();
    let output = run_of(
        &bed,
        "app:2",
        &["--pull", "never"],
        &["sh", "-c", "echo $N"],
    )
    .ok();
    assert_eq!(output.out(), "2\n");

    for (n, packing) in [Packing::Plain, Packing::Gzip, Packing::Zstd]
        .into_iter()
        .enumerate()
    {
        let archive = bed.fresh("image.tar");
        layout.archive(&archive, packing);
        let reference = format!("{}:one", archive.display());
        let name = format!("archive:{n}");
        bed.rust_kata(&["image", "load", "--tag", &name, &reference])
            .ok();
        let listed = bed.rust_kata(&["image", "inspect", &name]).ok().out();
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        assert_eq!(listed[0]["config"]["config"]["Env"], json!(["N=1"]));
    }
    let archive = format!("oci-archive:{}:one", bed.dir().join("nope.tar").display());
    let refused = bed.rust_kata(&["image", "pull", &archive]).exits(125);
    assert!(refused.err().contains("nope.tar"), "{refused:?}");
    // One image and one set of layers, under all names.
    let layers = fs::read_dir(bed.data().join("images/layers")).expect("it is there");
    assert_eq!(layers.count(), 1);
    prune(&bed);
}

#[test]
fn images_are_listed_named_and_kept_from_being_removed_under_a_container() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let layout = layout(&bed);
    let image = busybox(&layout, &json!({ "Cmd": ["true"] }));
    layout.index(&[(&image, None)]);
    bed.rust_kata(&[
        "image",
        "load",
        "--tag",
        "app:1",
        layout.dir().to_str().expect("ASCII"),
    ])
    .ok();
    bed.rust_kata(&["image", "tag", "app:1", "quay.example/app:2"])
        .ok();
    let table = bed.rust_kata(&["image", "ls"]).ok().out();
    assert!(
        table.contains("localhost/app:1") && table.contains("quay.example/app:2"),
        "{table}"
    );
    let history = bed.rust_kata(&["image", "history", "app:1"]).ok().out();
    assert!(history.contains("a test"), "{history}");
    let id = text(&list(&bed)[0]["id"]).to_owned();
    let short = &id["sha256:".len()..][..12];

    let refused = bed.rust_kata(&["image", "rm", short]).exits(2);
    assert!(refused.err().contains("several names"), "{refused:?}");
    let removed = bed
        .rust_kata(&["image", "rm", "quay.example/app:2"])
        .ok()
        .out();
    assert_eq!(removed, "Untagged: quay.example/app:2\n");

    bed.rust_kata(&["container", "create", "--name", "c", "--image", short])
        .ok();
    let refused = bed.rust_kata(&["image", "rm", "app:1"]).exits(2);
    assert!(refused.err().contains("c/c"), "{refused:?}");
    bed.rust_kata(&["image", "prune", "--all"]).ok();
    assert_eq!(list(&bed).len(), 1, "it is in use");
    bed.rust_kata(&["container", "start", "c"]).ok();

    let removed = bed
        .rust_kata(&["image", "rm", "--force", "app:1"])
        .ok()
        .out();
    assert!(
        removed.contains("Untagged: localhost/app:1\nDeleted: sha256:"),
        "{removed}"
    );
    let gone = bed.rust_kata(&["pod", "inspect", "c"]).exits(125);
    assert!(gone.err().contains("not found"), "{gone:?}");
    assert_eq!(left(&bed), Vec::<PathBuf>::new());
    let gone = bed.rust_kata(&["image", "inspect", "app:1"]).exits(125);
    assert!(gone.err().contains("app:1"), "{gone:?}");
}

#[test]
fn a_name_that_moves_on_leaves_an_image_that_prune_finds() {
    require!(subject_is_ours());
    let bed = Bed::new();
    for n in ["1", "2"] {
        let layout = layout(&bed);
        let image = busybox(&layout, &json!({ "Env": [format!("N={n}")] }));
        layout.index(&[(&image, None)]);
        let path = layout.dir().to_str().expect("ASCII").to_owned();
        bed.rust_kata(&["image", "load", "--tag", "app", &path])
            .ok();
    }
    assert_eq!(list(&bed).len(), 2);
    assert!(list(&bed).iter().any(|row| row["name"].is_null()));
    let pruned = bed.rust_kata(&["image", "prune"]).ok();
    assert!(pruned.out().starts_with("Deleted: sha256:"), "{pruned:?}");
    assert_eq!(list(&bed).len(), 1);
    prune(&bed);
}

#[test]
fn images_that_mean_harm_or_were_changed_are_refused_and_leave_nothing() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let outside = bed.dir().join("outside");
    fs::write(&outside, "whole").expect("it can be written");
    let absolute = outside.to_str().expect("ASCII");
    let up = "../".repeat(12) + &absolute[1..];
    let evil = [
        (Tar::new().file(&up, "evil"), "contains .."),
        (Tar::new().file(absolute, "evil"), "absolute"),
        (Tar::new().file("a/.wh...", ""), "whiteout without a name"),
        (
            Tar::new().entry(EntryType::Link, "x", 0o644, (0, 0), &up, b""),
            "contains ..",
        ),
        (
            Tar::new()
                .link("out", bed.dir().to_str().expect("ASCII"))
                .entry(EntryType::Link, "x", 0o644, (0, 0), "out/outside", b""),
            "does not exist",
        ),
    ];
    for (layer, problem) in evil {
        let layout = layout(&bed);
        let layer = layout.layer(&layer.finish(), Packing::Gzip);
        let image = layout.image(&[layer], &json!({}));
        layout.index(&[(&image, None)]);
        let refused = bed
            .rust_kata(&["image", "pull", &layout.reference()])
            .exits(125);
        assert!(refused.err().contains(problem), "{problem}: {refused:?}");
        assert_eq!(left(&bed), Vec::<PathBuf>::new());
    }
    // A link that leads out of the root is resolved inside it.
    let good = layout(&bed);
    let folder = bed.dir().to_str().expect("ASCII");
    let tar = Tar::new().link("out", folder).file("out/outside", "evil");
    let image = good.image(&[good.layer(&tar.finish(), Packing::Plain)], &json!({}));
    good.index(&[(&image, None)]);
    bed.rust_kata(&["image", "pull", &good.reference()]);
    assert_eq!(fs::read(&outside).expect("it is there"), b"whole");
    bed.rust_kata(&["image", "prune", "--all"]).ok();

    // Content that was changed under its digest: the manifest, the configuration, a layer.
    let damage: [fn(&Layout, &Value) -> PathBuf; 3] = [
        |layout, image| layout.blob_path(image),
        |layout, image| layout.blob_path(&layout.manifest(image)["config"]),
        |layout, image| layout.blob_path(&layout.manifest(image)["layers"][0]),
    ];
    for which in damage {
        for longer in [false, true] {
            let layout = layout(&bed);
            let layer = layout.layer(&Tar::new().file("a", "abc").finish(), Packing::Plain);
            let image = layout.image(&[layer], &json!({}));
            layout.index(&[(&image, None)]);
            let path = which(&layout, &image);
            let mut bytes = fs::read(&path).expect("it is there");
            match longer {
                true => bytes.push(b' '),
                false => {
                    let last = bytes.len() - 1;
                    bytes[last] ^= 1;
                }
            }
            fs::write(&path, bytes).expect("it can be written");
            let refused = bed
                .rust_kata(&["image", "pull", &layout.reference()])
                .exits(125);
            let said = refused.err();
            assert!(
                said.contains("is damaged") || said.contains("bytes of its descriptor"),
                "{said}"
            );
            assert_eq!(left(&bed), Vec::<PathBuf>::new());
        }
    }
    let lying = layout(&bed);
    let mut layer = lying.layer(&Tar::new().file("a", "abc").finish(), Packing::Gzip);
    layer.diff_id = format!("sha256:{}", "0".repeat(64));
    let image = lying.image(&[layer], &json!({}));
    lying.index(&[(&image, None)]);
    let refused = bed
        .rust_kata(&["image", "pull", &lying.reference()])
        .exits(125);
    assert!(refused.err().contains("diff id"), "{refused:?}");
    assert_eq!(left(&bed), Vec::<PathBuf>::new());
}

#[test]
fn an_image_may_have_more_layers_than_a_page_has_room_for() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let layout = layout(&bed);
    let mut layers = vec![layout.layer(&Tar::busybox().finish(), Packing::Gzip)];
    for n in 1..127 {
        let tar = Tar::new()
            .file(&format!("n/{n}"), "x")
            .file("last", &n.to_string());
        layers.push(layout.layer(&tar.finish(), Packing::Plain));
    }
    let image = layout.image(&layers, &json!({}));
    layout.index(&[(&image, None)]);
    let script = ["sh", "-c", "cat last; echo; ls n | wc -l"];
    let output = run_of(&bed, &layout.reference(), &[], &script).ok();
    assert_eq!(output.out(), "126\n126\n");
    prune(&bed);
}

#[test]
fn what_a_container_wrote_goes_with_it_and_the_image_stays() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let layout = layout(&bed);
    let image = busybox(&layout, &json!({}));
    layout.index(&[(&image, None)]);
    let script = "cat /note 2> /dev/null; echo again >> /note";
    let words = ["container", "create", "--name", "c", "--image"];
    let reference = layout.reference();
    let command = [reference.as_str(), "--", "sh", "-c", script];
    bed.rust_kata(&[&words[..], &command[..]].concat()).ok();
    // Its changes are kept when it is started again.
    for _ in 0..3 {
        bed.rust_kata(&["container", "start", "c"]).ok();
        bed.rust_kata(&["container", "wait", "c"]).ok();
        bed.rust_kata(&["pod", "stop", "c"]).ok();
    }
    let said = bed.rust_kata(&["container", "logs", "c"]).ok();
    assert_eq!(said.out(), "again\nagain\nagain\n");
    let container = bed.data().join("pods/local/c/containers/c");
    let note = fs::read(container.join("upper/note")).expect("it is there");
    assert_eq!(note, b"again\nagain\nagain\n");
    bed.rust_kata(&["pod", "rm", "c", "--force"]).ok();
    assert!(!container.exists());
    // Users of the host must not reach set-user-id programs of images.
    let mode = fs::metadata(bed.data().join("images")).expect("it is there");
    assert_eq!(mode.permissions().mode() & 0o777, 0o700);
    assert_eq!(list(&bed).len(), 1);
    prune(&bed);
}
