//! HTTP for registries: which certificates are checked, how much of an answer is read, and the
//! text of errors.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{NoProxy, Proxy, Response, StatusCode};
use serde::Deserialize;

use crate::engine::image::error::registry::RegistryError;

/// How long a registry may be silent before it counts as gone.
const SILENCE: Duration = Duration::from_secs(60);

/// How many bytes of an error answer are read.
const MAX_COMPLAINT: usize = 16 << 10;

/// How many bytes of its text the error repeats.
const MAX_REASON: usize = 500;

/// The required trust in a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// TLS with checked certificates, also for hosts that the registry redirects to.
    Checked,
    /// The registry is on this machine: it and other servers on this machine may go without.
    Local,
    /// No host needs a valid certificate: the user allowed that.
    Any,
}

impl Trust {
    /// Whether a host's certificate need not be checked.
    pub(super) fn spares(self, host: &str) -> bool {
        match self {
            Self::Checked => false,
            Self::Local => is_local(host),
            Self::Any => true,
        }
    }
}

/// Whether a host, with or without a port, is this machine.
pub(super) fn is_local(host: &str) -> bool {
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// HTTP clients for a registry and the hosts that it redirects to.
pub(super) struct Http {
    trust: Trust,
    /// The client for hosts with checked certificates; the other one is for the rest.
    checked: reqwest::Client,
    unchecked: reqwest::Client,
}

impl Http {
    pub(super) fn new(trust: Trust) -> Result<Self, RegistryError> {
        // This fails only if a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            trust,
            checked: client(true)?,
            unchecked: client(false)?,
        })
    }

    pub(super) fn trust(&self) -> Trust {
        self.trust
    }

    /// Whether `host`'s certificate need not be checked.
    pub(super) fn spares(&self, host: &str) -> bool {
        self.trust.spares(host)
    }

    /// The client for requests to `host`.
    pub(super) fn client(&self, host: &str) -> &reqwest::Client {
        match self.spares(host) {
            true => &self.unchecked,
            false => &self.checked,
        }
    }
}

fn client(checked: bool) -> Result<reqwest::Client, RegistryError> {
    let mut client = reqwest::Client::builder()
        // This applies to redirects, too.
        .https_only(checked)
        .tls_danger_accept_invalid_certs(!checked)
        .read_timeout(SILENCE)
        .connect_timeout(SILENCE)
        .user_agent(concat!("rust-kata/", env!("CARGO_PKG_VERSION")));
    let variable = |names: [&str; 2]| {
        let mut found = names
            .into_iter()
            .filter_map(|name| std::env::var(name).ok());
        found.find(|value| !value.is_empty())
    };
    let except = variable(["no_proxy", "NO_PROXY"]);
    let except = || except.as_deref().and_then(NoProxy::from_string);
    if let Some(proxy) = variable(["https_proxy", "HTTPS_PROXY"]) {
        client = client.proxy(Proxy::https(proxy)?.no_proxy(except()));
    }
    if let Some(proxy) = variable(["http_proxy", "HTTP_PROXY"]) {
        client = client.proxy(Proxy::http(proxy)?.no_proxy(except()));
    }
    Ok(client.build()?)
}

/// Reads an answer of at most `limit` bytes.
pub(super) async fn bounded(
    mut answer: Response,
    what: &'static str,
    limit: usize,
) -> Result<Vec<u8>, RegistryError> {
    let too_large = RegistryError::TooLarge { what, limit };
    let announced = answer.content_length().unwrap_or(0);
    if announced > limit as u64 {
        return Err(too_large);
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Err(too_large);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Passes a successful answer on; turns another into the registry's error.
pub(super) async fn checked(answer: Response, url: &str) -> Result<Response, RegistryError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let url = url.to_owned();
    if status == StatusCode::UNAUTHORIZED {
        return Err(RegistryError::Unauthorized { url });
    }
    let complaint = tokio::time::timeout(SILENCE, complaint(answer)).await;
    let (codes, message) = complaint.unwrap_or_default();
    Err(RegistryError::Refused {
        status: status.as_u16(),
        url,
        codes,
        message,
    })
}

/// The body of an error answer (distribution spec, "Error Codes").
#[derive(Deserialize)]
struct Complaint {
    errors: Vec<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    code: String,
    #[serde(default)]
    message: String,
}

/// The codes and the text of an error answer.
async fn complaint(mut answer: Response) -> (Vec<String>, String) {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        let room = MAX_COMPLAINT - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == MAX_COMPLAINT {
            break;
        }
    }
    let Ok(complaint) = serde_json::from_slice::<Complaint>(&body) else {
        return Default::default();
    };
    let reasons = complaint
        .errors
        .iter()
        .map(|reason| match &*reason.message {
            "" => reason.code.clone(),
            message => format!("{message} ({})", reason.code),
        });
    let reasons: String = reasons.collect::<Vec<_>>().join("; ");
    let plain = |c: char| if c.is_control() { '.' } else { c };
    (
        complaint.errors.into_iter().map(|r| r.code).collect(),
        reasons.chars().map(plain).take(MAX_REASON).collect(),
    )
}

/// The challenges of an answer, one per header.
pub(super) fn challenges(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(reqwest::header::WWW_AUTHENTICATE).iter();
    values.filter_map(|value| value.to_str().ok())
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
            assert!(!Trust::Local.spares(other) && Trust::Any.spares(other));
        }
        assert!(Trust::Local.spares("[::1]") && !Trust::Checked.spares("localhost"));
    }
}
