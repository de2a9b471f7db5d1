//! Overlay mounts of images with many layers. mount(2) takes one page of options, which the
//! paths of about forty layers fill. All layers are in one directory of the snapshotter, so
//! shorter paths relative to it are used, by a thread that has changed into that directory.

use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::error::{Context, Error, MountError, Result};

/// The size of mount(2)'s options: a page, including the end mark.
const PAGE: usize = 4096;

/// Whether these are an overlay's options and too long for mount(2).
pub(crate) fn is_too_long(kind: &str, data: &str) -> bool {
    kind == "overlay" && data.len() >= PAGE
}

/// Mounts an overlay with such options.
///
/// # Errors
/// [`Error::Mount`] if they are too long even with relative paths, or the kernel refuses.
pub(crate) fn attach(target: &Path, flags: MsFlags, data: &str) -> Result<()> {
    let (dir, data) = shorten(data).ok_or_else(|| MountError::TooManyLayers {
        target: target.to_owned(),
        bytes: data.len(),
        limit: PAGE,
    })?;
    // A separate thread, since the working directory is shared by the process's threads
    // otherwise.
    let mounted = std::thread::scope(|scope| {
        let work = || -> Result<()> {
            unshare(CloneFlags::CLONE_FS).on("leave the working directory for", &dir)?;
            nix::unistd::chdir(&dir).on("change to", &dir)?;
            mount(
                Some("overlay"),
                target,
                Some("overlay"),
                flags,
                Some(data.as_str()),
            )
            .map_err(|e| {
                MountError::Mount {
                    fs_type: "overlay".to_owned(),
                    target: target.to_owned(),
                    options: data.clone(),
                    error: e.into(),
                }
                .into()
            })
        };
        scope.spawn(work).join()
    });
    mounted.map_err(|_| Error::task("mounting an overlay")("its thread panicked"))?
}

/// The common directory of the layers, and the options relative to it; `None` if these are
/// still too long.
fn shorten(data: &str) -> Option<(PathBuf, String)> {
    let options: Vec<&str> = data.split(',').collect();
    let lower = options.iter().find_map(|o| o.strip_prefix("lowerdir="))?;
    let layers: Vec<&Path> = lower.split(':').map(Path::new).collect();
    let first = layers.first()?;
    let common = first
        .ancestors()
        .skip(1)
        .find(|a| a.is_absolute() && layers.iter().all(|l| l.starts_with(a)))?;
    let relative: Option<Vec<&str>> = layers
        .iter()
        .map(|l| l.strip_prefix(common).ok()?.to_str())
        .collect();
    let relative = format!("lowerdir={}", relative?.join(":"));
    let options = options.into_iter().map(|o| {
        if o.starts_with("lowerdir=") {
            relative.as_str()
        } else {
            o
        }
    });
    let short = options.collect::<Vec<_>>().join(",");
    (short.len() < PAGE).then(|| (common.to_owned(), short))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::mount::{Mount, unmount_below};

    #[test]
    fn an_image_of_a_hundred_layers_is_mounted() {
        let root = tempfile::tempdir().unwrap();
        let snapshots = root
            .path()
            .join("a-directory-with-a-long-name-as-snapshotters-have-them");
        let layers: Vec<String> = (0..100)
            .map(|n| {
                let layer = snapshots.join(n.to_string()).join("fs");
                std::fs::create_dir_all(&layer).unwrap();
                std::fs::write(layer.join(format!("file{n}")), "").unwrap();
                layer.to_str().unwrap().to_owned()
            })
            .collect();
        let target = root.path().join("rootfs");
        std::fs::create_dir(&target).unwrap();
        let lower = format!("lowerdir={}", layers.join(":"));
        assert!(is_too_long("overlay", &lower));
        let before = std::env::current_dir().unwrap();

        let overlay = Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec![lower],
        };
        overlay.attach(&target).unwrap();

        let seen = std::fs::read_dir(&target).unwrap().count();
        unmount_below(&target).unwrap();
        assert_eq!(seen, 100);
        assert_eq!(std::env::current_dir().unwrap(), before);
    }

    #[test]
    fn what_cannot_be_made_to_fit_is_refused() {
        let lower = vec!["/x/".to_owned() + &"y".repeat(200); 30].join(":");
        assert_eq!(shorten(&format!("lowerdir={lower}")), None);
    }

    #[test]
    fn options_that_fill_a_page_are_too_long_for_an_overlay_alone() {
        for (length, is_long) in [(4095, false), (4096, true)] {
            let data = "x".repeat(length);
            assert_eq!(is_too_long("overlay", &data), is_long, "{length}");
            assert!(!is_too_long("tmpfs", &data));
        }
    }

    #[test]
    fn layers_are_named_relative_to_their_common_directory() {
        for (data, dir, expected) in [
            ("lowerdir=/a/b/1:/a/b/2", "/a/b", "lowerdir=1:2"),
            (
                "ro,lowerdir=/a/b/1:/a/c,x=/y",
                "/a",
                "ro,lowerdir=b/1:c,x=/y",
            ),
            ("lowerdir=/a:/b/c", "/", "lowerdir=a:b/c"),
            // The directory of one layer is the one above it.
            ("lowerdir=/a/b", "/a", "lowerdir=b"),
        ] {
            let expected = (PathBuf::from(dir), expected.to_owned());
            assert_eq!(shorten(data), Some(expected), "{data}");
        }
        for data in ["", "upperdir=/a", "lowerdir=a:b"] {
            assert_eq!(shorten(data), None, "{data}");
        }
        let fits = |length: usize| shorten(&format!("lowerdir=/a/{}", "x".repeat(length)));
        assert!(fits(4095 - "lowerdir=".len()).is_some());
        assert!(fits(4096 - "lowerdir=".len()).is_none());
    }
}
