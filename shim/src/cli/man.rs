//! `rust-kata man`: the man pages, one for each command.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::error::CliResult;
use super::help::{codes, examples, is_command};
use crate::error::Context as _;

/// Writes the pages of `command` and of all its parts into a directory.
pub(crate) fn write(command: &Command, dir: &Path) -> CliResult<()> {
    fs::create_dir_all(dir).on("create", dir)?;
    let mut command = command.clone();
    command.build();
    pages(&command, "", dir)
}

fn pages(command: &Command, words: &str, dir: &Path) -> CliResult<()> {
    let path = dir.join(file_name(words));
    let text = page(command, words).on("make", &path)?;
    fs::write(&path, text).on("write", &path)?;
    let parts = command.get_subcommands();
    for part in parts.filter(|part| !part.is_hide_set() && part.get_name() != "help") {
        pages(part, format!("{words} {}", part.get_name()).trim(), dir)?;
    }
    Ok(())
}

/// `rust-kata-pod-create.1`.
fn file_name(words: &str) -> PathBuf {
    let name: Vec<&str> = ["rust-kata"]
        .into_iter()
        .chain(words.split_whitespace())
        .collect();
    format!("{}.1", name.join("-")).into()
}

fn page(command: &Command, words: &str) -> std::io::Result<Vec<u8>> {
    let title = file_name(words).with_extension("");
    // The examples have a section of their own.
    let command = command.clone().after_long_help("").after_help("");
    let has_parts = command
        .get_subcommands()
        .any(|part| !part.is_hide_set() && part.get_name() != "help");
    let man = Man::new(command)
        .title(title.display().to_string())
        .manual("rust-kata");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if has_parts {
        man.render_subcommands_section(&mut text)?;
    }
    let mut more = Roff::new();
    if let Some(examples) = examples(words) {
        more.control("SH", ["EXAMPLES"]);
        for line in examples.lines() {
            if is_command(line) {
                literal(&mut more, line);
            } else {
                more.control("PP", []);
                more.text([roman(line)]);
            }
        }
        more.control("SH", ["EXIT STATUS"]);
        for line in codes(words).lines() {
            let (code, meaning) = line.split_once(' ').unwrap_or((line, ""));
            more.control("TP", []);
            more.text([roman(code)]);
            more.text([roman(meaning.trim())]);
        }
    }
    more.to_writer(&mut text)?;
    Ok(text)
}

/// Adds a line as it is, indented.
fn literal(page: &mut Roff, line: &str) {
    page.control("RS", ["4"]);
    page.control("nf", []);
    page.text([roman(line)]);
    page.control("fi", []);
    page.control("RE", []);
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::super::help::with_examples;
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn each_command_has_a_page_with_examples_and_codes() {
        let dir = tempfile::tempdir().unwrap();
        write(&with_examples(Cli::command()), dir.path()).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let main = read("rust-kata.1");
        assert!(main.contains("rust\\-kata\\-pod(1)"), "{main}");
        let page = read("rust-kata-pod-create.1");
        for part in [
            ".SH SYNOPSIS",
            "\\-\\-share",
            ".SH EXAMPLES",
            "tier=front",
            ".SH \"EXIT STATUS\"",
            "125",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        let pages = fs::read_dir(dir.path()).unwrap().count();
        assert!(pages > 40, "{pages}");
        assert!(
            !dir.path().join("rust-kata-own.1").exists(),
            "hidden ones have none"
        );
    }
}
