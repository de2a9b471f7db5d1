//! Unpacking a layer (image spec, "layer.md") into a directory as overlayfs
//! wants it: whiteouts become character devices 0:0, opaque directories get an
//! attribute.
//!
//! A layer is not to be trusted. Every path is resolved by the kernel with the
//! directory as its root (openat2(2), `RESOLVE_IN_ROOT`), so no link leads out;
//! names that are absolute or have `..` are refused. Memory is bounded: contents
//! are copied, and what describes an entry is limited.

mod attributes;
mod entries;
mod error;
mod path;
#[cfg(test)]
mod races;
#[cfg(test)]
mod tests;
mod tree;

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tar::EntryType;

pub(in crate::engine) use self::attributes::{Attributes, XATTR, time_record};
use self::entries::{Entries, Entry};
pub(in crate::engine) use self::error::{Failure, UnpackError};
use self::path::EntryPath;
use self::tree::Tree;

/// What has been unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Unpacked {
    /// Bytes of its files.
    pub(in crate::engine) size: u64,
    /// Nothing below it is seen.
    pub(in crate::engine) opaque: bool,
}

/// Unpacks the archive `reader` of a layer into the empty directory `into`; `lower` are the layers below, lowest first.
pub(in crate::engine) fn unpack(
    reader: impl Read,
    into: &Path,
    lower: &[PathBuf],
) -> Result<Unpacked, UnpackError> {
    let at = |entry: &str, failure| UnpackError::Entry {
        entry: entry.to_owned(),
        failure,
    };
    let mut entries = Entries::new(reader);
    let mut tree = Tree::of_layer(into, lower).map_err(|failure| at(".", failure))?;
    let mut size = 0;
    while let Some(entry) = entries.next().map_err(UnpackError::Archive)? {
        let made = make(&mut tree, &entry, &mut entries);
        size += made.map_err(|failure| {
            let name = String::from_utf8_lossy(&entry.name);
            at(&name, failure)
        })?;
    }
    let opaque = tree.finish().map_err(|failure| at(".", failure))?;
    Ok(Unpacked { size, opaque })
}

/// Whose files become that are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Ownership {
    /// Those that the archive names.
    Archived,
    /// This user and group.
    Is(u32, u32),
}

/// Whose files are made: what a container may have, the host may not have of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Side {
    /// A container's: all that the archive has.
    Container,
    /// The host's: no device nodes, no set-id bits, no attributes of the kernel's own
    /// such as file capabilities.
    Host,
}

/// What was not made, for it is nothing for the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// So many device nodes.
    pub devices: u64,
    /// The name of the first of them.
    pub first: String,
}

/// Unpacks the archive `reader` into the directory `into`, which others may use
/// meanwhile. What is in the way is replaced, but for directories, which are
/// joined.
pub(in crate::engine) fn extract(
    reader: impl Read,
    into: OwnedFd,
    owner: Ownership,
    side: Side,
) -> io::Result<LeftOut> {
    let mut entries = Entries::new(reader);
    let mut tree = Tree::new(into);
    let mut left_out = LeftOut::default();
    while let Some(entry) = entries.next()? {
        let name = || String::from_utf8_lossy(&entry.name);
        if side == Side::Host && matches!(entry.kind, EntryType::Char | EntryType::Block) {
            if left_out.devices == 0 {
                left_out.first = name().into_owned();
            }
            left_out.devices += 1;
            continue;
        }
        let made = Attributes::of(&entry).and_then(|mut attributes| {
            if let Ownership::Is(uid, gid) = owner {
                attributes = attributes.owned_by(uid, gid);
            }
            if side == Side::Host {
                attributes = attributes.harmless();
            }
            let path = EntryPath::parse(&entry.name)?;
            make_entry(&mut tree, &entry, &path, &attributes, &mut entries)
        });
        made.map_err(|failure| failure.at(&name()))?;
    }
    tree.finish()?;
    Ok(left_out)
}

/// Makes one entry of a layer; answers the bytes of its content.
fn make(tree: &mut Tree, entry: &Entry, content: &mut impl Read) -> Result<u64, Failure> {
    let path = EntryPath::parse(&entry.name)?;
    if let Some(hidden) = path.whiteout()? {
        return tree.hide(&path, hidden).map(|()| 0);
    }
    let attributes = Attributes::of(entry)?;
    make_entry(tree, entry, &path, &attributes, content)
}

fn make_entry(
    tree: &mut Tree,
    entry: &Entry,
    path: &EntryPath,
    attributes: &Attributes,
    content: &mut impl Read,
) -> Result<u64, Failure> {
    match entry.kind {
        EntryType::Directory => tree.directory(path, attributes)?,
        EntryType::Regular | EntryType::Continuous => {
            return match &entry.sparse {
                Some(sparse) => tree.sparse_file(path, content, sparse, attributes),
                None => tree.file(path, content, attributes),
            };
        }
        EntryType::Symlink => tree.symlink(path, &entry.link, attributes)?,
        EntryType::Link => tree.hard_link(path, &EntryPath::parse(&entry.link)?)?,
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            tree.node(path, entry.kind, &entry.header, attributes)?;
        }
        _ => return Err(Failure::Refused("it is of no kind that a layer may have")),
    }
    Ok(0)
}
