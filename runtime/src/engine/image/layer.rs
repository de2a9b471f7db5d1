//! Unpacking a layer from a blob into a directory. The blob is read once: hashed as it is
//! stored, decompressed, hashed again, and unpacked.
//!
//! ```text
//! blob ─▶ Hashed (digest, size) ─▶ gzip, zstd or nothing ─▶ Hashed (diff id) ─▶ unpack
//! ```

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use oci_spec::image::{Descriptor, Digest, MediaType};

use super::digest::Hashed;
use super::error::ImageError;
use crate::engine::archive::unpack::{self, Unpacked};
use crate::error::Result;

const BUFFER: usize = 256 << 10;

/// The largest window of a zstd frame: 128 MiB (RFC 8878, section 3.1.1.1.2 leaves the limit to
/// the decoder).
const ZSTD_WINDOW_LOG: u32 = 27;

/// Unpacks a layer into the empty directory `into`. `lower` are the layers below it, lowest
/// first.
///
/// # Errors
/// [`ImageError`] if its digests do not match, or if an entry is refused.
pub(super) fn unpack(
    blob: impl Read,
    descriptor: &Descriptor,
    diff_id: &Digest,
    into: &Path,
    lower: &[PathBuf],
) -> Result<Unpacked> {
    check_kind(descriptor)?;
    let layer = descriptor.digest().to_string();
    let archive = |source: io::Error| ImageError::Archive {
        layer: layer.clone(),
        source,
    };
    let mut blob = Hashed::new(blob, descriptor.digest(), descriptor.size())?;
    let unpacked = (|| -> Result<_> {
        let plain = decompressed(BufReader::with_capacity(BUFFER, &mut blob)).map_err(archive)?;
        let mut plain = Hashed::new(plain, diff_id, u64::MAX)?;
        let unpacked = unpack::unpack(&mut plain, into, lower)
            .map_err(|error| ImageError::of_layer(&layer, error))?;
        // Bytes after the archive's end are part of the digest, too.
        let (_, found) = plain.finish().map_err(archive)?;
        Ok((unpacked, found))
    })();
    // A mismatch of the digest is reported before the errors that it causes.
    let (size, found) = blob.finish().map_err(|e| match e.kind() {
        io::ErrorKind::FileTooLarge => ImageError::Size {
            digest: layer.clone(),
            expected: descriptor.size(),
        },
        _ => ImageError::Read {
            what: layer.clone(),
            source: e,
        },
    })?;
    if size != descriptor.size() {
        return Err(ImageError::Size {
            digest: layer,
            expected: descriptor.size(),
        }
        .into());
    }
    if found != layer {
        return Err(ImageError::Digest {
            expected: layer,
            found,
        }
        .into());
    }
    let (unpacked, found) = unpacked?;
    if found != diff_id.as_ref() {
        return Err(ImageError::DiffId {
            layer,
            expected: diff_id.to_string(),
            found,
        }
        .into());
    }
    Ok(unpacked)
}

/// Image spec, "layer.md"; the other types are docker's.
fn check_kind(descriptor: &Descriptor) -> Result<()> {
    let fine = match descriptor.media_type() {
        MediaType::ImageLayer
        | MediaType::ImageLayerGzip
        | MediaType::ImageLayerZstd
        | MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => true,
        other => matches!(
            other.as_ref(),
            "application/vnd.docker.image.rootfs.diff.tar"
                | "application/vnd.docker.image.rootfs.diff.tar.gzip"
                | "application/vnd.docker.image.rootfs.diff.tar.zstd"
                | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        ),
    };
    if fine {
        return Ok(());
    }
    Err(ImageError::Document {
        what: format!("layer {}", descriptor.digest()),
        problem: format!(
            "its media type {} is not one of a layer",
            descriptor.media_type()
        ),
    }
    .into())
}

/// Detects the compression by the first bytes, since media types are often wrong.
pub(super) fn decompressed<'a>(mut reader: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    const GZIP: &[u8] = &[0x1f, 0x8b]; // RFC 1952, section 2.3.1
    const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd]; // RFC 8878, section 3.1.1
    let start = reader.fill_buf()?;
    if start.starts_with(GZIP) {
        return Ok(Box::new(MultiGzDecoder::new(reader)));
    }
    if start.starts_with(ZSTD) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(reader))
}
