//! Maps the host's mounts to file systems of the guest.
//!
//! A share has many mounts in it: roots of containers, volumes, and mounts below them. Each is
//! a *place*, which the guest's kernel treats as a separate file system (fuse.h,
//! `FUSE_ATTR_SUBMOUNT`), with its own device number, size and free space, so that inode
//! numbers of two file systems never collide. A btrfs subvolume, which has a device number but
//! no mount, is a place, too.
//!
//! A place is identified by the mount point, not by the mounted file system: if a read-only
//! volume is mounted again on top, writable, its files stay the same for the guest, and are
//! then accessed through the later mount.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::host::FileStat;
use crate::sync::lock;

/// Identifies a file of the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileKey {
    device: u64,
    inode: u64,
    place: u64,
}

impl FileKey {
    pub fn new(seen: &FileStat, place: &Place) -> FileKey {
        FileKey {
            device: seen.stat.st_dev,
            inode: seen.stat.st_ino,
            place: place.number,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    /// The device number of most files in it.
    device: u64,
}

impl Place {
    /// The inode number for the guest. Files of another file system in the same place, such as
    /// a single mounted file, must not be confused with others that have the same number.
    pub fn number_of(&self, device: u64, inode: u64) -> u64 {
        if device == self.device {
            inode
        } else {
            // Mounts of files are rare; most file systems do not use the middle bits.
            inode ^ device.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16 << 8
        }
    }
}

/// A mount through which files are accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mount {
    id: u64,
    /// Mounts are numbered in the order in which they are found: a later one is on top.
    turn: u64,
}

impl Mount {
    /// Whether the kernel's number is this one.
    pub fn is(self, id: u64) -> bool {
        self.id == id
    }

    pub fn is_later_than(self, other: Mount) -> bool {
        self.turn > other.turn
    }
}

/// All places that the guest knows.
pub(super) struct Places(Mutex<KnownPlaces>);

#[derive(Default)]
struct KnownPlaces {
    last_place: u64,
    last_turn: u64,
    /// By the directory and the name in it.
    by_name: HashMap<(FileKey, CString), Weak<Place>>,
    /// By mount, with the place where it was found.
    mounts: HashMap<u64, (Weak<Place>, Mount)>,
    /// The number of remaining entries of both after the last sweep.
    swept: usize,
}

/// The result of the search for a name.
pub(super) struct Found {
    pub place: Arc<Place>,
    pub mount: Mount,
    /// Whether it is the root of the place, or a file that is a mount point.
    pub crossed: bool,
}

/// Unused places are removed when there are this many, and twice as many as remained.
const SWEEP: usize = 64;

impl Places {
    /// The first place is the share itself.
    pub fn new(root: &FileStat) -> (Places, Found) {
        let places = Places(Mutex::default());
        let found = {
            let mut inner = places.inner();
            let place = inner.new_place(root.stat.st_dev);
            let mount = inner.mount(root.mount, &place);
            Found {
                place,
                mount,
                crossed: false,
            }
        };
        (places, found)
    }

    /// Finds the place of `seen`, which has the `name` in the directory `dir` of the place
    /// `above`, and was reached through the mount `by`.
    pub fn find(
        &self,
        above: &Arc<Place>,
        dir: FileKey,
        by: Mount,
        name: &CStr,
        seen: &FileStat,
    ) -> Found {
        let same_mount = seen.mount == by.id;
        if same_mount && (seen.stat.st_dev == dir.device || !seen.kind().is_dir()) {
            return Found {
                place: Arc::clone(above),
                mount: by,
                crossed: false,
            };
        }
        let mut inner = self.inner();
        inner.sweep();
        let by_name = (dir, name.to_owned());
        let known = inner.by_name.get(&by_name).and_then(Weak::upgrade);
        let place = known.unwrap_or_else(|| {
            let device = if seen.kind().is_dir() {
                seen.stat.st_dev
            } else {
                above.device
            };
            let place = inner.new_place(device);
            inner.by_name.insert(by_name, Arc::downgrade(&place));
            place
        });
        let mount = if same_mount {
            by
        } else {
            inner.mount(seen.mount, &place)
        };
        Found {
            place,
            mount,
            crossed: true,
        }
    }

    fn inner(&self) -> MutexGuard<'_, KnownPlaces> {
        lock(&self.0)
    }
}

impl KnownPlaces {
    fn new_place(&mut self, device: u64) -> Arc<Place> {
        self.last_place += 1;
        Arc::new(Place {
            number: self.last_place,
            device,
        })
    }

    /// The mount with this number at this place.
    fn mount(&mut self, id: u64, place: &Arc<Place>) -> Mount {
        match self.mounts.get(&id) {
            Some((at, mount)) if std::ptr::eq(at.as_ptr(), Arc::as_ptr(place)) => *mount,
            _ => {
                self.last_turn += 1;
                let turn = self.last_turn;
                let mount = Mount { id, turn };
                self.mounts.insert(id, (Arc::downgrade(place), mount));
                mount
            }
        }
    }

    /// Drops entries without files that the guest knows.
    fn sweep(&mut self) {
        if self.mounts.len() + self.by_name.len() < 2 * self.swept + SWEEP {
            return;
        }
        self.by_name.retain(|_, place| place.strong_count() > 0);
        self.mounts.retain(|_, (place, _)| place.strong_count() > 0);
        self.swept = self.mounts.len() + self.by_name.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory, or another file, of this device, reached through this mount.
    fn seen(device: u64, inode: u64, mount: u64, kind: u32) -> FileStat {
        // SAFETY: plain numbers; zero is valid.
        let mut stat: fuse_backend_rs::abi::fuse_abi::stat64 = unsafe { std::mem::zeroed() };
        (stat.st_dev, stat.st_ino, stat.st_mode) = (device, inode, kind);
        FileStat { stat, mount }
    }

    const DIR: u32 = libc::S_IFDIR;
    const FILE: u32 = libc::S_IFREG;

    #[test]
    fn a_mount_or_another_device_is_a_place_and_all_else_is_not() {
        let root = seen(1, 2, 10, DIR);
        let (places, found) = Places::new(&root);
        let (above, by) = (found.place, found.mount);
        let dir = FileKey::new(&root, &above);
        let find = |it: &FileStat| places.find(&above, dir, by, c"name", it);
        for (device, mount, kind, crossed) in [
            (1, 10, DIR, false),
            (1, 10, FILE, false),
            // A subvolume of btrfs is a directory; a file with such a number is overlayfs's.
            (3, 10, DIR, true),
            (3, 10, FILE, false),
            (1, 11, DIR, true),
            (1, 11, FILE, true),
            (3, 11, DIR, true),
        ] {
            let found = find(&seen(device, 7, mount, kind));
            assert_eq!(found.crossed, crossed, "{device} {mount} {kind:#o}");
            assert_eq!(Arc::ptr_eq(&found.place, &above), !crossed);
            assert!(found.mount.is(mount) && !found.mount.is(mount + 1));
        }
    }

    #[test]
    fn a_place_stays_the_same_for_later_mounts_on_it() {
        let root = seen(1, 2, 10, DIR);
        let (places, found) = Places::new(&root);
        let (above, by) = (found.place, found.mount);
        let dir = FileKey::new(&root, &above);
        let find = |name, mount| places.find(&above, dir, by, name, &seen(4, 7, mount, DIR));
        let (first, second) = (find(c"a", 11), find(c"a", 12));
        let other = find(c"b", 13);
        assert!(Arc::ptr_eq(&first.place, &second.place));
        assert!(!Arc::ptr_eq(&first.place, &other.place));
        assert!(second.mount.is_later_than(first.mount) && first.mount.is_later_than(by));
        assert!(!first.mount.is_later_than(second.mount));
        assert!(!first.mount.is_later_than(first.mount));
        // It is found again, and is still the earlier one.
        assert_eq!(find(c"a", 11).mount, first.mount);
        let key = |it: &Found| FileKey::new(&seen(4, 7, 11, DIR), &it.place);
        assert_eq!(key(&first), key(&second));
        assert_ne!(key(&first), key(&other));
    }

    #[test]
    fn numbers_of_other_devices_in_a_place_are_moved_out_of_the_way() {
        let place = Place {
            number: 1,
            device: 5,
        };
        assert_eq!(place.number_of(5, 0x1234), 0x1234);
        let [one, two] = [6, 7].map(|device| place.number_of(device, 0x1234));
        assert!(one != two && one != 0x1234 && two != 0x1234);
        // The lowest bits stay: files of one device keep apart.
        assert_eq!((one & 0xff, two & 0xff), (0x34, 0x34));
        let next = place.number_of(6, 0x1235);
        assert_eq!(next ^ one, 1);
    }

    #[test]
    fn places_that_the_guest_forgot_are_swept() {
        let root = seen(1, 2, 10, DIR);
        let (places, found) = Places::new(&root);
        let dir = FileKey::new(&root, &found.place);
        let mut kept = Vec::new();
        for number in 0..1000u64 {
            let name = CString::new(number.to_string()).unwrap();
            let it = seen(4, 7, 100 + number, DIR);
            let new = places.find(&found.place, dir, found.mount, &name, &it);
            if number < 10 {
                kept.push(new);
            }
        }
        let inner = places.inner();
        let entries = inner.by_name.len() + inner.mounts.len();
        // Two entries for each kept place, one for the root's mount; at most as many again.
        assert!((21..=2 * 21 + SWEEP + 2).contains(&entries), "{entries}");
        drop(inner);
        for (number, before) in kept.iter().enumerate() {
            let name = CString::new(number.to_string()).unwrap();
            let it = seen(4, 7, 100 + number as u64, DIR);
            let again = places.find(&found.place, dir, found.mount, &name, &it);
            assert!(Arc::ptr_eq(&again.place, &before.place));
            assert_eq!(again.mount, before.mount);
        }
    }
}
