//! Mounts on the host: parsing options, mounting, and unmounting everything below a path.

use std::collections::HashSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount as sys_mount, umount2};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::error::{Context, Error, MountError, Result};
use crate::host::mountinfo::{self, MountInfo};
use crate::host::overlay;

/// A mount as containerd and the OCI spec describe it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// The filesystem type; "bind" for bind mounts.
    pub kind: String,
    /// The source.
    pub source: String,
    /// The mount point, below the root of the tree; empty for the root itself.
    pub target: String,
    /// fstab(5)-like options.
    pub options: Vec<String>,
}

impl Mount {
    /// Mounts onto `target`, which must exist.
    ///
    /// # Errors
    /// [`Error::InvalidPath`] if the source does not exist, [`Error::Mount`] if the kernel refuses.
    pub fn attach(&self, target: &Path) -> Result<()> {
        let options = Options::parse(&self.options);
        let bind = self.kind == "bind" || options.flags.contains(MsFlags::MS_BIND);
        if bind {
            return bind_mount(Path::new(&self.source), target, &options);
        }
        if overlay::is_too_long(&self.kind, &options.data) {
            return overlay::attach(target, options.flags, &options.data);
        }
        sys_mount(
            Some(self.source.as_str()),
            target,
            Some(self.kind.as_str()),
            options.flags,
            Some(options.data.as_str()),
        )
        .map_err(|e| {
            MountError::Mount {
                fs_type: self.kind.clone(),
                target: target.to_owned(),
                options: self.options.join(","),
                error: e.into(),
            }
            .into()
        })
    }
}

/// Parsed mount options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Flags of mount(2), without propagation.
    pub flags: MsFlags,
    /// Changes of the propagation, in order.
    pub propagation: Vec<Propagation>,
    /// Whether mounts below it are read-only, too (`rro`).
    pub all_read_only: bool,
    /// Options of the file system itself.
    pub data: String,
}

/// A change of a bind mount's propagation (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// Whether later mounts at the source appear (slave), or not (private).
    pub slave: bool,
    /// Whether it applies to all mounts of the tree.
    pub recursive: bool,
}

impl Propagation {
    const fn private(recursive: bool) -> Self {
        let slave = false;
        Self { slave, recursive }
    }

    const fn slave(recursive: bool) -> Self {
        let slave = true;
        Self { slave, recursive }
    }
}

impl Options {
    /// Whether later mounts at the source are to appear.
    pub fn is_slave(&self) -> bool {
        self.propagation.last().is_some_and(|last| last.slave)
    }

    /// Splits fstab(5)-like options into flags and the filesystem's own data.
    pub fn parse<S: AsRef<str>>(options: &[S]) -> Self {
        let mut flags = MsFlags::empty();
        let mut propagation = Vec::new();
        let mut all_read_only = false;
        let mut data = Vec::new();
        for option in options.iter().map(AsRef::as_ref) {
            match option {
                "bind" => flags |= MsFlags::MS_BIND,
                "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
                "ro" => flags |= MsFlags::MS_RDONLY,
                "rro" => all_read_only = true,
                "nosuid" => flags |= MsFlags::MS_NOSUID,
                "nodev" => flags |= MsFlags::MS_NODEV,
                "noexec" => flags |= MsFlags::MS_NOEXEC,
                "noatime" => flags |= MsFlags::MS_NOATIME,
                "nodiratime" => flags |= MsFlags::MS_NODIRATIME,
                "relatime" => flags |= MsFlags::MS_RELATIME,
                "strictatime" => flags |= MsFlags::MS_STRICTATIME,
                "sync" => flags |= MsFlags::MS_SYNCHRONOUS,
                "dirsync" => flags |= MsFlags::MS_DIRSYNC,
                "rw" | "suid" | "dev" | "exec" | "atime" | "diratime" | "norelatime"
                | "nostrictatime" | "async" | "defaults" | "" => {}
                // Processes of the host cannot make binds of the share, so unbindable means
                // private.
                "private" | "unbindable" => propagation.push(Propagation::private(false)),
                "rprivate" | "runbindable" => propagation.push(Propagation::private(true)),
                "slave" => propagation.push(Propagation::slave(false)),
                "rslave" => propagation.push(Propagation::slave(true)),
                // `guest_spec` refuses these: slave is the most that a VM supports.
                "shared" | "rshared" => {}
                own => data.push(own),
            }
        }
        Self {
            flags,
            propagation,
            all_read_only,
            data: data.join(","),
        }
    }
}

/// Binds `source` to `target`. Flags and propagation are set before the mount is attached. A
/// later change would not reach the copies that propagation makes: a guest's VMM would keep a
/// writable mount of a tree that is read-only for the container.
fn bind_mount(source: &Path, target: &Path, options: &Options) -> Result<()> {
    let fail = |e: rustix::io::Errno| match e {
        rustix::io::Errno::NOENT => Error::invalid_path("mount source", source)(e),
        e => MountError::Bind {
            source_path: source.to_owned(),
            target: target.to_owned(),
            error: e.into(),
        }
        .into(),
    };
    let tree = clone_tree(source, options.flags.contains(MsFlags::MS_REC)).map_err(fail)?;
    // Private or slave regardless of the options, as by default with runc: mounts and unmounts
    // in the clone must never reach the source.
    let changes = [&[Propagation::slave(true)][..], &options.propagation].concat();
    for change in changes {
        set_propagation(&tree, change).on("set the propagation of", target)?;
    }
    let (own, all) = attributes(options);
    set_attributes(&tree, own, 0).on("set the mount flags of", target)?;
    set_attributes(&tree, all, libc::AT_RECURSIVE).on("set the mount flags of", target)?;
    attach_tree(&tree, target).map_err(fail)
}

fn clone_tree(source: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    how.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(CWD, source, how)
}

fn attach_tree(tree: &OwnedFd, target: &Path) -> rustix::io::Result<()> {
    move_mount(
        tree,
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

/// A change of a mount's attributes (mount_setattr(2)): the attributes to set, and to clear.
type Attributes = (u64, u64);

/// Converts flags of mount(2) to attributes of the mount itself, and of all mounts in its tree.
/// As with runc, mounts below keep whether they are writable, except with `rro`.
fn attributes(options: &Options) -> (Attributes, Attributes) {
    let flags = options.flags;
    const RDONLY: u64 = 1;
    const NOSUID: u64 = 2;
    const NODEV: u64 = 4;
    const NOEXEC: u64 = 8;
    const NOATIME: u64 = 0x10;
    const STRICTATIME: u64 = 0x20;
    const ATIME: u64 = 0x70;
    const NODIRATIME: u64 = 0x80;
    let pick = |table: &[(MsFlags, u64)]| {
        let given = table.iter().filter(|(flag, _)| flags.contains(*flag));
        given.fold(0, |set, (_, attribute)| set | attribute)
    };
    let own = pick(&[
        (MsFlags::MS_RDONLY, RDONLY),
        (MsFlags::MS_NODIRATIME, NODIRATIME),
        (MsFlags::MS_NOATIME, NOATIME),
        (MsFlags::MS_STRICTATIME, STRICTATIME),
    ]);
    let atime =
        flags.intersects(MsFlags::MS_NOATIME | MsFlags::MS_STRICTATIME | MsFlags::MS_RELATIME);
    let mut all = pick(&[
        (MsFlags::MS_NOSUID, NOSUID),
        (MsFlags::MS_NODEV, NODEV),
        (MsFlags::MS_NOEXEC, NOEXEC),
    ]);
    if options.all_read_only {
        all |= RDONLY;
    }
    ((own, if atime { ATIME } else { 0 }), (all, 0))
}

fn set_attributes(tree: &OwnedFd, change: Attributes, at: libc::c_int) -> std::io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: change.0,
        attr_clr: change.1,
        propagation: 0,
        userns_fd: 0,
    };
    mount_setattr(tree, &attr, at)
}

fn set_propagation(tree: &OwnedFd, change: Propagation) -> std::io::Result<()> {
    let kind = match change.slave {
        true => libc::MS_SLAVE,
        false => libc::MS_PRIVATE,
    };
    let attr = libc::mount_attr {
        attr_set: 0,
        attr_clr: 0,
        propagation: kind,
        userns_fd: 0,
    };
    let at = if change.recursive {
        libc::AT_RECURSIVE
    } else {
        0
    };
    mount_setattr(tree, &attr, at)
}

fn mount_setattr(tree: &OwnedFd, attr: &libc::mount_attr, at: libc::c_int) -> std::io::Result<()> {
    // SAFETY: the empty string and `attr` outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | at,
            std::ptr::from_ref(attr),
            size_of_val(attr),
        )
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Binds a directory onto itself and makes it a shared mount, so that later mounts below it
/// reach mount namespaces that were created before.
///
/// # Errors
/// [`Error::Io`] naming the directory.
pub fn make_shared(dir: &Path) -> Result<()> {
    const NONE: Option<&str> = None;
    let bind = || -> std::io::Result<()> {
        let tree = clone_tree(dir, false)?;
        // A clone of a shared mount is its peer: unmounting the clone would unmount the same
        // places of its peers.
        set_propagation(&tree, Propagation::private(true))?;
        Ok(attach_tree(&tree, dir)?)
    };
    bind().on("bind", dir)?;
    // A shared parent has made it shared, with copies in the parent's peers. Later mounts below
    // must not reach these copies.
    sys_mount(NONE, dir, NONE, MsFlags::MS_PRIVATE, NONE).on("make private", dir)?;
    sys_mount(NONE, dir, NONE, MsFlags::MS_SHARED, NONE).on("share", dir)
}

/// Unmounts everything at or below `path`, last mount first, and nothing elsewhere. Succeeds if
/// nothing is mounted. The unmount is lazy: a process with an open file must not block the
/// removal of the pod.
///
/// # Errors
/// [`Error::Io`] if the kernel refuses an unmount, [`Error::Propagates`] if an unmount would
/// reach mounts elsewhere.
pub fn unmount_below(path: &Path) -> Result<()> {
    let Some(path) = mountinfo::spelled(path)? else {
        return Ok(());
    };
    sever(&path)?;
    for point in mounts_below(&path)?.into_iter().rev() {
        match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // It was unmounted meanwhile, with its parent or by another process.
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(e) => return Err(e).on("unmount", &point),
        }
    }
    Ok(())
}

/// Removes the mounts at or below `path` from peer groups with members elsewhere. An unmount
/// propagates to all peers of the mount below it: for a bind of the host's `/` these are the
/// host's own mounts.
fn sever(path: &Path) -> Result<()> {
    for shared in shared_with_others(path)? {
        const NONE: Option<&str> = None;
        match sys_mount(NONE, &shared, NONE, MsFlags::MS_PRIVATE, NONE) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(e) => return Err(e).on("make private", &shared),
        }
    }
    // One mount may cover another.
    match shared_with_others(path)?.into_iter().next() {
        Some(path) => Err(Error::Propagates { path }),
        None => Ok(()),
    }
}

/// The mount points at or below `path` of mounts that have peers elsewhere.
fn shared_with_others(path: &Path) -> Result<Vec<PathBuf>> {
    let mounts = mountinfo::read()?;
    let (inside, outside): (Vec<_>, Vec<_>) =
        mounts.into_iter().partition(|m| m.point.starts_with(path));
    let groups: HashSet<u64> = outside.iter().filter_map(|m| m.shared).collect();
    let leaks = |mount: &MountInfo| mount.shared.is_some_and(|group| groups.contains(&group));
    Ok(inside
        .into_iter()
        .filter(leaks)
        .map(|mount| mount.point)
        .collect())
}

/// Unmounts `path` if it is not in use.
///
/// # Errors
/// [`Error::Busy`] if it is.
pub fn unmount_unused(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
        Err(nix::errno::Errno::EBUSY) => Err(Error::Busy { path: path.into() }),
        other => other.on("unmount", path),
    }
}

/// The mount points at or below `path`, in the order they were mounted.
///
/// # Errors
/// [`Error::Io`] if mountinfo cannot be read.
pub fn mounts_below(path: &Path) -> Result<Vec<PathBuf>> {
    let Some(path) = mountinfo::spelled(path)? else {
        return Ok(Vec::new());
    };
    let points = mountinfo::read()?.into_iter().map(|mount| mount.point);
    Ok(points.filter(|point| point.starts_with(&path)).collect())
}

/// Whether the topmost mount on `path` is a writable mount; `None` if nothing is mounted there.
/// The file system itself may still be read-only.
///
/// # Errors
/// [`Error::Io`] if mountinfo cannot be read.
pub(crate) fn is_writable(path: &Path) -> Result<Option<bool>> {
    let Some(path) = mountinfo::spelled(path)? else {
        return Ok(None);
    };
    let mounts = mountinfo::read()?;
    let mut above = mounts.iter().rev().filter(|mount| mount.point == path);
    Ok(above.next().map(|mount| !mount.read_only))
}

/// Whether something is mounted on `path`.
///
/// # Errors
/// [`Error::Io`] if mountinfo cannot be read.
pub(crate) fn is_mount_point(path: &Path) -> Result<bool> {
    let Some(path) = mountinfo::spelled(path)? else {
        return Ok(false);
    };
    Ok(mountinfo::read()?.iter().any(|mount| mount.point == path))
}

#[cfg(test)]
pub(crate) mod tests;
