//! Copies an image from a registry into a private OCI layout. It is imported from there like
//! any other image, which checks every digest.

mod auth;
mod client;
mod http;

use std::fs;
use std::path::Path;

use futures::{StreamExt, TryStreamExt, stream};
use oci_spec::distribution::Reference;
use oci_spec::image::{Descriptor, Digest, MediaType};
use tokio::io::AsyncWriteExt;

use self::client::Client;
use self::http::{Trust, is_local};
use super::content::{MAX_DOCUMENT, blob_path};
use super::credentials::{self, Credentials};
use super::digest::{check, sha256};
use super::error::ImageError;
pub use super::error::registry::RegistryError;
use super::layout::{self, Document};
use super::progress::{LayerProgress, LayerStep, Report};
use crate::error::{Context, Error, Result};

/// How many layers are copied at the same time.
const AT_ONCE: usize = 3;

/// The largest depth of nested indexes.
const MAX_DEPTH: usize = 4;

/// Image spec, "media-types.md"; the other types are docker's.
const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Options for access to registries.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// Whether TLS is required and certificates are checked; `None`: unless the registry is on
    /// this machine.
    pub tls_verify: Option<bool>,
    /// User and password; `None`: those of the usual files.
    pub credentials: Option<Credentials>,
    /// The file of credentials, in place of the usual ones.
    pub auth_file: Option<std::path::PathBuf>,
}

/// Copies one image.
pub(super) struct Puller {
    reference: Reference,
    client: Client,
}

impl Puller {
    pub(super) fn new(reference: &Reference, options: &RegistryOptions) -> Result<Self> {
        let trust = match options.tls_verify {
            Some(true) => Trust::Checked,
            Some(false) => Trust::Any,
            None if is_local(reference.registry()) => Trust::Local,
            None => Trust::Checked,
        };
        let credentials = match &options.credentials {
            Some(given) => Some(given.clone()),
            None => credentials::find(reference, options.auth_file.as_deref())?,
        };
        let client = Client::new(reference, credentials, trust);
        Ok(Self {
            reference: reference.clone(),
            client: client.map_err(|e| failed(reference, e))?,
        })
    }

    /// Copies index, manifest and configuration into the layout `dir`. Returns the first
    /// descriptor.
    pub(super) async fn documents(&mut self, dir: &Path) -> Result<Descriptor> {
        let mut reference = self.reference.clone();
        let mut top = None;
        for _ in 0..=MAX_DEPTH {
            let (text, descriptor) = self.manifest(&reference).await?;
            write(dir, descriptor.digest(), &text)?;
            let document = layout::read(&text, descriptor.digest())?;
            let top = top.get_or_insert(descriptor);
            match document {
                Document::Index(next) => {
                    reference = self.reference.clone_with_digest(next.digest().to_string());
                }
                Document::Manifest(manifest) => {
                    let config = manifest.config();
                    if config.size() > MAX_DOCUMENT {
                        return Err(ImageError::TooLarge {
                            what: format!("configuration of {}", self.reference.whole()),
                            size: config.size(),
                            limit: MAX_DOCUMENT,
                        }
                        .into());
                    }
                    self.blob(dir, config, &super::progress::silent()).await?;
                    return Ok(top.clone());
                }
            }
        }
        Err(ImageError::Document {
            what: self.reference.whole(),
            problem: "too many nested indexes".into(),
        }
        .into())
    }

    async fn manifest(&mut self, reference: &Reference) -> Result<(Vec<u8>, Descriptor)> {
        let version = reference.digest().or(reference.tag());
        let version = version.unwrap_or("latest");
        let pull = async |client: &Client| {
            client
                .manifest(version, &MANIFESTS, MAX_DOCUMENT as usize)
                .await
        };
        let mut pulled = pull(&self.client).await;
        if pulled.as_ref().is_err_and(RegistryError::is_no_answer)
            && self.client.trust() != Trust::Checked
        {
            self.client.set_plain(true);
            pulled = pull(&self.client).await;
            self.client.set_plain(pulled.is_ok());
        }
        let text = pulled.map_err(|e| failed(reference, e))?;
        let digest = match reference.digest() {
            // The document must have the requested digest.
            Some(asked) => {
                let asked = digest_of(asked)?;
                check(&text, &asked)?;
                asked
            }
            None => digest_of(&sha256(&text))?,
        };
        let size = text.len() as u64;
        Ok((
            text,
            Descriptor::new(MediaType::ImageManifest, size, digest),
        ))
    }

    /// Copies blobs into the layout `dir`, several at a time.
    pub(super) async fn blobs(
        &self,
        dir: &Path,
        wanted: impl Iterator<Item = &Descriptor>,
        report: &Report,
    ) -> Result<()> {
        let mut wanted: Vec<&Descriptor> = wanted.collect();
        wanted.sort_by_key(|descriptor| descriptor.digest().to_string());
        wanted.dedup_by_key(|descriptor| descriptor.digest().to_string());
        let copies = wanted.into_iter().map(|blob| self.blob(dir, blob, report));
        let copied = stream::iter(copies).buffer_unordered(AT_ONCE);
        copied.try_collect::<Vec<()>>().await.map(drop)
    }

    async fn blob(&self, dir: &Path, blob: &Descriptor, report: &Report) -> Result<()> {
        let digest = blob.digest();
        let path = place(dir, digest)?;
        let report_done = |done| {
            report(LayerProgress {
                digest,
                step: LayerStep::Fetching,
                done,
                total: blob.size(),
            });
        };
        report_done(0);
        let mut file = tokio::fs::File::create(&path).await.on("create", &path)?;
        let pulled = self.client.blob(digest.as_ref()).await;
        let mut answer = pulled.map_err(|e| failed(&self.reference, e))?;
        let mut count = 0;
        while let Some(chunk) = answer.chunk().await.map_err(|source| ImageError::Read {
            what: format!("{digest} of {}", self.reference.whole()),
            source: std::io::Error::other(source),
        })? {
            count += chunk.len() as u64;
            if count > blob.size() {
                break;
            }
            file.write_all(&chunk).await.on("write", &path)?;
            report_done(count);
        }
        if count != blob.size() {
            return Err(ImageError::Size {
                digest: digest.to_string(),
                expected: blob.size(),
            }
            .into());
        }
        file.flush().await.on("write", &path)
    }
}

fn digest_of(text: &str) -> Result<Digest> {
    text.parse()
        .map_err(|_| ImageError::Algorithm(text.to_owned()).into())
}

/// The path of a blob in the layout `dir`; makes its directory.
fn place(dir: &Path, digest: &Digest) -> Result<std::path::PathBuf> {
    let path = dir.join(blob_path(digest)?);
    let parent = path.parent().unwrap_or(dir);
    fs::create_dir_all(parent).on("create", parent)?;
    Ok(path)
}

fn write(dir: &Path, digest: &Digest, text: &[u8]) -> Result<()> {
    let path = place(dir, digest)?;
    fs::write(&path, text).on("write", &path)
}

fn failed(reference: &Reference, source: RegistryError) -> Error {
    ImageError::Registry {
        image: reference.whole(),
        source: Box::new(source),
    }
    .into()
}
