//! A queue of a tap interface of the host.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
};

use super::{HEADER_LEN, NetError};
use crate::event::EventFd;

mod ioctl {
    // linux/if_tun.h
    nix::ioctl_write_int_bad!(set_offload, nix::request_code_write!(b'T', 208, 4));
    nix::ioctl_read_bad!(
        interface,
        nix::request_code_read!(b'T', 210, 4),
        libc::ifreq
    );
    nix::ioctl_write_ptr_bad!(
        set_header_size,
        nix::request_code_write!(b'T', 216, 4),
        libc::c_int
    );
    nix::ioctl_write_ptr_bad!(
        set_queue,
        nix::request_code_write!(b'T', 217, 4),
        libc::ifreq
    );
}

/// An open tap queue. Each frame has a virtio header, by which the kernel and the guest leave
/// checksums and segmentation to each other.
pub(super) struct Tap {
    file: File,
    name: [libc::c_char; libc::IFNAMSIZ],
    /// A detached queue gets no frames.
    attached: AtomicBool,
    attachment: EventFd,
}

impl Tap {
    /// Checks and prepares an open tap; `many` if its interface has several.
    pub fn new(file: File, many: bool) -> Result<Tap, NetError> {
        let io = |what| {
            move |err: nix::Error| NetError::Io {
                what,
                source: err.into(),
            }
        };
        let request = interface(&file).map_err(io("ask what a tap is"))?;
        // SAFETY: the kernel has filled the flags in.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        let mut wanted = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if many {
            wanted |= libc::IFF_MULTI_QUEUE;
        }
        if flags & wanted != wanted {
            return Err(NetError::Flags {
                missing: wanted & !flags,
            });
        }
        // SAFETY: reads an integer through a valid reference.
        unsafe { ioctl::set_header_size(file.as_raw_fd(), &(HEADER_LEN as libc::c_int)) }
            .map_err(io("set the length of a tap's header"))?;
        let status = fcntl(&file, FcntlArg::F_GETFL).map_err(io("read a tap's flags"))?;
        let status = OFlag::from_bits_retain(status) | OFlag::O_NONBLOCK;
        fcntl(&file, FcntlArg::F_SETFL(status)).map_err(io("make a tap non-blocking"))?;
        Ok(Tap {
            file,
            name: request.ifr_name,
            attached: AtomicBool::new(true),
            attachment: EventFd::new().map_err(|source| NetError::Io {
                what: "make an event descriptor",
                source,
            })?,
        })
    }

    /// The file, for waiting for frames and for room.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Written to when the queue has been attached.
    pub fn attachment(&self) -> &EventFd {
        &self.attachment
    }

    /// Whether both are queues of one interface.
    pub fn is_beside(&self, other: &Tap) -> bool {
        self.name == other.name
    }

    /// Sets the offloads for frames that the guest accepts.
    pub fn set_offloads(&self, features: u64) -> io::Result<()> {
        let flags = offloads(features) as libc::c_int;
        // SAFETY: takes an integer.
        unsafe { ioctl::set_offload(self.file.as_raw_fd(), flags) }?;
        Ok(())
    }

    /// Attaches or detaches this queue of the interface.
    pub fn attach(&self, on: bool) -> io::Result<()> {
        if self.attached.load(Ordering::Relaxed) == on {
            return Ok(());
        }
        // SAFETY: all-zero is a valid request.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_flags = match on {
            true => libc::IFF_ATTACH_QUEUE,
            false => libc::IFF_DETACH_QUEUE,
        } as libc::c_short;
        // SAFETY: reads a request through a valid reference.
        unsafe { ioctl::set_queue(self.file.as_raw_fd(), &request) }?;
        self.attached.store(on, Ordering::Relaxed);
        if on {
            // A full counter wakes the reader, too.
            let _ = self.attachment.write(1);
        }
        Ok(())
    }

    /// Reads a frame with its header.
    ///
    /// # Safety
    /// The vectors must describe memory that is writable; others may change it, too.
    pub unsafe fn read(&self, iovecs: &[libc::iovec]) -> io::Result<usize> {
        let count = iovecs.len() as libc::c_int;
        // SAFETY: the caller guarantees it. There are few vectors, so their number fits.
        let read = unsafe { libc::readv(self.file.as_raw_fd(), iovecs.as_ptr(), count) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// Writes a frame with its header.
    ///
    /// # Safety
    /// The vectors must describe readable memory; others may change it.
    pub unsafe fn write(&self, iovecs: &[libc::iovec]) -> io::Result<usize> {
        let count = iovecs.len() as libc::c_int;
        // SAFETY: the caller guarantees it. There are few vectors, so their number fits.
        let written = unsafe { libc::writev(self.file.as_raw_fd(), iovecs.as_ptr(), count) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }
}

fn interface(file: &File) -> nix::Result<libc::ifreq> {
    // SAFETY: all-zero is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: writes a request through a valid reference.
    unsafe { ioctl::interface(file.as_raw_fd(), &mut request) }?;
    Ok(request)
}

/// The flags of TUNSETOFFLOAD for the features that a driver acknowledged.
fn offloads(features: u64) -> libc::c_uint {
    let has = |bit| features & 1u64 << bit != 0;
    // Segmentation needs checksums.
    if !has(VIRTIO_NET_F_GUEST_CSUM) {
        return 0;
    }
    let mut flags = libc::TUN_F_CSUM;
    for (bit, flag) in [
        (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
        (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
        (VIRTIO_NET_F_GUEST_ECN, libc::TUN_F_TSO_ECN),
        (VIRTIO_NET_F_GUEST_UFO, libc::TUN_F_UFO),
    ] {
        if has(bit) {
            flags |= flag;
        }
    }
    // The kernel requires both or none.
    if has(VIRTIO_NET_F_GUEST_USO4) && has(VIRTIO_NET_F_GUEST_USO6) {
        flags |= libc::TUN_F_USO4 | libc::TUN_F_USO6;
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits of virtio 1.2 §5.1.3 and of linux/if_tun.h.
    #[test]
    fn offloads_are_those_that_the_guest_takes() {
        let (csum, uso4, uso6) = (1 << 1, 1 << 54, 1 << 55);
        for (features, flags) in [
            (0, 0),
            (csum, 1),
            (csum | 1 << 7, 1 | 2),
            (csum | 1 << 8, 1 | 4),
            (csum | 1 << 9, 1 | 8),
            (csum | 1 << 10, 1 | 16),
            (csum | uso4, 1),
            (csum | uso6, 1),
            (csum | uso4 | uso6, 1 | 0x20 | 0x40),
            // Without checksums, none; other features have none.
            (!csum, 0),
            (!(1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | uso4 | uso6), 1),
            (u64::MAX, 0x7f),
        ] {
            assert_eq!(offloads(features), flags, "{features:#x}");
        }
    }
}
