//! `rust-kata pod batch`: changes of a pod from a file, one per line.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, Parser};
use runtime::Error;
use runtime::engine::wire::changes::Change;
use runtime::error::Cause;

use crate::cli::container::limits::{LIMIT, Limits};
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::failures::Failures;
use crate::cli::output::print;
use crate::cli::select::OnePod;
use crate::cli::values::signal;
use crate::error::Context as _;

/// Arguments of `pod batch`.
#[derive(Debug, Args)]
pub(crate) struct Batch {
    #[command(flatten)]
    which: OnePod,

    /// File with lines of VERB [CONTAINER...], where VERB is init, start, stop, restart, pause,
    /// unpause, kill, kill=SIGNAL, rm or rm=force, for all containers if none is given; or of
    /// update CONTAINER with the limits of `container update` [default: standard input]
    file: Option<PathBuf>,
}

impl Batch {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let pod = context.pod(&self.which.pod)?;
        let text = match &self.file {
            Some(path) => std::fs::read_to_string(path).on("read", path)?,
            None => {
                let mut text = String::new();
                std::io::stdin()
                    .read_to_string(&mut text)
                    .doing("read the changes from stdin")?;
                text
            }
        };
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect();
        // All lines are parsed before the first change is made.
        let changes: Vec<Change> = lines
            .iter()
            .map(|line| change(line))
            .collect::<Result<_, _>>()?;
        let outcomes = pod.batch(&changes).await?;
        let mut failures = Failures::default();
        for (line, outcome) in lines.iter().zip(outcomes) {
            let Some(outcome) = failures.check(outcome.map_err(Into::into)) else {
                continue;
            };
            let failed = !outcome.errors.is_empty();
            failures.check_all(outcome);
            if !failed {
                print(&format!("{line}\n"))?;
            }
        }
        failures.finish()
    }
}

/// New limits for a container.
#[derive(Debug, Parser)]
#[command(name = "update", no_binary_name = true, disable_help_flag = true)]
struct Update {
    container: String,

    #[command(flatten)]
    limits: Limits,
}

fn update<'a>(words: impl Iterator<Item = &'a str>) -> Result<Change, Cause> {
    let update = Update::try_parse_from(words).map_err(|e| {
        // The first line is the error, the others are the usage.
        let said = e.to_string();
        let first = said.lines().next().unwrap_or_default();
        first.trim_start_matches("error: ").to_owned()
    })?;
    if update.limits.is_empty() {
        return Err(Error::requires("update", LIMIT).into());
    }
    let resources = update.limits.resources()?;
    Ok(Change::Update {
        container: update.container,
        resources: Box::new(resources),
    })
}

/// Parses a line.
fn change(line: &str) -> CliResult<Change> {
    parse(line).map_err(|source| crate::error::Error::Change {
        line: line.to_owned(),
        source,
    })
}

fn parse(line: &str) -> Result<Change, Cause> {
    let mut words = line.split_whitespace();
    let word = words.next().unwrap_or_default();
    if word == "update" {
        return update(words);
    }
    let containers: Vec<String> = words.map(str::to_owned).collect();
    let (verb, how) = match word.split_once('=') {
        Some((verb, how)) => (verb, Some(how)),
        None => (word, None),
    };
    Ok(match (verb, how) {
        ("init", None) => Change::Init(containers),
        ("start", None) => Change::Start {
            containers,
            dependencies: true,
        },
        ("stop", None) => Change::Stop {
            containers,
            seconds: None,
        },
        ("restart", None) => Change::Restart {
            containers,
            seconds: None,
        },
        ("pause", None) => Change::Pause(containers),
        ("unpause", None) => Change::Unpause(containers),
        ("kill", how) => match signal(how.unwrap_or("KILL")) {
            Ok(signal) => Change::Kill {
                containers,
                signal: signal as u32,
                all: false,
            },
            Err(problem) => return Err(problem.into()),
        },
        ("rm", None | Some("force")) => Change::Remove {
            containers,
            force: how.is_some(),
            seconds: None,
        },
        _ => {
            let expected = "init, start, stop, restart, pause, unpause, kill, rm or update";
            return Err(Error::invalid("verb", word, expected).into());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_changes() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(change("pause").unwrap(), Change::Pause(Vec::new()));
        let killed = Change::Kill {
            containers: names(&["a", "b"]),
            signal: 15,
            all: false,
        };
        assert_eq!(change("kill=TERM a b").unwrap(), killed);
        let removed = Change::Remove {
            containers: names(&["a"]),
            force: true,
            seconds: None,
        };
        assert_eq!(change("rm=force  a").unwrap(), removed);
        let Change::Update {
            container,
            resources,
        } = change("update a --memory 64m").unwrap()
        else {
            panic!("another change");
        };
        assert_eq!(container, "a");
        let memory = resources.memory().unwrap();
        assert_eq!(memory.limit(), Some(64 << 20));
        for bad in [
            "dance a",
            "kill=X",
            "rm=x",
            "start=now",
            "update",
            "update a",
            "update a --memory lots",
            "update a --colour red",
        ] {
            assert!(change(bad).unwrap_err().to_string().contains(bad), "{bad}");
        }
    }
}
