//! Inode numbers with a mark for files that only the guest changes.
//!
//! Most of a share is changed by both sides, so the guest may not cache it. A container's root
//! is an exception: the host does not change it while the container exists. By the layout of
//! the share, only the guest changes a directory `<any>/rootfs` and all below it. There it may
//! cache names, attributes and data, which saves most requests.
//!
//! The mark is a part of the guest's inode numbers. Files inherit it from their directory at a
//! lookup; the table of files does not use it. A guest that forges marks only changes its own
//! caching.

use std::ffi::CStr;
use std::time::Duration;

use fuse_backend_rs::api::filesystem::ROOT_ID;

/// The name of directories that only the guest changes.
const PRIVATE_NAME: &[u8] = b"rootfs";
/// How long the guest's information is valid: for files that both sides change,
const SHARED: Duration = Duration::ZERO;
/// and for others. It is limited, so that a manual change on the host becomes visible.
const PRIVATE: Duration = Duration::from_secs(10);

/// The bits above all numbers of the table.
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

    /// The node for the file `number`, found under this name in this directory.
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

    /// The time for which its attributes are valid.
    pub fn attr_timeout(self) -> Duration {
        if self.is_private() { PRIVATE } else { SHARED }
    }

    /// The time for which the names in it are valid. The root of a private tree is in a shared
    /// directory, since the host mounts and unmounts there.
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
