//! Progress reports for an import.

use std::io::{self, Read};
use std::sync::Arc;

use oci_spec::image::Digest;

/// A step of a layer's import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerStep {
    /// The layer is in the store already.
    Present,
    /// The layer is being copied from a registry.
    Fetching,
    /// The layer is being unpacked.
    Unpacking,
    /// The layer is unpacked and checked.
    Done,
}

/// The progress of a layer.
#[derive(Debug, Clone, Copy)]
pub struct LayerProgress<'a> {
    /// The layer.
    pub digest: &'a Digest,
    /// Its step.
    pub step: LayerStep,
    /// The bytes that the step has completed.
    pub done: u64,
    /// The size of the layer in bytes.
    pub total: u64,
}

/// A function that is called for every step.
pub type Report = Arc<dyn Fn(LayerProgress<'_>) + Send + Sync>;

/// A [`Report`] that does nothing.
pub fn silent() -> Report {
    Arc::new(|_| {})
}

/// A reader that reports the number of bytes read.
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
