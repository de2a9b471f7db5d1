//! The tree that the guest sees by virtio-fs: for each container its rootfs
//! and the sources of its bind mounts, all of them mounts on the host.
//!
//! ```text
//! shared/<container>/rootfs       the root filesystem
//! shared/<container>/mounts/<n>   the source of the n-th mount of the spec
//! ```
//! What is mounted is read back from the kernel when it is undone, so a crash
//! at any point leaves nothing that cannot be found.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::{Context, Result};
use crate::mount::{self, Mount};

/// The share tree of one pod.
#[derive(Debug, Clone)]
pub struct ShareTree {
    dir: PathBuf,
}

impl ShareTree {
    /// The tree at `dir`, which need not exist yet.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Makes the empty tree. Mounts that follow reach the VMM's own mount
    /// namespace.
    ///
    /// # Errors
    /// [`crate::Error::Io`] naming the directory.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.dir).on("create", &self.dir)?;
        mount::make_shared(&self.dir)
    }

    /// Where a container's rootfs is on the host.
    pub fn rootfs(&self, container: &str) -> PathBuf {
        self.dir.join(container).join("rootfs")
    }

    /// Mounts a container's rootfs: containerd's mounts, or a bind of
    /// `directory` where there are none.
    ///
    /// # Errors
    /// The mount's error. What was mounted stays for [`ShareTree::detach`].
    pub fn attach_rootfs(&self, container: &str, mounts: &[Mount], directory: &Path) -> Result<()> {
        let target = self.rootfs(container);
        fs::create_dir_all(&target).on("create", &target)?;
        if mounts.is_empty() {
            let bind = Mount {
                kind: "bind".into(),
                source: directory.to_string_lossy().into_owned(),
                options: vec!["rbind".into(), "rprivate".into()],
                ..Mount::default()
            };
            return harmless(&bind).attach(&target);
        }
        for mount in mounts {
            let mount = harmless(mount);
            match mount.target.trim_matches('/') {
                "" => mount.attach(&target)?,
                inside => attach_inside(&mount, &target, inside)?,
            }
        }
        Ok(())
    }

    /// Binds the source of a container's `n`-th mount into the tree.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] if the source does not exist.
    pub fn attach_source(&self, container: &str, n: usize, mount: &Mount) -> Result<()> {
        let source = Path::new(&mount.source);
        let target = self.dir.join(container).join("mounts").join(n.to_string());
        if source.is_dir() {
            fs::create_dir_all(&target).on("create", &target)?;
        } else {
            let parent = target.parent().unwrap_or(&self.dir);
            fs::create_dir_all(parent).on("create", parent)?;
            fs::File::create(&target).on("create", &target)?;
        }
        harmless(mount).attach(&target)
    }

    /// Undoes a container's part of the tree, as far as it exists.
    ///
    /// # Errors
    /// [`crate::Error::Io`]; it can be called again.
    pub fn detach(&self, container: &str) -> Result<()> {
        let dir = self.dir.join(container);
        mount::unmount_below(&dir)?;
        remove_placeholders(&dir)
    }

    /// Undoes the whole tree.
    ///
    /// # Errors
    /// [`crate::Error::Io`]; it can be called again.
    pub fn remove(&self) -> Result<()> {
        mount::unmount_below(&self.dir)?;
        remove_placeholders(&self.dir)
    }
}

/// Mounts onto a directory of the container's root file system. Links on the way are
/// those of an image: they are resolved with its root as `/`, so that none leads to a
/// directory of the host.
fn attach_inside(mount: &Mount, root: &Path, inside: &str) -> Result<()> {
    let open = || -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())?;
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&root, inside, flags, Mode::empty(), how)
    };
    let target = open().map_err(std::io::Error::from);
    let target = target.on("open the mount point", &root.join(inside))?;
    // The descriptor is the directory, whatever its name leads to by now.
    mount.attach(Path::new(&format!(
        "/proc/self/fd/{}/.",
        target.as_raw_fd()
    )))
}

/// The mount as the share has it. The guest sees device nodes, set-user-id bits and
/// programs all the same; but a VMM that a guest has taken over cannot open a device
/// of the host's by a node that an image brought along, or run anything.
fn harmless(mount: &Mount) -> Mount {
    let mut mount = mount.clone();
    let flags = ["nodev", "nosuid", "noexec"];
    mount.options.extend(flags.map(str::to_owned));
    mount
}

/// Removes a tree of empty directories and empty files: mount points. Anything
/// else is somebody's data under a mount that did not come off; it stays, and
/// is an error.
fn remove_placeholders(path: &Path) -> Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(m) => m,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).on("look at", path),
    };
    if kind.is_dir() {
        for entry in fs::read_dir(path).on("read", path)? {
            remove_placeholders(&entry.on("read", path)?.path())?;
        }
        fs::remove_dir(path).on("remove", path)
    } else if kind.is_file() && kind.len() == 0 {
        fs::remove_file(path).on("remove", path)
    } else {
        Err(std::io::Error::from(std::io::ErrorKind::DirectoryNotEmpty)).on("remove", path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::tests::on_shared_mounts;

    #[test]
    fn a_link_of_the_image_leads_no_mount_out_of_its_root() {
        on_shared_mounts(|dir| {
            let (root, host) = (dir.join("rootfs"), dir.join("host"));
            fs::create_dir_all(root.join("data")).unwrap();
            fs::create_dir_all(&host).unwrap();
            std::os::unix::fs::symlink(&host, root.join("link")).unwrap();
            std::os::unix::fs::symlink("/data", root.join("inside")).unwrap();
            let mount = Mount {
                kind: "tmpfs".into(),
                source: "tmpfs".into(),
                ..Mount::default()
            };

            let refused = attach_inside(&mount, &root, "link").unwrap_err();
            attach_inside(&mount, &root, "inside").unwrap();

            assert!(refused.to_string().contains("rootfs/link"), "{refused}");
            let mounted = mount::mounts_below(dir).unwrap();
            assert_eq!(mounted, [root.join("data")]);
        });
    }

    #[test]
    fn placeholders_go_and_data_stays() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("shared");
        fs::create_dir_all(tree.join("c/rootfs")).unwrap();
        fs::create_dir_all(tree.join("c/mounts/0")).unwrap();
        fs::write(tree.join("c/mounts/1"), "").unwrap();
        remove_placeholders(&tree).unwrap();
        assert!(!tree.exists());

        fs::create_dir_all(tree.join("c/rootfs")).unwrap();
        fs::write(tree.join("c/rootfs/data"), "precious").unwrap();
        assert!(remove_placeholders(&tree).is_err());
        assert!(tree.join("c/rootfs/data").exists());
    }
}
