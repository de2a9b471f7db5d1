//! The losses of a power cut: contents that were not followed by an fsync of their file, and
//! names that were not followed by one of their directory. A file system may keep any part of
//! these. Here all of it is lost; the plain cut is the other extreme, which keeps everything.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::call::{Call, Kind};
use crate::leak;

/// A file or directory, independent of its name.
type Inode = (u64, u64);

/// A name in a directory.
type Entry = (Inode, PathBuf);

/// The last change of a name.
enum Change {
    Made,
    Renamed {
        from: Entry,
        /// The contents of the file that was replaced.
        before: Option<Vec<u8>>,
    },
}

impl Change {
    /// Whether it removed a name from this directory. In a journal a rename is one change: it
    /// is synced with either directory.
    fn is_from(&self, dir: Inode) -> bool {
        matches!(self, Change::Renamed { from, .. } if from.0 == dir)
    }
}

/// The changes that a power cut would undo.
#[derive(Default)]
pub(super) struct Unsynced {
    contents: Vec<Inode>,
    names: Vec<(Entry, Change)>,
}

impl Unsynced {
    /// Records a change that is about to be made.
    pub(super) fn note(&mut self, call: &Call) {
        match call.kind {
            Kind::Write | Kind::Truncate => {
                let file = call.fd.as_deref().and_then(inode);
                self.contents.extend(file);
            }
            Kind::Sync => {
                if let Some(synced) = call.fd.as_deref().and_then(inode) {
                    self.contents.retain(|file| *file != synced);
                    self.names
                        .retain(|((dir, _), change)| *dir != synced && !change.is_from(synced));
                }
            }
            Kind::SyncAll => *self = Self::default(),
            Kind::Create | Kind::MakeDir | Kind::Link if !call.path.exists() => {
                let made = entry(&call.path).map(|entry| (entry, Change::Made));
                self.names.extend(made);
            }
            Kind::Rename => {
                let from = call.from.as_deref().and_then(entry);
                if let (Some(from), Some(to)) = (from, entry(&call.path)) {
                    let before = fs::read(&call.path).ok();
                    self.names.push((to, Change::Renamed { from, before }));
                }
            }
            // A file that was to be removed and still exists: as if the cut had come earlier.
            _ => {}
        }
    }

    /// Undoes the changes below these directories.
    pub(super) fn lose(self, roots: &[PathBuf]) {
        let mut places = HashMap::new();
        for root in roots.iter().filter(|root| !root.starts_with("/sys")) {
            // Mounts do not survive a power cut, and their contents belong elsewhere.
            leak::unmount(root);
            walk(root, &mut places);
        }
        for file in self.contents {
            if let Some(path) = places.get(&file) {
                let emptied = fs::File::options().write(true).open(path);
                let _ = emptied.and_then(|file| file.set_len(0));
            }
        }
        for ((dir, name), change) in self.names.into_iter().rev() {
            let Some(path) = places.get(&dir).map(|dir| dir.join(name)) else {
                continue;
            };
            match change {
                Change::Made => {
                    let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
                }
                Change::Renamed { from, before } => {
                    if let Some(dir) = places.get(&from.0) {
                        let _ = fs::rename(&path, dir.join(&from.1));
                    }
                    if let Some(before) = before {
                        let _ = fs::write(&path, before);
                    }
                }
            }
        }
    }
}

fn entry(path: &Path) -> Option<Entry> {
    let dir = inode(path.parent()?)?;
    Some((dir, PathBuf::from(path.file_name()?)))
}

fn inode(path: &Path) -> Option<Inode> {
    let data = fs::metadata(path).ok()?;
    (data.is_file() || data.is_dir()).then(|| (data.dev(), data.ino()))
}

fn walk(dir: &Path, places: &mut HashMap<Inode, PathBuf>) {
    places.extend(inode(dir).map(|inode| (inode, dir.to_owned())));
    for item in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = item.path();
        match item.file_type() {
            Ok(kind) if kind.is_dir() => walk(&path, places),
            Ok(kind) if kind.is_file() => {
                places.extend(inode(&path).map(|inode| (inode, path.clone())));
            }
            _ => {}
        }
    }
}
