//! Commands about the machine and the program itself.

use serde_json::json;

use crate::cli::testing::Scene;

#[test]
fn the_configuration_is_shown_with_its_origin() {
    let scene = Scene::new();
    let table = scene.says("config show");
    let row = |key: &str| {
        let row = table.lines().find(|line| line.starts_with(key)).unwrap();
        row.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("KEY "), "VALUE FROM");
    assert_eq!(row("data_root "), "\"DIR/data\" DIR/config.toml");
    assert_eq!(row("debug "), "false default");
    let rows = scene.shows("config show --format json");
    let row = |key: &str| {
        rows.as_array()
            .unwrap()
            .iter()
            .find(|row| row["key"] == key)
            .cloned()
    };
    let debug = json!({ "key": "debug", "value": false, "origin": "default" });
    assert_eq!(row("debug"), Some(debug));
    let default = scene.says("config default");
    assert!(default.contains("data_root") && default.lines().count() > 20);
    std::fs::write(scene.path("config.toml"), "no_such_key = 1\n").unwrap();
    assert!(scene.refuses(125, "pod ls").contains("no_such_key"));
}

#[test]
fn requirements_and_completions_are_printed() {
    let scene = Scene::new();
    let said = scene.run(&["check"]);
    // The VMM is not beside the tests.
    assert_eq!(said.code, 1);
    let missing = said.out.lines().find(|line| line.contains("rust-kata-vmm"));
    assert!(missing.unwrap().starts_with("MISSING"), "{}", said.out);
    let said = scene.run(&["check", "--format", "json"]);
    let all: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let one = all
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "privileges");
    assert_eq!((said.code, &one.unwrap()["verdict"]), (1, &json!("good")));

    assert!(scene.says("completion bash").starts_with("_rust__kata()"));
    assert_eq!(scene.says("man DIR/man"), "");
    assert!(scene.path("man/rust-kata.1").exists());
}

#[test]
fn events_are_filtered_by_what_they_are_about() {
    let scene = Scene::with_a_pod();
    scene.says("volume create v");
    scene.says("--namespace other pod create --name q --label x=1");
    let shown = |options: &str| {
        let events = scene.says(&format!("events --format json {options}"));
        let events = events
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let words = events.map(|event| {
            let part = |key: &str| event[key].as_str().unwrap().to_owned();
            format!("{} {} {}", part("type"), part("action"), part("name"))
        });
        words.collect::<Vec<_>>().join(", ")
    };
    let all = "pod create p, container create a, container create b, volume create v, pod create q";
    for (options, expected) in [
        ("", all),
        ("--since 1h", all),
        ("--until 2020-01-01T00:00:00Z", ""),
        ("--filter type=volume", "volume create v"),
        ("--filter pod=p --filter name=a", "container create a"),
        ("--filter label=x", "pod create q"),
        ("--filter event=remove", ""),
    ] {
        assert_eq!(shown(options), expected, "{options}");
    }
    let pod = scene.says("pod events p");
    let lines: Vec<&str> = pod.lines().collect();
    assert!(lines.len() == 3 && lines[0].ends_with(" (name=p)"), "{pod}");
    assert!(lines[1].contains(" container create ") && lines[1].ends_with(" (pod=p, name=a)"));
    assert_eq!(scene.says("--namespace other events").lines().count(), 1);
    let followed = scene.says("events --follow --since 1h --until 2026-01-01T00:00:00Z");
    assert_eq!(followed, "");
}
