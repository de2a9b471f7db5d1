//! Log lines, written to the console, which the host keeps in a file of the pod.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;

use log::{LevelFilter, Log, Metadata, Record};

use crate::stdio::stream::duplicate_high;

const KEY: &str = "rust_kata.log";

struct ConsoleLog;

static CONSOLE: ConsoleLog = ConsoleLog;
static SINK: OnceLock<Option<File>> = OnceLock::new();

fn sink() -> Option<&'static File> {
    SINK.get_or_init(|| {
        ["/dev/console", "/dev/kmsg"].iter().find_map(|path| {
            OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NOCTTY | libc::O_CLOEXEC)
                .open(path)
                .ok()
                // A high number, so that a helper's copy does not block the numbers of a
                // process.
                .map(|file| duplicate_high(&file).map_or(file, File::from))
        })
    })
    .as_ref()
}

/// Starts logging at the level in the kernel's command line.
pub fn start(cmdline: &str) {
    let level = level(cmdline);
    if log::set_logger(&CONSOLE).is_ok() {
        log::set_max_level(level);
    }
}

fn level(cmdline: &str) -> LevelFilter {
    cmdline
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(KEY)?.strip_prefix('='))
        .next_back()
        .and_then(|value| value.parse().ok())
        .unwrap_or(LevelFilter::Warn)
}

impl Log for ConsoleLog {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if let Some(mut sink) = sink() {
            // One write, so that lines of several threads do not mix.
            let line = format!("rust-kata-agent {}: {}\n", record.level(), record.args());
            let _ = sink.write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::testing::alone;

    #[test]
    fn the_last_word_counts_and_nonsense_is_warn() {
        assert_eq!(level("quiet rust_kata.log=debug"), LevelFilter::Debug);
        assert_eq!(
            level("rust_kata.log=debug rust_kata.log=error"),
            LevelFilter::Error
        );
        assert_eq!(level("rust_kata.log=loud"), LevelFilter::Warn);
        assert_eq!(level("rust_kata.logs=debug"), LevelFilter::Warn);
        assert_eq!(level(""), LevelFilter::Warn);
    }

    #[test]
    fn only_what_the_level_permits_is_enabled() {
        alone!();
        let enabled = |level| CONSOLE.enabled(&Metadata::builder().level(level).build());
        let levels = [
            log::Level::Error,
            log::Level::Warn,
            log::Level::Info,
            log::Level::Debug,
        ];
        for (max, expected) in [
            (LevelFilter::Off, [false; 4]),
            (LevelFilter::Warn, [true, true, false, false]),
            (LevelFilter::Info, [true, true, true, false]),
        ] {
            let found = crate::launch::testing::forked_well(|| {
                log::set_max_level(max);
                crate::launch::testing::say(&format!("{:?}", levels.map(enabled)));
            });
            assert_eq!(found, format!("{expected:?}"), "{max}");
        }
    }

    #[test]
    fn lines_go_to_the_console_at_the_level_of_the_command_line() {
        alone!();
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};

        test_support::require!(test_support::root());
        let console = tempfile::NamedTempFile::new().unwrap();
        crate::launch::testing::forked_well(|| {
            let none = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(none, "/", none, private, none).unwrap();
            mount(
                Some(console.path()),
                "/dev/console",
                none,
                MsFlags::MS_BIND,
                none,
            )
            .unwrap();
            start("quiet rust_kata.log=info");
            log::debug!("not this");
            log::info!("this {}", 1);
            log::error!("and this");
        });
        let lines = std::fs::read_to_string(console.path()).unwrap();
        assert_eq!(
            lines,
            "rust-kata-agent INFO: this 1\nrust-kata-agent ERROR: and this\n"
        );
    }
}
