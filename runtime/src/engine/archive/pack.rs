//! A directory tree into a stream, which may change while it is read: what is
//! written is whole in any case.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, major, minor, openat, readlinkat, statat,
};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use super::sparse;
use crate::engine::image::unpack::{Attributes, XATTR, path_of};

/// Directories within each other; each costs a descriptor while it is read.
const MAX_DEPTH: usize = 400;

/// How holes in files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holes {
    /// As holes, which GNU tar and libarchive know.
    Kept,
    /// As zeroes.
    Filled,
}

/// Writes trees into an archive.
pub(crate) struct Packer<W: Write> {
    archive: Builder<W>,
    holes: Holes,
    /// Names of files that have several, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    pub(crate) fn new(out: W, holes: Holes) -> Self {
        Self {
            archive: Builder::new(out),
            holes,
            links: HashMap::new(),
        }
    }

    /// Writes the archive's end.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.archive.into_inner()?.flush()
    }

    /// Writes what is in the directory `dir`, as if `path` were its name.
    pub(crate) fn contents(&mut self, dir: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
        self.children(dir, path, 0)
    }

    /// Writes `name` of the directory `dir` and all below it, called `path`.
    pub(crate) fn tree(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> io::Result<()> {
        self.entry(dir, name, path, 0)
    }

    fn children(&mut self, dir: BorrowedFd<'_>, path: &Path, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other(format!(
                "{}: more than {MAX_DEPTH} directories within each other",
                path.display()
            )));
        }
        let mut names: Vec<OsString> = Vec::new();
        for entry in Dir::read_from(dir)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        // The same tree makes the same archive.
        names.sort();
        for name in names {
            self.entry(dir, &name, &path.join(&name), depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        depth: usize,
    ) -> io::Result<()> {
        let at = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Removed since its name was read.
            Err(Errno::NOENT) if depth > 0 || !self.links.is_empty() => return Ok(()),
            other => other.map_err(|e| at(e.into()))?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inside = openat(dir, name, reading(OFlags::DIRECTORY), Mode::empty());
                let inside = inside.map_err(|e| at(e.into()))?;
                self.plain(dir, name, path, &stat, EntryType::Directory)?;
                self.children(inside.as_fd(), path, depth + 1)
            }
            FileType::RegularFile => self.file(dir, name, path).map_err(at),
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new()).map_err(|e| at(e.into()))?;
                let target = OsStr::from_bytes(target.to_bytes()).to_owned();
                let mut header = self.head(dir, name, &stat)?;
                header.set_entry_type(EntryType::Symlink);
                self.archive.append_link(&mut header, path, &target)
            }
            FileType::CharacterDevice => self.plain(dir, name, path, &stat, EntryType::Char),
            FileType::BlockDevice => self.plain(dir, name, path, &stat, EntryType::Block),
            FileType::Fifo => self.plain(dir, name, path, &stat, EntryType::Fifo),
            // A socket is of no use to anybody but who listens on it.
            _ => Ok(()),
        }
    }

    /// Something without content.
    fn plain(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        stat: &Stat,
        kind: EntryType,
    ) -> io::Result<()> {
        let mut header = self.head(dir, name, stat)?;
        header.set_entry_type(kind);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(major(stat.st_rdev))?;
            header.set_device_minor(minor(stat.st_rdev))?;
        }
        self.archive.append_data(&mut header, path, io::empty())
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> io::Result<()> {
        // Somebody may have put a FIFO there meanwhile.
        let file = openat(dir, name, reading(OFlags::NONBLOCK), Mode::empty())?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it was replaced while it was read"));
        }
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&inode) {
                let mut header = header_of(&stat);
                header.set_entry_type(EntryType::Link);
                return self.archive.append_link(&mut header, path, first);
            }
            self.links.insert(inode, path.to_owned());
        }
        let file = File::from(file);
        let size = stat.st_size as u64;
        let parts = match self.holes {
            Holes::Kept => sparse::parts(&file, size)?,
            Holes::Filled => None,
        };
        let mut records = records(dir, name)?;
        let mut header = header_of(&stat);
        header.set_entry_type(EntryType::Regular);
        let Some(parts) = parts else {
            self.extend(&records)?;
            header.set_size(size);
            let content = Content::new(&[], &file, vec![(0, size)]);
            return self.archive.append_data(&mut header, path, content);
        };
        let map = sparse::map(&parts);
        let there: u64 = parts.iter().map(|(_, len)| len).sum();
        for (key, value) in [
            ("major", b"1".to_vec()),
            ("minor", b"0".to_vec()),
            ("name", path.as_os_str().as_bytes().to_vec()),
            ("realsize", size.to_string().into_bytes()),
        ] {
            records.push((format!("GNU.sparse.{key}"), value));
        }
        self.extend(&records)?;
        header.set_size(map.len() as u64 + there);
        let content = Content::new(&map, &file, parts);
        self.archive.append_data(&mut header, path, content)
    }

    /// The header of what has no content, its extended attributes before it.
    fn head(&mut self, dir: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> io::Result<Header> {
        self.extend(&records(dir, name)?)?;
        Ok(header_of(stat))
    }

    fn extend(&mut self, records: &[(String, Vec<u8>)]) -> io::Result<()> {
        let records = records.iter().map(|(key, value)| (&**key, &**value));
        self.archive.append_pax_extensions(records)
    }
}

fn reading(further: OFlags) -> OFlags {
    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | further
}

fn header_of(stat: &Stat) -> Header {
    // GNU tar looks for its own kind of holes in GNU's headers.
    let mut header = Header::new_ustar();
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mode(stat.st_mode & 0o7777);
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

/// Extended attributes as records of a pax header.
fn records(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Vec<(String, Vec<u8>)>> {
    let attributes = Attributes::read(&path_of(dir, name)).map_err(io::Error::from)?;
    let named = attributes.xattrs().map(|(key, value)| {
        // Others cannot be written: the key is text.
        let key = key.to_str().ok()?;
        Some((format!("{XATTR}{key}"), value.to_vec()))
    });
    Ok(named.flatten().collect())
}

/// A map, and parts of a file: exactly so many bytes, zeroes for those that the
/// file lost meanwhile.
struct Content<'a> {
    map: &'a [u8],
    file: &'a File,
    parts: std::vec::IntoIter<(u64, u64)>,
    /// Of the present part.
    at: u64,
    left: u64,
}

impl<'a> Content<'a> {
    fn new(map: &'a [u8], file: &'a File, parts: sparse::Parts) -> Self {
        Self {
            map,
            file,
            parts: parts.into_iter(),
            at: 0,
            left: 0,
        }
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.map.is_empty() {
            return self.map.read(buffer);
        }
        while self.left == 0 {
            match self.parts.next() {
                Some(part) => (self.at, self.left) = part,
                None => return Ok(0),
            }
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let buffer = &mut buffer[..most];
        let mut read = self.file.read_at(buffer, self.at)?;
        if read == 0 {
            buffer.fill(0);
            read = buffer.len();
        }
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
