//! The root directory of the jail: a tmpfs with nothing in it but mount points.
//!
//! ```text
//! /share               the shared directory, read-only, with all mounts in it, as
//!                      writable as they are, now and later
//! /vsock               the Unix sockets by which the guest is reached
//! /proc/self/fd        the file server opens files anew by these links
//! ```
//! Of /proc this alone is bound: the process has the ids of the host's root, to whom a
//! whole procfs would offer the host's sysctls.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::{JailError, step};

const NONE: Option<&str> = None;
/// The mount point for the new root during its construction. Every host has this directory, and
/// no path in it is needed.
const STAGE: &str = "/proc";

/// Builds the root and enters it.
pub(super) fn enter(share: &Path, sockets: &Path) -> Result<(), JailError> {
    let fd = clone_mount("/proc/self/fd")?;
    mount(
        Some("none"),
        STAGE,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0755,size=64k,nr_inodes=16"),
    )
    .map_err(step("make the root of the jail"))?;
    std::env::set_current_dir(STAGE).map_err(step("enter the root of the jail"))?;

    // mount(2) copies and attaches in one step; with separate steps, mounts of the owner in
    // between would be lost.
    bring(share, "share", MsFlags::MS_REC)?;
    bring(sockets, "vsock", MsFlags::empty())?;
    fs::create_dir_all("proc/self/fd").map_err(step("make /proc"))?;
    place(&fd, "proc/self/fd")?;
    drop(fd);

    // pivot_root(2): "." twice mounts the old root over the new one, from where it is
    // unmounted.
    nix::unistd::pivot_root(".", ".").map_err(step("change the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(step("leave the old root"))?;
    std::env::set_current_dir("/").map_err(step("enter the new root"))?;

    // Later mounts in the share have the flags that the owner sets.
    restrict("/share", 0, true)?;
    // The directory itself only holds mount points. It may be on the host's /run, and the guest
    // must not fill that memory.
    restrict("/share", MOUNT_ATTR_RDONLY, false)?;
    restrict("/vsock", 0, false)?;
    restrict("/proc/self/fd", MOUNT_ATTR_RDONLY, false)?;
    restrict("/", MOUNT_ATTR_RDONLY, false)
}

fn clone_mount(path: &str) -> Result<OwnedFd, JailError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, path, flags).map_err(|err| JailError::Bring {
        path: path.into(),
        source: err.into(),
    })
}

fn place(tree: &OwnedFd, path: &str) -> Result<(), JailError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(tree, "", CWD, path, flags).map_err(step("mount /proc"))
}

fn bring(path: &Path, name: &str, recursive: MsFlags) -> Result<(), JailError> {
    let fail = |source| JailError::Bring {
        path: path.to_owned(),
        source,
    };
    fs::create_dir(name).map_err(fail)?;
    let flags = MsFlags::MS_BIND | recursive;
    mount(Some(path), name, NONE, flags, NONE).map_err(|err| fail(err.into()))
}

// mount_setattr(2)
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;

/// Adds flags to those of a mount; the host's flags are kept.
fn restrict(path: &'static str, flags: u64, recursive: bool) -> Result<(), JailError> {
    let file = rustix::fs::open(path, rustix::fs::OFlags::PATH, 0.into())
        .map_err(step("find a mount of the jail"))?;
    let attr = libc::mount_attr {
        attr_set: flags | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let at = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the empty string and `attr` outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            file.as_raw_fd(),
            c"".as_ptr(),
            at,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    if result < 0 {
        return Err(step("restrict a mount of the jail")(
            io::Error::last_os_error(),
        ));
    }
    Ok(())
}
