//! The event counter (eventfd(2)), for signals between threads, devices and KVM.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

/// An event counter: readable after a write. Reads and writes do not block.
#[derive(Debug)]
pub struct EventFd(vmm_sys_util::eventfd::EventFd);

impl EventFd {
    /// A counter at zero, closed on exec.
    ///
    /// # Errors
    /// The errors of eventfd(2).
    pub fn new() -> io::Result<EventFd> {
        let flags = libc::EFD_NONBLOCK | libc::EFD_CLOEXEC;
        vmm_sys_util::eventfd::EventFd::new(flags).map(EventFd)
    }

    /// Another descriptor of the same counter.
    ///
    /// # Errors
    /// The errors of fcntl(2).
    pub fn try_clone(&self) -> io::Result<EventFd> {
        self.as_fd().try_clone_to_owned().map(EventFd::from)
    }

    /// Adds to the counter.
    ///
    /// # Errors
    /// `WouldBlock` if the counter is full, which is readable as well.
    pub fn write(&self, value: u64) -> io::Result<()> {
        self.0.write(value)
    }

    /// Returns the counter's value and sets it to zero.
    ///
    /// # Errors
    /// `WouldBlock` if it is zero.
    pub fn read(&self) -> io::Result<u64> {
        self.0.read()
    }

    /// The type that `kvm-ioctls` connects to a VM.
    pub(crate) fn for_kvm(&self) -> &vmm_sys_util::eventfd::EventFd {
        &self.0
    }
}

impl From<OwnedFd> for EventFd {
    /// Takes a descriptor for an event counter. If it is not one, reads and writes fail.
    fn from(fd: OwnedFd) -> EventFd {
        // SAFETY: the descriptor is open and has no other owner.
        EventFd(unsafe { FromRawFd::from_raw_fd(fd.into_raw_fd()) })
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor stays open while `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_is_the_same_counter() {
        let event = EventFd::new().unwrap();
        event.try_clone().unwrap().write(3).unwrap();
        assert_eq!(event.read().unwrap(), 3);
        let empty = event.read().unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
    }
}
