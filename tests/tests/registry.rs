//! Images from a registry: the requests to it, and the checks of its answers.

use std::fs;
use std::path::PathBuf;

use harness::bed::Bed;
use harness::dist::{patience, subject_is_ours};
use harness::images::{busybox, layout, left, list, prune, run_of};
use harness::layout::{Packing, Tar, text};
use harness::registry::{Registry, USER};
use harness::require;
use harness::run::{Input, Running, run};
use harness::scene::limit;
use nix::sys::signal::Signal;
use serde_json::json;

#[test]
fn images_come_from_a_registry() {
    require!(subject_is_ours());
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

    // The image is in the store: the registry is asked only on request.
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
    // Only with TLS, since that was requested.
    let refused = bed
        .rust_kata(&["image", "pull", "--tls-verify", &name])
        .exits(125);
    assert!(refused.err().contains("cannot pull"), "{refused:?}");

    // A registry that sends other content.
    prune(&bed);
    let layer = &layout.manifest(&one)["layers"][0];
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
    require!(subject_is_ours());
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
    // On this machine, or on request, any certificate is accepted.
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
fn a_registry_may_ask_who_comes() {
    require!(subject_is_ours());
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
    assert!(refused.err().contains("not authorized"), "{refused:?}");
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
    require!(subject_is_ours());
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

    // Killed at random moments; what is left is a complete image, or is removed.
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
    // And while a container is made of it: a pod that is there is whole.
    let mut killed = 0;
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
        let ended = create.finish(patience(60.0));
        killed += u32::from(ended.code == 128 + Signal::SIGKILL as i32);
        let made = !bed
            .rust_kata(&["pod", "ls", "--quiet"])
            .ok()
            .out()
            .is_empty();
        if made {
            bed.rust_kata(&["container", "inspect", "c"]).ok();
            bed.rust_kata(&["pod", "rm", "--force", "c"]).ok();
        }
        prune(&bed);
    }
    assert!(killed > 1, "only {killed} were killed");
}
