//! The host's side of block devices.

use std::fs::{self, File, Metadata, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Number, Wanted};
use crate::error::{DeviceError, DeviceProblem, Error, Result};

/// A block device, opened with the guest's rights.
pub(super) struct Open {
    pub(super) file: OwnedFd,
    /// Whether it is read-only: on request, or because the device is.
    pub(super) read_only: bool,
}

/// The number of the block device whose node is at `path`; `None` if there is none.
pub(super) fn number(path: &Path) -> Option<Number> {
    number_of(&fs::metadata(path).ok()?)
}

fn number_of(meta: &Metadata) -> Option<Number> {
    let device = meta.rdev();
    meta.file_type()
        .is_block_device()
        .then(|| (libc::major(device), libc::minor(device)))
}

/// The error of a device that cannot be used.
pub(super) fn refusal(wanted: &Wanted, problem: DeviceProblem) -> Error {
    DeviceError {
        path: wanted.path.clone(),
        major: wanted.number.0,
        minor: wanted.number.1,
        problem,
    }
    .into()
}

/// Opens the device by its number, since the path in the spec is the one in the container.
pub(super) fn open(wanted: &Wanted) -> Result<Open> {
    let (major, minor) = wanted.number;
    let fail = |problem| refusal(wanted, problem);
    let sys = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let event =
        fs::read_to_string(sys.join("uevent")).map_err(|e| fail(DeviceProblem::Unknown(e)))?;
    let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let name = name.ok_or_else(|| fail(DeviceProblem::NoName))?;
    let path = Path::new("/dev").join(name);
    let protected = fs::read_to_string(sys.join("ro")).is_ok_and(|ro| ro.trim() == "1");
    let read_only = wanted.read_only || protected;
    let opened = if read_only {
        // The VMM gets a read-only descriptor: a guest that has taken it over must not write.
        hypervisor::open_read_only(&path).map(File::from)
    } else {
        OpenOptions::new().read(true).write(true).open(&path)
    };
    let node = path.clone();
    let cannot = |source| {
        let node = path.clone();
        fail(DeviceProblem::Open { node, source })
    };
    let file = opened.map_err(cannot)?;
    if number_of(&file.metadata().map_err(cannot)?) != Some(wanted.number) {
        return Err(fail(DeviceProblem::Changed { node }));
    }
    Ok(Open {
        file: file.into(),
        read_only,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named() {
        let wanted = Wanted {
            number: (4095, 7),
            path: "/dev/disk".into(),
            read_only: true,
            mount: None,
        };
        match open(&wanted).err().unwrap() {
            Error::Device(DeviceError {
                path,
                major: 4095,
                minor: 7,
                problem: DeviceProblem::Unknown(_),
            }) => assert_eq!(path, wanted.path),
            other => panic!("{other:?}"),
        }
        assert_eq!(number(Path::new("/dev/null")), None);
        assert_eq!(number(Path::new("/no/such")), None);
    }
}
