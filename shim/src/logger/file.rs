//! A log file of bounded size: a full file is renamed to `<name>.1`, which replaces the
//! previous one, and a new file begins.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The size at which the file is renamed.
const MAX_BYTES: u64 = 1 << 20;

/// The file (see the module).
#[derive(Debug)]
pub struct BoundedFile {
    path: PathBuf,
    file: File,
    written: u64,
}

impl BoundedFile {
    /// Creates the file, or empties it.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: begin(path)?,
            written: 0,
        })
    }

    /// Appends a line.
    pub fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.written + length > MAX_BYTES {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            fs::rename(&self.path, aside)?;
            self.file = begin(&self.path)?;
            self.written = 0;
        }
        self.file.write_all(line)?;
        self.written += length;
        Ok(())
    }
}

fn begin(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_small_and_keeps_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("owner.log");
        let mut file = BoundedFile::create(&path).unwrap();
        for n in 0..500_000 {
            file.append(format!("line {n}\n").as_bytes()).unwrap();
        }
        let sizes = fs::read_dir(dir.path()).unwrap();
        let sizes: Vec<u64> = sizes
            .map(|f| f.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|size| *size <= MAX_BYTES), "{sizes:?}");
        let end = fs::read_to_string(&path).unwrap();
        assert!(end.ends_with("line 499998\nline 499999\n"));
    }
}
