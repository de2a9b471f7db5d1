//! `docs/configuration.md`, made from the comments of `runtime/config.toml`.

use std::fmt::Write as _;

/// The source file.
pub const SOURCE: &str = "runtime/config.toml";

/// The generated document.
pub const TARGET: &str = "docs/configuration.md";

/// The longest line of text.
const WIDTH: usize = 100;

/// Keys with a common description: their names, defaults and meaning.
#[derive(Default)]
struct Keys {
    names: Vec<String>,
    defaults: Vec<String>,
    meaning: Vec<String>,
}

/// Generates the document for a configuration file whose comments describe its keys.
pub fn document(toml: &str) -> String {
    let mut blocks = toml.split("\n\n");
    let head = blocks.next().unwrap_or_default();
    let mut text = String::from(
        "# Configuration\n\nMade from the comments of `runtime/config.toml` by \
         `tests/lint/structure --write`.\n\n",
    );
    text.push_str(&wrapped(&words(head)));
    for block in blocks {
        for keys in keys_of(block) {
            write_keys(&mut text, &keys);
        }
    }
    text
}

/// Joins the comments of a block into one text.
fn words(block: &str) -> String {
    let comments = block.lines().filter_map(|line| line.strip_prefix('#'));
    comments.map(str::trim).collect::<Vec<_>>().join(" ")
}

fn keys_of(block: &str) -> Vec<Keys> {
    let (mut found, mut table, mut about): (Vec<Keys>, _, _) =
        (Vec::new(), String::new(), Vec::new());
    let mut comments: Vec<String> = Vec::new();
    for line in block.lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = format!("{}.", name.trim_end_matches(']'));
            about = std::mem::take(&mut comments);
        } else if let Some((name, value)) = key(line) {
            // A key without a comment of its own belongs to the description before it.
            if !comments.is_empty() || found.is_empty() {
                let meaning = [&about[..], &comments[..]].concat();
                found.push(Keys {
                    meaning,
                    ..Keys::default()
                });
                comments.clear();
            }
            if let Some(keys) = found.last_mut() {
                keys.names.push(format!("`{table}{name}`"));
                keys.defaults.push(value);
            }
        } else if let Some(comment) = line.strip_prefix('#') {
            comments.push(comment.trim().to_owned());
        }
    }
    found
}

/// Parses `name = value`, or `# name = value` for a key without a default.
fn key(line: &str) -> Option<(&str, String)> {
    let set = line.strip_prefix("# ");
    let (name, value) = set.unwrap_or(line).split_once(" = ")?;
    let plain = |c: char| c.is_ascii_lowercase() || c == '_';
    name.chars().all(plain).then(|| {
        let value = match set {
            Some(example) => format!("none; for example `{}`", &example[name.len() + 3..]),
            None => format!("`{value}`"),
        };
        (name, value)
    })
}

fn write_keys(text: &mut String, keys: &Keys) {
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n## {}\nDefault: {}.\n\n{}",
        keys.names.join(", "),
        keys.defaults.join(", "),
        wrapped(&keys.meaning.join(" "))
    );
}

/// Wraps a text; escapes what looks like an HTML tag.
fn wrapped(text: &str) -> String {
    let text = text.replace('<', "\\<");
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_default_and_what_is_said_of_it() {
        let toml = "# All of it.\n# Really.\n\n# Where.\nroot = \"/run\"\n\n# Both.\nkernel = \"a\"\ninitrd = \"b\"\n\n\
                    # Default: beside.\n# vmm = \"/x\"\n\n# In seconds.\n[timeouts]\n# One.\nboot = 1\n# Two.\ncall = 2\n";
        let text = document(toml);
        for expected in [
            "\nAll of it. Really.\n",
            "## `root`\nDefault: `\"/run\"`.\n\nWhere.\n",
            "## `kernel`, `initrd`\nDefault: `\"a\"`, `\"b\"`.\n\nBoth.\n",
            "## `vmm`\nDefault: none; for example `\"/x\"`.\n\nDefault: beside.\n",
            "## `timeouts.boot`\nDefault: `1`.\n\nIn seconds. One.\n",
            "## `timeouts.call`\nDefault: `2`.\n\nIn seconds. Two.\n",
        ] {
            assert!(text.contains(expected), "{expected:?} in {text}");
        }
    }
}
