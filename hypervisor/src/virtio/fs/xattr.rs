//! Extended attributes of what is shared.
//!
//! The passthrough reaches them by a path below `/proc`. Here the file is
//! [opened](super::descriptor) for a moment instead. Links and special files are not
//! opened: they have no attributes.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use fuse_backend_rs::api::filesystem::{GetxattrReply, ListxattrReply};
use fuse_backend_rs::passthrough::PassthroughFs;
use rustix::fs::{XattrFlags, fgetxattr, fgetxattr_query, flistxattr, fremovexattr, fsetxattr};

use super::descriptor;

/// The longest attribute and list of them (xattr(7)).
const MAX: u32 = 64 << 10;

/// Attributes that the guest neither sees nor changes: those of the host's overlayfs.
const HOST_ONLY: &[u8] = b"trusted.";

pub(super) fn host_only(name: &CStr) -> bool {
    name.to_bytes().starts_with(HOST_ONLY)
}

pub(super) fn set(
    fs: &PassthroughFs,
    inode: u64,
    name: &CStr,
    value: &[u8],
    flags: u32,
) -> io::Result<()> {
    let flags = XattrFlags::from_bits_retain(flags);
    let file = open(fs, inode, libc::EOPNOTSUPP)?;
    Ok(fsetxattr(file, name, value, flags)?)
}

pub(super) fn get(
    fs: &PassthroughFs,
    inode: u64,
    name: &CStr,
    size: u32,
) -> io::Result<GetxattrReply> {
    let file = open(fs, inode, libc::ENODATA)?;
    if size == 0 {
        return Ok(GetxattrReply::Count(fgetxattr_query(file, name)? as u32));
    }
    let mut value = vec![0; size.min(MAX) as usize];
    let len = fgetxattr(file, name, &mut value[..])?;
    value.truncate(len);
    Ok(GetxattrReply::Value(value))
}

pub(super) fn list(fs: &PassthroughFs, inode: u64, size: u32) -> io::Result<ListxattrReply> {
    let mut names = vec![0; MAX as usize];
    let len = match descriptor::open(fs, inode)? {
        Some(file) => flistxattr(file, &mut names[..])?,
        None => 0,
    };
    names.truncate(len);
    let names: Vec<u8> = names
        .split_inclusive(|byte| *byte == 0)
        .filter(|name| !name.starts_with(HOST_ONLY))
        .flatten()
        .copied()
        .collect();
    if size == 0 {
        Ok(ListxattrReply::Count(names.len() as u32))
    } else if names.len() > size as usize {
        Err(io::Error::from_raw_os_error(libc::ERANGE))
    } else {
        Ok(ListxattrReply::Names(names))
    }
}

pub(super) fn remove(fs: &PassthroughFs, inode: u64, name: &CStr) -> io::Result<()> {
    Ok(fremovexattr(open(fs, inode, libc::ENODATA)?, name)?)
}

/// Opens a file or directory; `special` is the error for what is neither.
fn open(fs: &PassthroughFs, inode: u64, special: i32) -> io::Result<OwnedFd> {
    descriptor::open(fs, inode)?.ok_or_else(|| io::Error::from_raw_os_error(special))
}
