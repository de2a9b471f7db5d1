//! Images: where they come from, what is made of them, and how they go.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use harness::bed::Bed;
use harness::dist::{patience, subject_is_ours};
use harness::layout::{Layout, Packing, Tar, text};
use harness::leak;
use harness::registry::{Registry, USER};
use harness::run::{Input, Output, Running, run};
use harness::scene::limit;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tar::EntryType;

fn layout(bed: &Bed) -> Layout {
    Layout::new(bed.fresh("layout"))
}

/// An image of busybox alone.
fn busybox(layout: &Layout, config: &Value) -> Value {
    let layer = layout.layer(&Tar::busybox().finish(), Packing::Gzip);
    layout.image(&[layer], config)
}

fn list(bed: &Bed) -> Vec<Value> {
    let text = bed
        .rust_kata(&["image", "ls", "--format", "json"])
        .ok()
        .out();
    serde_json::from_str(&text).expect("JSON")
}

/// `rust-kata run --rm` of an image.
fn run_of(bed: &Bed, image: &str, words: &[&str], command: &[&str]) -> Output {
    let mut args = vec!["run", "--rm", "--image", image];
    args.extend_from_slice(words);
    args.push("--");
    args.extend_from_slice(command);
    run(bed.cli(&args), Input::Null, limit())
}

/// What is below the image store besides its own folders.
fn left(bed: &Bed) -> Vec<PathBuf> {
    let store = bed.data().join("images");
    let found = leak::tree(&store).into_iter().map(|(path, _)| path);
    let depth = |path: &Path| path.strip_prefix(&store).map_or(0, |p| p.iter().count());
    found.filter(|path| depth(path) == 2).collect()
}

fn prune(bed: &Bed) {
    bed.rust_kata(&["image", "prune", "--all"]).ok();
    assert_eq!(left(bed), Vec::<PathBuf>::new());
}

#[test]
fn a_container_sees_the_layers_of_its_image_as_they_were_packed() {
    if !subject_is_ours("images") {
        return;
    }
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
    // What it wrote was its own.
    let again = run_of(&bed, &layout.reference(), &[], &["cat", "d/kept"]).ok();
    assert_eq!(again.out(), "above");
    assert_eq!(list(&bed).len(), 1, "taken in once");
    prune(&bed);
}

#[test]
fn what_an_image_says_of_its_containers_holds_unless_they_say_otherwise() {
    if !subject_is_ours("images") {
        return;
    }
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
    if !subject_is_ours("images") {
        return;
    }
    let bed = Bed::new();
    let layout = layout(&bed);
    let one = busybox(&layout, &json!({ "Env": ["N=1"] }));
    let two = busybox(&layout, &json!({ "Env": ["N=2"] }));
    // For another machine, and of several machines.
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
    // One image, one set of layers, whatever it was called.
    let layers = fs::read_dir(bed.data().join("images/layers")).expect("it is there");
    assert_eq!(layers.count(), 1);
    prune(&bed);
}

#[test]
fn images_are_listed_named_and_kept_from_being_removed_under_a_container() {
    if !subject_is_ours("images") {
        return;
    }
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

    let refused = bed.rust_kata(&["image", "rm", short]).exits(125);
    assert!(refused.err().contains("several names"), "{refused:?}");
    let removed = bed
        .rust_kata(&["image", "rm", "quay.example/app:2"])
        .ok()
        .out();
    assert_eq!(removed, "Untagged: quay.example/app:2\n");

    bed.rust_kata(&["container", "create", "--name", "c", "--image", short])
        .ok();
    let refused = bed.rust_kata(&["image", "rm", "app:1"]).exits(125);
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
    if !subject_is_ours("images") {
        return;
    }
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
    if !subject_is_ours("images") {
        return;
    }
    let bed = Bed::new();
    let outside = bed.dir().join("outside");
    fs::write(&outside, "whole").expect("it can be written");
    let absolute = outside.to_str().expect("ASCII");
    let up = "../".repeat(12) + &absolute[1..];
    let evil = [
        (Tar::new().file(&up, "evil"), ".. in it"),
        (Tar::new().file(absolute, "evil"), "absolute"),
        (Tar::new().file("a/.wh...", ""), "whiteout of no name"),
        (
            Tar::new().entry(EntryType::Link, "x", 0o644, (0, 0), &up, b""),
            ".. in it",
        ),
        (
            Tar::new()
                .link("out", bed.dir().to_str().expect("ASCII"))
                .entry(EntryType::Link, "x", 0o644, (0, 0), "out/outside", b""),
            "not there",
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
    // Through a link that leads out: it stays inside.
    let good = layout(&bed);
    let folder = bed.dir().to_str().expect("ASCII");
    let tar = Tar::new().link("out", folder).file("out/outside", "evil");
    let image = good.image(&[good.layer(&tar.finish(), Packing::Plain)], &json!({}));
    good.index(&[(&image, None)]);
    bed.rust_kata(&["image", "pull", &good.reference()]);
    assert_eq!(fs::read(&outside).expect("it is there"), b"whole");
    bed.rust_kata(&["image", "prune", "--all"]).ok();

    // What was changed under its digest: the manifest, the configuration, a layer.
    let damage: [fn(&Layout, &Value) -> PathBuf; 3] = [
        |layout, image| layout.blob_path(image),
        |layout, image| layout.blob_path(&manifest(layout, image)["config"]),
        |layout, image| layout.blob_path(&manifest(layout, image)["layers"][0]),
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
                said.contains("changed or damaged") || said.contains("bytes that its"),
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

fn manifest(layout: &Layout, image: &Value) -> Value {
    let bytes = fs::read(layout.blob_path(image)).expect("it is there");
    serde_json::from_slice(&bytes).expect("JSON")
}

#[test]
fn images_come_from_a_registry() {
    if !subject_is_ours("images") {
        return;
    }
    let bed = Bed::new();
    let layout = layout(&bed);
    let one = busybox(&layout, &json!({ "Cmd": ["sh", "-c", "echo one"] }));
    let base = layout.layer(&Tar::new().file("x", "x").finish(), Packing::Plain);
    let foreign = layout.image_for("arm64", &[base], &json!({}));
    let many = layout.list(&[("arm64", &foreign), ("amd64", &one)]);
    let folder = bed.fresh("registry");
    let registry = Registry::open(&folder);
    registry.push(&layout, &many, "org/app", "1");

    let name = format!("{}/org/app:1", registry.address());
    let never = run_of(&bed, &name, &["--pull", "never"], &[]).exits(125);
    assert!(never.err().contains("not found"), "{never:?}");
    assert_eq!(run_of(&bed, &name, &[], &[]).ok().out(), "one\n");
    assert_eq!(text(&list(&bed)[0]["name"]), name);

    // It is here: the registry is not asked, unless it is to be.
    let two = busybox(&layout, &json!({ "Cmd": ["sh", "-c", "echo two"] }));
    registry.push(&layout, &two, "org/app", "1");
    assert_eq!(run_of(&bed, &name, &[], &[]).ok().out(), "one\n");
    assert_eq!(
        run_of(&bed, &name, &["--pull", "always"], &[]).ok().out(),
        "two\n"
    );

    let digest = text(&one["digest"]);
    let pinned = format!("docker://{}/org/app@{digest}", registry.address());
    let id = bed
        .rust_kata(&["image", "pull", "--quiet", &pinned])
        .ok()
        .out();
    assert!(id.starts_with("sha256:"), "{id}");

    for (wanted, problem) in [("org/app:9", "manifest unknown"), ("org/none:1", "unknown")] {
        let wanted = format!("{}/{wanted}", registry.address());
        let refused = bed.rust_kata(&["image", "pull", &wanted]).exits(125);
        let said = refused.err().to_lowercase();
        assert!(said.contains(problem) && said.contains(&wanted), "{said}");
    }
    // With TLS only, since it was asked for.
    let refused = bed
        .rust_kata(&["image", "pull", "--tls-verify", &name])
        .exits(125);
    assert!(refused.err().contains("Cannot pull"), "{refused:?}");

    // A registry that hands out something else.
    prune(&bed);
    let layer = &manifest(&layout, &one)["layers"][0];
    let mut bytes = fs::read(registry.blob(layer)).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(registry.blob(layer), bytes).expect("it can be written");
    let refused = bed.rust_kata(&["image", "pull", &pinned]).exits(125);
    assert!(
        refused.err().contains(text(&layer["digest"])),
        "{refused:?}"
    );
    assert_eq!(left(&bed), Vec::<PathBuf>::new());

    let address = registry.address().to_owned();
    drop(registry);
    let refused = bed.rust_kata(&["image", "pull", &name]).exits(125);
    assert!(refused.err().contains(&address), "{refused:?}");
}

#[test]
fn a_registry_is_known_by_its_certificate() {
    if !subject_is_ours("images") {
        return;
    }
    let bed = Bed::new();
    let layout = layout(&bed);
    let image = busybox(&layout, &json!({}));
    let folder = bed.fresh("registry");
    let registry = Registry::with_tls(&folder);
    registry.push(&layout, &image, "app", "latest");
    let port = registry.address().rsplit(':').next().expect("a port");
    let name = format!("localhost:{port}/app");

    let strict = ["image", "pull", "--tls-verify", &name];
    let refused = bed.rust_kata(&strict).exits(125);
    assert!(refused.err().contains("certificate"), "{refused:?}");
    // On this machine, or if it is asked for, any will do.
    bed.rust_kata(&["image", "pull", &name]).ok();
    bed.rust_kata(&["image", "pull", "--tls-verify=false", &name])
        .ok();
    prune(&bed);

    let mut known = bed.cli(&strict);
    known.env("SSL_CERT_FILE", Registry::certificate(&folder));
    run(known, Input::Null, limit()).ok();
    prune(&bed);
}

#[test]
fn an_image_may_have_more_layers_than_a_page_has_room_for() {
    if !subject_is_ours("images") {
        return;
    }
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
fn a_registry_may_ask_who_comes() {
    if !subject_is_ours("images") {
        return;
    }
    let bed = Bed::new();
    let layout = layout(&bed);
    let image = busybox(&layout, &json!({}));
    let folder = bed.fresh("registry");
    let registry = Registry::closed(&folder);
    registry.push(&layout, &image, "app", "latest");
    let name = format!("{}/app", registry.address());

    let empty = bed.fresh("auth.json");
    fs::write(&empty, "{}").expect("it can be written");
    let empty = empty.to_str().expect("ASCII");
    let stranger = ["image", "pull", "--authfile", empty, &name];
    let refused = bed.rust_kata(&stranger).exits(125);
    assert!(refused.err().contains("Not authorized"), "{refused:?}");
    let (user, password) = USER;
    let wrong = format!("{user}:nope");
    let refused = bed
        .rust_kata(&["image", "pull", "--creds", &wrong, &name])
        .exits(125);
    assert!(!refused.err().contains("nope"), "{refused:?}");
    let right = format!("{user}:{password}");
    bed.rust_kata(&["image", "pull", "--creds", &right, &name])
        .ok();
    prune(&bed);

    // base64 of someone:secret
    let auth = json!({ "auths": { registry.address(): { "auth": "c29tZW9uZTpzZWNyZXQ=" } } });
    fs::write(empty, auth.to_string()).expect("it can be written");
    bed.rust_kata(&stranger).ok();
    prune(&bed);
}

#[test]
fn pulls_at_the_same_time_and_pulls_that_are_killed_leave_one_image_or_none() {
    if !subject_is_ours("images") {
        return;
    }
    let bed = Bed::new();
    let layout = layout(&bed);
    let mut layers = vec![layout.layer(&Tar::busybox().finish(), Packing::Gzip)];
    for n in 0..3 {
        let mut tar = Tar::new();
        for file in 0..200 {
            tar = tar.file(&format!("many-{n}/{file}"), &"content".repeat(500));
        }
        layers.push(layout.layer(&tar.finish(), Packing::Gzip));
    }
    let image = layout.image(&layers, &json!({}));
    layout.index(&[(&image, None)]);
    let pull = || {
        let command = bed.cli(&["image", "pull", &layout.reference()]);
        Running::spawn(command, Input::Null)
    };
    let both = [pull(), pull(), pull()];
    let ids = both.map(|pull| pull.finish(patience(60.0)).ok().out());
    assert!(ids[0] == ids[1] && ids[1] == ids[2]);
    assert_eq!(list(&bed).len(), 1);
    assert_eq!(
        left(&bed).len(),
        1 + 1 + 4,
        "a name, a record, four layers: {:?}",
        left(&bed)
    );
    prune(&bed);

    // Killed at any moment; what is left is an image that is whole, or is removed.
    let whole = bed.rust_kata(&["image", "pull", &layout.reference()]).ok();
    prune(&bed);
    let mut killed = 0;
    for turn in 0..24 {
        let pull = pull();
        std::thread::sleep(whole.elapsed * turn / 24);
        pull.signal(Signal::SIGKILL);
        let ended = pull.finish(patience(60.0));
        killed += u32::from(ended.code == 128 + Signal::SIGKILL as i32);
        assert!(list(&bed).len() <= 1);
        if let Some(image) = list(&bed).first() {
            bed.rust_kata(&["image", "inspect", text(&image["id"])])
                .ok();
        }
        prune(&bed);
    }
    assert!(killed > 4, "only {killed} were killed");
    // And while a container is made of it.
    for turn in 0..8 {
        let args = [
            "container",
            "create",
            "--name",
            "c",
            "--image",
            &layout.reference(),
            "true",
        ];
        let create = Running::spawn(bed.cli(&args), Input::Null);
        std::thread::sleep(whole.elapsed * turn / 8);
        create.signal(Signal::SIGKILL);
        create.finish(patience(60.0));
        let made = !bed
            .rust_kata(&["pod", "ls", "--quiet"])
            .ok()
            .out()
            .is_empty();
        if made {
            bed.rust_kata(&["pod", "rm", "--force", "c"]).ok();
        }
        prune(&bed);
    }
}

#[test]
fn what_a_container_wrote_goes_with_it_and_the_image_stays() {
    if !subject_is_ours("images") {
        return;
    }
    let bed = Bed::new();
    let layout = layout(&bed);
    let image = busybox(&layout, &json!({}));
    layout.index(&[(&image, None)]);
    let script = "cat /note 2> /dev/null; echo again >> /note";
    let words = ["container", "create", "--name", "c", "--image"];
    let reference = layout.reference();
    let command = [reference.as_str(), "--", "sh", "-c", script];
    bed.rust_kata(&[&words[..], &command[..]].concat()).ok();
    // What it wrote is there when it is started again.
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
    // Set-user-id programs of images are none of the host's users' business.
    let mode = fs::metadata(bed.data().join("images")).expect("it is there");
    assert_eq!(mode.permissions().mode() & 0o777, 0o700);
    assert_eq!(list(&bed).len(), 1);
    prune(&bed);
}
