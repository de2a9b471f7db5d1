//! Directories of the engine appear and go as a whole: each is made under a
//! passing name and renamed, and renamed to such a name before it is removed.
//! Whoever comes across the passing name of a dead process removes it.
//!
//! Passing names stand *aside*, in a directory that nobody lists where there is
//! one: who lists a directory waits for who changes it, and that one for the
//! journal of the file system. So a directory is changed once when something
//! appears in it, and once when that goes.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::error::{Context, Error, Result};
use crate::state_dir::id::new_id;
use crate::state_dir::sync_dir;

/// What the names of directories begin with that are not whole yet.
const NEW: &str = ".new-";

/// What the names of directories begin with that are about to go.
const GONE: &str = ".gone-";

/// Makes a directory aside, fills it, and gives it its name. `aside` is of the same
/// file system.
///
/// # Errors
/// [`Error::Io`] of kind `AlreadyExists` if the name is taken; see [`taken`].
pub(crate) fn place(
    path: &Path,
    aside: &Path,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        // As the rename would say, but nothing was changed for it.
        return Err(io::Error::from(rustix::io::Errno::EXIST)).on("create", path);
    }
    let temp = aside.join(passing(NEW)?);
    // What containers write is not for the host's users: it may have set-user-id bits.
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

/// Takes a directory out of sight at once, then removes it, and what others before
/// did not come to the end of.
///
/// # Errors
/// [`Error::Io`]; none if it is not there.
pub(crate) fn remove(path: &Path, aside: &Path) -> Result<()> {
    match hide(path, aside) {
        Ok(gone) => clear(&gone).on("remove", &gone),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Takes a directory out of sight. Answers where it is to be removed.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn hide(path: &Path, aside: &Path) -> Result<PathBuf> {
    sweep(aside);
    let gone = aside.join(passing(GONE)?);
    fs::rename(path, &gone).on("remove", path)?;
    sync_dir(parent(path)?)?;
    Ok(gone)
}

/// A name for what is this process's alone.
///
/// # Errors
/// [`Error::Io`] without `/proc`.
pub(crate) fn passing_name() -> Result<String> {
    passing(NEW)
}

/// A name for a directory that we make or remove: by our pid and start time
/// [`sweep`] knows whether somebody is still at it.
fn passing(prefix: &str) -> Result<String> {
    let pid = std::process::id();
    let since = hypervisor::start_time(pid).on("read", "/proc/self/stat")?;
    Ok(format!("{prefix}{pid}-{since}-{}", new_id()))
}

/// The names in `dir` of what living processes have there for themselves.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn living_in(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).on("read", dir)?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let living = |name: &String| name.strip_prefix(NEW).is_some_and(|n| !is_abandoned(n));
    Ok(names.filter(living).collect())
}

/// Removes what dead processes left half made or half removed in `dir`.
pub(crate) fn sweep(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let passing = name.strip_prefix(NEW).or(name.strip_prefix(GONE));
        if passing.is_some_and(is_abandoned) {
            // Somebody else may be at it, too.
            let _ = clear(&entry.path());
        }
    }
}

/// Removes a directory of ours, or what somebody has put into its place.
pub(crate) fn clear(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        // Who still holds a pod's directory sees by its lock that the rest is going.
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

/// Says of what [`place`] could not place that it is there.
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

/// The directory that something is in.
///
/// # Errors
/// [`Error::Internal`] for `/`.
pub(crate) fn parent(path: &Path) -> Result<&Path> {
    path.parent()
        .ok_or_else(|| Error::Internal(format!("{} has no parent", path.display())))
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

    /// A directory that is listed, and one aside.
    fn two() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let (listed, aside) = (root.path().join("listed"), root.path().join("aside"));
        fs::create_dir(&listed).unwrap();
        fs::create_dir(&aside).unwrap();
        (root, listed, aside)
    }

    #[test]
    fn what_dead_processes_left_is_swept_and_what_living_ones_have_is_spared() {
        let (_root, listed, aside) = two();
        let pid = std::process::id();
        let since = hypervisor::start_time(pid).unwrap();
        let alive = [".gone", ".new"].map(|what| format!("{what}-{pid}-{since}-x"));
        let reused = format!(".new-{pid}-1-x");
        for name in [".new-x", ".gone-x", &reused, &alive[0], &alive[1]] {
            fs::create_dir(aside.join(name)).unwrap();
        }
        place(&listed.join("a"), &aside, |_| Ok(())).unwrap();
        remove(&listed.join("a"), &aside).unwrap();
        assert_eq!(names(&aside), alive);
    }

    #[test]
    fn all_is_made_and_removed_aside() {
        let (_root, listed, aside) = two();
        let a = listed.join("a");
        place(&a, &aside, |temp| {
            assert!(temp.starts_with(&aside) && names(&listed).is_empty());
            fs::write(temp.join("file"), "").on("write", temp)
        })
        .unwrap();
        assert_eq!(names(&a), ["file"]);
        let gone = hide(&a, &aside).unwrap();
        assert!(gone.starts_with(&aside) && gone.join("file").exists());
        assert!(names(&listed).is_empty());
    }

    #[test]
    fn a_name_is_taken_once_and_nothing_half_made_is_left() {
        let (_root, listed, aside) = two();
        let a = listed.join("a");
        let placed = place(&a, &aside, |_| {
            // Another comes first.
            place(&a, &aside, |_| Ok(()))
        });
        let late = taken(placed.unwrap_err(), "pod", "a");
        let early = place(&a, &aside, |_| panic!("it is there"));
        for refused in [late, taken(early.unwrap_err(), "pod", "a")] {
            assert!(matches!(refused, Error::AlreadyExists { what: "pod", .. }));
        }
        assert!(names(&aside).is_empty());
    }
}
