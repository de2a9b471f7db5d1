//! The directory that a layer is unpacked into.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, XattrFlags, linkat, makedev, mkdirat,
    mknodat, openat, openat2, setxattr, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use tar::{EntryType, Header};

use super::attributes::{Attributes, set_time};
use super::entries::Sparse;
use super::error::Failure;
use super::path::{EntryPath, Hidden};
use crate::engine::archive::Inode;

/// The largest number of directories, more than any image has; their names and times are kept
/// until the end.
const MAX_DIRECTORIES: usize = 1 << 20;

/// The most bytes of those names.
const MAX_NAMES: usize = 256 << 20;

const BUFFER: usize = 128 << 10;

/// Linux, Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
/// directories".
const OPAQUE: &std::ffi::CStr = c"trusted.overlay.opaque";

type Made<T> = Result<T, Failure>;

/// What is at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Nothing,
    Directory,
    Whiteout,
    Other,
}

/// The directory that an archive is unpacked into. A container may use it meanwhile: each new
/// file is opened once and gets its attributes by that descriptor.
pub(super) struct Tree {
    root: OwnedFd,
    /// The layers below, uppermost first.
    lower: Vec<PathBuf>,
    /// Times of directories. They are set last, since making entries changes them.
    times: BTreeMap<PathBuf, (i64, i64)>,
    /// The bytes of their names.
    names: usize,
    opaque: bool,
    /// A buffer for copying.
    buffer: Box<[u8]>,
}

impl Tree {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            root,
            lower: Vec::new(),
            times: BTreeMap::new(),
            names: 0,
            opaque: false,
            buffer: vec![0; BUFFER].into_boxed_slice(),
        }
    }

    /// Starts with the empty directory `path` of a layer; it gets the attributes of the root
    /// below.
    pub(super) fn of_layer(path: &Path, lower: &[PathBuf]) -> Made<Self> {
        let open = |path| Self::directory_at(CWD, path, OFlags::empty());
        let mut tree = Self::new(open(path)?);
        tree.lower = lower.iter().rev().cloned().collect();
        if let Some(below) = tree.lower.first() {
            let attributes = Attributes::read(&inode_of(open(below)?)?)?;
            attributes.apply(&tree.itself()?)?;
        }
        Ok(tree)
    }

    /// Opens a directory.
    fn directory_at(dir: impl AsFd, path: &Path, further: OFlags) -> Made<OwnedFd> {
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | further;
        openat(dir, path, how, Mode::empty()).map_err(|e| Failure::io("open", e))
    }

    fn itself(&self) -> Made<Inode> {
        inode(self.root.as_fd(), OsStr::new("."), FileType::Directory)
    }

    /// Sets what must be set last. Returns whether the root hides all layers below.
    pub(super) fn finish(self) -> Made<bool> {
        for (path, time) in &self.times {
            // Only directories that still are ones get their time.
            if path.as_os_str().is_empty() {
                set_time(&self.itself()?, *time)?;
            } else if let Ok(dir) = self.resolve(path) {
                set_time(&inode_of(dir)?, *time)?;
            }
        }
        Ok(self.opaque)
    }

    /// Makes a directory, or sets the attributes of an existing one.
    pub(super) fn directory(&mut self, path: &EntryPath, attributes: &Attributes) -> Made<()> {
        let Some((parent, name)) = path.split() else {
            self.remember(PathBuf::new(), attributes)?;
            return attributes.apply(&self.itself()?);
        };
        let dir = self.parent(parent)?;
        attributes.apply(&self.make_directory(dir.as_fd(), name)?)?;
        self.remember(parent.join(name), attributes)
    }

    /// Makes a file from `content`. Returns its size.
    pub(super) fn file(
        &mut self,
        path: &EntryPath,
        content: &mut impl Read,
        attributes: &Attributes,
    ) -> Made<u64> {
        let mut file = self.create(path)?;
        let written = self.fill(&mut file, content)?;
        attributes.apply(&inode_of(file.into())?)?;
        Ok(written)
    }

    /// Makes a file with holes; `content` holds its parts one after the other. Returns their
    /// total size.
    pub(super) fn sparse_file(
        &mut self,
        path: &EntryPath,
        content: &mut impl Read,
        sparse: &Sparse,
        attributes: &Attributes,
    ) -> Made<u64> {
        let mut file = self.create(path)?;
        let mut written = 0;
        for (start, len) in &sparse.parts {
            let there = file.seek(SeekFrom::Start(*start));
            there.map_err(|e| Failure::io("write", e))?;
            written += self.fill(&mut file, &mut content.take(*len))?;
        }
        let sized = file.set_len(sparse.size);
        sized.map_err(|e| Failure::io("set the size of", e))?;
        attributes.apply(&inode_of(file.into())?)?;
        Ok(written)
    }

    fn create(&mut self, path: &EntryPath) -> Made<File> {
        let (dir, name) = self.place(path)?;
        let how = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&dir, name, how, Mode::RUSR | Mode::WUSR);
        Ok(file.map_err(|e| Failure::io("create", e))?.into())
    }

    fn fill(&mut self, file: &mut File, content: &mut impl Read) -> Made<u64> {
        let mut written = 0;
        loop {
            let read = content.read(&mut self.buffer);
            let read = read.map_err(|e| Failure::io("read", e))?;
            if read == 0 {
                return Ok(written);
            }
            let part = file.write_all(&self.buffer[..read]);
            part.map_err(|e| Failure::io("write", e))?;
            written += read as u64;
        }
    }

    /// Makes a symbolic link with any target: only the container follows it.
    pub(super) fn symlink(
        &mut self,
        path: &EntryPath,
        target: &[u8],
        attributes: &Attributes,
    ) -> Made<()> {
        let (dir, name) = self.place(path)?;
        symlinkat(OsStr::from_bytes(target), &dir, name).map_err(|e| Failure::io("link", e))?;
        attributes.apply(&inode(dir.as_fd(), name, FileType::Symlink)?)
    }

    /// Makes another name of a file of this layer.
    pub(super) fn hard_link(&mut self, path: &EntryPath, target: &EntryPath) -> Made<()> {
        let Some((from, file)) = target.split() else {
            return Err(Failure::Refused("it is a hard link to the root"));
        };
        if path == target {
            return Err(Failure::Refused("it is a hard link to itself"));
        }
        let (dir, name) = self.place(path)?;
        let from = match self.resolve(from) {
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return Err(Failure::Refused(
                    "it is a hard link to a file that does not exist",
                ));
            }
            other => other.map_err(|e| Failure::io("resolve the target of", e))?,
        };
        match there(from.as_fd(), file)? {
            There::Nothing | There::Whiteout => Err(Failure::Refused(
                "it is a hard link to a file that does not exist",
            )),
            There::Directory => Err(Failure::Refused("it is a hard link to a directory")),
            There::Other => linkat(&from, file, &dir, name, AtFlags::empty())
                .map_err(|e| Failure::io("link", e)),
        }
    }

    /// Makes a device node or a FIFO.
    pub(super) fn node(
        &mut self,
        path: &EntryPath,
        kind: EntryType,
        header: &Header,
        attributes: &Attributes,
    ) -> Made<()> {
        let number = |n: io::Result<Option<u32>>| match n {
            Ok(n) => Ok(n.unwrap_or(0)),
            Err(_) => Err(Failure::Refused("its device number is not a number")),
        };
        let device = || {
            let major = number(header.device_major())?;
            Ok(makedev(major, number(header.device_minor())?))
        };
        let (file, device) = match kind {
            EntryType::Char => (FileType::CharacterDevice, device()?),
            EntryType::Block => (FileType::BlockDevice, device()?),
            _ => (FileType::Fifo, 0),
        };
        let (dir, name) = self.place(path)?;
        mknodat(&dir, name, file, Mode::RUSR | Mode::WUSR, device)
            .map_err(|e| Failure::io("make", e))?;
        attributes.apply(&inode(dir.as_fd(), name, file)?)
    }

    /// Hides files of the layers below. Files of this layer stay, wherever they are in the
    /// archive.
    pub(super) fn hide(&mut self, path: &EntryPath, hidden: Hidden<'_>) -> Made<()> {
        let Some((parent, _)) = path.split() else {
            return Ok(());
        };
        match hidden {
            Hidden::Nothing => Ok(()),
            Hidden::Directory if parent.as_os_str().is_empty() => {
                self.opaque = true;
                Ok(())
            }
            Hidden::Directory => make_opaque(&inode_of(self.parent(parent)?)?),
            Hidden::Name(name) => {
                let dir = self.parent(parent)?;
                match there(dir.as_fd(), name)? {
                    There::Directory => {
                        make_opaque(&inode(dir.as_fd(), name, FileType::Directory)?)
                    }
                    There::Whiteout | There::Other => Ok(()),
                    There::Nothing => {
                        mknodat(&dir, name, FileType::CharacterDevice, Mode::empty(), 0)
                            .map_err(|e| Failure::io("hide", e))
                    }
                }
            }
        }
    }

    /// The directory and the name for an entry; an existing file of that name has been removed.
    fn place<'a>(&mut self, path: &'a EntryPath) -> Made<(OwnedFd, &'a OsStr)> {
        let Some((parent, name)) = path.split() else {
            return Err(Failure::Refused("the root of a layer must be a directory"));
        };
        let dir = self.parent(parent)?;
        clear(dir.as_fd(), name)?;
        let path = parent.join(name);
        if self.times.remove(&path).is_some() {
            self.names -= path.as_os_str().len();
        }
        Ok((dir, name))
    }

    /// The directory `path`. Missing directories are made as they are in the layers below.
    fn parent(&mut self, path: &Path) -> Made<OwnedFd> {
        match self.resolve(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            other => return other.map_err(|e| Failure::io("resolve the directory of", e)),
        }
        let mut done = PathBuf::new();
        for part in path {
            let dir = self.resolve(&done);
            let dir = dir.map_err(|e| Failure::io("resolve the directory of", e))?;
            let above = done.clone();
            done.push(part);
            match self.resolve(&done) {
                Ok(_) => continue,
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(e) => return Err(Failure::io("resolve the directory of", e)),
            }
            if there(dir.as_fd(), part)? == There::Other {
                return Err(Failure::Refused("its parent is not a directory"));
            }
            let made = self.make_directory(dir.as_fd(), part)?;
            if let Some(below) = self.below(&above.join(part))? {
                let attributes = Attributes::read(&inode_of(below)?)?;
                attributes.apply(&made)?;
                self.remember(done.clone(), &attributes)?;
            } else {
                Attributes::set_mode(&made, 0o755)?;
            }
        }
        self.resolve(path)
            .map_err(|e| Failure::io("resolve the directory of", e))
    }

    /// Opens a directory of the layer; links are resolved with the layer as the root.
    fn resolve(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        openat2(
            &self.root,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
        )
    }

    /// The directory `path` of the uppermost layer below that has it. A directory that cannot
    /// be read is an error: as a new one it would be open to all users.
    fn below(&self, path: &Path) -> Made<Option<OwnedFd>> {
        for layer in &self.lower {
            let root = File::open(layer).map_err(|e| Failure::io("look below", e))?;
            let found = openat2(
                &root,
                path,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            );
            match found {
                Ok(found) => return Ok(Some(found)),
                Err(Errno::NOENT) => {}
                // A file that is not a directory hides what is below.
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(e) => return Err(Failure::io("look below", e)),
            }
        }
        Ok(None)
    }

    fn make_directory(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Made<Inode> {
        let before = there(dir, name)?;
        if before != There::Directory {
            clear(dir, name)?;
            mkdirat(dir, name, Mode::RWXU).map_err(|e| Failure::io("create", e))?;
        }
        let made = inode(dir, name, FileType::Directory)?;
        if before == There::Whiteout {
            make_opaque(&made)?;
        }
        Ok(made)
    }

    fn remember(&mut self, path: PathBuf, attributes: &Attributes) -> Made<()> {
        if self.times.len() >= MAX_DIRECTORIES {
            return Err(Failure::Refused(
                "the layer has more than 1048576 directories",
            ));
        }
        let length = path.as_os_str().len();
        if self.names + length > MAX_NAMES {
            return Err(Failure::Refused(
                "the names of its directories have more than 256 MiB",
            ));
        }
        if self.times.insert(path, attributes.mtime()).is_none() {
            self.names += length;
        }
        Ok(())
    }
}

/// What is at `name` in `dir`.
fn there(dir: BorrowedFd<'_>, name: &OsStr) -> Made<There> {
    let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(There::Nothing),
        other => other.map_err(|e| Failure::io("look at", e))?,
    };
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => There::Directory,
        FileType::CharacterDevice if stat.st_rdev == 0 => There::Whiteout,
        _ => There::Other,
    })
}

/// Removes the file `name` in `dir`.
fn clear(dir: BorrowedFd<'_>, name: &OsStr) -> Made<()> {
    let removed = match there(dir, name)? {
        There::Nothing => Ok(()),
        // std opens everything beneath that descriptor and follows no link.
        There::Directory => {
            let dir = format!("/proc/self/fd/{}", dir.as_raw_fd());
            std::fs::remove_dir_all(Path::new(&dir).join(name))
        }
        There::Whiteout | There::Other => {
            unlinkat(dir, name, AtFlags::empty()).map_err(io::Error::from)
        }
    };
    removed.map_err(|e| Failure::io("replace", e))
}

/// Opens the file that was just made or found at `name` in `dir`.
fn inode(dir: BorrowedFd<'_>, name: &OsStr, kind: FileType) -> Made<Inode> {
    let inode = Inode::at(dir, name).map_err(|e| Failure::io("open", e))?;
    if inode.kind() != kind {
        return Err(Failure::Refused("it was replaced meanwhile"));
    }
    Ok(inode)
}

fn inode_of(fd: OwnedFd) -> Made<Inode> {
    Inode::of(fd).map_err(|e| Failure::io("look at", e))
}

fn make_opaque(inode: &Inode) -> Made<()> {
    setxattr(inode.path(), OPAQUE, b"y", XattrFlags::empty())
        .map_err(|e| Failure::io("make opaque", e))
}
