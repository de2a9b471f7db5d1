//! Mounts on the host: option strings to flags, mounting with undo in mind,
//! and unmounting everything below a path.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount as sys_mount, umount2};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::error::{Context, Error, Result};
use crate::overlay;

/// A mount as containerd and the OCI spec describe it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// The filesystem type; "bind" for bind mounts.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Where, below the root of the tree; empty for the root itself.
    pub target: String,
    /// fstab(5)-like options.
    pub options: Vec<String>,
}

impl Mount {
    /// Mounts onto `target`, which must exist.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the source does not exist, [`Error::Io`] when
    /// the kernel refuses.
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
            Error::Invalid(format!(
                "Cannot mount {} {:?} on {}: {e} (options {:?})",
                self.kind,
                self.source,
                target.display(),
                self.options
            ))
        })
    }
}

/// Mount options, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Flags of mount(2), without propagation.
    pub flags: MsFlags,
    /// What the filesystem itself is given.
    pub data: String,
}

impl Options {
    /// Splits fstab(5)-like options into flags and the filesystem's own data.
    /// Propagation options are the guest's business and dropped.
    pub fn parse<S: AsRef<str>>(options: &[S]) -> Self {
        let mut flags = MsFlags::empty();
        let mut data = Vec::new();
        for option in options.iter().map(AsRef::as_ref) {
            match option {
                "bind" => flags |= MsFlags::MS_BIND,
                "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
                "ro" => flags |= MsFlags::MS_RDONLY,
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
                "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave"
                | "unbindable" | "runbindable" => {}
                own => data.push(own),
            }
        }
        Self {
            flags,
            data: data.join(","),
        }
    }
}

/// Binds `source` to `target`. The flags are set before the mount is attached: where
/// it propagates to, a later change would not follow, and a guest's VMM would be left
/// with a writable mount of what is read-only for the container.
fn bind_mount(source: &Path, target: &Path, options: &Options) -> Result<()> {
    let fail = |e: rustix::io::Errno| match e {
        rustix::io::Errno::NOENT => {
            Error::Invalid(format!("Mount source {} does not exist", source.display()))
        }
        e => Error::Invalid(format!(
            "Cannot bind {} to {}: {e}",
            source.display(),
            target.display()
        )),
    };
    let recursive = options.flags.contains(MsFlags::MS_REC);
    let mut how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    how.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    let tree = open_tree(CWD, source, how).map_err(fail)?;
    let (own, all) = attributes(options.flags);
    set_attributes(&tree, own, 0).on("set the mount flags of", target)?;
    let at = if recursive { libc::AT_RECURSIVE } else { 0 };
    set_attributes(&tree, all, at).on("set the mount flags of", target)?;
    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&tree, "", CWD, target, how).map_err(fail)
}

/// A change of a mount's attributes, mount_setattr(2): what is set, and what cleared.
type Attributes = (u64, u64);

/// Flags of mount(2) as attributes of the mount itself, and of all mounts in its tree.
/// As with runc, those below keep whether they are writable.
fn attributes(flags: MsFlags) -> (Attributes, Attributes) {
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
    let all = pick(&[
        (MsFlags::MS_NOSUID, NOSUID),
        (MsFlags::MS_NODEV, NODEV),
        (MsFlags::MS_NOEXEC, NOEXEC),
    ]);
    ((own, if atime { ATIME } else { 0 }), (all, 0))
}

fn set_attributes(tree: &OwnedFd, change: Attributes, at: libc::c_int) -> std::io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: change.0,
        attr_clr: change.1,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the empty string and `attr` outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | at,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Binds a directory onto itself and makes it a shared mount, so that mounts
/// made below it later reach the mount namespaces that were split off before.
///
/// # Errors
/// [`Error::Io`] naming the directory.
pub fn make_shared(dir: &Path) -> Result<()> {
    const NONE: Option<&str> = None;
    sys_mount(Some(dir), dir, NONE, MsFlags::MS_BIND, NONE).on("bind", dir)?;
    // Private first: a shared parent would otherwise get our mounts, too.
    sys_mount(NONE, dir, NONE, MsFlags::MS_PRIVATE, NONE).on("make private", dir)?;
    sys_mount(NONE, dir, NONE, MsFlags::MS_SHARED, NONE).on("share", dir)
}

/// Unmounts all that is mounted at or below `path`, last mounted first.
/// Nothing there is fine. Lazily: a process that still has a file open must
/// not hold the pod back.
///
/// # Errors
/// [`Error::Io`] when the kernel refuses an unmount.
pub fn unmount_below(path: &Path) -> Result<()> {
    for point in mounts_below(path)?.into_iter().rev() {
        match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Gone in the meantime (with its parent, or by another process).
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(e) => return Err(e).on("unmount", &point),
        }
    }
    Ok(())
}

/// Unmounts `path`, if nobody uses anything of it.
///
/// # Errors
/// [`Error::Busy`] if somebody does.
pub fn unmount_unused(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
        Err(nix::errno::Errno::EBUSY) => Err(Error::Busy { path: path.into() }),
        other => other.on("unmount", path),
    }
}

/// The mount points at or below `path`, in the order they were mounted.
///
/// # Errors
/// [`Error::Io`] if `/proc/self/mountinfo` cannot be read.
pub fn mounts_below(path: &Path) -> Result<Vec<PathBuf>> {
    const MOUNTINFO: &str = "/proc/self/mountinfo";
    let text = std::fs::read(MOUNTINFO).on("read", MOUNTINFO)?;
    Ok(text
        .split(|b| *b == b'\n')
        .filter_map(mount_point)
        .filter(|point| point.starts_with(path))
        .collect())
}

/// Field 5 of a line of mountinfo, proc(5), with its octal escapes undone.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let field = line.split(|b| *b == b' ').nth(4)?;
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'\\').then(|| tail.get(..3)).flatten();
        let code = escaped
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match code {
            Some(code) => {
                path.push(code);
                rest = &tail[3..];
            }
            None => {
                path.push(byte);
                rest = tail;
            }
        }
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_into_flags_and_data() {
        let o = Options::parse(&["rbind", "ro", "rprivate", "lowerdir=/a:/b", "upperdir=/c"]);
        assert_eq!(
            o.flags,
            MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY
        );
        assert_eq!(o.data, "lowerdir=/a:/b,upperdir=/c");
    }

    #[test]
    fn mount_points_lose_their_escapes() {
        let line = br"36 35 98:0 /mnt1 /mnt\0402\134x rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line).unwrap(), Path::new(r"/mnt 2\x"));
        assert_eq!(mount_point(b""), None);
    }
}
