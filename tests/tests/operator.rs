//! What an operator asks `rust-kata` before the first pod: `check`, `config`,
//! `completion`.

use harness::bed::Bed;
use harness::dist::subject_is_ours;
use serde_json::Value;

#[test]
fn check_finds_what_is_there_and_what_is_not() {
    if !subject_is_ours("operator") {
        return;
    }
    let bed = Bed::new();
    let text = bed.rust_kata(&["check", "--format", "json"]).ok().out();
    let all: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    for name in ["hypervisor", "guest kernel", "rust-kata-vmm", "privileges"] {
        let one = all.iter().find(|one| one["name"] == name).expect(name);
        assert_eq!(one["verdict"], "good", "{one}");
    }

    let file = bed.fresh("config.toml");
    std::fs::write(&file, "kernel = \"/nonexistent/vmlinux\"\n").expect("the bed is ours");
    let path = file.to_str().expect("an ASCII path");
    let found = bed.rust_kata(&["--config", path, "check"]).exits(1);
    assert!(found.out().contains("MISSING"), "{found:?}");
    assert!(
        found.out().contains("guest kernel: `make build`"),
        "{found:?}"
    );
}

#[test]
fn the_configuration_is_shown_with_its_origin() {
    if !subject_is_ours("operator") {
        return;
    }
    let bed = Bed::new();
    let shown = bed.rust_kata(&["config", "show"]).ok().out();
    let line = |key: &str| {
        let lines = shown
            .lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>());
        lines.into_iter().find(|words| words[0] == key).expect(key)
    };
    assert!(
        line("data_root")
            .last()
            .expect("an origin")
            .ends_with("rust-kata.toml")
    );
    assert_eq!(line("vcpus"), ["vcpus", "1", "default"]);
    assert!(
        line("timeouts.boot")
            .last()
            .expect("an origin")
            .ends_with("rust-kata.toml")
    );

    let shipped = bed.rust_kata(&["config", "default"]).ok().out();
    assert!(
        shipped.contains("\ndata_root = ") && shipped.contains("# "),
        "{shipped}"
    );
    let completions = bed.rust_kata(&["completion", "bash"]).ok().out();
    assert!(completions.contains("rust-kata") && completions.contains("--namespace"));
}
