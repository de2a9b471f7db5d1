//! Atomic creation and removal of the engine's directories: each is created under a
//! staging name and renamed to its final name, and renamed to a staging name before it
//! is removed. Any process removes the staging directories of dead processes.
//!
//! Staging names are in a separate *staging directory* where possible, because listing
//! a directory waits for changes to it, and those wait for the journal of the file
//! system. A listed directory then changes only once for each creation and removal.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::error::{Context, Error, Result};
use crate::state_dir::id::new_id;
use crate::state_dir::sync_dir;

/// The prefix of directories that are being created.
const NEW: &str = ".new-";

/// The prefix of directories that are being removed.
const GONE: &str = ".gone-";

/// Creates a directory in `staging_dir`, fills it, and renames it to `path`. Both must be
/// on the same file system.
///
/// # Errors
/// [`Error::Io`] of kind `AlreadyExists` if the name is taken; see [`taken`].
pub(crate) fn place(
    path: &Path,
    staging_dir: &Path,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        // The rename would fail the same way, but only after changes on disk.
        return Err(io::Error::from(rustix::io::Errno::EXIST)).on("create", path);
    }
    let temp = staging_dir.join(unique_name(NEW)?);
    // Other users of the host have no access: containers may create set-user-id files.
    let made = fs::DirBuilder::new().mode(0o700).create(&temp);
    made.on("create", &temp)?;
    let placed = fill(&temp).and_then(|()| sync_dir(&temp)).and_then(|()| {
        renameat_with(CWD, &temp, CWD, path, RenameFlags::NOREPLACE).on("create", path)
    });
    if placed.is_err() {
        let _ = fs::remove_dir_all(&temp);
    } else {
        sync_dir(parent(path)?)?;
    }
    placed
}

/// Hides a directory at once, then removes it. Also removes what dead processes left
/// in `staging_dir`.
///
/// # Errors
/// [`Error::Io`]. A missing directory is not an error.
pub(crate) fn remove(path: &Path, staging_dir: &Path) -> Result<()> {
    match hide(path, staging_dir) {
        Ok(gone) => clear(&gone).on("remove", &gone),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Moves a directory into `staging_dir` and returns its path there, for removal.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn hide(path: &Path, staging_dir: &Path) -> Result<PathBuf> {
    sweep(staging_dir);
    let gone = staging_dir.join(unique_name(GONE)?);
    fs::rename(path, &gone).on("remove", path)?;
    sync_dir(parent(path)?)?;
    Ok(gone)
}

/// A staging name that only this process uses.
///
/// # Errors
/// [`Error::Io`] without `/proc`.
pub(crate) fn staging_name() -> Result<String> {
    unique_name(NEW)
}

/// A name with this process's pid and start time, from which [`sweep`] knows whether
/// the process still lives.
fn unique_name(prefix: &str) -> Result<String> {
    let pid = std::process::id();
    let since = hypervisor::start_time(pid).on("read", "/proc/self/stat")?;
    Ok(format!("{prefix}{pid}-{since}-{}", new_id()))
}

/// The names of directories in `dir` that living processes are creating.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn living_in(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).on("read", dir)?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let living = |name: &String| name.strip_prefix(NEW).is_some_and(|n| !is_abandoned(n));
    Ok(names.filter(living).collect())
}

/// Removes the staging directories of dead processes in `dir`.
pub(crate) fn sweep(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let suffix = name.strip_prefix(NEW).or(name.strip_prefix(GONE));
        if suffix.is_some_and(is_abandoned) {
            // Another process may be removing it too.
            let _ = clear(&entry.path());
        }
    }
}

/// Removes a directory, or a file that was put in its place.
pub(crate) fn clear(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        // The lock goes first: readers with the directory open see that it is being removed.
        let _ = fs::remove_file(path.join("lock"));
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

/// Whether the process named by `<pid>-<start time>-<id>` has ended.
fn is_abandoned(name: &str) -> bool {
    let mut parts = name.split('-');
    let pid = parts.next().and_then(|pid| pid.parse().ok());
    let since = parts.next().and_then(|since| since.parse::<u64>().ok());
    match (pid, since) {
        (Some(pid), Some(since)) => hypervisor::start_time(pid).ok() != Some(since),
        _ => true,
    }
}

/// Converts an "already exists" error of [`place`] into [`Error::AlreadyExists`].
pub(crate) fn taken(error: Error, what: &'static str, name: &str) -> Error {
    match error {
        Error::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
            Error::AlreadyExists {
                what,
                id: name.to_owned(),
            }
        }
        other => other,
    }
}

/// The parent directory of `path`.
///
/// # Errors
/// [`Error::Io`] for `/`.
pub(crate) fn parent(path: &Path) -> Result<&Path> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput);
    parent.on("find the directory above", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// A listed directory and a staging directory.
    fn two() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let (listed, staging_dir) = (root.path().join("listed"), root.path().join("staging"));
        fs::create_dir(&listed).unwrap();
        fs::create_dir(&staging_dir).unwrap();
        (root, listed, staging_dir)
    }

    #[test]
    fn what_dead_processes_left_is_swept_and_what_living_ones_have_is_spared() {
        let (_root, listed, staging_dir) = two();
        let pid = std::process::id();
        let since = hypervisor::start_time(pid).unwrap();
        let alive = [".gone", ".new"].map(|what| format!("{what}-{pid}-{since}-x"));
        let reused = format!(".new-{pid}-1-x");
        for name in [".new-x", ".gone-x", &reused, &alive[0], &alive[1]] {
            fs::create_dir(staging_dir.join(name)).unwrap();
        }
        place(&listed.join("a"), &staging_dir, |_| Ok(())).unwrap();
        remove(&listed.join("a"), &staging_dir).unwrap();
        assert_eq!(names(&staging_dir), alive);
    }

    #[test]
    fn directories_are_created_and_removed_in_staging() {
        let (_root, listed, staging_dir) = two();
        let a = listed.join("a");
        place(&a, &staging_dir, |temp| {
            assert!(temp.starts_with(&staging_dir) && names(&listed).is_empty());
            fs::write(temp.join("file"), "").on("write", temp)
        })
        .unwrap();
        assert_eq!(names(&a), ["file"]);
        let gone = hide(&a, &staging_dir).unwrap();
        assert!(gone.starts_with(&staging_dir) && gone.join("file").exists());
        assert!(names(&listed).is_empty());
    }

    #[test]
    fn a_name_is_taken_once_and_nothing_half_made_is_left() {
        let (_root, listed, staging_dir) = two();
        let a = listed.join("a");
        let placed = place(&a, &staging_dir, |_| {
            // Another process is first.
            place(&a, &staging_dir, |_| Ok(()))
        });
        let late = taken(placed.unwrap_err(), "pod", "a");
        let early = place(&a, &staging_dir, |_| panic!("it is there"));
        for refused in [late, taken(early.unwrap_err(), "pod", "a")] {
            assert!(matches!(refused, Error::AlreadyExists { what: "pod", .. }));
        }
        assert!(names(&staging_dir).is_empty());
    }
}
