//! How far an image has come, for those who want to show it.

use std::io::{self, Read};
use std::sync::Arc;

use oci_spec::image::Digest;

/// What is done with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerStep {
    /// It is there already.
    Present,
    /// It is copied from a registry.
    Fetching,
    /// It is unpacked.
    Unpacking,
    /// It is unpacked and checked.
    Done,
}

/// How far a layer has come.
#[derive(Debug, Clone, Copy)]
pub struct LayerProgress<'a> {
    /// Which layer.
    pub digest: &'a Digest,
    /// What is done with it.
    pub step: LayerStep,
    /// Bytes of it that this is done with.
    pub done: u64,
    /// All its bytes.
    pub total: u64,
}

/// Called for every step.
pub type Report = Arc<dyn Fn(LayerProgress<'_>) + Send + Sync>;

/// A [`Report`] that does nothing.
pub fn silent() -> Report {
    Arc::new(|_| {})
}

/// A reader that reports how much was read.
pub(super) struct ProgressReader<'a, R> {
    pub(super) inner: R,
    pub(super) report: &'a Report,
    pub(super) now: LayerProgress<'a>,
}

impl<R: Read> Read for ProgressReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.now.done += read as u64;
        (self.report)(self.now);
        Ok(read)
    }
}
