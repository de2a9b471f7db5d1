//! Digests: content is hashed while it is read, and is valid only if the digest matches.

use std::io::{self, Read};

use oci_spec::image::{Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256, Sha512};

use super::error::ImageError;
use crate::error::Result;

/// Computes a digest of one of the algorithms of the image spec ("Digests").
enum Hasher {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Hasher {
    fn new(digest: &Digest) -> Result<Self> {
        match digest.algorithm() {
            DigestAlgorithm::Sha256 => Ok(Self::Sha256(Sha256::new())),
            DigestAlgorithm::Sha512 => Ok(Self::Sha512(Box::new(Sha512::new()))),
            _ => Err(ImageError::Algorithm(digest.to_string()).into()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Self::Sha256(hash) => format!("sha256:{}", hex::encode(hash.finalize())),
            Self::Sha512(hash) => format!("sha512:{}", hex::encode(hash.finalize())),
        }
    }
}

/// A reader that hashes what it reads, and reads no more than `limit` bytes.
pub(super) struct Hashed<R> {
    inner: R,
    hasher: Hasher,
    count: u64,
    limit: u64,
}

impl<R: Read> Hashed<R> {
    /// Reads up to `limit` bytes for `digest`.
    ///
    /// # Errors
    /// [`ImageError::Algorithm`] for an unsupported algorithm.
    pub(super) fn new(inner: R, digest: &Digest, limit: u64) -> Result<Self> {
        Ok(Self {
            inner,
            hasher: Hasher::new(digest)?,
            count: 0,
            limit,
        })
    }

    /// Reads the rest; returns the number of bytes and their digest.
    pub(super) fn finish(mut self) -> io::Result<(u64, String)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((self.count, self.hasher.finish()))
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count += read as u64;
        if self.count > self.limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it is larger than {} bytes", self.limit),
            ));
        }
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// The SHA-256 digest of bytes in memory.
pub(super) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Checks bytes in memory.
///
/// # Errors
/// [`ImageError::Digest`].
pub(super) fn check(bytes: &[u8], digest: &Digest) -> Result<()> {
    let mut hasher = Hasher::new(digest)?;
    hasher.update(bytes);
    let found = hasher.finish();
    if found != digest.as_ref() {
        return Err(ImageError::Digest {
            expected: digest.to_string(),
            found,
        }
        .into());
    }
    Ok(())
}

/// Ids of the stacks of layers (image spec, "Layer ChainID"), lowest first.
pub(super) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => diff_id.clone(),
            Some(below) => sha256(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(id);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn what_is_read_is_hashed_whole() {
        let digest: Digest = ABC.parse().unwrap();
        let mut reader = Hashed::new(&b"abc"[..], &digest, 3).unwrap();
        reader.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(reader.finish().unwrap(), (3, ABC.to_owned()));
        check(b"abc", &digest).unwrap();
        let said = check(b"abd", &digest).unwrap_err().to_string();
        assert!(said.contains(ABC), "{said}");
    }

    #[test]
    fn more_than_was_said_is_not_read() {
        let digest: Digest = ABC.parse().unwrap();
        let reader = Hashed::new(io::repeat(0), &digest, 1000).unwrap();
        assert!(reader.finish().is_err());
    }

    #[test]
    fn other_algorithms_are_refused() {
        let digest: Digest = "md5:900150983cd24fb0d6963f7d28e17f72".parse().unwrap();
        assert!(Hashed::new(&b""[..], &digest, 0).is_err());
    }

    #[test]
    fn chains_depend_on_what_is_below() {
        let ids = ["sha256:a".to_owned(), "sha256:b".to_owned()];
        let chain = chain_ids(&ids);
        assert_eq!(chain[0], ids[0]);
        assert_eq!(chain[1], sha256(b"sha256:a sha256:b"));
    }
}
