//! A file that a command writes for its caller: it is replaced as a whole, or left as it
//! was. A file that is not regular (a FIFO, a device node) is written in place and never
//! removed.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A file that is being written.
pub(crate) enum OutputFile {
    /// A temporary file, renamed to `path` when it is complete.
    Temporary { temp: NamedTempFile, path: PathBuf },
    /// The file itself.
    Direct(File),
}

impl OutputFile {
    /// Opens the file at `path`. An existing file keeps its content until
    /// [`OutputFile::keep`], and its owner and mode also after that.
    ///
    /// # Errors
    /// Errors of the system calls.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // The target of a link is replaced, not the link.
        let (path, before) = match fs::canonicalize(path) {
            Ok(target) => {
                let before = fs::metadata(&target)?;
                (target, Some(before))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => match path.symlink_metadata() {
                // A link whose target does not exist yet.
                Ok(_) => return Ok(Self::Direct(File::create(path)?)),
                Err(_) => (path.to_owned(), None),
            },
            Err(e) => return Err(e),
        };
        if before.as_ref().is_some_and(|before| !before.is_file()) {
            return Ok(Self::Direct(File::options().write(true).open(&path)?));
        }
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let mut name = tempfile::Builder::new();
        name.prefix(".rust-kata-");
        // A new file gets its mode by the caller's umask.
        name.permissions(fs::Permissions::from_mode(0o666));
        let temp = name.tempfile_in(dir)?;
        if let Some(before) = before {
            copy_owner_and_mode(temp.as_file(), &before)?;
        }
        Ok(Self::Temporary { temp, path })
    }

    /// The descriptor to write the content to.
    ///
    /// # Errors
    /// Too many open files.
    pub(crate) fn writer(&self) -> io::Result<File> {
        match self {
            Self::Temporary { temp, .. } => temp.as_file().try_clone(),
            Self::Direct(file) => file.try_clone(),
        }
    }

    /// Puts the complete file in place. Without this call a temporary file is removed.
    ///
    /// # Errors
    /// Errors of the system calls.
    pub(crate) fn keep(self) -> io::Result<()> {
        if let Self::Temporary { temp, path } = self {
            temp.as_file().sync_all()?;
            temp.persist(path)?;
        }
        Ok(())
    }
}

fn copy_owner_and_mode(file: &File, before: &Metadata) -> io::Result<()> {
    fchown(file, Some(before.uid()), Some(before.gid()))?;
    file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{FileTypeExt, symlink};

    fn write(path: &Path, keep: bool) {
        let written = OutputFile::open(path).unwrap();
        written.writer().unwrap().write_all(b"new").unwrap();
        if keep {
            written.keep().unwrap();
        }
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&path, "before, and longer").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        fchown(File::open(&path).unwrap(), Some(7), Some(8)).unwrap();
        symlink("file", &link).unwrap();
        write(&link, false);
        assert_eq!(fs::read(&path).unwrap(), b"before, and longer");
        write(&link, true);
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let data = fs::metadata(&path).unwrap();
        assert_eq!(
            (data.mode() & 0o7777, data.uid(), data.gid()),
            (0o640, 7, 8)
        );
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

        write(&dir.path().join("fresh"), false);
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 2, "what was not kept is gone");
        write(&dir.path().join("fresh"), true);
        assert_eq!(fs::read(dir.path().join("fresh")).unwrap(), b"new");
    }

    #[test]
    fn what_is_no_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::read(fifo).unwrap()
        });
        write(&fifo, false);
        assert_eq!(reader.join().unwrap(), b"new");
        let kind = fs::symlink_metadata(&fifo).unwrap().file_type();
        assert!(kind.is_fifo());
        write(Path::new("/dev/null"), false);
        let kind = fs::metadata("/dev/null").unwrap().file_type();
        assert!(kind.is_char_device());
        let dangling = dir.path().join("dangling");
        symlink("target", &dangling).unwrap();
        write(&dangling, true);
        assert_eq!(fs::read(dir.path().join("target")).unwrap(), b"new");
    }
}
