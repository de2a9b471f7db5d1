//! A directory of state files, held open.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::state_dir;
use crate::state_dir::Stored;

/// A directory, held open: all reads are from the same directory, even if its name is reused
/// meanwhile, and the kernel does not resolve its path for each file.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens a directory.
    ///
    /// # Errors
    /// [`crate::Error::Io`] naming it.
    pub fn open(path: PathBuf) -> Result<Self> {
        let fd = open(CWD, &path).on("read", &path)?;
        Ok(Self { fd, path })
    }

    /// Opens a directory in this one.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn dir(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        let fd = open(self.fd.as_fd(), name.as_ref()).on("read", &path)?;
        Ok(Self { fd, path })
    }

    /// The attributes of a file; `None` if it does not exist. Links are not followed.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn stat(&self, name: &str) -> Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            stat => {
                let stat = stat.map_err(io::Error::from);
                stat.on("read", self.path.join(name)).map(Some)
            }
        }
    }

    /// The names in a directory in this one (see [`names`]).
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn names(&self, name: &str) -> Result<Vec<String>> {
        names_at(self.fd.as_fd(), name.as_ref()).on("read", self.path.join(name))
    }

    /// Opens a file; `None` if it does not exist.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn open_file(&self, name: &str, flags: OFlags) -> Result<Option<File>> {
        match rustix::fs::openat(&self.fd, name, flags | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            file => {
                let file = file.map_err(io::Error::from);
                let file = file.on("open", self.path.join(name))?;
                Ok(Some(file.into()))
            }
        }
    }

    /// Reads a state file (see [`state_dir::read_or`]).
    ///
    /// # Errors
    /// As [`state_dir::read`], with the whole path.
    pub fn read<T: Stored>(&self, name: &str, cure: impl Fn() -> String) -> Result<T> {
        let path = || self.path.join(name);
        let flags = OFlags::from_bits_retain(state_dir::OPEN_FLAGS as u32);
        let file = self.open_file(name, flags)?;
        let missing = || io::Error::from(Errno::NOENT);
        let file = file.ok_or_else(missing).on("read", path())?;
        state_dir::read_file(&file, path, cure)
    }
}

fn open(at: BorrowedFd<'_>, dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, dir, flags, Mode::empty())?)
}

/// The names in a directory of state, sorted; empty if it does not exist. Names that begin with
/// a dot are left out: these are incomplete.
///
/// # Errors
/// [`crate::Error::Io`].
pub(crate) fn names(dir: &Path) -> Result<Vec<String>> {
    names_at(CWD, dir).on("read", dir)
}

/// Does not use `fs::read_dir`, which checks what it has opened: one system call more for each
/// of perhaps a thousand directories.
fn names_at(at: BorrowedFd<'_>, dir: &Path) -> io::Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOATIME;
    let open = match rustix::fs::openat(at, dir, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        open => open?,
    };
    let mut space = [MaybeUninit::uninit(); 32 << 10];
    let mut entries = RawDir::new(open, &mut space);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        if let Ok(name) = entry?.file_name().to_str()
            && !name.starts_with('.')
        {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;

    impl Stored for BTreeMap<String, u32> {}
    impl Stored for () {}

    #[test]
    fn what_is_held_stays_the_same_under_any_name() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("dir");
        fs::create_dir_all(path.join("in/b")).unwrap();
        fs::create_dir(path.join("in/a")).unwrap();
        fs::create_dir(path.join("in/.new-1")).unwrap();
        let value = BTreeMap::from([("a".to_owned(), 1)]);
        state_dir::write(&path.join("f"), &value).unwrap();
        let dir = Dir::open(path.clone()).unwrap();

        fs::rename(&path, root.path().join("other")).unwrap();
        fs::create_dir(&path).unwrap();

        assert_eq!(dir.names("in").unwrap(), ["a", "b"]);
        assert!(dir.names("none").unwrap().is_empty());
        assert!(names(&path).unwrap().is_empty());
        assert!(dir.stat("f").unwrap().is_some() && dir.stat("g").unwrap().is_none());
        let cure = || "do this".to_owned();
        let read: BTreeMap<String, u32> = dir.read("f", cure).unwrap();
        assert_eq!(read["a"], 1);
        let error = dir.read::<()>("in/a", cure).unwrap_err().to_string();
        assert!(
            error.contains("dir/in/a") && error.contains("do this"),
            "{error}"
        );
        let error = dir.read::<()>("g", cure).unwrap_err().to_string();
        assert!(error.contains("dir/g"), "{error}");
    }
}
