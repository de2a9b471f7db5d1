//! Containers as they are created and shown, and their files.

use serde_json::{Value, json};

use crate::cli::testing::Scene;

#[test]
fn a_container_is_what_its_options_say() {
    let scene = Scene::with_a_pod();
    let line = "create --pod p --name c --rootfs DIR/rootfs --label x=1 --requires a \
        --env A=1 --workdir /w --tty --interactive --stop-signal INT \
        --stop-timeout 4 --memory 2m --pids-limit 7 --read-only --rm sh -c true";
    assert_eq!(scene.says(line), "c\n");
    let shown = &scene.shows("inspect c")[0];
    for (key, value) in [
        ("restart", json!("no")),
        ("pod", json!("p")),
        ("namespace", json!("local")),
        ("name", json!("c")),
        ("front_door", json!("rust-kata")),
        ("status", json!("created")),
        ("labels", json!({ "x": "1" })),
        ("depends_on", json!(["a"])),
        ("remove_at_exit", json!(true)),
        ("stop_signal", json!(2)),
        ("stop_timeout", json!(4)),
        ("rootfs", json!({ "directory": "DIR/rootfs" })),
        ("path", json!("DIR/data/pods/local/p/containers/c")),
        ("log", json!("DIR/data/pods/local/p/containers/c/log")),
    ] {
        assert_eq!(shown[key], value, "{key}");
    }
    let process = &shown["spec"]["process"];
    assert_eq!(process["args"], json!(["sh", "-c", "true"]));
    assert_eq!(
        (&process["cwd"], &process["terminal"]),
        (&json!("/w"), &json!(true))
    );
    assert!(
        process["env"].as_array().unwrap().contains(&json!("A=1")),
        "{process}"
    );
    assert_eq!(shown["spec"]["root"]["readonly"], true);
    assert_eq!(
        shown["spec"]["linux"]["resources"]["memory"]["limit"],
        2 << 20
    );
    assert_eq!(shown["spec"]["linux"]["resources"]["pids"]["limit"], 7);
    for (options, problem) in [
        ("--rootfs DIR/none true", "DIR/none"),
        ("--rootfs DIR/rootfs --requires x true", "x"),
        ("--rootfs DIR/rootfs --restart maybe true", "maybe"),
        ("--rootfs DIR/rootfs --name a true", "a"),
        ("--rootfs DIR/rootfs --rm --restart always true", "--rm"),
    ] {
        let said = scene.refuses(125, &format!("create --pod p {options}"));
        assert!(said.contains(problem), "{said}");
    }
    // A container that cannot be made leaves no pod of its own.
    scene.refuses(125, "create --name d --rootfs DIR/none true");
    assert_eq!(scene.says("pod ls --quiet"), "p\n");
}

#[test]
fn containers_are_listed_and_filtered() {
    let scene = Scene::with_a_pod();
    scene.says("--namespace other create --name c --label x=1 --rootfs DIR/rootfs true");
    let table = scene.says("ls --all");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let heads = [
        "CONTAINER",
        "ID",
        "NAME",
        "POD",
        "NAMESPACE",
        "STATUS",
        "ROOT",
        "COMMAND",
        "MANAGED",
        "BY",
    ];
    assert_eq!(rows[0], heads);
    let shown = [
        "a",
        "p",
        "local",
        "created",
        "DIR/rootfs",
        "sleep",
        "a",
        "rust-kata",
    ];
    assert_eq!(rows[1][1..], shown);
    assert_eq!((rows.len(), rows[3][1], rows[3][2]), (4, "c", "c"));
    // None of them runs.
    assert_eq!(scene.says("ps --quiet"), "");
    let listed = scene.shows("ls --all --format json");
    let id = |row: &Value| row["id"].as_str().unwrap()[..9].to_owned();
    for (options, names) in [
        (format!("--filter id={}", id(&listed[1])), "b\n"),
        ("--filter label=x".into(), "c\n"),
        ("--filter name=a --filter name=c".into(), "a\nc\n"),
        ("--filter pod=p".into(), "a\nb\n"),
        (
            format!(
                "--filter pod={}",
                &listed[2]["pod_id"].as_str().unwrap()[..9]
            ),
            "c\n",
        ),
        ("--filter status=CREATED".into(), "a\nb\nc\n"),
        ("--filter status=exited".into(), ""),
        ("--pod c".into(), "c\n"),
    ] {
        assert_eq!(
            scene.says(&format!("ls --all --quiet {options}")),
            names,
            "{options}"
        );
    }
    assert_eq!(scene.says("--namespace local ls --all --quiet"), "a\nb\n");
    let row = json!({
        "id": listed[2]["id"], "name": "c", "pod": "c", "pod_id": listed[2]["pod_id"],
        "namespace": "other", "status": "created", "exit_code": null, "pid": 0,
        "image": "DIR/rootfs", "command": ["true"], "restarts": 0,
        "labels": { "x": "1" }, "front_door": "rust-kata",
    });
    assert_eq!(listed[2], row);

    let state = scene.path("data/pods/local/p/containers/a/state.json");
    std::fs::write(state, "{").unwrap();
    let said = scene.run(&["ls", "--all", "--quiet"]);
    assert_eq!((said.code, said.out.as_str()), (125, "b\nc\n"));
    assert!(said.err.contains("a: "), "{}", said.err);
}

#[test]
fn a_container_is_found_by_name_pod_and_id() {
    let scene = Scene::with_a_pod();
    scene.says("create --name p2 --rootfs DIR/rootfs true");
    scene.says("create --pod p2 --name a --rootfs DIR/rootfs true");
    let ambiguous = scene.refuses(125, "inspect a");
    assert!(
        ambiguous.contains("ambiguous") || ambiguous.contains("p2"),
        "{ambiguous}"
    );
    let first = scene.shows("inspect p/a")[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        scene.shows(&format!("inspect {}", &first[..8]))[0]["pod"],
        "p"
    );
    let both = scene.shows("inspect p2/a p/b");
    assert_eq!(
        (&both[0]["pod"], &both[1]["name"]),
        (&json!("p2"), &json!("b"))
    );
    // Each once.
    assert_eq!(scene.shows("inspect b b p/b").as_array().unwrap().len(), 1);
}

#[test]
fn the_log_of_a_container_goes_to_the_stream_that_it_was_written_to() {
    let scene = Scene::with_a_pod();
    assert_eq!(scene.says("logs a"), "");
    let log = scene.path("data/pods/local/p/containers/a/log");
    let lines = "2026-01-01T00:00:01.0Z stdout F one\n2026-01-01T00:00:02.0Z stdout P two \n\
        nonsense\n2026-01-01T00:00:03.0Z stderr F error\n2026-01-01T00:00:04.0Z stdout F three\n";
    std::fs::write(log, lines).unwrap();
    let said = scene.run(&["logs", "a"]);
    assert_eq!((said.code, said.out.as_str()), (0, "one\ntwo three\n"));
    assert!(said.err.ends_with("error\n"), "{}", said.err);
    assert_eq!(scene.says("logs --tail 1 a"), "three\n");
    assert_eq!(scene.says("logs --tail 9 a"), "one\ntwo three\n");
    assert_eq!(
        scene.says("logs --since 2026-01-01T00:00:04Z --timestamps a"),
        "2026-01-01T00:00:04.0Z three\n"
    );
    // It does not run: the end is followed at once.
    assert_eq!(scene.says("logs --follow a"), "one\ntwo three\n");
}

#[test]
fn artifacts_are_kept_beside_a_container() {
    let scene = Scene::with_a_pod();
    std::fs::write(scene.path("file"), "content").unwrap();
    assert_eq!(scene.says("artifact add a one DIR/file"), "");
    scene.refuses(125, "artifact add a two DIR/none");
    assert_eq!(scene.says("artifact add a none -"), "", "stdin is empty");
    assert_eq!(
        scene.says("artifact ls a"),
        "ARTIFACT  SIZE\nnone      0\none       7\n"
    );
    let listed = json!([{ "name": "none", "size": 0 }, { "name": "one", "size": 7 }]);
    assert_eq!(scene.shows("artifact ls --format json a"), listed);
    assert_eq!(scene.says("artifact get a one"), "content");
    assert_eq!(scene.says("artifact rm a one"), "");
    scene.refuses(125, "artifact get a one");
    assert_eq!(scene.says("artifact ls b"), "ARTIFACT  SIZE\n");
}

#[test]
fn files_are_copied_into_and_out_of_a_container() {
    let scene = Scene::with_a_pod();
    std::fs::write(scene.path("file"), "content").unwrap();
    scene.says("cp DIR/file a:/copied");
    let copied = std::fs::read_to_string(scene.path("rootfs/copied"));
    assert_eq!(copied.unwrap(), "content");
    scene.says("cp a:/copied DIR/back");
    assert_eq!(
        std::fs::read_to_string(scene.path("back")).unwrap(),
        "content"
    );
    // A path of the host may have a colon.
    std::fs::write(scene.path("a:b"), "colon").unwrap();
    scene.says("cp DIR/a:b a:/colon");
    assert!(scene.path("rootfs/colon").exists());
    scene.says("cp a:/copied b:/again");
    assert!(scene.path("rootfs/again").exists());
    let gone = scene.refuses(125, "cp x:/copied DIR/back");
    assert!(gone.contains("container \"x\" not found"), "{gone}");

    let archive = scene.says("cp a:/copied -");
    assert!(archive.contains("copied") && archive.contains("content"));
    let whole = scene.says("export a");
    assert!(whole.contains("copied") && whole.contains("again"));
    assert_eq!(scene.says("export --output DIR/all.tar a"), "");
    assert_eq!(
        std::fs::read_to_string(scene.path("all.tar")).unwrap(),
        whole
    );
}

#[test]
fn a_container_without_sessions_has_none_to_show() {
    let scene = Scene::with_a_pod();
    assert_eq!(
        scene.says("session ls a"),
        "SESSION  STATUS  CREATED  USER  COMMAND\n"
    );
    assert_eq!(scene.says("session ls --quiet a"), "");
    assert_eq!(scene.shows("session ls --format json a"), json!([]));
    let gone = scene.refuses(125, "session inspect a e1");
    assert!(gone.contains("exec \"e1\" not found"), "{gone}");
}
