//! Inode numbers with a mark for files that belong to the guest alone.
//!
//! Most of a share changes on both sides, so the guest may not cache it. A container's
//! root does not: the host does not change it while the container exists. By the layout
//! of the share a directory `<any>/rootfs` and all below belongs to the guest alone,
//! and there it may cache names, attributes and data, which saves it most requests.
//!
//! The mark travels in the inode number that the guest is given, from a directory to
//! what is looked up in it; the table of files never sees it. A guest that forges marks
//! changes only what itself caches.

use std::ffi::CStr;
use std::time::Duration;

use fuse_backend_rs::api::filesystem::ROOT_ID;

/// The directory that belongs to the guest alone.
const PRIVATE_NAME: &[u8] = b"rootfs";
/// How long what the guest knows is valid: for files that both sides change,
const SHARED: Duration = Duration::ZERO;
/// and for its own. Bounded, so that a manual change on the host becomes visible, too.
const PRIVATE: Duration = Duration::from_secs(10);

/// Numbers in the table lie below these bits.
const PRIVATE_BIT: u64 = 1 << 60;
const CONTAINER_BIT: u64 = 1 << 61;
const MARKS: u64 = PRIVATE_BIT | CONTAINER_BIT;

/// An inode as the guest names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node(u64);

impl From<u64> for Node {
    fn from(number: u64) -> Node {
        Node(number)
    }
}

impl From<Node> for u64 {
    fn from(node: Node) -> u64 {
        node.0
    }
}

impl Node {
    /// The number in the table of files.
    pub fn inner(self) -> u64 {
        self.0 & !MARKS
    }

    /// The node for the file number that was found under this name here.
    pub fn child(self, name: &CStr, number: u64) -> Node {
        let mark = if self.is_private() {
            PRIVATE_BIT
        } else if self.0 == ROOT_ID {
            CONTAINER_BIT
        } else if self.holds_private(name) {
            PRIVATE_BIT
        } else {
            0
        };
        Node(number | mark)
    }

    /// Whether only the guest changes it.
    pub fn is_private(self) -> bool {
        self.0 & PRIVATE_BIT != 0
    }

    /// How long its attributes are valid.
    pub fn attr_timeout(self) -> Duration {
        if self.is_private() { PRIVATE } else { SHARED }
    }

    /// How long the names in it are valid. The root of a private tree is found in a
    /// shared directory, as the host mounts and unmounts there.
    pub fn entry_timeout(self) -> Duration {
        self.attr_timeout()
    }

    fn holds_private(self, name: &CStr) -> bool {
        self.0 & CONTAINER_BIT != 0 && name.to_bytes() == PRIVATE_NAME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(path: &[&CStr]) -> Node {
        let mut node = Node(ROOT_ID);
        for (number, name) in path.iter().enumerate() {
            node = node.child(name, number as u64 + 2);
        }
        node
    }

    #[test]
    fn containers_root_and_all_below_are_private() {
        assert!(walk(&[c"web", c"rootfs"]).is_private());
        assert!(walk(&[c"web", c"rootfs", c"etc", c"passwd"]).is_private());
        assert_eq!(walk(&[c"web", c"rootfs", c"etc"]).inner(), 4);
    }

    #[test]
    fn all_else_is_shared() {
        assert!(!walk(&[]).is_private());
        assert!(!walk(&[c"rootfs"]).is_private());
        assert!(!walk(&[c"web", c"mounts", c"0", c"rootfs"]).is_private());
        assert!(!walk(&[c"rootfs", c"x", c"rootfs"]).is_private());
        assert_eq!(walk(&[c"web", c"mounts"]).attr_timeout(), Duration::ZERO);
    }

    #[test]
    fn name_of_a_private_tree_is_asked_for_each_time() {
        assert_eq!(walk(&[c"web"]).entry_timeout(), Duration::ZERO);
        assert!(walk(&[c"web", c"rootfs"]).entry_timeout() > Duration::ZERO);
    }
}
