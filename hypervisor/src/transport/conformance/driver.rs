//! The driver's actions on any transport.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::guest::Guest;
use crate::virtio::Device;
use crate::virtio::testing::Rings;

/// See the module. The order of calls is that of virtio 1.2 §3.1.1.
pub trait Driver: Sized {
    /// Puts the device behind the transport.
    fn new(device: Box<dyn Device>, guest: &Guest) -> Self;

    /// The features offered.
    fn offered(&mut self) -> u64;

    /// Accepts these features; returns whether the device agrees.
    fn negotiate(&mut self, features: u64) -> bool;

    /// Sets the addresses of a queue.
    fn set_up(&mut self, index: usize, rings: &Rings);

    /// Starts the queues that are set up.
    fn run(&mut self);

    /// Notifies the device of chains in a queue.
    fn kick(&mut self, index: usize);

    /// Waits for an interrupt of any kind; returns false at the deadline.
    fn wait(&mut self, limit: Duration) -> bool;

    /// Whether the device has reported a broken ring.
    fn failed(&mut self) -> bool;

    /// Reads the configuration space; `None` if the transport leaves it to the front end.
    fn read_config(&mut self, offset: u32, len: usize) -> Option<Vec<u8>>;

    /// Writes to the configuration space.
    fn write_config(&mut self, offset: u32, data: &[u8]);

    /// The generation of the configuration space; `None` if the transport does not report
    /// changes.
    fn generation(&mut self) -> Option<u32>;

    /// Resets the device.
    fn reset(&mut self);

    /// Resets a queue, which can then be set up and run again.
    fn reset_queue(&mut self, index: usize);

    /// Stops the queues, which keep their positions.
    fn pause(&mut self);

    /// Continues after a pause.
    fn resume(&mut self);
}

/// Waits until one of the events is readable; returns false at the deadline.
pub fn wait_any<'fd>(events: impl Iterator<Item = BorrowedFd<'fd>>, limit: Duration) -> bool {
    let mut fds: Vec<_> = events
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    poll(&mut fds, PollTimeout::try_from(limit).unwrap()).unwrap() > 0
}
