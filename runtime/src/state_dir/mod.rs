//! State files: versioned JSON, replaced atomically.
//!
//! Every build can read the files of all earlier builds: of running pods, of pods that a crash
//! left, of images. So for each kind of file ([`Stored`]):
//! - A field may be added without a new version if its absence means what the previous build
//!   did (`#[serde(default)]`), and if that build may lose it: a build ignores unknown fields,
//!   and writes the file again without them.
//! - Every other change is a new version, with an upgrade from the previous version, and a file
//!   of that version in `runtime/fixtures`, where all are kept.
//! - A version that is newer than the build is refused by name, with the remedy.

pub(crate) mod dir;
pub(crate) mod id;
pub(crate) mod lock;
pub(crate) mod paths;
pub(crate) mod private;
pub(crate) mod record;
pub(crate) mod staging;

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::blocking::blocking;
use crate::error::{Context, Error, Result};

/// The content of a kind of state file.
pub trait Stored: Serialize + DeserializeOwned {
    /// The version that this build writes. It can read all from 1 on.
    const VERSION: u32 = 1;

    /// Upgrades a file of version `from`, which is below [`Stored::VERSION`], to the next
    /// version.
    ///
    /// # Errors
    /// The problem, as text.
    fn upgrade(from: u32, _file: &mut Map<String, Value>) -> Result<(), String> {
        Err(format!("nothing leads on from state version {from}"))
    }
}

/// The largest state file; a larger one is not valid.
const MAX_BYTES: u64 = 16 << 20;

/// Most files are not larger than this.
const USUAL_BYTES: usize = 4096;

/// State files are not links; opening a FIFO must not wait. O_NOATIME: the first read of a new
/// file would change its inode (the access time), and wait for the file system's journal.
pub(crate) const OPEN_FLAGS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOATIME;

#[derive(Serialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    value: T,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Replaces `path` by `value` atomically: temporary file, fsync, rename, fsync of the
/// directory. After a crash the file holds the old or the new value.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn write<T: Stored>(path: &Path, value: &T) -> Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::IsADirectory)).on("write", path);
    };
    let temp = dir.join(format!(".{}.tmp", name.to_string_lossy()));
    blocking(|| {
        create(&temp, path, value)?;
        fs::rename(&temp, path).on("replace", path)?;
        sync_dir(dir)
    })
}

/// Removes the temporary files of killed writers. The caller excludes other writers in `dir`.
pub(crate) fn sweep_temps(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Writes a file into a directory that is not in its final place yet. The file is synced, its
/// name is not ([`sync_dir`]).
///
/// # Errors
/// [`Error::Io`] naming the file.
pub(crate) fn write_new<T: Stored>(path: &Path, value: &T) -> Result<()> {
    blocking(|| create(path, path, value))
}

fn create<T: Stored>(file: &Path, of: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec_pretty(&Versioned {
        version: T::VERSION,
        value,
    })
    .on("encode", of)?;
    let mut open = File::create(file).on("create", file)?;
    open.write_all(&text).on("write", file)?;
    open.sync_all().on("sync", file)
}

/// Syncs the names in a directory to the disk.
///
/// # Errors
/// [`Error::Io`] naming the directory.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    let synced = || File::open(dir).and_then(|d| d.sync_all());
    blocking(synced).on("sync", dir)
}

/// Makes a directory and its missing parents, synced to the disk.
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
        // Another process made it at the same time, and may not have synced it.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made.on("create", dir)?,
    }
    sync_dir(parent)
}

/// Reads a state file.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::BadFile`] if it is incomplete, is of a later
/// build, or is not a state file.
pub fn read<T: Stored>(path: &Path) -> Result<T> {
    const CURE: &str =
        "remove the pod with `containerd-shim-rust-kata-v2 delete` or by deleting its container";
    read_or(path, || CURE.to_owned())
}

/// As [`read`], with another remedy for a bad file.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_or<T: Stored>(path: &Path, cure: impl Fn() -> String) -> Result<T> {
    let mut options = File::options();
    let opened = options.read(true).custom_flags(OPEN_FLAGS).open(path);
    read_file(&opened.on("read", path)?, || path.to_owned(), cure)
}

/// Reads a state file that was opened with [`OPEN_FLAGS`].
///
/// # Errors
/// As [`read`].
pub(crate) fn read_file<T: Stored>(
    file: &File,
    path: impl Fn() -> PathBuf,
    cure: impl Fn() -> String,
) -> Result<T> {
    let mut text = Vec::with_capacity(USUAL_BYTES);
    let first = rustix::io::read(file, spare_capacity(&mut text)).map_err(io::Error::from);
    // A file that parses is complete: without the checks below, a list of a thousand pods is
    // faster.
    if let Ok(value) = parse(&text) {
        return Ok(value);
    }
    let bad = |problem| Err(Error::bad_file(path(), problem).or_cure(&cure));
    if !file.metadata().on("read", path())?.is_file() {
        return bad("not a regular file".to_owned());
    }
    first.on("read", path())?;
    let rest = file.take(MAX_BYTES).read_to_end(&mut text);
    rest.on("read", path())?;
    if text.len() as u64 > MAX_BYTES {
        return bad(format!(
            "over {MAX_BYTES} bytes are too many for a state file"
        ));
    }
    parse(&text).or_else(bad)
}

/// Parses a state file, or returns the problem.
fn parse<T: Stored>(text: &[u8]) -> Result<T, String> {
    let none = |e: &dyn Display| format!("not a state file ({e})");
    let damaged = |e: serde_json::Error| format!("damaged state file ({e})");
    // UTF-8 is checked once, not for each string.
    let text = std::str::from_utf8(text).map_err(|e| none(&e))?;
    let version = match first_version(text) {
        Some(version) => version,
        None => {
            let stored: Version = serde_json::from_str(text).map_err(|e| none(&e))?;
            stored.version
        }
    };
    if version == T::VERSION {
        return serde_json::from_str(text).map_err(damaged);
    }
    if version == 0 || version > T::VERSION {
        // The rest of the file may be anything.
        return Err(format!(
            "state version {version}, but this build reads {}; use the build that wrote it, or else",
            up_to(T::VERSION)
        ));
    }
    let mut file: Map<String, Value> = serde_json::from_str(text).map_err(damaged)?;
    for from in version..T::VERSION {
        T::upgrade(from, &mut file).map_err(|e| format!("damaged state file ({e})"))?;
    }
    serde_json::from_value(Value::Object(file)).map_err(damaged)
}

/// The range of versions that can be read.
fn up_to(version: u32) -> String {
    match version {
        1 => "1".to_owned(),
        last => format!("1 to {last}"),
    }
}

/// The version at the beginning of a file that [`create`] wrote. To find it elsewhere in a file
/// takes as long as to parse it.
fn first_version(text: &str) -> Option<u32> {
    let rest = text.strip_prefix("{\n  \"version\": ")?;
    let (version, _) = rest.split_once(',')?;
    version.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Value {
        a: String,
    }

    impl Stored for Value {}

    /// The third version of it: `a` became a number, then got a name.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Later {
        length: usize,
        #[serde(default)]
        added: bool,
    }

    impl Stored for Later {
        const VERSION: u32 = 3;

        fn upgrade(from: u32, file: &mut Map<String, serde_json::Value>) -> Result<(), String> {
            match from {
                1 => {
                    let a = file.get("a").and_then(|a| a.as_str());
                    let length = a.ok_or("it has no a")?.len();
                    file.insert("a".into(), length.into());
                }
                _ => {
                    let length = file.remove("a").ok_or("it has no a")?;
                    file.insert("length".into(), length);
                }
            }
            Ok(())
        }
    }

    #[test]
    fn what_earlier_builds_wrote_is_read_and_what_later_ones_wrote_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let later = |length, added| Later { length, added };
        for (text, expected) in [
            (r#"{"version": 1, "a": "xyz"}"#, later(3, false)),
            (r#"{"version": 2, "a": 3}"#, later(3, false)),
            (
                r#"{"version": 3, "length": 3, "added": true, "of a later build": 1}"#,
                later(3, true),
            ),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(read::<Later>(&path).unwrap(), expected, "{text}");
        }
        for (text, said) in [
            (
                r#"{"version": 4, "length": 3}"#,
                "state version 4, but this build reads 1 to 3",
            ),
            (r#"{"version": 0, "length": 3}"#, "state version 0"),
            (r#"{"version": 1}"#, "it has no a"),
            (r#"{"version": 2, "a": "x"}"#, "damaged state file"),
        ] {
            fs::write(&path, text).unwrap();
            let error = read::<Later>(&path).unwrap_err().to_string();
            assert!(
                error.contains(said) && error.contains("state.json"),
                "{error}"
            );
        }
        // The file is rewritten in this build's version.
        write(&path, &later(1, false)).unwrap();
        assert!(
            fs::read_to_string(&path)
                .unwrap()
                .contains("\"version\": 3")
        );
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        for size in [0, 1, USUAL_BYTES - 100, USUAL_BYTES, 3 * USUAL_BYTES] {
            let value = Value {
                a: "x".repeat(size),
            };

            write(&path, &Value::default()).unwrap();
            write(&path, &value).unwrap();

            assert_eq!(read::<Value>(&path).unwrap(), value);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn cut_at_any_byte_zeroed_or_foreign_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let large = "x".repeat(USUAL_BYTES);
        for a in [String::from("1"), large] {
            write(&path, &Value { a }).unwrap();
            let whole = fs::read(&path).unwrap();
            let mut bad: Vec<Vec<u8>> = (0..whole.len()).map(|n| whole[..n].to_vec()).collect();
            bad.push(vec![0; whole.len()]);
            bad.push(br#"{"version": 2, "a": "1"}"#.to_vec());
            bad.push(br#"{"version": 1, "a": 1}"#.to_vec());
            bad.push(br#"{"a": "1"}"#.to_vec());
            bad.push(b"[1]".to_vec());
            for text in bad {
                fs::write(&path, &text).unwrap();
                let error = read::<Value>(&path).unwrap_err().to_string();
                assert!(error.contains("state.json"), "{error}");
            }
        }
    }

    #[test]
    fn what_is_no_state_file_is_said_by_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let said = || read::<Value>(&path).unwrap_err().to_string();

        let file = File::create(&path).unwrap();
        file.set_len(MAX_BYTES + 1).unwrap();
        assert!(said().contains("too many for a state file"), "{}", said());

        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(said().contains("not a regular file"), "{}", said());

        fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(said().contains("not a regular file"), "{}", said());
    }
}
