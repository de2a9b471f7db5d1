//! The tree that the guest sees by virtio-fs: for each container its rootfs and the sources of
//! its bind mounts, all of them mounts on the host.
//!
//! ```text
//! shared/<container>/rootfs       the root filesystem
//! shared/<container>/mounts/<n>   a link: the source of the n-th mount of the spec
//! shared/.sources/<source>        a source, for all containers of the pod that use it
//! ```
//!
//! A source is mounted once, so that its files are the same for all containers: mappings, locks
//! and sockets in it are shared. It is read-only while all containers use it so. For the first
//! container that writes, it is mounted again on top, writable; from then on the guest enforces
//! read-only for the others.
//!
//! For the removal, the mounts are read from the kernel, and the users of a source from the
//! links. So a crash at any point leaves nothing that cannot be found.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use sha2::{Digest, Sha256};

use crate::container::guest_spec::propagation;
use crate::error::{Context, Error, Result};
use crate::host::mount::{self, Mount};

/// The directory of sources; container ids do not begin with a dot.
const SOURCES: &str = ".sources";
/// The directory of a container's links to its sources.
const LINKS: &str = "mounts";

/// The share tree of one pod.
#[derive(Debug, Clone)]
pub struct ShareTree {
    dir: PathBuf,
}

impl ShareTree {
    /// The tree at `dir`, which need not exist yet.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Makes the empty tree. Later mounts in it propagate to the VMM's own mount namespace.
    ///
    /// # Errors
    /// [`crate::Error::Io`] naming the directory.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.dir).on("create", &self.dir)?;
        mount::make_shared(&self.dir)
    }

    /// The path of a container's rootfs on the host.
    pub fn rootfs(&self, container: &str) -> PathBuf {
        self.dir.join(container).join("rootfs")
    }

    /// Mounts a container's rootfs: containerd's mounts, or a bind of `directory` if there are
    /// none.
    ///
    /// # Errors
    /// The mount's error. [`ShareTree::detach`] undoes the mounts made before it.
    pub fn attach_rootfs(&self, container: &str, mounts: &[Mount], directory: &Path) -> Result<()> {
        let target = self.rootfs(container);
        fs::create_dir_all(&target).on("create", &target)?;
        if mounts.is_empty() {
            let bind = Mount {
                kind: "bind".into(),
                source: directory.to_string_lossy().into_owned(),
                options: vec!["rbind".into(), "rprivate".into()],
                ..Mount::default()
            };
            return harmless(&bind).attach(&target);
        }
        for mount in mounts {
            let mount = harmless(mount);
            match mount.target.trim_matches('/') {
                "" => mount.attach(&target)?,
                inside => attach_inside(&mount, &target, inside)?,
            }
        }
        Ok(())
    }

    /// Binds the source of a container's `n`-th mount into the tree.
    ///
    /// # Errors
    /// [`crate::Error::InvalidPath`] if the source does not exist.
    pub fn attach_source(&self, container: &str, n: usize, mount: &Mount) -> Result<()> {
        let name = source_name(mount)?;
        let links = self.dir.join(container).join(LINKS);
        fs::create_dir_all(&links).on("create", &links)?;
        let link = links.join(n.to_string());
        symlink(Path::new("../..").join(SOURCES).join(&name), &link).on("create", &link)?;

        let target = self.sources().join(&name);
        let writes = !mount.options.iter().any(|option| is_read_only(option));
        match mount::is_writable(&target)? {
            Some(true) => return Ok(()),
            Some(false) if !writes => return Ok(()),
            // The target is the mounted source: it must not be opened.
            Some(false) => {}
            None if Path::new(&mount.source).is_dir() => {
                fs::create_dir_all(&target).on("create", &target)?;
            }
            None => {
                let parent = self.sources();
                fs::create_dir_all(&parent).on("create", &parent)?;
                let mut placeholder = fs::File::options();
                let made = placeholder.append(true).create(true).open(&target);
                made.on("create", &target)?;
            }
        }
        harmless(mount).attach(&target)
    }

    /// The mounts below a container's rootfs and sources, as paths of the tree.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if mountinfo cannot be read.
    pub fn below(&self, container: &str) -> Result<Vec<PathBuf>> {
        let sources = self.sources_of(&self.dir.join(container))?;
        let sources = sources.iter().map(|source| self.sources().join(source));
        let mut found = Vec::new();
        for dir in sources.chain([self.rootfs(container)]) {
            let below = mount::mounts_below(&dir)?.into_iter();
            let below = below.filter(|point| *point != dir);
            found
                .extend(below.filter_map(|point| Some(point.strip_prefix(&self.dir).ok()?.into())));
        }
        Ok(found)
    }

    fn sources(&self) -> PathBuf {
        self.dir.join(SOURCES)
    }

    /// The sources that a container uses.
    fn sources_of(&self, container: &Path) -> Result<BTreeSet<OsString>> {
        let links = container.join(LINKS);
        let entries = match fs::read_dir(&links) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            entries => entries.on("read", &links)?,
        };
        let mut names = BTreeSet::new();
        for entry in entries {
            let link = entry.on("read", &links)?.path();
            let target = fs::read_link(&link).on("read", &link)?;
            names.extend(target.file_name().map(OsString::from));
        }
        Ok(names)
    }

    /// Removes a container's part of the tree, as far as it exists.
    ///
    /// # Errors
    /// [`crate::Error::Io`]; it can be called again.
    pub fn detach(&self, container: &str) -> Result<()> {
        let dir = self.dir.join(container);
        let mut unused = self.sources_of(&dir)?;
        mount::unmount_below(&dir)?;
        remove_placeholders(&dir)?;
        for other in fs::read_dir(&self.dir).into_iter().flatten() {
            let used = self.sources_of(&other.on("read", &self.dir)?.path())?;
            unused.retain(|source| !used.contains(source));
        }
        for source in unused {
            let target = self.sources().join(source);
            mount::unmount_below(&target)?;
            remove_placeholders(&target)?;
        }
        Ok(())
    }

    /// Removes the whole tree.
    ///
    /// # Errors
    /// [`crate::Error::Io`]; it can be called again.
    pub fn remove(&self) -> Result<()> {
        mount::unmount_below(&self.dir)?;
        remove_placeholders(&self.dir)
    }
}

/// Mounts onto a directory of the container's root file system. Links on the way come from an
/// image: they are resolved with its root as `/`, so that they cannot lead to a directory of
/// the host.
fn attach_inside(mount: &Mount, root: &Path, inside: &str) -> Result<()> {
    let open = || -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())?;
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&root, inside, flags, Mode::empty(), how)
    };
    let target = open().map_err(std::io::Error::from);
    let target = target.on("open the mount point", root.join(inside))?;
    // The descriptor is the directory, even if its name leads elsewhere by now.
    mount.attach(Path::new(&format!(
        "/proc/self/fd/{}/.",
        target.as_raw_fd()
    )))
}

/// The mount with restrictions for the share. The guest still sees device nodes, set-user-id
/// bits and programs; but a VMM that a guest has taken over cannot open a device of the host by
/// an image's node, or run a program.
fn harmless(mount: &Mount) -> Mount {
    let mut mount = mount.clone();
    let flags = ["nodev", "nosuid", "noexec"];
    mount.options.extend(flags.map(str::to_owned));
    mount
}

fn is_read_only(option: &str) -> bool {
    matches!(option, "ro" | "rro")
}

/// The name of a mount's source: equal for the same file through the same mount with the same
/// options; read-only does not count if the guest can enforce it.
fn source_name(mount: &Mount) -> Result<String> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
    let found = statx(CWD, &mount.source, AtFlags::empty(), wanted);
    let found = found.map_err(Error::invalid_path("mount source", &mount.source))?;
    let guest_refuses = !propagation::host_alone_refuses(mount)?;
    let options = mount.options.iter();
    let options = options.filter(|option| !(guest_refuses && *option == "ro"));
    let options: BTreeSet<&str> = options.map(String::as_str).collect();
    let mut hash = Sha256::new();
    for number in [
        found.stx_dev_major.into(),
        found.stx_dev_minor.into(),
        found.stx_ino,
        found.stx_mnt_id,
    ] {
        let number: u64 = number;
        hash.update(number.to_ne_bytes());
    }
    for option in options {
        hash.update(option);
        hash.update([0]);
    }
    Ok(hex::encode(&hash.finalize()[..8]))
}

/// Removes a tree of empty directories, empty files and links, the mount points. Other files
/// are user data below a mount that was not unmounted: they stay, and are an error.
fn remove_placeholders(path: &Path) -> Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(m) => m,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).on("look at", path),
    };
    if kind.is_dir() {
        for entry in fs::read_dir(path).on("read", path)? {
            remove_placeholders(&entry.on("read", path)?.path())?;
        }
        fs::remove_dir(path).on("remove", path)
    } else if kind.is_symlink() || kind.is_file() && kind.len() == 0 {
        fs::remove_file(path).on("remove", path)
    } else {
        Err(std::io::Error::from(std::io::ErrorKind::DirectoryNotEmpty)).on("remove", path)
    }
}
