//! Extended attributes of shared files.
//!
//! A file is opened briefly for them, since an `O_PATH` descriptor gives no access to them.
//! Links and special files are not opened: they have no attributes.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;

use fuse_backend_rs::api::filesystem::{GetxattrReply, ListxattrReply};
use rustix::fs::{fgetxattr, fgetxattr_query, flistxattr};

/// The longest attribute and list of them (xattr(7)).
const MAX: u32 = 64 << 10;

/// The prefix of attributes that the guest can neither see nor change: the host's overlayfs
/// uses them.
const HOST_ONLY: &[u8] = b"trusted.";

/// Refuses attributes of the host.
pub(super) fn for_guest(name: &CStr) -> io::Result<()> {
    if name.to_bytes().starts_with(HOST_ONLY) {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    Ok(())
}

pub(super) fn get(file: impl AsFd, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
    if size == 0 {
        return Ok(GetxattrReply::Count(fgetxattr_query(file, name)? as u32));
    }
    let mut value = vec![0; size.min(MAX) as usize];
    let len = fgetxattr(file, name, &mut value[..])?;
    value.truncate(len);
    Ok(GetxattrReply::Value(value))
}

pub(super) fn list(file: Option<impl AsFd>, size: u32) -> io::Result<ListxattrReply> {
    let mut names = vec![0; MAX as usize];
    let len = match file {
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
