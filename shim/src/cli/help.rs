//! What `--help` and the man pages tell beyond the options: examples of each
//! command, and the codes it leaves with.
//!
//! Each command line here is parsed by a test, and no command is without.

use clap::{Command, Subcommand};

/// A command by its words, and examples of it: command lines, and lines that
/// say what the next one does.
const EXAMPLES: &[(&str, &str)] = &[
    (
        "",
        "\
A command in a VM of its own, of an image or with a directory as its root file system:
rust-kata run --rm -it --image docker.io/library/alpine -- sh
rust-kata run --rm -it --rootfs ./alpine -- sh
A pod of two containers that share a network:
rust-kata pod create --name web
rust-kata container create --pod web --name db --rootfs ./db -- /bin/db
rust-kata container create --pod web --name app --requires db --rootfs ./app -- /bin/app
rust-kata pod start web
rust-kata pod ls
rust-kata container exec -it app -- sh
rust-kata pod rm --force web
As with podman, the commands of containers do without that word:
rust-kata ps --all
rust-kata exec app date",
    ),
    (
        "run",
        "\
A shell that leaves nothing behind:
rust-kata run --rm -it --image docker.io/library/alpine -- sh
A service in the background, that is started again when it fails:
rust-kata run -d --name db --restart on-failure:3 -v /srv/db:/data --rootfs ./db -- /bin/db
A further container of a pod, with limits:
rust-kata run -d --pod web --memory 512m --cpus 1.5 --rootfs ./app -- /bin/app",
    ),
    (
        "image pull",
        "\
rust-kata image pull quay.io/org/app:1
rust-kata image pull oci-archive:./app.tar",
    ),
    (
        "image load",
        "\
rust-kata image load --tag app:1 ./app.tar",
    ),
    (
        "image ls",
        "\
rust-kata image ls
rust-kata image ls --format json",
    ),
    ("image inspect", "rust-kata image inspect app:1"),
    ("image history", "rust-kata image history app:1"),
    ("image tag", "rust-kata image tag app:1 app:latest"),
    (
        "image rm",
        "\
rust-kata image rm app:1
With its containers and all its names:
rust-kata image rm --force app:1",
    ),
    (
        "image prune",
        "\
rust-kata image prune
All that no container is of:
rust-kata image prune --all",
    ),
    (
        "volume create",
        "\
rust-kata volume create data
rust-kata run -d --name db -v data:/var/lib/db --image db:1",
    ),
    (
        "volume ls",
        "\
rust-kata volume ls
rust-kata volume ls --format json",
    ),
    ("volume inspect", "rust-kata volume inspect data"),
    ("volume rm", "rust-kata volume rm data"),
    (
        "volume prune",
        "\
All that no container uses:
rust-kata volume prune",
    ),
    (
        "events",
        "\
All that is on record:
rust-kata events
What ends from now on, as JSON:
rust-kata events --follow --filter event=died --format json
What happened to a container in the last hour:
rust-kata events --since 1h --filter container=db",
    ),
    (
        "check",
        "\
Whether pods can run here:
rust-kata check
rust-kata check --format json",
    ),
    (
        "completion",
        "\
For the running shell:
rust-kata completion bash",
    ),
    (
        "config show",
        "\
rust-kata config show
With another file:
rust-kata --config ./test.toml config show --format json",
    ),
    (
        "config default",
        "\
A file to begin with:
rust-kata config default",
    ),
    (
        "pod create",
        "\
rust-kata pod create --name web --label tier=front
With a pid namespace for all, and limits:
rust-kata pod create --name web --share +pid --cpus 2 --memory 1g
One that ends with its last container, in a cgroup of systemd's:
rust-kata pod create --name job --exit-policy stop --cgroup-parent batch.slice",
    ),
    (
        "pod run",
        "\
A VM that waits for containers:
rust-kata pod run --name web
rust-kata run -d --pod web --rootfs ./app -- /bin/app",
    ),
    (
        "pod start",
        "\
rust-kata pod start web
rust-kata pod start --all",
    ),
    (
        "pod stop",
        "\
rust-kata pod stop web
At once:
rust-kata pod stop --time 0 web",
    ),
    ("pod restart", "rust-kata pod restart --time 5 web"),
    ("pod pause", "rust-kata pod pause web"),
    ("pod unpause", "rust-kata pod unpause web"),
    ("pod kill", "rust-kata pod kill --signal HUP web"),
    (
        "pod rm",
        "\
rust-kata pod rm web
With its containers, whatever they do, and whatever state its files are in:
rust-kata pod rm --force web",
    ),
    (
        "pod ls",
        "\
rust-kata pod ls --filter status=running
Names alone, of one namespace:
rust-kata --namespace k8s.io pod ls --quiet
rust-kata pod ls --format json",
    ),
    ("pod inspect", "rust-kata pod inspect web"),
    (
        "pod stats",
        "\
rust-kata pod stats
rust-kata pod stats --no-stream web
rust-kata pod stats --format json web",
    ),
    ("pod top", "rust-kata pod top web"),
    (
        "pod logs",
        "\
rust-kata pod logs web
The last lines of each container, and what comes:
rust-kata pod logs --follow --tail 10 --timestamps web",
    ),
    (
        "pod batch",
        "\
Lines as `stop app`, `kill=HUP db`, `start`:
rust-kata pod batch web ./changes
From standard input:
rust-kata pod batch web",
    ),
    ("pod sync", "rust-kata pod sync web"),
    (
        "pod events",
        "\
rust-kata pod events web
rust-kata pod events --follow web",
    ),
    (
        "container create",
        "\
rust-kata container create --name db --rootfs ./db -- /bin/db
In a pod, after another container of it:
rust-kata container create --pod web --name app --requires db --rootfs ./app -- /bin/app",
    ),
    ("container init", "rust-kata container init db"),
    (
        "container start",
        "\
rust-kata container start db
And see what it says from the first word on:
rust-kata container start --attach db",
    ),
    (
        "container stop",
        "\
rust-kata container stop db app
rust-kata container stop --all
rust-kata container stop --time 30 db",
    ),
    ("container restart", "rust-kata container restart db"),
    ("container pause", "rust-kata container pause db"),
    ("container unpause", "rust-kata container unpause db"),
    (
        "container kill",
        "\
rust-kata container kill --signal HUP db
Of containerd's:
rust-kata --namespace k8s.io container kill --signal TERM 0123456789ab",
    ),
    (
        "container attach",
        "\
Ctrl-P Ctrl-Q leaves it alone:
rust-kata container attach db",
    ),
    (
        "container exec",
        "\
rust-kata container exec -it db sh
As another user, with a variable, in a container of containerd's:
rust-kata container exec --user postgres --env LANG=C 0123456789ab -- psql -l
With a secret to read on descriptor 3, and a report written to 4:
rust-kata container exec --preserve-fds 2 db -- check 3<secret 4>report",
    ),
    (
        "container wait",
        "\
rust-kata container wait db
Until it runs:
rust-kata container wait --condition running db",
    ),
    (
        "container rm",
        "\
rust-kata container rm db
rust-kata container rm --force --time 0 db",
    ),
    (
        "container ls",
        "\
rust-kata container ls --all --filter label=tier=back
rust-kata container ls --pod web --format json",
    ),
    ("container inspect", "rust-kata container inspect web/db"),
    ("container top", "rust-kata container top db"),
    (
        "container logs",
        "\
rust-kata container logs --tail 20 --timestamps db
rust-kata container logs --follow --since 10m db",
    ),
    (
        "container mount",
        "\
Where its files are on the host, until it is unmounted:
rust-kata container mount db
What is mounted:
rust-kata container mount",
    ),
    (
        "container unmount",
        "\
rust-kata container unmount db
rust-kata container unmount --all --force",
    ),
    (
        "container export",
        "rust-kata container export --output db.tar db",
    ),
    (
        "container cp",
        "\
rust-kata container cp ./app.conf db:/etc/app.conf
rust-kata container cp db:/var/log ./logs
What is in a directory, without it:
rust-kata container cp ./site/. db:/srv/www
An archive on stdin:
rust-kata container cp - db:/srv",
    ),
    (
        "container artifact add",
        "rust-kata container artifact add db notes ./notes.txt",
    ),
    (
        "container artifact get",
        "rust-kata container artifact get db notes",
    ),
    (
        "container artifact ls",
        "rust-kata container artifact ls db",
    ),
    (
        "container artifact rm",
        "rust-kata container artifact rm db notes",
    ),
    ("container cleanup", "rust-kata container cleanup db"),
    (
        "container session ls",
        "\
rust-kata container session ls db
rust-kata container session ls --format json db",
    ),
    (
        "container session inspect",
        "rust-kata container session inspect db 0123456789ab",
    ),
    (
        "container session rm",
        "\
One that runs is killed:
rust-kata container session rm --force db 0123456789ab",
    ),
    (
        "container update",
        "\
rust-kata container update --memory 1g --cpus 2 db
rust-kata container update --pids-limit 100 db",
    ),
];

/// The codes that every command leaves with.
const CODES: &str = "\
0    done
2    the command line is wrong
125  rust-kata itself failed: one line on stderr says why";

/// Commands that leave with the code of a process, besides.
const OF_A_PROCESS: &[&str] = &[
    "",
    "run",
    "container start",
    "container attach",
    "container exec",
];

/// The codes of those, besides.
const PROCESS_CODES: &str = "\
126  the command is not executable
127  the command does not exist
N    of the process that it was attached to; 128 + N when signal N ended it";

/// Commands that answer by their code, and how.
const ANSWERS: &[(&str, &str)] = &[("check", "1    something is missing that pods need")];

/// A command's examples.
pub(super) fn examples(words: &str) -> Option<&'static str> {
    let found = EXAMPLES.iter().find(|(of, _)| *of == words);
    found.map(|(_, text)| *text)
}

/// Whether a line of an example is a command line.
pub(super) fn is_command(line: &str) -> bool {
    line.starts_with("rust-kata ")
}

/// A command's exit codes.
pub(super) fn codes(words: &str) -> String {
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

/// The command with examples and exit codes in the help of each part of it. The
/// commands of `container` are listed there alone, though they work without
/// that word.
pub(super) fn with_examples(command: Command) -> Command {
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
    use super::*;
    use clap::{CommandFactory, Parser};

    /// The words of each command that does something, as `pod create`.
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
            "put examples into cli/help.rs of: {without:?}"
        );
        for (words, _) in EXAMPLES {
            assert!(
                found.iter().any(|there| there == words),
                "{words:?} is no command"
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
