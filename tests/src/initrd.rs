//! An initrd whose init only prints a word on the console, which marks the end of a bare boot.
//!
//! A second archive follows that of the initrd (the kernel unpacks both). It holds busybox as
//! `/cat`, which is the init. It prints the word from a file, then waits for input: if the init
//! ended, the kernel would drop unsent output of the terminal.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// The word that the init prints on the console.
pub const WORD: &str = "init-runs-here";

/// The path of the file with the word.
const WORD_FILE: &str = "/word";

/// The end of the kernel's command line for this init.
pub fn arguments() -> String {
    format!("rdinit=/cat -- {WORD_FILE} -")
}

/// The initrd `original` with this init instead of its own.
pub fn with_init(original: &Path) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    let into = file.as_file_mut();
    let bytes = fs::read(original)?;
    into.write_all(&bytes)?;
    // Archives start at multiples of four
    // (Documentation/driver-api/early-userspace/buffer-format.rst).
    into.write_all(&vec![0; bytes.len().next_multiple_of(4) - bytes.len()])?;
    into.write_all(&cpio("cat", 0o100_755, &fs::read("/bin/busybox")?))?;
    let line = format!("{WORD}\n");
    into.write_all(&cpio(&WORD_FILE[1..], 0o100_644, line.as_bytes()))?;
    into.write_all(&cpio("TRAILER!!!", 0, &[]))?;
    Ok(file)
}

/// An initrd with only these folders and files, and the kernel's console node.
pub fn with_files(folders: &[&str], files: &[(String, PathBuf)]) -> io::Result<NamedTempFile> {
    let mut archive = NamedTempFile::new()?;
    let into = archive.as_file_mut();
    for name in folders {
        into.write_all(&cpio(name, 0o040_755, &[]))?;
    }
    for (name, path) in files {
        into.write_all(&cpio(name, 0o100_755, &fs::read(path)?))?;
    }
    into.write_all(&cpio("TRAILER!!!", 0, &[]))?;
    Ok(archive)
}

/// One entry of a "newc" cpio archive (buffer-format.rst).
fn cpio(name: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let mut entry = b"070701".to_vec();
    let length = u32::try_from(data.len()).expect("a small file");
    let name_size = u32::try_from(name.len() + 1).expect("a short name");
    // ino mode uid gid nlink mtime size devmajor devminor rdevmajor rdevminor namesize check
    for field in [1, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_size, 0] {
        entry.extend(format!("{field:08x}").bytes());
    }
    entry.extend(name.bytes().chain([0]));
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry.extend(data);
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry
}
