//! Copying an image from a registry into a private OCI layout, from which it is
//! taken in like any other: there every digest is checked.

use std::fs;
use std::path::Path;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
};
use oci_client::secrets::RegistryAuth;
use oci_spec::image::{Descriptor, Digest, MediaType};
use tokio::io::AsyncWriteExt;

use super::content::{MAX_DOCUMENT, blob_path};
use super::credentials::{self, Credentials};
use super::digest::{check, sha256};
use super::error::ImageError;
use super::layout::{self, Document};
use super::progress::{LayerProgress, LayerStep, Report};
use crate::error::{Context, Error, Result};

/// Layers that are copied at the same time.
const AT_ONCE: usize = 3;

/// A registry that says nothing for so long has gone.
const SILENCE: Duration = Duration::from_secs(60);

/// As deep as indexes may be in each other.
const MAX_DEPTH: usize = 4;

const MANIFESTS: [&str; 4] = [
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
];

/// How registries are spoken to.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// Whether TLS is a must and certificates are checked; if not given: unless
    /// the registry is on this machine.
    pub tls_verify: Option<bool>,
    /// Who we are; if not given, what the usual files say.
    pub credentials: Option<Credentials>,
    /// The file of credentials, instead of the usual ones.
    pub auth_file: Option<std::path::PathBuf>,
}

/// Copies one image.
pub(super) struct Puller {
    reference: Reference,
    auth: RegistryAuth,
    client: Client,
    /// Without TLS, for when there is none.
    plain: Option<Client>,
}

impl Puller {
    pub(super) fn new(reference: &Reference, options: &RegistryOptions) -> Result<Self> {
        let verify = options
            .tls_verify
            .unwrap_or_else(|| !is_local(reference.registry()));
        let credentials = match &options.credentials {
            Some(given) => Some(given.clone()),
            None => credentials::find(reference, options.auth_file.as_deref())?,
        };
        let auth = match credentials {
            None => RegistryAuth::Anonymous,
            Some(who) => RegistryAuth::Basic(who.user, who.password),
        };
        let client = |protocol| {
            let built = Client::try_from(config(protocol, verify));
            built.map_err(|e| failed(reference, e))
        };
        // Fails only if there is one already, which will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            reference: reference.clone(),
            auth,
            client: client(ClientProtocol::Https)?,
            plain: (!verify)
                .then(|| client(ClientProtocol::Http))
                .transpose()?,
        })
    }

    /// Copies index, manifest and configuration into the layout `dir`. Answers
    /// what leads to them.
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
                            what: format!("Configuration of {}", self.reference.whole()),
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
            problem: "indexes lead to indexes without end".into(),
        }
        .into())
    }

    async fn manifest(&mut self, reference: &Reference) -> Result<(Vec<u8>, Descriptor)> {
        let pull = async |client: &Client| {
            client
                .pull_manifest_raw(reference, &self.auth, &MANIFESTS)
                .await
        };
        let mut pulled = pull(&self.client).await;
        if let (Err(OciDistributionError::RequestError(_)), Some(plain)) = (&pulled, &self.plain) {
            pulled = pull(plain).await;
            if pulled.is_ok() {
                self.client = plain.clone();
            }
        }
        let (text, _) = pulled.map_err(|e| failed(reference, e))?;
        let digest = match reference.digest() {
            // It is what was asked for, or of no use.
            Some(asked) => {
                let asked = digest_of(asked)?;
                check(&text, &asked)?;
                asked
            }
            None => digest_of(&sha256(&text))?,
        };
        let size = text.len() as u64;
        Ok((
            text.to_vec(),
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
        let copied = futures::stream::iter(copies).buffer_unordered(AT_ONCE);
        copied.try_collect::<Vec<()>>().await.map(drop)
    }

    async fn blob(&self, dir: &Path, blob: &Descriptor, report: &Report) -> Result<()> {
        let digest = blob.digest();
        let path = place(dir, digest)?;
        let tell = |done| {
            report(LayerProgress {
                digest,
                step: LayerStep::Fetching,
                done,
                total: blob.size(),
            });
        };
        tell(0);
        let mut file = tokio::fs::File::create(&path).await.on("create", &path)?;
        let pulled = self
            .client
            .pull_blob_stream(&self.reference, digest.as_ref());
        let mut stream = pulled.await.map_err(|e| failed(&self.reference, e))?.stream;
        let mut count = 0;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|source| ImageError::Read {
                what: format!("{digest} of {}", self.reference.whole()),
                source,
            })?;
            count += chunk.len() as u64;
            if count > blob.size() {
                break;
            }
            file.write_all(&chunk).await.on("write", &path)?;
            tell(count);
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

fn config(protocol: ClientProtocol, verify: bool) -> ClientConfig {
    let proxy = |names: [&str; 2]| {
        let mut found = names
            .into_iter()
            .filter_map(|name| std::env::var(name).ok());
        found.find(|value| !value.is_empty())
    };
    ClientConfig {
        protocol,
        accept_invalid_certificates: !verify,
        read_timeout: Some(SILENCE),
        connect_timeout: Some(SILENCE),
        user_agent: concat!("rust-kata/", env!("CARGO_PKG_VERSION")),
        https_proxy: proxy(["https_proxy", "HTTPS_PROXY"]),
        http_proxy: proxy(["http_proxy", "HTTP_PROXY"]),
        no_proxy: proxy(["no_proxy", "NO_PROXY"]),
        ..ClientConfig::default()
    }
}

/// Whether a registry is on this machine.
fn is_local(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn digest_of(text: &str) -> Result<Digest> {
    text.parse()
        .map_err(|_| ImageError::Algorithm(text.to_owned()).into())
}

/// Where a blob is in the layout `dir`, its directory made.
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

fn failed(reference: &Reference, source: OciDistributionError) -> Error {
    ImageError::Registry {
        image: reference.whole(),
        source: Box::new(source),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_may_go_without_tls() {
        for local in ["localhost", "localhost:5000", "127.0.0.1:1", "[::1]:5000"] {
            assert!(is_local(local), "{local}");
        }
        for other in ["localhost.example:1", "quay.io", "128.0.0.1:1", "[fe80::1]"] {
            assert!(!is_local(other), "{other}");
        }
    }
}
