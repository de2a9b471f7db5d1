//! Unpacks a layer (image spec, "layer.md") into a directory in overlayfs's form: whiteouts
//! become character devices 0:0, opaque directories get an attribute.
//!
//! Layers are not trusted. The kernel resolves every path with the directory as its root
//! (openat2(2), `RESOLVE_IN_ROOT`), so links cannot lead out of it; absolute names and names
//! with `..` are refused. Memory is bounded: contents are streamed, and the headers of an entry
//! are limited.

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

/// The result of unpacking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Unpacked {
    /// The total size of its files in bytes.
    pub(in crate::engine) size: u64,
    /// Whether the root hides all layers below.
    pub(in crate::engine) opaque: bool,
}

/// Unpacks the archive `reader` of a layer into the empty directory `into`; `lower` are the layers
/// below, lowest first.
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

/// The owner of copied files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Ownership {
    /// The owner that the archive names.
    Archived,
    /// This user and group.
    Is(u32, u32),
}

/// The receiver of the files: some of what a container may have is not made on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Side {
    /// A container: gets everything in the archive.
    Container,
    /// The host: gets no device nodes, no set-id bits, and no attributes of the kernel's own
    /// such as file capabilities.
    Host,
}

/// The entries that were not made on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// The number of device nodes.
    pub devices: u64,
    /// The name of the first of them.
    pub first: String,
}

/// Unpacks the archive `reader` into the directory `into`, which others may use meanwhile.
/// Existing files are replaced; existing directories are merged.
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

/// Makes one entry of a layer; returns the size of its content.
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
        _ => return Err(Failure::Refused("its type is not allowed in a layer")),
    }
    Ok(0)
}
