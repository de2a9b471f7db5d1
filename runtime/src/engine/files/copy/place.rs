//! One end of a copy: a path below a root that links in it cannot leave.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat2, readlinkat, statat,
};
use rustix::io::Errno;

use crate::engine::archive::{Ownership, Packer, Side};
use crate::engine::records::definition::ContainerDefinition;
use crate::engine::users;
use crate::error::{Context, CopyError, CopyProblem, Error, Result};

/// The most symbolic links followed in a path, as by the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// A path below a root that it cannot leave.
pub(super) struct Place {
    pub(super) root: PathBuf,
    pub(super) path: PathBuf,
    /// The path as the user wrote it.
    pub(super) shown: PathBuf,
    /// The owner of files made here.
    pub(super) owner: Ownership,
    /// Whether the files are a container's or the host's.
    pub(super) side: Side,
}

impl Place {
    pub(super) fn host(shown: PathBuf) -> Result<Self> {
        let absolute = std::path::absolute(&shown).on("find", &shown)?;
        let mut path = absolute.into_os_string();
        // std's path parser drops these endings, which say that a directory is meant.
        for end in ["/.", "/"] {
            if shown.as_os_str().as_bytes().ends_with(end.as_bytes()) {
                path.push(end);
                break;
            }
        }
        if shown.as_os_str() == "." {
            path.push("/.");
        }
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Ok(Self {
            root: "/".into(),
            path: path.into(),
            shown,
            owner: Ownership::Is(uid.as_raw(), gid.as_raw()),
            side: Side::Host,
        })
    }

    pub(super) fn container(
        definition: &ContainerDefinition,
        rootfs: &PathBuf,
        below: BelowMounts,
        shown: PathBuf,
    ) -> Result<Self> {
        let process = definition.spec.process().as_ref();
        let mut owner = process.map_or((0, 0), |p| (p.user().uid(), p.user().gid()));
        if let Some(wanted) = &definition.user {
            owner = users::look_up(std::slice::from_ref(rootfs), wanted)?.ids();
        }
        Ok(Self {
            root: below.root,
            path: below.path,
            shown,
            owner: Ownership::Is(owner.0, owner.1),
            side: below.side,
        })
    }

    pub(super) fn owner(&self, keep: bool) -> Ownership {
        if keep {
            Ownership::Archived
        } else {
            self.owner
        }
    }

    pub(super) fn means_a_directory(&self) -> bool {
        let bytes = self.path.as_os_str().as_bytes();
        bytes.ends_with(b"/") || self.means_contents()
    }

    pub(super) fn means_contents(&self) -> bool {
        let bytes = self.path.as_os_str().as_bytes();
        bytes == b"." || bytes.ends_with(b"/.")
    }

    pub(super) fn refusal(&self, problem: CopyProblem) -> Error {
        let path = self.shown.clone();
        CopyError { path, problem }.into()
    }

    /// Follows the path, also its last link, up to the directory that holds the named file. The
    /// name is `.` for the root.
    pub(super) fn find(&self) -> Result<PathEntry> {
        let root = open_root(&self.root)?;
        let mut path = self.path.clone();
        for _ in 0..MAX_LINKS {
            let name = match path.components().next_back() {
                Some(Component::Normal(name)) => name.to_owned(),
                Some(Component::ParentDir) => {
                    return self.found(&root, &path, OsString::from("."));
                }
                _ => OsString::from("."),
            };
            let above = if name == "." {
                &path
            } else {
                path.parent().unwrap_or(Path::new(""))
            };
            let found = self.found(&root, above, name.clone())?;
            if found.kind != Some(FileType::Symlink) {
                return Ok(found);
            }
            let target = readlinkat(&found.dir, &name, Vec::new()).on("read", &self.shown)?;
            let target = OsStr::from_bytes(target.to_bytes());
            path = above.join(target);
        }
        Err(self.refusal(CopyProblem::Links))
    }

    pub(super) fn found(&self, root: &OwnedFd, dir: &Path, name: OsString) -> Result<PathEntry> {
        let dir = beneath(root, dir).map_err(|e| match e {
            Errno::NOENT | Errno::NOTDIR => self.refusal(CopyProblem::NoDirectory),
            e => Error::Io {
                action: "open",
                path: self.shown.clone(),
                source: e.into(),
            },
        })?;
        let kind = match statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(e).on("look at", &self.shown),
        };
        Ok(PathEntry {
            dir,
            name,
            kind,
            called: match self.shown.file_name() {
                Some(name) if !self.means_contents() => Some(name.to_owned()),
                _ => None,
            },
        })
    }

    /// The source of a copy, which must exist.
    pub(super) fn source(&self) -> Result<PathEntry> {
        let found = self.find()?;
        match found.kind {
            None => Err(self.refusal(CopyProblem::NotFound)),
            Some(FileType::Directory) => Ok(found),
            Some(_) if self.means_a_directory() => Err(self.refusal(CopyProblem::NotADirectory)),
            Some(FileType::Socket) => Err(self.refusal(CopyProblem::Socket)),
            Some(_) => Ok(found),
        }
    }

    /// The directory of that path, which must exist.
    pub(super) fn directory(&self) -> Result<OpenDir> {
        let found = self.find()?;
        match found.kind {
            None => Err(self.refusal(CopyProblem::NoDirectory)),
            Some(FileType::Directory) => found.open().on("open", &self.shown),
            Some(_) => Err(self.refusal(CopyProblem::NotADirectory)),
        }
    }

    /// The directory and the name that `source` is copied to; an empty name: its contents are
    /// copied into the directory itself.
    pub(super) fn target_for(&self, source: &PathEntry) -> Result<(OpenDir, PathBuf)> {
        let found = self.find()?;
        let is_directory = source.kind == Some(FileType::Directory);
        let node = |kind: FileType| kind.is_char_device() || kind.is_block_device();
        if self.side == Side::Host && source.kind.is_some_and(node) {
            return Err(self.refusal(CopyProblem::Device));
        }
        match found.kind {
            Some(FileType::Directory) => {
                let into = found.open().on("open", &self.shown)?;
                Ok((into, source.name_for_archive()))
            }
            Some(_) if is_directory => Err(self.refusal(CopyProblem::ReplacesFile)),
            Some(_) if self.means_a_directory() => Err(self.refusal(CopyProblem::NotADirectory)),
            Some(_) => Ok((OpenDir(found.dir), found.name.into())),
            None if !is_directory && self.means_a_directory() => {
                Err(self.refusal(CopyProblem::NoDirectory))
            }
            None if is_directory && source.called.is_none() => {
                // The contents of a directory go into a new one.
                mkdirat(&found.dir, &found.name, Mode::from_raw_mode(0o755))
                    .on("create", &self.shown)?;
                Ok((found.open().on("open", &self.shown)?, PathBuf::new()))
            }
            None => Ok((OpenDir(found.dir), found.name.into())),
        }
    }
}

/// A file that a path leads to: a name in a directory.
pub(super) struct PathEntry {
    pub(super) dir: OwnedFd,
    pub(super) name: OsString,
    pub(super) kind: Option<FileType>,
    /// Its name; `None` for a root, or for a path that ends in `/.`: its contents are meant.
    pub(super) called: Option<OsString>,
}

impl PathEntry {
    pub(super) fn open(&self) -> io::Result<OpenDir> {
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&self.dir, &self.name, how, Mode::empty())?;
        Ok(OpenDir(dir))
    }

    /// Its name in an archive that has no other name for it.
    pub(super) fn name_for_archive(&self) -> PathBuf {
        self.called.clone().unwrap_or_default().into()
    }

    /// Packs it under `name`; with an empty name only its contents.
    pub(super) fn pack(&self, out: impl Write, name: &Path) -> io::Result<()> {
        let mut packer = Packer::new(out);
        if name.as_os_str().is_empty() {
            packer.contents(self.open()?.0.as_fd(), name)?;
        } else {
            packer.tree(self.dir.as_fd(), &self.name, name)?;
        }
        packer.finish()
    }
}

/// An open directory.
pub(super) struct OpenDir(pub(super) OwnedFd);

pub(super) fn open_root(path: &Path) -> Result<OwnedFd> {
    Ok(File::open(path).on("open", path)?.into())
}

/// Opens a directory below `root`.
pub(super) fn beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// A place of a mount in a container, its path on the host, and whose files those are.
pub(super) type Mounted = (PathBuf, PathBuf, Side);

/// A bind mount; its files are the host's.
pub(super) fn bound(mount: &Mount) -> Option<Mounted> {
    let says = |options: &Vec<String>| options.iter().any(|o| o == "bind" || o == "rbind");
    let is_bind =
        mount.typ().as_deref() == Some("bind") || mount.options().as_ref().is_some_and(says);
    let source = mount.source().clone().filter(|_| is_bind)?;
    Some((mount.destination().clone(), source, Side::Host))
}

/// A container's path, found on the host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BelowMounts {
    pub(super) root: PathBuf,
    /// The path below it.
    pub(super) path: PathBuf,
    pub(super) side: Side,
}

/// Finds a container's path on the host: in a volume or a bind mount (`places`), or in its root
/// file system. `mounts` are the places of all mounts.
pub(super) fn below_mounts<'a>(
    places: &'a [Mounted],
    mounts: impl Iterator<Item = &'a Path>,
    root: PathBuf,
    path: &Path,
) -> Result<BelowMounts> {
    let plain = normal(path);
    let deepest = places
        .iter()
        .map(|(place, ..)| place.as_path())
        .chain(mounts)
        .filter(|place| plain.starts_with(normal(place)))
        .max_by_key(|place| normal(place).components().count());
    let Some(deepest) = deepest else {
        return Ok(BelowMounts {
            root,
            path: path.to_owned(),
            side: Side::Container,
        });
    };
    let Some((_, source, side)) = places.iter().find(|(place, ..)| place == deepest) else {
        return Err(CopyError {
            path: path.to_owned(),
            problem: CopyProblem::InGuest {
                mount: deepest.to_owned(),
            },
        }
        .into());
    };
    let below = |root: &Path, path: PathBuf| BelowMounts {
        root: root.to_owned(),
        path,
        side: *side,
    };
    if !source.is_dir() {
        // The mount is a file: a name in its directory.
        let parent = source.parent().unwrap_or(Path::new("/"));
        let name = source.file_name().unwrap_or_default();
        return Ok(below(parent, name.into()));
    }
    let rest = plain.strip_prefix(normal(deepest)).unwrap_or(&plain);
    let mut rest = rest.as_os_str().to_owned();
    let bytes = path.as_os_str().as_bytes();
    if let Some(end) = ["/.", "/"]
        .iter()
        .find(|end| bytes.ends_with(end.as_bytes()))
    {
        rest.push(end);
    }
    Ok(below(source, rest.into()))
}

/// Removes `.`, `..` and the leading `/`, by the text alone.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            _ => {}
        }
    }
    plain
}
