//! Version and firmware of this machine's QEMU, as QEMU reports them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::FIRMWARE;

/// An installed QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Major and minor version, and the rest.
    pub version: (u32, u32, String),
    /// The firmware for the boot of VMs, if QEMU has it.
    pub firmware: Option<PathBuf>,
}

impl Installed {
    /// Queries the QEMU at this path.
    ///
    /// # Errors
    /// It cannot be started, or its output is not that of QEMU.
    pub fn ask(binary: &Path) -> io::Result<Installed> {
        let text = run(binary, &["--version"])?;
        let version = version(&text).ok_or_else(|| {
            io::Error::other(format!(
                "its --version prints no version of QEMU: {:?}",
                text.lines().next().unwrap_or_default()
            ))
        })?;
        // The directories in which it searches for firmware, one per line (system/vl.c).
        let dirs = run(binary, &["-L", "help"])?;
        let firmware = dirs.lines().map(|dir| Path::new(dir).join(FIRMWARE));
        let firmware = firmware.into_iter().find(|path| path.is_file());
        Ok(Installed { version, firmware })
    }
}

fn run(binary: &Path, args: &[&str]) -> io::Result<String> {
    let output = Command::new(binary)
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b2)`
fn version(text: &str) -> Option<(u32, u32, String)> {
    let (_, rest) = text.lines().next()?.split_once("version ")?;
    let word = rest.split_whitespace().next()?;
    let mut numbers = word.split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some((major, minor, word.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b2)\nCopyright";
        assert_eq!(version(debian), Some((7, 2, "7.2.22".into())));
        let plain = "QEMU emulator version 11.1.3\n";
        assert_eq!(version(plain), Some((11, 1, "11.1.3".into())));
        for other in ["", "GNU bash, version five", "QEMU emulator"] {
            assert_eq!(version(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_qemu_is_an_error() {
        let ask = |binary| Installed::ask(Path::new(binary)).err().unwrap();
        let silent = ask("/bin/true").to_string();
        assert!(silent.contains("no version of QEMU"), "{silent}");
        assert_eq!(ask("/nonexistent/qemu").kind(), io::ErrorKind::NotFound);
    }
}
