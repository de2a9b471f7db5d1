//! Writes a directory tree into a stream. The tree may change meanwhile: the archive is
//! well-formed in every case.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Stat, major, minor};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use super::inode::Inode;
use super::sparse;
use crate::engine::archive::unpack::{Attributes, XATTR, time_record};

/// The largest depth of directories; each costs a descriptor while it is read.
const MAX_DEPTH: usize = 400;

/// The most bytes of names kept in memory: those of the directories being read, and of files
/// with several names.
const MAX_NAMES: usize = 256 << 20;

/// The memory of a name beside its bytes.
const NAME: usize = 64;

/// Writes trees into an archive. Holes in files stay holes, in a form that GNU tar, Go and
/// libarchive can read.
pub(in crate::engine) struct Packer<W: Write> {
    archive: Builder<W>,
    /// The first name of each file with several, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    /// The bytes left for names.
    pub(super) room: usize,
}

impl<W: Write> Packer<W> {
    pub(in crate::engine) fn new(out: W) -> Self {
        Self {
            archive: Builder::new(out),
            links: HashMap::new(),
            room: MAX_NAMES,
        }
    }

    /// Writes the end of the archive.
    pub(in crate::engine) fn finish(self) -> io::Result<()> {
        self.archive.into_inner()?.flush()
    }

    /// Writes the contents of the directory `dir`, named as if below `path`.
    pub(in crate::engine) fn contents(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &Path,
    ) -> io::Result<()> {
        self.children(dir, path, 0)
    }

    /// Writes `name` of the directory `dir` and all below it, under the name `path`.
    pub(in crate::engine) fn tree(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> io::Result<()> {
        let inode = Inode::at(dir, name).map_err(|e| at(path, e.into()))?;
        self.entry(inode, path, 0)
    }

    fn children(&mut self, dir: BorrowedFd<'_>, path: &Path, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other(format!(
                "{}: more than {MAX_DEPTH} directories within each other",
                path.display()
            )));
        }
        let mut names: Vec<OsString> = Vec::new();
        let mut taken = 0;
        for entry in Dir::read_from(dir)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            taken += name.len() + NAME;
            if taken > self.room {
                let problem = "more names in a tree than can be kept in memory";
                return Err(at(path, io::Error::other(problem)));
            }
            names.push(OsString::from_vec(name));
        }
        self.room -= taken;
        // Sorted, so that the same tree makes the same archive.
        names.sort();
        for name in names {
            let path = path.join(&name);
            match Inode::at(dir, &name) {
                Ok(inode) => self.entry(inode, &path, depth)?,
                // The file was removed after its name was read.
                Err(Errno::NOENT) => {}
                Err(e) => return Err(at(&path, e.into())),
            }
        }
        self.room += taken;
        Ok(())
    }

    fn entry(&mut self, inode: Inode, path: &Path, depth: usize) -> io::Result<()> {
        let at = |e| at(path, e);
        match inode.kind() {
            FileType::Directory => {
                let inside = inode.read().map_err(|e| at(e.into()))?;
                self.plain(&inode, path, EntryType::Directory)?;
                drop(inode);
                self.children(inside.as_fd(), path, depth + 1)
            }
            FileType::RegularFile => self.file(&inode, path).map_err(at),
            FileType::Symlink => {
                let target = inode.link().map_err(|e| at(e.into()))?;
                let mut header = self.head(&inode)?;
                header.set_entry_type(EntryType::Symlink);
                self.archive
                    .append_link(&mut header, path, OsStr::from_bytes(&target))
            }
            FileType::CharacterDevice => self.plain(&inode, path, EntryType::Char),
            FileType::BlockDevice => self.plain(&inode, path, EntryType::Block),
            FileType::Fifo => self.plain(&inode, path, EntryType::Fifo),
            // Sockets are left out: one has no use without its listener.
            _ => Ok(()),
        }
    }

    /// Writes an entry without content.
    fn plain(&mut self, inode: &Inode, path: &Path, kind: EntryType) -> io::Result<()> {
        let mut header = self.head(inode)?;
        header.set_entry_type(kind);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(major(inode.stat().st_rdev))?;
            header.set_device_minor(minor(inode.stat().st_rdev))?;
        }
        self.archive.append_data(&mut header, path, io::empty())
    }

    fn file(&mut self, inode: &Inode, path: &Path) -> io::Result<()> {
        let stat = inode.stat();
        if stat.st_nlink > 1 {
            let number = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&number) {
                let mut header = header_of(stat);
                header.set_entry_type(EntryType::Link);
                return self.archive.append_link(&mut header, path, first);
            }
            // If there is no memory left for names, the file's other names become separate
            // files.
            let taken = path.as_os_str().len() + NAME;
            if let Some(room) = self.room.checked_sub(taken) {
                self.room = room;
                self.links.insert(number, path.to_owned());
            }
        }
        let file = File::from(inode.read()?);
        let size = stat.st_size as u64;
        let mut records = records(inode)?;
        let mut header = header_of(stat);
        header.set_entry_type(EntryType::Regular);
        let Some(parts) = sparse::parts(&file, size)? else {
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
            records.push((format!("{}{key}", sparse::RECORD), value));
        }
        self.extend(&records)?;
        header.set_size(map.len() as u64 + there);
        let content = Content::new(&map, &file, parts);
        self.archive.append_data(&mut header, path, content)
    }

    /// Makes the header of an entry without content. Values that do not fit it are written
    /// before it.
    fn head(&mut self, inode: &Inode) -> io::Result<Header> {
        self.extend(&records(inode)?)?;
        Ok(header_of(inode.stat()))
    }

    fn extend(&mut self, records: &[(String, Vec<u8>)]) -> io::Result<()> {
        let records = records.iter().map(|(key, value)| (&**key, &**value));
        self.archive.append_pax_extensions(records)
    }
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn header_of(stat: &Stat) -> Header {
    // GNU tar expects its own kind of holes in GNU headers.
    let mut header = Header::new_ustar();
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mode(stat.st_mode & 0o7777);
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

/// Extended attributes, and a time with a fraction of a second, as records of a pax header.
fn records(inode: &Inode) -> io::Result<Vec<(String, Vec<u8>)>> {
    let attributes = Attributes::read(inode).map_err(io::Error::from)?;
    let named = attributes.xattrs().filter_map(|(key, value)| {
        // A key must be text; other attributes are left out.
        let key = key.to_str().ok()?;
        Some((format!("{XATTR}{key}"), value.to_vec()))
    });
    Ok(named.chain(time_record(attributes.mtime())).collect())
}

/// The content of a file: a map, then the parts. It has exactly the announced number of bytes;
/// zeroes replace what the file has lost meanwhile.
struct Content<'a> {
    map: &'a [u8],
    file: &'a File,
    parts: std::vec::IntoIter<(u64, u64)>,
    /// The offset of the present part.
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
