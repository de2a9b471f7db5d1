//! Pods as they are created, shown and listed.

use serde_json::json;

use crate::cli::testing::Scene;

#[test]
fn a_pod_is_what_its_options_say() {
    let scene = Scene::new();
    let line = "pod create --name p --hostname h --label a=1 --label b --share +pid \
        --exit-policy stop --cpus 1.5 --cpu-period 50000 --cpu-shares 512 --cpuset-cpus 0-1 \
        --memory 64m --vm-memory 200 --vcpus 3 --hypervisor qemu --cgroup-parent /x \
        --hook-post-stop /bin/false --hook-timeout 9";
    assert_eq!(scene.says(line), "p\n");
    let shown = &scene.shows("pod inspect p")[0];
    for (key, value) in [
        ("name", json!("p")),
        ("namespace", json!("local")),
        ("hostname", json!("h")),
        ("labels", json!({ "a": "1", "b": "" })),
        ("share", json!(["net", "ipc", "uts", "pid"])),
        ("exit_policy", json!("stop")),
        ("memory_mib", json!(200)),
        ("vcpus", json!(3)),
        ("hypervisor", json!("qemu")),
        ("cgroup_parent", json!("/x")),
        ("infra", json!(true)),
        ("single", json!(false)),
        ("status", json!("Created")),
        ("containers", json!([])),
        ("front_door", json!("rust-kata")),
        ("owner_pid", json!(null)),
        ("path", json!("DIR/data/pods/local/p")),
    ] {
        assert_eq!(shown[key], value, "{key}");
    }
    let resources = json!({
        "cpu_period": 50_000, "cpu_quota": 75_000, "cpu_shares": 512, "cpuset": "0-1",
        "memory": 64 << 20,
    });
    assert_eq!(shown["resources"], resources);
    let hook = json!([{ "path": "/bin/false", "args": ["/bin/false"], "timeout": 9 }]);
    assert_eq!(shown["hooks"]["post_stop"], hook);
}

#[test]
fn limits_of_cpu_time_are_of_one_period_and_an_infra_less_pod_shares_nothing() {
    let scene = Scene::new();
    let resources = |options: &str| {
        scene.says(&format!("pod create --name p {options}"));
        let shown = scene.shows("pod inspect p")[0].clone();
        scene.says("pod rm p");
        (
            shown["resources"].clone(),
            shown["share"].clone(),
            shown["infra"].clone(),
        )
    };
    let shared = json!(["net", "ipc", "uts"]);
    let (limits, share, _) = resources("--cpus 0.25");
    assert_eq!(
        (&limits["cpu_quota"], &limits["cpu_period"]),
        (&json!(25_000), &json!(100_000))
    );
    assert_eq!(share, shared);
    let (limits, ..) = resources("--cpu-quota -1 --cpu-period 20000");
    assert_eq!(
        (&limits["cpu_quota"], &limits["cpu_period"]),
        (&json!(-1), &json!(20_000))
    );
    let (_, share, infra) = resources("--infra false");
    assert_eq!((share, infra), (json!([]), json!(false)));
    for (options, problem) in [
        ("--exit-policy sometimes", "\"sometimes\""),
        ("--share mount", "\"mount\""),
        ("--memory much", "\"much\""),
        ("--label =x", "\"=x\""),
        ("--infra false --share pid", "infra"),
    ] {
        let said = scene.refuses(125, &format!("pod create {options}"));
        assert!(said.contains(problem), "{said}");
    }
    assert_eq!(scene.says("pod ls --quiet"), "");
}

#[test]
fn pods_are_listed_filtered_and_told_apart_by_namespace() {
    let scene = Scene::new();
    scene.says("pod create --name one --label a=1");
    scene.says("--namespace other pod create --name two --label a=2");
    scene.says("create --pod one --name c --rootfs DIR/rootfs true");
    let id = |name: &str| {
        let shown = scene.shows(&format!("pod inspect {name}"));
        shown[0]["id"].as_str().unwrap().to_owned()
    };
    let (one, two) = (id("one"), id("two"));
    let table = scene.says("pod ls");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let heads = [
        "POD",
        "ID",
        "NAME",
        "NAMESPACE",
        "STATUS",
        "CREATED",
        "CONTAINERS",
        "MANAGED",
        "BY",
    ];
    assert_eq!(rows[0], heads);
    assert_eq!(rows[1][..4], [&one[..12], "one", "local", "Created"]);
    assert_eq!(rows[1][rows[1].len() - 2..], ["1", "rust-kata"]);
    assert_eq!(rows[2][..4], [&two[..12], "two", "other", "Created"]);
    assert_eq!(rows.len(), 3);

    let names = |options: &str| scene.says(&format!("{options} pod ls --quiet"));
    assert_eq!(names(""), "one\ntwo\n");
    assert_eq!(names("--namespace other"), "two\n");
    for (filter, found) in [
        (format!("id={}", &two[..8]), "two\n"),
        ("label=a=1".into(), "one\n"),
        ("label=a".into(), "one\ntwo\n"),
        ("name=two".into(), "two\n"),
        ("namespace=local".into(), "one\n"),
        ("status=created".into(), "one\ntwo\n"),
        ("status=running".into(), ""),
    ] {
        let line = format!("pod ls --quiet --filter {filter}");
        assert_eq!(scene.says(&line), found, "{filter}");
    }
    scene.refuses(125, "pod ls --filter color=red");

    let json = scene.shows("pod ls --format json");
    let expected = json!({
        "id": one, "name": "one", "namespace": "local", "status": "Created",
        "created": json[0]["created"], "containers": 1, "infra": true, "labels": { "a": "1" },
        "front_door": "rust-kata",
    });
    assert_eq!(json[0], expected);

    // One whose files are damaged is listed, too.
    std::fs::write(scene.path("data/pods/local/one/config.json"), "{").unwrap();
    let said = scene.run(&["pod", "ls"]);
    assert_eq!(said.code, 125);
    assert!(said.out.contains("one   local      Error"), "{}", said.out);
    assert!(!said.err.is_empty());
}

/// Writes the log of a container.
fn log(scene: &Scene, container: &str, lines: &[&str]) {
    let folder = scene.path("data/pods/local/p/containers").join(container);
    std::fs::write(folder.join("log"), lines.join("\n") + "\n").unwrap();
}

#[test]
fn the_logs_of_a_pod_are_merged_by_time() {
    let scene = Scene::with_a_pod();
    assert_eq!(scene.says("pod logs p"), "");
    let time = |second: u32| format!("2026-01-01T00:00:0{second}.000000000Z");
    let line = |second: u32, rest: &str| format!("{} {rest}", time(second));
    log(
        &scene,
        "a",
        &[
            &line(1, "stdout F one"),
            &line(2, "stdout P two "),
            &line(4, "stdout F halves"),
            &line(5, "stdout P rest"),
        ],
    );
    log(
        &scene,
        "b",
        &[
            &line(3, "stderr F error"),
            &line(4, "stdout F b"),
            "nonsense",
        ],
    );
    let said = scene.run(&["pod", "logs", "p"]);
    assert_eq!(said.out, "a | one\na | two halves\nb | b\na | rest\n");
    assert!(said.err.contains("b | error\n"), "{}", said.err);
    let stamped = scene.says("pod logs --timestamps --container b p");
    assert_eq!(stamped, format!("b | {} b\n", time(4)));
    assert_eq!(
        scene.says("pod logs --tail 1 p"),
        "a | two halves\nb | b\na | rest\n"
    );
    assert_eq!(
        scene.says("pod logs --since 2026-01-01T00:00:04Z --container b p"),
        "b | b\n"
    );
    scene.refuses(125, "pod logs --container c p");
}
