//! Commands of `rust-kata` for operators before the first pod: `check`, `config`, `completion`.

use harness::bed::Bed;
use harness::dist::subject_is_ours;
use harness::require;
use serde_json::Value;

#[test]
fn check_finds_what_is_there_and_what_is_not() {
    require!(subject_is_ours());
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
    require!(subject_is_ours());
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

    // A drop-in overrides the file, and is shown as the origin; an unknown key is refused.
    let drop_ins = bed.dir().join("rust-kata.toml.d");
    std::fs::create_dir(&drop_ins).expect("the bed is ours");
    std::fs::write(drop_ins.join("10-size.toml"), "vcpus = 2\n").expect("the bed is ours");
    let shown = bed
        .rust_kata(&["config", "show", "--format", "json"])
        .ok()
        .out();
    let shown: Vec<Value> = serde_json::from_str(&shown).expect("JSON");
    let of = |key: &str| shown.iter().find(|row| row["key"] == key).expect(key);
    assert_eq!(of("vcpus")["value"], 2);
    let origin = of("vcpus")["origin"].as_str().expect("an origin");
    assert!(
        origin.ends_with("rust-kata.toml.d/10-size.toml"),
        "{origin}"
    );
    assert_eq!(of("max_vcpus")["origin"], "default");
    std::fs::write(drop_ins.join("20-slip.toml"), "memroy_mib = 2\n").expect("the bed is ours");
    let refused = bed.rust_kata(&["pod", "ls"]).exits(125);
    for part in ["20-slip.toml", "memroy_mib", "did you mean `memory_mib`"] {
        assert!(refused.err().contains(part), "{refused:?}");
    }
    std::fs::remove_dir_all(&drop_ins).expect("the bed is ours");

    let shipped = bed.rust_kata(&["config", "default"]).ok().out();
    assert!(
        shipped.contains("\ndata_root = ") && shipped.contains("# "),
        "{shipped}"
    );
    let completions = bed.rust_kata(&["completion", "bash"]).ok().out();
    assert!(completions.contains("rust-kata") && completions.contains("--namespace"));
}

/// The commands that a help text lists, without `help` itself.
fn listed(help: &str) -> Vec<String> {
    let after = help.split("Commands:\n").nth(1).unwrap_or_default();
    let lines = after.lines().take_while(|line| !line.is_empty());
    let names = lines
        // Two blanks before a name, more before the rest of its description.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Checks the help of a command and of all its subcommands; collects the words of each.
fn walk(bed: &Bed, words: &[String], seen: &mut Vec<String>) {
    let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
    args.push("--help");
    let help = bed.rust_kata(&args).ok().out();
    let parts = listed(&help);
    if parts.is_empty() || words.is_empty() {
        for part in ["EXAMPLES", "    rust-kata ", "EXIT CODE", "  125  "] {
            assert!(help.contains(part), "{words:?} has no {part:?}: {help}");
        }
    }
    for part in parts {
        let words = [words, &[part]].concat();
        seen.push(words.join("-"));
        walk(bed, &words, seen);
    }
}

#[test]
fn each_command_explains_itself_and_has_a_man_page() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let mut commands = Vec::new();
    walk(&bed, &[], &mut commands);
    assert!(commands.len() > 40, "{commands:?}");
    let dir = bed.fresh("man");
    bed.rust_kata(&["man", dir.to_str().expect("an ASCII path")])
        .ok();
    for command in commands {
        let page = dir.join(format!("rust-kata-{command}.1"));
        let text = std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{command}: {e}"));
        assert!(text.contains(".SH SYNOPSIS"), "{command}: {text}");
    }
    // As with podman.
    assert!(
        bed.rust_kata(&["ps", "--all"])
            .ok()
            .out()
            .contains("CONTAINER ID")
    );
    let unknown = bed.rust_kata(&["pod", "dance"]).exits(2);
    assert!(unknown.err().contains("dance"), "{unknown:?}");
}
