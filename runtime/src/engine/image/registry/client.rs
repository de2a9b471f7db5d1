//! Requests to a registry (OCI distribution spec, "Pull"). Registries are not trusted: every
//! answer that is kept is bounded in size and time.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use oci_spec::distribution::Reference;
use reqwest::header::{ACCEPT, AUTHORIZATION};
use reqwest::{Response, StatusCode};

use super::auth::{Authorization, Challenge};
use super::http::{Http, Trust, bounded, checked};
use crate::engine::image::credentials::Credentials;
use crate::engine::image::error::registry::RegistryError;
use crate::sync::lock;

/// How long an answer that is kept in memory may take.
const DOCUMENT_TIME: Duration = Duration::from_secs(120);

/// A client for pulling from one repository.
pub(super) struct Client {
    reference: Reference,
    credentials: Option<Credentials>,
    http: Http,
    /// Whether to go without TLS.
    plain: bool,
    authorization: Mutex<Option<Authorization>>,
}

impl Client {
    pub(super) fn new(
        reference: &Reference,
        credentials: Option<Credentials>,
        trust: Trust,
    ) -> Result<Self, RegistryError> {
        Ok(Self {
            reference: reference.clone(),
            credentials,
            http: Http::new(trust)?,
            plain: false,
            authorization: Mutex::default(),
        })
    }

    /// The required trust in the registry.
    pub(super) fn trust(&self) -> Trust {
        self.http.trust()
    }

    /// Switches TLS off or on.
    pub(super) fn set_plain(&mut self, plain: bool) {
        self.plain = plain;
    }

    /// Fetches a manifest or an index of at most `limit` bytes.
    pub(super) async fn manifest(
        &self,
        version: &str,
        accept: &[&str],
        limit: usize,
    ) -> Result<Vec<u8>, RegistryError> {
        let (path, accept) = (format!("manifests/{version}"), accept.join(", "));
        let answer = tokio::time::timeout(DOCUMENT_TIME, async {
            bounded(self.get(&path, &accept).await?, "a manifest", limit).await
        });
        answer.await.map_err(|_| RegistryError::Slow)?
    }

    /// Fetches a blob as a stream of any length.
    pub(super) async fn blob(&self, digest: &str) -> Result<Response, RegistryError> {
        self.get(&format!("blobs/{digest}"), "*/*").await
    }

    async fn get(&self, path: &str, accept: &str) -> Result<Response, RegistryError> {
        let registry = self.reference.resolve_registry();
        let scheme = if self.plain { "http" } else { "https" };
        let repository = self.reference.repository();
        let url = format!("{scheme}://{registry}/v2/{repository}/{path}");
        let known = self.authorization();
        let answer = self.send(&url, accept, known.as_ref()).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return checked(answer, &url).await;
        }
        // The registry asks for authentication: for the first time, or because it has expired.
        let Some(challenge) = Challenge::of(answer.headers()) else {
            return checked(answer, &url).await;
        };
        drop(answer);
        let authorization = challenge
            .answer(&self.http, repository, self.credentials.as_ref())
            .await?;
        let answer = self.send(&url, accept, authorization.as_ref()).await?;
        *self.cached() = authorization;
        checked(answer, &url).await
    }

    async fn send(
        &self,
        url: &str,
        accept: &str,
        authorization: Option<&Authorization>,
    ) -> Result<Response, RegistryError> {
        let http = self.http.client(self.reference.resolve_registry());
        let mut request = http.get(url).header(ACCEPT, accept);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization.header()?);
        }
        Ok(request.send().await?)
    }

    fn authorization(&self) -> Option<Authorization> {
        let cached = self.cached();
        cached.clone().filter(Authorization::is_valid)
    }

    fn cached(&self) -> MutexGuard<'_, Option<Authorization>> {
        lock(&self.authorization)
    }
}
