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

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;

    /// Runs itself again, since the level and the stream belong to the process.
    #[test]
    fn the_file_servers_library_is_quiet_unless_debugging() {
        const LEVEL: &str = "RUST_KATA_TEST_LEVEL";
        if let Ok(level) = std::env::var(LEVEL) {
            log::set_max_level(level.parse().unwrap());
            for (level, target) in [
                (Level::Error, "hypervisor::machine"),
                (Level::Info, "hypervisor::machine"),
                (Level::Debug, "hypervisor::machine"),
                (Level::Error, "fuse_backend_rs::api"),
                (Level::Debug, "fuse_backend_rs::api"),
            ] {
                let record = Record::builder()
                    .level(level)
                    .target(target)
                    .args(format_args!("said"))
                    .build();
                Stderr.log(&record);
            }
            return;
        }
        let said = |level: &str| {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture", "--test-threads=1"])
                .arg("logger::tests::the_file_servers_library_is_quiet_unless_debugging")
                .env(LEVEL, level)
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stderr).unwrap()
        };
        let (machine, fuse) = (
            "hypervisor::machine: said\n",
            "fuse_backend_rs::api: said\n",
        );
        assert_eq!(said("off"), "");
        assert_eq!(said("warn"), format!("ERROR {machine}"));
        assert_eq!(said("info"), format!("ERROR {machine}INFO {machine}"));
        let most = format!("ERROR {machine}INFO {machine}DEBUG {machine}");
        assert_eq!(said("debug"), format!("{most}ERROR {fuse}DEBUG {fuse}"));
    }
}
