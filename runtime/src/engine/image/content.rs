//! The source of an image's blobs: an OCI image layout (image spec, "image-layout.md") in a
//! directory, or in a tar archive that is read in place.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use oci_spec::image::{Descriptor, Digest, DigestAlgorithm};

use super::digest;
use super::error::ImageError;
use super::layer::decompressed;
use crate::error::Result;

/// The longest index, manifest or configuration.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;

/// The largest number of files in a layout.
const MAX_FILES: usize = 1 << 20;

/// The longest headers of one entry, in bytes.
const MAX_HEADERS: u64 = 1 << 20;

const INDEX: &str = "index.json";

/// A store of content by digest.
pub(super) trait Content {
    /// The name for messages.
    fn name(&self) -> String;

    /// Opens a file by its path in the layout.
    fn open(&self, path: &str) -> io::Result<Box<dyn Read + '_>>;

    /// Opens a blob. Its content is not checked yet.
    fn blob(&self, digest: &Digest) -> Result<Box<dyn Read + '_>> {
        let path = blob_path(digest)?;
        self.open(&path).map_err(|source| {
            ImageError::Read {
                what: format!("{path} of {}", self.name()),
                source,
            }
            .into()
        })
    }

    /// Reads a document and checks it against its descriptor.
    fn document(&self, what: &str, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let digest = descriptor.digest();
        let what = format!("{what} {digest} of {}", self.name());
        let text = read_limited(self.blob(digest)?, &what)?;
        if text.len() as u64 != descriptor.size() {
            return Err(ImageError::Size {
                digest: digest.to_string(),
                expected: descriptor.size(),
            }
            .into());
        }
        digest::check(&text, digest)?;
        Ok(text)
    }

    /// Reads the layout's list of images.
    fn index(&self) -> Result<Vec<u8>> {
        let what = format!("{INDEX} of {}", self.name());
        let file = self.open(INDEX).map_err(|source| ImageError::Read {
            what: what.clone(),
            source,
        })?;
        read_limited(file, &what)
    }
}

/// A blob's path in a layout (image spec, "Blobs").
pub(super) fn blob_path(digest: &Digest) -> Result<String> {
    match digest.algorithm() {
        // The digest is lower-case hexadecimal in these algorithms, so it is a plain file name.
        DigestAlgorithm::Sha256 | DigestAlgorithm::Sha512 => {
            Ok(format!("blobs/{}/{}", digest.algorithm(), digest.digest()))
        }
        _ => Err(ImageError::Algorithm(digest.to_string()).into()),
    }
}

fn read_limited(file: impl Read, what: &str) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let read = file.take(MAX_DOCUMENT + 1).read_to_end(&mut text);
    read.map_err(|source| ImageError::Read {
        what: what.to_owned(),
        source,
    })?;
    if text.len() as u64 > MAX_DOCUMENT {
        return Err(ImageError::TooLarge {
            what: what.to_owned(),
            size: text.len() as u64,
            limit: MAX_DOCUMENT,
        }
        .into());
    }
    Ok(text)
}

/// A layout in a directory.
pub(super) struct LayoutDir(pub(super) PathBuf);

impl Content for LayoutDir {
    fn name(&self) -> String {
        self.0.display().to_string()
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn Read + '_>> {
        open_file(&self.0.join(path)).map(|file| Box::new(file) as _)
    }
}

/// A layout in an archive.
pub(super) struct Archive {
    path: PathBuf,
    file: Arc<File>,
    /// The offset and length of each file in it.
    files: HashMap<String, (u64, u64)>,
}

impl Archive {
    /// Lists the archive `path`. A compressed archive is decompressed to `scratch`.
    pub(super) fn open(path: &Path, scratch: &Path) -> Result<Self> {
        let failed = |source| ImageError::Read {
            what: path.display().to_string(),
            source,
        };
        let mut file = open_file(path).map_err(failed)?;
        if is_compressed(&mut file).map_err(failed)? {
            file = decompress(file, scratch).map_err(failed)?;
        }
        let files = list(&file).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            files,
        })
    }
}

impl Content for Archive {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn Read + '_>> {
        let found = self.files.get(path).copied();
        let (at, size) = found.ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Section {
            file: self.file.clone(),
            at,
            left: size,
        }))
    }
}

/// Opens a regular file. A FIFO or a device could block, or have side effects.
fn open_file(path: &Path) -> io::Result<File> {
    let mut how = OpenOptions::new();
    let file = how.read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        let problem = "it is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    Ok(file)
}

/// Whether a file is compressed. An archive starts with a name (pax(1), "ustar Interchange
/// Format"), and names do not start with these bytes.
fn is_compressed(file: &mut File) -> io::Result<bool> {
    let mut start = [0; 4];
    let read = file.read_at(&mut start, 0)?;
    Ok(start[..read].starts_with(&[0x1f, 0x8b]) || start == [0x28, 0xb5, 0x2f, 0xfd])
}

fn decompress(file: File, scratch: &Path) -> io::Result<File> {
    let path = scratch.join("archive.tar");
    let mut how = OpenOptions::new();
    let mut plain = how.read(true).write(true).create_new(true).open(&path)?;
    io::copy(&mut decompressed(BufReader::new(file))?, &mut plain)?;
    plain.rewind()?;
    Ok(plain)
}

/// Lists the files of a layout in an archive. A later file replaces an earlier one.
fn list(file: &File) -> io::Result<HashMap<String, (u64, u64)>> {
    let allowance = Rc::new(Cell::new(MAX_HEADERS));
    let mut archive = tar::Archive::new(Metered {
        file,
        allowance: allowance.clone(),
    });
    let mut files = HashMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        // Contents are skipped, not read.
        allowance.set(MAX_HEADERS);
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path_bytes();
        let Ok(name) = std::str::from_utf8(&name) else {
            continue;
        };
        let name = name.trim_start_matches("./");
        if name == INDEX || name.starts_with("blobs/") {
            files.insert(name.to_owned(), (entry.raw_file_position(), entry.size()));
        }
        if files.len() > MAX_FILES {
            return Err(io::Error::other("it has too many files for a layout"));
        }
    }
    Ok(files)
}

/// A reader with a limit for the headers of an entry, which are kept in memory.
struct Metered<'a> {
    file: &'a File,
    allowance: Rc<Cell<u64>>,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        let left = self.allowance.get().checked_sub(read as u64);
        let problem = || io::Error::other("the headers of an entry are larger than 1 MiB");
        self.allowance.set(left.ok_or_else(problem)?);
        Ok(read)
    }
}

impl Seek for Metered<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// A part of a file.
struct Section {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
