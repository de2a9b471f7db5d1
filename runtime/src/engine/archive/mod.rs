//! Directory trees as streams of tar(5): [`pack`] writes one, [`extract`] makes a tree of one.
//! Neither follows a link out of the tree that it is given, and neither keeps contents in
//! memory.

use std::io;
use std::os::fd::OwnedFd;
use std::thread;

mod inode;
mod pack;
pub(in crate::engine) mod sparse;
#[cfg(test)]
mod tests;
// Without the feature for pulling images nothing unpacks layers.
#[cfg_attr(not(feature = "pull"), allow(dead_code))]
pub(crate) mod unpack;

pub(in crate::engine) use self::inode::Inode;
pub(in crate::engine) use self::pack::Packer;
pub use crate::engine::archive::unpack::LeftOut;
pub(in crate::engine) use crate::engine::archive::unpack::{Ownership, Side, extract};

/// The side of a copy that failed.
#[derive(Debug)]
pub(in crate::engine) enum TransferError {
    /// Reading failed.
    Source(io::Error),
    /// Writing failed.
    Target(io::Error),
}

/// Copies the output of `pack` as an archive into the directory `into`.
pub(in crate::engine) fn transfer(
    pack: impl FnOnce(io::PipeWriter) -> io::Result<()> + Send,
    into: OwnedFd,
    owner: Ownership,
    side: Side,
) -> Result<LeftOut, TransferError> {
    let (reader, writer) = io::pipe().map_err(TransferError::Target)?;
    let (packed, extracted) = thread::scope(|scope| {
        let packer = thread::Builder::new().name("pack".into());
        let packer = match packer.spawn_scoped(scope, || pack(writer)) {
            Ok(packer) => packer,
            Err(e) => return (Err(e), Ok(LeftOut::default())),
        };
        let extracted = extract(reader, into, owner, side);
        let packed = packer.join();
        (
            packed.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())),
            extracted,
        )
    });
    match (packed, extracted) {
        // The writer fails, too, if the reader has ended.
        (Err(e), Err(_)) if e.kind() != io::ErrorKind::BrokenPipe => Err(TransferError::Source(e)),
        (_, Err(e)) => Err(TransferError::Target(e)),
        (packed, Ok(left_out)) => packed.map(|()| left_out).map_err(TransferError::Source),
    }
}
