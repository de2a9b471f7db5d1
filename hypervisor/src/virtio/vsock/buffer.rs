//! Bytes from the guest that the host has not taken yet.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::IoSlice;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use super::slices::Slices;

/// A byte queue. The caller bounds it; an empty one holds no memory to speak of.
#[derive(Default)]
pub(crate) struct Buffer {
    bytes: VecDeque<u8>,
}

impl Buffer {
    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends a copy of `data`.
    pub fn push(&mut self, data: &Slices<'_>) {
        if data.len() == 0 {
            return;
        }
        let mut copy = vec![0; data.len()];
        data.copy_to(&mut copy);
        if self.bytes.is_empty() {
            self.bytes = copy.into();
        } else {
            self.bytes.extend(&copy);
        }
    }

    /// Sends from the front without waiting; returns how many bytes went.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let (front, back) = self.bytes.as_slices();
        let sent = sendmsg(
            socket,
            &[IoSlice::new(front), IoSlice::new(back)],
            &mut SendAncillaryBuffer::default(),
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )?;
        self.bytes.drain(..sent);
        if self.bytes.is_empty() {
            self.bytes = VecDeque::new();
        }
        Ok(sent)
    }

    /// Drops all.
    pub fn clear(&mut self) {
        self.bytes = VecDeque::new();
    }
}
