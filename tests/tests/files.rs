//! Files of containers from the host: `container mount`, `cp`, `export`, `artifact`.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Stdio;

use harness::bed::Bed;
use harness::dist::subject_is_ours;
use harness::layout::{Layout, Packing, Tar};
use harness::require;
use harness::run::{Input, run};
use harness::scene::limit;
use serde_json::{Value, json};

/// A container of an image with busybox and with a user of its own; it only waits.
fn container(bed: &Bed, name: &str) {
    let layout = Layout::new(bed.fresh("layout"));
    let tar = Tar::busybox()
        .dir("etc", 0o755)
        .file("etc/motd", "from the image")
        .file(
            "etc/passwd",
            "root:x:0:0:root:/:/bin/sh\nweb:x:101:202::/:/bin/sh\n",
        );
    let layer = layout.layer(&tar.finish(), Packing::Gzip);
    let image = layout.image(&[layer], &json!({}));
    layout.index(&[(&image, None)]);
    let image = layout.reference();
    let create = [
        "container",
        "create",
        "--name",
        name,
        "--user",
        "web",
        "--image",
        &image,
    ];
    let wait = ["--", "sleep", "100000"];
    bed.rust_kata(&[&create[..], &wait[..]].concat()).ok();
}

fn ctr(bed: &Bed, words: &[&str]) -> String {
    let mut all = vec!["container"];
    all.extend_from_slice(words);
    run(bed.cli(&all), Input::Null, limit()).ok().out()
}

/// The error of a command.
fn refused(bed: &Bed, words: &[&str]) -> String {
    let mut all = vec!["container"];
    all.extend_from_slice(words);
    run(bed.cli(&all), Input::Null, limit()).exits(125).err()
}

/// Removes the container with its pod and its image.
fn remove(bed: &Bed) {
    bed.rust_kata(&["pod", "rm", "--force", "web"]).ok();
    bed.rust_kata(&["image", "prune", "--all"]).ok();
}

fn folder(bed: &Bed, name: &str) -> PathBuf {
    let path = bed.fresh(name);
    fs::create_dir(&path).expect("a folder");
    path
}

fn mounts(bed: &Bed) -> Vec<String> {
    let points = harness::mounts::below(&bed.data());
    points
        .iter()
        .map(|point| point.display().to_string())
        .collect()
}

#[test]
fn what_is_copied_into_a_running_container_is_seen_at_once() {
    require!(subject_is_ours());
    let bed = Bed::new();
    container(&bed, "web");
    ctr(&bed, &["start", "web"]);
    let here = folder(&bed, "here");
    fs::create_dir_all(here.join("site/sub")).expect("a folder");
    fs::write(here.join("motd"), "from the host, and longer").expect("a file");
    fs::write(here.join("site/index"), "page").expect("a file");
    fs::write(here.join("site/sub/deep"), "deep").expect("a file");
    let at = |name: &str| here.join(name).display().to_string();

    // The guest has cached the old content, and the missing names.
    let script = "cat /etc/motd; ls /srv /etc/new 2>&1; true";
    let before = ctr(&bed, &["exec", "web", "--", "sh", "-c", script]);
    assert!(before.starts_with("from the image"), "{before}");
    ctr(&bed, &["cp", &at("motd"), "web:/etc/motd"]);
    ctr(&bed, &["cp", &at("motd"), "web:/etc/new"]);
    ctr(&bed, &["cp", &at("site"), "web:/srv"]);
    let script = "cat /etc/motd /etc/new /srv/index /srv/sub/deep; stat -c %u:%g /etc/motd";
    let after = ctr(&bed, &["exec", "web", "--", "sh", "-c", script]);
    let expected = "from the host, and longerfrom the host, and longerpagedeep101:202\n";
    assert_eq!(after, expected);

    // And from the container to the host, including a file that it wrote.
    let script = "echo mine > /tmp/mine && ln -s /etc/passwd /tmp/link";
    ctr(
        &bed,
        &[
            "exec",
            "--user",
            "0",
            "web",
            "--",
            "sh",
            "-c",
            &format!("mkdir -p /tmp; {script}"),
        ],
    );
    ctr(&bed, &["cp", "web:/tmp", &at("out")]);
    assert_eq!(
        fs::read_to_string(here.join("out/mine")).expect("it"),
        "mine\n"
    );
    let link = fs::read_link(here.join("out/link")).expect("a link");
    assert_eq!(link, PathBuf::from("/etc/passwd"));
    // A link is resolved in the container, not on the host.
    ctr(&bed, &["cp", "web:/tmp/link", &at("passwd")]);
    let passwd = fs::read_to_string(here.join("passwd")).expect("it");
    assert!(passwd.contains("web:x:101"), "{passwd}");
    assert_eq!(fs::metadata(here.join("passwd")).expect("it").uid(), 0);

    let error = refused(&bed, &["cp", "web:/none", &at("x")]);
    assert!(
        error.contains("/none: no such file or directory"),
        "{error}"
    );
    let error = refused(&bed, &["cp", "nobody:/etc", &at("x")]);
    assert!(error.contains("nobody"), "{error}");
    assert_eq!(mounts(&bed), Vec::<String>::new());
    remove(&bed);
}

#[test]
fn archives_go_through_stdin_and_stdout() {
    require!(subject_is_ours());
    let bed = Bed::new();
    container(&bed, "web");
    let tar = Tar::new().dir("a", 0o755).file("a/b", "text").finish();
    let cp = bed.cli(&["container", "cp", "-", "web:/etc"]);
    run(cp, Input::Bytes(tar), limit()).ok();
    let out = run(
        bed.cli(&["container", "cp", "web:/etc/a", "-"]),
        Input::Null,
        limit(),
    )
    .ok();
    let folder = folder(&bed, "out");
    let mut command = std::process::Command::new("tar");
    command.arg("-xf").arg("-").arg("-C").arg(&folder);
    run(command, Input::Bytes(out.stdout.bytes), limit()).ok();
    assert_eq!(fs::read_to_string(folder.join("a/b")).expect("it"), "text");
    remove(&bed);
}

#[test]
fn a_root_file_system_is_mounted_as_long_as_somebody_wants_it() {
    require!(subject_is_ours());
    let bed = Bed::new();
    container(&bed, "web");
    let path = PathBuf::from(ctr(&bed, &["mount", "web"]).trim());
    assert_eq!(
        ctr(&bed, &["mount", "web"]).trim(),
        path.to_str().expect("text")
    );
    assert_eq!(
        fs::read_to_string(path.join("etc/motd")).expect("it"),
        "from the image"
    );
    let table = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    let ours = table
        .lines()
        .find(|line| line.contains(path.to_str().expect("text")));
    assert!(
        ours.is_some_and(|line| line.contains("nosuid,nodev")),
        "{ours:?}"
    );
    let listed = ctr(&bed, &["mount", "--format", "json"]);
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed[0]["mounts"], 2);
    assert_eq!(listed[0]["path"].as_str(), path.to_str());

    // Files written while it is stopped are there when it runs, and the other way round.
    fs::write(path.join("etc/motd"), "written on the host").expect("it can be written");
    ctr(&bed, &["start", "web"]);
    let seen = ctr(&bed, &["exec", "web", "--", "cat", "/etc/motd"]);
    assert_eq!(seen, "written on the host");
    ctr(
        &bed,
        &[
            "exec",
            "--user",
            "0",
            "web",
            "--",
            "sh",
            "-c",
            "echo inside > /etc/fresh",
        ],
    );
    assert_eq!(
        fs::read_to_string(path.join("etc/fresh")).expect("it"),
        "inside\n"
    );

    // Two mounts: the first unmount keeps the mount, the last one fails while it is in use.
    ctr(&bed, &["unmount", "web"]);
    let open = fs::File::open(path.join("etc/motd")).expect("it");
    let error = refused(&bed, &["unmount", "web"]);
    assert!(
        error.contains("in use") && error.contains("--force"),
        "{error}"
    );
    drop(open);
    ctr(&bed, &["unmount", "web"]);
    assert_eq!(mounts(&bed), Vec::<String>::new());
    let error = refused(&bed, &["unmount", "web"]);
    assert!(error.contains("not mounted"), "{error}");

    // The mount is removed with the container.
    ctr(&bed, &["mount", "web"]);
    remove(&bed);
    assert_eq!(mounts(&bed), Vec::<String>::new());
}

#[test]
fn an_export_is_the_whole_root_file_system() {
    require!(subject_is_ours());
    let bed = Bed::new();
    container(&bed, "web");
    let path = PathBuf::from(ctr(&bed, &["mount", "web"]).trim());
    let mut sparse = fs::File::create(path.join("sparse")).expect("a file");
    std::io::Write::write_all(&mut sparse, b"start").expect("written");
    sparse.set_len(64 << 20).expect("a hole");
    drop(sparse);
    ctr(&bed, &["unmount", "web"]);
    let file = folder(&bed, "out").join("web.tar");

    ctr(&bed, &["export", "-o", file.to_str().expect("text"), "web"]);

    assert!(fs::metadata(&file).expect("it").len() < 16 << 20);
    let mut list = std::process::Command::new("tar");
    list.arg("-tvf").arg(&file);
    let list = run(list, Input::Null, limit()).ok().out();
    for name in ["etc/passwd", "bin/busybox", "67108864"] {
        assert!(list.contains(name), "{name}: {list}");
    }
    assert_eq!(mounts(&bed), Vec::<String>::new());

    // Killed halfway: what it leaves does not affect the next command.
    let mut stuck = bed.cli(&["container", "export", "web"]);
    let mut stuck = stuck.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut first = [0];
    stuck
        .stdout
        .as_mut()
        .expect("a pipe")
        .read_exact(&mut first)
        .expect("it has begun");
    stuck.kill().expect("it runs");
    stuck.wait().expect("ours");
    assert_eq!(mounts(&bed).len(), 1);
    ctr(&bed, &["export", "-o", file.to_str().expect("text"), "web"]);
    assert_eq!(mounts(&bed), Vec::<String>::new());
    remove(&bed);
}

#[test]
fn artifacts_stay_with_their_container() {
    require!(subject_is_ours());
    let bed = Bed::new();
    container(&bed, "web");
    let note = folder(&bed, "here").join("note");
    fs::write(&note, "remember").expect("a file");
    let note = note.to_str().expect("text");

    ctr(&bed, &["artifact", "add", "web", "notes", note]);
    let error = refused(&bed, &["artifact", "add", "web", "notes", note]);
    assert!(error.contains("already exists"), "{error}");
    assert_eq!(ctr(&bed, &["artifact", "get", "web", "notes"]), "remember");
    let listed = ctr(&bed, &["artifact", "ls", "web", "--format", "json"]);
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed, json!([{"name": "notes", "size": 8}]));
    ctr(&bed, &["artifact", "rm", "web", "notes"]);
    let error = refused(&bed, &["artifact", "get", "web", "notes"]);
    assert!(error.contains("\"notes\" not found"), "{error}");
    let error = refused(&bed, &["artifact", "add", "web", "../x", note]);
    assert!(error.contains("../x"), "{error}");
    remove(&bed);
}
