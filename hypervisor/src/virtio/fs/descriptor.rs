//! Descriptors of what is shared, for what the passthrough does in a way that the jail
//! does not allow.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use fuse_backend_rs::abi::virtio_fs::RemovemappingOne;
use fuse_backend_rs::api::filesystem::{Context, FileSystem};
use fuse_backend_rs::passthrough::PassthroughFs;
use fuse_backend_rs::transport::FsCacheReqHandler;
use rustix::fs::{AtFlags, linkat};

/// Opens a file or directory to read, as the passthrough does: through a descriptor of
/// `/proc/self/fd` that it has from the start. `None` for links and special files.
pub(super) fn open(fs: &PassthroughFs, inode: u64) -> io::Result<Option<OwnedFd>> {
    let context = Context::default();
    // It is there, which tells the one EBADF of the passthrough from the other.
    fs.getattr(&context, inode, None)?;
    let mut file = Opened(None);
    match fs.setupmapping(&context, inode, 0, 0, 0, 0, 0, &mut file) {
        Err(err) if err.raw_os_error() == Some(libc::EBADF) => Ok(None),
        result => result.map(|()| file.0),
    }
}

/// Makes a link to an open file. The passthrough says so by the descriptor itself,
/// which takes a capability (`CAP_DAC_READ_SEARCH`) that reads all of a file system.
pub(super) fn link(
    fs: &PassthroughFs,
    file: &OwnedFd,
    dir: &OwnedFd,
    name: &CStr,
) -> io::Result<()> {
    let Some(proc_self_fd) = fs.keep_fds().pop() else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    // SAFETY: the passthrough keeps it open, and lives longer than this call.
    let proc_self_fd = unsafe { BorrowedFd::borrow_raw(proc_self_fd) };
    let number = file.as_raw_fd().to_string();
    Ok(linkat(
        proc_self_fd,
        number,
        dir,
        name,
        AtFlags::SYMLINK_FOLLOW,
    )?)
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
