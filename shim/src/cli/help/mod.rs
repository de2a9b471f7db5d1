//! The parts of `--help` and the man pages beyond the options: examples and exit codes of
//! each command.
//!
//! A test parses each example, and checks that each command has one.

mod examples;

use clap::{Command, Subcommand};

pub(crate) use self::examples::examples;

/// The exit codes of every command.
const CODES: &str = "\
0    success
2    invalid command line
125  rust-kata itself failed, with a message on stderr";

/// The commands that pass on the exit code of a process.
const OF_A_PROCESS: &[&str] = &[
    "",
    "run",
    "container start",
    "container attach",
    "container exec",
];

/// The additional exit codes of those.
const PROCESS_CODES: &str = "\
126  the command is not executable
127  the command does not exist
N    exit code of the attached process; 128 + N if signal N ended it";

/// The commands whose exit code is their answer.
const ANSWERS: &[(&str, &str)] = &[("check", "1    a requirement of pods is missing")];

/// Whether a line of an example is a command line.
pub(crate) fn is_command(line: &str) -> bool {
    line.starts_with("rust-kata ")
}

/// The exit codes of a command.
pub(crate) fn codes(words: &str) -> String {
    let answer = ANSWERS.iter().find(|(of, _)| *of == words);
    let process = OF_A_PROCESS.contains(&words).then_some(PROCESS_CODES);
    let mut lines: Vec<&str> = CODES.lines().collect();
    lines.extend(answer.iter().flat_map(|(_, text)| text.lines()));
    lines.extend(process.iter().flat_map(|text| text.lines()));
    lines.sort_by_key(|line| {
        let code = line.split(' ').next().unwrap_or_default();
        code.parse::<u32>().unwrap_or(u32::MAX)
    });
    lines.join("\n")
}

/// Adds examples and exit codes to the help of a command and its subcommands. The commands
/// of `container` also work without that word, but are listed only there.
pub(crate) fn with_examples(command: Command) -> Command {
    let plain = super::container::Command::augment_subcommands(Command::new("container"));
    let names = plain.get_subcommands().map(Command::get_name);
    let hide = |command: Command, name: &str| command.mut_subcommand(name, |part| part.hide(true));
    with_examples_of(names.fold(command, hide), "")
}

fn with_examples_of(command: Command, words: &str) -> Command {
    let command = command.mut_subcommands(|part| {
        let words = format!("{words} {}", part.get_name());
        with_examples_of(part, words.trim())
    });
    let of_containers = format!("container {words}");
    let words = match examples(words) {
        Some(_) => words,
        None => &of_containers,
    };
    let Some(text) = examples(words) else {
        return command;
    };
    let indent = |line: &str| {
        let blanks = if is_command(line) { "    " } else { "  " };
        format!("{blanks}{line}\n")
    };
    let examples: String = text.lines().map(indent).collect();
    let codes: String = codes(words)
        .lines()
        .map(|line| format!("  {line}\n"))
        .collect();
    let codes = codes.trim_end();
    command.after_long_help(format!("EXAMPLES\n{examples}\nEXIT CODE\n{codes}"))
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::examples::EXAMPLES;
    use super::*;
    use clap::{CommandFactory, Parser};

    /// Collects the words of each command that is not a group, such as `pod create`.
    fn all(command: &Command, words: &str, found: &mut Vec<String>) {
        let parts = command.get_subcommands().filter(|part| !part.is_hide_set());
        let parts: Vec<_> = parts.filter(|part| part.get_name() != "help").collect();
        if parts.is_empty() || words.is_empty() {
            found.push(words.to_owned());
        }
        for part in parts {
            all(part, format!("{words} {}", part.get_name()).trim(), found);
        }
    }

    #[test]
    fn each_command_has_examples_and_each_example_is_of_a_command() {
        let mut found = Vec::new();
        all(&with_examples(Cli::command()), "", &mut found);
        let without: Vec<_> = found
            .iter()
            .filter(|words| examples(words).is_none())
            .collect();
        assert!(
            without.is_empty(),
            "add examples to cli/help/examples.rs for: {without:?}"
        );
        for (words, _) in EXAMPLES {
            assert!(
                found.iter().any(|there| there == words),
                "{words:?} is not a command"
            );
        }
    }

    #[test]
    fn each_example_is_a_command_line_that_is_understood() {
        for (words, text) in EXAMPLES {
            let lines: Vec<&str> = text.lines().filter(|line| is_command(line)).collect();
            assert!(!lines.is_empty(), "{words}");
            for line in lines {
                let parsed = Cli::try_parse_from(line.split_whitespace());
                assert!(parsed.is_ok(), "{line}: {:?}", parsed.err());
            }
        }
    }

    #[test]
    fn codes_are_in_order_and_of_the_command() {
        assert!(codes("run").contains("127") && !codes("pod ls").contains("127"));
        let first: Vec<_> = codes("check")
            .lines()
            .map(|l| l.split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(first, ["0", "1", "2", "125"]);
    }

    #[test]
    fn all_of_the_command_line_is_well_formed() {
        with_examples(Cli::command()).debug_assert();
    }
}
