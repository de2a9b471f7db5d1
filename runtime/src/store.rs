//! State files: versioned JSON, replaced as a whole or not at all.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// The schema version that this build writes and reads.
pub const VERSION: u32 = 1;

/// No state file is larger; a larger one is not ours.
const MAX_BYTES: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    value: T,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Replaces `path` by `value`: temporary file, fsync, rename, fsync of the
/// directory. After a crash at any moment the file holds the old value or the
/// new one.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::Internal(format!(
            "{} is not a file's path",
            path.display()
        )));
    };
    let temp = dir.join(format!(".{}.tmp", name.to_string_lossy()));
    create(&temp, path, value)?;
    fs::rename(&temp, path).on("replace", path)?;
    sync_dir(dir)
}

/// Removes what writers have left that were killed. The caller sees to it that
/// nobody writes in `dir`.
pub(crate) fn sweep_temps(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Writes a file into a directory that is not in its place yet: the file is
/// synced, its name is not ([`sync_dir`]).
///
/// # Errors
/// [`Error::Io`] naming the file.
pub(crate) fn write_new<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    create(path, path, value)
}

fn create<T: Serialize>(file: &Path, of: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec_pretty(&Versioned {
        version: VERSION,
        value,
    })
    .map_err(|e| Error::Internal(format!("Cannot encode {}: {e}", of.display())))?;
    let mut open = File::create(file).on("create", file)?;
    open.write_all(&text).on("write", file)?;
    open.sync_all().on("sync", file)
}

/// Makes the names in a directory last.
///
/// # Errors
/// [`Error::Io`] naming the directory.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).on("sync", dir)
}

/// Makes a directory and those above it that are missing, such that they last.
///
/// # Errors
/// [`Error::Io`] naming the directory.
pub(crate) fn make_dirs(dir: &Path, mode: u32) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_dirs(parent, mode)?;
    match fs::DirBuilder::new().mode(mode).create(dir) {
        // Somebody else was first; whether it has synced is not known.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made.on("create", dir)?,
    }
    sync_dir(parent)
}

/// Reads a state file back.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::BadFile`] if it is torn, was
/// written by another version, or is none of ours.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    read_or(
        path,
        "remove the pod with `containerd-shim-rust-kata-v2 delete` or by deleting its container",
    )
}

/// As [`read`], with other words for what to do about a bad file.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_or<T: DeserializeOwned>(path: &Path, cure: &str) -> Result<T> {
    // State files are no links; and to open a FIFO is not to wait for anybody.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .on("read", path)?;
    let data = file.metadata().on("read", path)?;
    if !data.is_file() {
        return Err(Error::bad_file(path, format!("not a regular file; {cure}")));
    }
    let size = data.len();
    if size > MAX_BYTES {
        return Err(Error::bad_file(
            path,
            format!("{size} bytes are too many for a state file; {cure}"),
        ));
    }
    let mut text = Vec::with_capacity(size as usize);
    // It is replaced, never written to: what it had is all there is.
    file.take(size).read_to_end(&mut text).on("read", path)?;
    let whole = match serde_json::from_slice::<Versioned<T>>(&text) {
        Ok(whole) if whole.version == VERSION => return Ok(whole.value),
        other => other,
    };
    // Of another version, the rest may be anything.
    let problem = match (serde_json::from_slice::<Version>(&text), whole) {
        (Err(e), _) => format!("not a state file ({e}); {cure}"),
        (Ok(Version { version: VERSION }), Err(e)) => format!("damaged state file ({e}); {cure}"),
        (Ok(Version { version }), _) => format!(
            "state version {version}, but this build reads {VERSION}; use the build that wrote it, or {cure}"
        ),
    };
    Err(Error::bad_file(path, problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    type Value = BTreeMap<String, u32>;

    #[test]
    fn what_was_written_is_read_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let value = Value::from([("a".into(), 1)]);

        write(&path, &Value::new()).unwrap();
        write(&path, &value).unwrap();

        assert_eq!(read::<Value>(&path).unwrap(), value);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn cut_at_any_byte_zeroed_or_foreign_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write(&path, &Value::from([("a".into(), 1)])).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut bad: Vec<Vec<u8>> = (0..whole.len()).map(|n| whole[..n].to_vec()).collect();
        bad.push(vec![0; whole.len()]);
        bad.push(br#"{"version": 2, "a": 1}"#.to_vec());
        bad.push(br#"{"version": 1, "a": "x"}"#.to_vec());
        bad.push(b"[1]".to_vec());
        for text in bad {
            fs::write(&path, &text).unwrap();
            let error = read::<Value>(&path).unwrap_err().to_string();
            assert!(error.contains("state.json"), "{error}");
        }
    }
}
