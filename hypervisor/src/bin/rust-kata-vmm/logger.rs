//! The log of the process.

use std::io::{self, Write};

use log::{LevelFilter, Log, Metadata, Record};

/// Logs to standard error, which the owner keeps.
pub struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The FUSE library logs guest data; only at debug level.
        metadata.level() <= log::max_level()
            && (log::max_level() >= LevelFilter::Debug
                || !metadata.target().starts_with("fuse_backend_rs"))
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!(
                "{} {}: {}\n",
                record.level(),
                record.target(),
                record.args()
            );
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}
