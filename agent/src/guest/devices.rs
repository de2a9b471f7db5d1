//! Hot-plug of devices.
//!
//! The VM has more virtio-mmio slots than devices; the kernel knows all slots from the boot on.
//! An empty slot is a platform device without a driver. When the driver is bound, the kernel
//! probes the slot again. The resulting device is below the platform device:
//!
//! ```text
//! /sys/bus/platform/devices/LNRO0005:05 ─ virtio3 ┬ block/vda   a disk
//!                                                 └ net/eth0    or an interface
//! ```

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use std::os::fd::AsFd;

use crate::error::{Context, Error, Result};
use crate::guest::modules;

const DEVICES: &str = "bus/platform/devices";
const DRIVER: &str = "bus/platform/drivers/virtio-mmio";
/// The ACPI id of a virtio-mmio slot.
const SLOT_ID: &str = "LNRO0005:";

/// The time that a driver may take to make a disk or an interface. This is done before `bind`
/// returns, unless the kernel probes in the background.
const LIMIT: Duration = Duration::from_secs(5);

/// `KOBJ_UEVENT` of the kernel's netlink: the group of the kernel's own messages.
const KERNEL_GROUP: u32 = 1;

/// The result of attaching a device.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// The name of the disk in `/dev`, or of the interface.
    pub name: String,
    /// The major number of a disk.
    pub major: u32,
    pub minor: u32,
}

/// Binds the driver to the device in `slot`; returns the disk or interface. Blocks.
pub fn attach(sys: &Path, slot: u32) -> Result<Attached> {
    let device = device_of(sys, slot)?;
    modules::load_later();
    // Opened first, so that no event is missed.
    let events = kernel_events()?;
    write_name(&sys.join(DRIVER).join("bind"), &device)?;
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(attached) = made_of(&device)? {
            return Ok(attached);
        }
        if !happened(&events, end)? {
            return Err(Error::Deadline {
                what: format!("a driver for the device in slot {slot}"),
                seconds: LIMIT.as_secs(),
            });
        }
    }
}

/// Unbinds the driver from the device in `slot`, if it is bound. Blocks.
pub fn detach(sys: &Path, slot: u32) -> Result<()> {
    let device = device_of(sys, slot)?;
    match write_name(&sys.join(DRIVER).join("unbind"), &device) {
        Err(Error::File { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        result => result,
    }
}

/// The platform device of a slot.
fn device_of(sys: &Path, slot: u32) -> Result<PathBuf> {
    let folder = sys.join(DEVICES);
    for entry in fs::read_dir(&folder).path(&folder)? {
        let entry = entry.path(&folder)?;
        if !entry.file_name().to_string_lossy().starts_with(SLOT_ID) {
            continue;
        }
        let uid = fs::read_to_string(entry.path().join("firmware_node/uid"));
        if uid.is_ok_and(|uid| uid.trim().parse() == Ok(slot)) {
            return Ok(entry.path());
        }
    }
    Err(Error::Unsupported(format!(
        "this machine has no device slot {slot}"
    )))
}

fn write_name(file: &Path, device: &Path) -> Result<()> {
    let name = device.file_name().unwrap_or_default();
    fs::write(file, name.as_encoded_bytes()).path(file)
}

/// The disk or interface of a device whose driver has made one.
fn made_of(device: &Path) -> Result<Option<Attached>> {
    for virtio in entries(device)? {
        if !name_of(&virtio).starts_with("virtio") {
            continue;
        }
        if let Some(disk) = entries(&virtio.join("block"))?.first() {
            let path = disk.join("dev");
            let numbers = fs::read_to_string(&path).path(&path)?;
            let (major, minor) = numbers
                .trim()
                .split_once(':')
                .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
                .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
                .path(path)?;
            let name = name_of(disk);
            return Ok(Some(Attached { name, major, minor }));
        }
        if let Some(interface) = entries(&virtio.join("net"))?.first() {
            let name = name_of(interface);
            return Ok(Some(Attached {
                name,
                ..Attached::default()
            }));
        }
    }
    Ok(None)
}

/// The entries of a directory; empty if it does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.path(folder)?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    paths.collect::<io::Result<_>>().path(folder)
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// A socket that reports added and removed devices.
fn kernel_events() -> Result<OwnedFd> {
    let events = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkKObjectUEvent,
    )
    .what("listen to the kernel's device events")?;
    bind(events.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))
        .what("listen to the kernel's device events")?;
    Ok(events)
}

/// Waits for any event; returns false at the deadline.
fn happened(events: &OwnedFd, end: Instant) -> Result<bool> {
    let left = end.saturating_duration_since(Instant::now());
    let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
    let mut ready = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
    match poll(&mut ready, left) {
        Ok(0) => return Ok(false),
        Ok(_) | Err(Errno::EINTR) => {}
        Err(e) => return Err(e).what("wait for the kernel's device events"),
    }
    // Discards all queued events; their number does not matter.
    while recv(events.as_raw_fd(), &mut [], MsgFlags::MSG_TRUNC).is_ok() {}
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// A `/sys` with slots 0 and 5, whose names and numbers differ, and a driver.
    fn sys() -> TempDir {
        let sys = tempfile::tempdir().unwrap();
        let make = |path: &str, content: &str| {
            let path = sys.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        for (name, uid) in [("LNRO0005:00", "0\n"), ("LNRO0005:03", "5\n")] {
            make(&format!("acpi/{name}/uid"), uid);
            let device = sys.path().join(DEVICES).join(name);
            fs::create_dir_all(&device).unwrap();
            symlink(
                sys.path().join("acpi").join(name),
                device.join("firmware_node"),
            )
            .unwrap();
        }
        make("bus/platform/devices/ACPI0007:00/x", "");
        make("bus/platform/drivers/virtio-mmio/bind", "");
        make("bus/platform/drivers/virtio-mmio/unbind", "");
        sys
    }

    fn read(sys: &TempDir, file: &str) -> String {
        fs::read_to_string(sys.path().join(DRIVER).join(file)).unwrap()
    }

    #[test]
    fn a_disk_is_found_in_the_slot_of_that_number() {
        let sys = sys();
        let disk = sys
            .path()
            .join(DEVICES)
            .join("LNRO0005:03/virtio4/block/vdb");
        fs::create_dir_all(&disk).unwrap();
        fs::write(disk.join("dev"), "254:16\n").unwrap();

        let attached = attach(sys.path(), 5).unwrap();

        let expected = Attached {
            name: "vdb".into(),
            major: 254,
            minor: 16,
        };
        assert_eq!(attached, expected);
        assert_eq!(read(&sys, "bind"), "LNRO0005:03");
    }

    #[test]
    fn an_interface_is_found_and_what_is_not_made_yet_is_not() {
        let sys = sys();
        let device = sys.path().join(DEVICES).join("LNRO0005:00");
        fs::create_dir_all(device.join("virtio0")).unwrap();
        assert_eq!(made_of(&device).unwrap(), None);

        fs::create_dir_all(device.join("virtio0/net/eth0")).unwrap();

        assert_eq!(made_of(&device).unwrap().unwrap().name, "eth0");
    }

    #[test]
    fn a_slot_is_released_by_its_name() {
        let sys = sys();
        detach(sys.path(), 5).unwrap();
        assert_eq!(read(&sys, "unbind"), "LNRO0005:03");
    }

    #[test]
    fn slots_that_are_not_there_are_refused() {
        let error = attach(sys().path(), 3).unwrap_err().to_string();
        assert!(error.contains("slot 3"), "{error}");
    }

    #[test]
    fn numbers_that_are_none_are_named() {
        let sys = sys();
        let device = sys.path().join(DEVICES).join("LNRO0005:00");
        let disk = device.join("virtio0/block/vda");
        fs::create_dir_all(&disk).unwrap();
        fs::write(disk.join("dev"), "254").unwrap();
        let error = made_of(&device).unwrap_err().to_string();
        assert!(error.contains("vda/dev"), "{error}");
    }

    /// A file that cannot be opened: its device has no driver.
    fn driverless(path: &Path) {
        use nix::sys::stat::{Mode, SFlag, mknod};
        let _ = fs::remove_file(path);
        // The misc device 250 (Documentation/admin-guide/devices.txt) is not assigned.
        mknod(path, SFlag::S_IFCHR, Mode::S_IRWXU, libc::makedev(10, 250)).unwrap();
        let error = fs::write(path, "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn only_a_device_without_a_driver_is_released_already() {
        test_support::require!(test_support::root());
        let sys = sys();
        let unbind = sys.path().join(DRIVER).join("unbind");
        driverless(&unbind);
        detach(sys.path(), 5).unwrap();
        fs::remove_file(&unbind).unwrap();
        fs::create_dir(&unbind).unwrap();
        let refused = detach(sys.path(), 5).unwrap_err();
        assert!(
            matches!(&refused, Error::File { path, .. } if *path == unbind),
            "{refused}"
        );
        let unknown = detach(sys.path(), 6).unwrap_err();
        assert!(matches!(unknown, Error::Unsupported(_)), "{unknown}");
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(
            entries(&folder.path().join("none")).unwrap(),
            [] as [PathBuf; 0]
        );
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(entries(&file), Err(Error::File { path, .. }) if path == file));
        assert_eq!(entries(folder.path()).unwrap(), [file]);
    }

    #[test]
    fn events_of_the_kernel_are_waited_for_and_taken_together() {
        test_support::require!(test_support::root());
        let in_a_network_of_its_own = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let events = kernel_events().unwrap();
            let now = Instant::now();
            assert!(!happened(&events, now).unwrap());
            let soon = now + Duration::from_millis(50);
            assert!(!happened(&events, soon).unwrap());
            // poll(2) takes whole milliseconds.
            assert!(Instant::now() + Duration::from_millis(1) >= soon);
            // An interface comes with several events.
            let tap = fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/net/tun");
            // SAFETY: all zeroes is a valid request, and it lives through the call.
            unsafe {
                let mut request: libc::ifreq = std::mem::zeroed();
                request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
                let tap = tap.unwrap();
                assert_eq!(libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &request), 0);
            }
            assert!(happened(&events, now + Duration::from_secs(20)).unwrap());
            while happened(&events, Instant::now()).unwrap() {}
        };
        std::thread::scope(|scope| scope.spawn(in_a_network_of_its_own).join()).unwrap();
    }
}
