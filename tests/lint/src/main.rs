//! Checks the layout of the code: `tests/lint/structure`. Tests and fuzz targets are left out,
//! since they may import everything.
//!
//! | check | |
//! |---|---|
//! | circles | two modules of a parent do not import each other, directly or through others, each taken with all modules below it; a parent and its own children may |
//! | upward | lower modules do not import from higher ones ([`LAYERS`]) |
//! | header | each module begins with `//!` |
//! | names | names that were replaced by the field's own ([`names`]) are not defined again |
//! | texts | the text of an error begins in lower case and has no full stop ([`texts`]) |
//! | types | two modules do not define visible types of one name ([`twins`]) |
//! | length | a file has at most [`MAX_LINES`] lines, and half of the product's files have at most [`MAX_MEDIAN`]; test modules in files of their own do not count |
//! | configuration | `docs/configuration.md` matches the comments of `runtime/config.toml`; `--write` generates it |
//! | idiom | a module with children is `x/mod.rs`, one without is `x.rs` |

mod circles;
mod configuration;
mod imports;
mod names;
mod texts;
mod tree;
mod twins;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::imports::Imports;
use crate::tree::Crate;

/// The roots of the crates, relative to the top of the tree.
const ROOTS: [&str; 7] = [
    "protos/src/lib.rs",
    "hypervisor/src/lib.rs",
    "hypervisor/src/bin/rust-kata-vmm/main.rs",
    "runtime/src/lib.rs",
    "shim/src/lib.rs",
    "agent/src/main.rs",
    "tests/lint/src/main.rs",
];

/// The largest number of lines of a file.
const MAX_LINES: usize = 450;

/// The largest median of the lines of the product's files.
const MAX_MEDIAN: usize = 160;

/// The crates of the product, other than generated code and this program.
const PRODUCT: [&str; 4] = ["hypervisor/", "runtime/", "shim/", "agent/"];

/// The layers of the runtime, lowest first: a module does not import from a later line. Within
/// a line any order is allowed, but no circle. Modules that are not listed may import all, and
/// be imported by all.
const LAYERS: [&[&str]; 9] = [
    &["error", "sync", "blocking", "state", "events"],
    &["host", "state_dir", "stdio", "config", "agent"],
    &["container"],
    &["pod"],
    &["runtime"],
    &["engine::records", "engine::journal", "engine::status"],
    &[
        "engine::archive",
        "engine::image",
        "engine::volume",
        "engine::rootfs",
        "engine::users",
    ],
    &["engine::owner"],
    &["engine::handle", "engine::files", "engine::foreign"],
];

/// An error of reading a crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is not valid Rust.
    #[error("{path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: syn::Error,
    },
}

fn main() -> ExitCode {
    let (mut files, mut problems, mut lengths) = (0, Vec::new(), Vec::new());
    for root in ROOTS {
        match Crate::read(Path::new(""), Path::new(root)) {
            Ok(tree) => {
                files += tree.files.len();
                problems.extend(check(&tree, root));
                if PRODUCT.iter().any(|name| root.starts_with(name)) {
                    lengths.extend(tree.files.iter().map(|file| file.text.lines().count()));
                }
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    let write = std::env::args().nth(1).as_deref() == Some("--write");
    if let Err(problem) = check_configuration(write) {
        problems.push(problem);
    }
    let median = median(&mut lengths);
    if median > MAX_MEDIAN {
        problems.push(format!(
            "half of the files have more than {median} lines, {MAX_MEDIAN} are allowed: split some"
        ));
    }
    for problem in &problems {
        eprintln!("structure: {problem}");
    }
    println!(
        "structure: {files} files, median length {median} lines, {} problems",
        problems.len()
    );
    ExitCode::from(u8::from(!problems.is_empty()))
}

/// The median of some lengths; 0 of none.
fn median(lengths: &mut [usize]) -> usize {
    lengths.sort_unstable();
    lengths.get(lengths.len() / 2).copied().unwrap_or(0)
}

fn check_configuration(write: bool) -> Result<(), String> {
    use configuration::{SOURCE, TARGET, document};
    let toml = std::fs::read_to_string(SOURCE).map_err(|e| format!("{SOURCE}: {e}"))?;
    let text = document(&toml);
    if write {
        return std::fs::write(TARGET, text).map_err(|e| format!("{TARGET}: {e}"));
    }
    let there = std::fs::read_to_string(TARGET).map_err(|e| format!("{TARGET}: {e}"))?;
    if there == text {
        return Ok(());
    }
    Err(format!(
        "{TARGET}: not what {SOURCE} says: run tests/lint/structure --write"
    ))
}

fn check(tree: &Crate, root: &str) -> Vec<String> {
    let imports = imports::of(tree);
    let mut problems = circles::between_siblings(tree, &imports);
    if root.starts_with("runtime/") {
        problems.extend(upward(tree, &imports));
    }
    problems.extend(twins::of(tree));
    for file in &tree.files {
        let path = file.path.display();
        if !file.text.starts_with("//!") {
            problems.push(format!(
                "{path}: begins without //!, what the module is for"
            ));
        }
        for (line, name) in names::old(file) {
            problems.push(format!("{path}:{line}: {name} is a name of before"));
        }
        for (line, fault) in texts::wrong(file) {
            problems.push(format!("{path}:{line}: the error text {fault}"));
        }
        let lines = file.text.lines().count();
        if lines > MAX_LINES {
            problems.push(format!(
                "{path}: {lines} lines, {MAX_LINES} are allowed: split it"
            ));
        }
        let is_mod = file.path.ends_with("mod.rs");
        if !file.module.is_empty() && is_mod != file.has_children {
            problems.push(match is_mod {
                true => format!("{path}: has no modules below it, and is named x.rs then"),
                false => format!("{path}: has modules below it, and is named x/mod.rs then"),
            });
        }
    }
    problems
}

/// Finds imports from a lower layer of the runtime to a higher one.
fn upward(tree: &Crate, imports: &Imports) -> Vec<String> {
    let layer = |module: &str| {
        LAYERS.iter().position(|names| {
            names.iter().any(|name| {
                let rest = module.strip_prefix(name);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            })
        })
    };
    let mut problems = Vec::new();
    for (from, found) in imports {
        for to in found {
            let (from, to) = (&tree.files[*from], &tree.files[*to]);
            if let (Some(low), Some(high)) = (layer(&from.module), layer(&to.module))
                && low < high
            {
                problems.push(format!(
                    "{}: imports {}, which lies higher",
                    from.path.display(),
                    to.module
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crate_of(files: &[(&str, &str)]) -> (tempfile::TempDir, Crate) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let tree = Crate::read(dir.path(), Path::new("src/lib.rs")).unwrap();
        (dir, tree)
    }

    fn problems(files: &[(&str, &str)]) -> Vec<String> {
        check(&crate_of(files).1, "runtime/src/lib.rs")
    }

    #[test]
    fn a_median_has_as_many_above_as_below() {
        assert_eq!(median(&mut []), 0);
        assert_eq!(median(&mut [9, 1, 5]), 5);
        assert_eq!(median(&mut [400, 1, 1, 2, 400]), 2);
    }

    #[test]
    fn a_circle_of_siblings_is_found_through_their_children_and_by_any_path() {
        let lib = "//! x\nmod a;\nmod b;\nmod c;\n";
        for call in [
            "use crate::a::A;",
            "use super::super::a::A;",
            "fn f() { crate::a::A; }",
            "fn f() { println!(\"{}\", crate::a::A); }",
        ] {
            let c = format!("//! x\n{call}\n");
            let found = problems(&[
                ("src/lib.rs", lib),
                ("src/a.rs", "//! x\nuse crate::b::B;\npub struct A;\n"),
                ("src/b/mod.rs", "//! x\nmod inner;\npub use inner::B;\n"),
                ("src/b/inner.rs", &format!("{c}pub struct B;\n")),
                ("src/c.rs", "//! x\nuse crate::a::A;\n"),
            ]);
            assert_eq!(found.len(), 1, "{call}: {found:?}");
            assert!(found[0].contains("a, b"), "{found:?}");
        }
    }

    #[test]
    fn parents_children_and_tests_make_no_circle() {
        let found = problems(&[
            ("src/lib.rs", "//! x\nmod a;\nmod b;\npub struct Top;\n"),
            (
                "src/a.rs",
                "//! x\nuse crate::Top;\npub struct A;\n#[cfg(test)]\nmod tests { use crate::b::B; }\n",
            ),
            ("src/b.rs", "//! x\nuse crate::a::A;\npub struct B;\n"),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn two_types_of_one_name_are_found() {
        let found = problems(&[
            ("src/lib.rs", "//! x\nmod a;\nmod b;\nmod cli;\n"),
            (
                "src/a.rs",
                "//! x\npub struct Same;\nstruct Own;\npub enum Error {}\n",
            ),
            (
                "src/b.rs",
                "//! x\npub(crate) trait Same {}\nstruct Own;\npub enum Error {}\n",
            ),
            ("src/cli.rs", "//! x\npub struct Same;\n"),
        ]);
        assert_eq!(found, ["Same: defined in src/a.rs and src/b.rs"]);
    }

    #[test]
    fn headers_lengths_idioms_and_imports_upward_are_checked() {
        let long = format!("//! x\n{}", "const _: () = ();\n".repeat(MAX_LINES));
        let found = problems(&[
            ("src/lib.rs", "//! x\nmod state_dir;\nmod pod;\nmod long;\n"),
            ("src/state_dir.rs", "use crate::pod::Pod;\n"),
            ("src/pod/mod.rs", "//! x\npub struct Pod;\n"),
            ("src/long.rs", &long),
        ]);
        for expected in [
            "state_dir.rs: begins",
            "pod/mod.rs: has no",
            "long.rs: 451",
            "imports pod",
        ] {
            assert!(
                found.iter().any(|problem| problem.contains(expected)),
                "{expected}: {found:?}"
            );
        }
        assert_eq!(found.len(), 4, "{found:?}");
    }
}
