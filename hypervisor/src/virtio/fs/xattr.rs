//! Extended attributes of what is shared.
//!
//! The passthrough reaches them by a path below `/proc`, which the jail has not. Here
//! the file is opened for a moment instead, as the passthrough opens files, through a
//! descriptor of `/proc/self/fd` that it has from before the jail. Links and special
//! files are not opened: they have no attributes.

use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use fuse_backend_rs::abi::virtio_fs::RemovemappingOne;
use fuse_backend_rs::api::filesystem::{Context, FileSystem, GetxattrReply, ListxattrReply};
use fuse_backend_rs::passthrough::PassthroughFs;
use fuse_backend_rs::transport::FsCacheReqHandler;
use rustix::fs::{XattrFlags, fgetxattr, fgetxattr_query, flistxattr, fremovexattr, fsetxattr};

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
    let len = match open(fs, inode, libc::ENODATA) {
        Ok(file) => flistxattr(file, &mut names[..])?,
        Err(err) if err.raw_os_error() == Some(libc::ENODATA) => 0,
        Err(err) => return Err(err),
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
    let context = Context::default();
    // It is there, which tells the one EBADF of the passthrough from the other.
    fs.getattr(&context, inode, None)?;
    let mut file = Opened(None);
    match fs.setupmapping(&context, inode, 0, 0, 0, 0, 0, &mut file) {
        Err(err) if err.raw_os_error() == Some(libc::EBADF) => {
            return Err(io::Error::from_raw_os_error(special));
        }
        result => result?,
    }
    file.0.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Takes the descriptor that the passthrough opens for a memory mapping: the one way
/// to a descriptor of an inode that it offers.
struct Opened(Option<OwnedFd>);

impl FsCacheReqHandler for Opened {
    fn map(&mut self, _: u64, _: u64, _: u64, _: u64, fd: RawFd) -> io::Result<()> {
        // SAFETY: the passthrough has it open until this returns.
        let file = unsafe { BorrowedFd::borrow_raw(fd) };
        self.0 = Some(file.try_clone_to_owned()?);
        Ok(())
    }

    fn unmap(&mut self, _: Vec<RemovemappingOne>) -> io::Result<()> {
        Ok(())
    }
}
