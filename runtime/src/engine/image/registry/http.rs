//! HTTP as registries are spoken to: whose certificates are checked, what is read of an answer,
//! and what an error says.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{NoProxy, Proxy, Response, StatusCode};
use serde::Deserialize;

use crate::engine::image::error::registry::RegistryError;

/// A registry that says nothing for so long has gone.
const SILENCE: Duration = Duration::from_secs(60);

/// As much is read of an answer that says what is wrong.
const MAX_COMPLAINT: usize = 16 << 10;

/// As much of it is told.
const MAX_REASON: usize = 500;

/// How a registry is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// By TLS with certificates that are checked, and so is everybody that it sends us to.
    Checked,
    /// It is on this machine: it may go without, and so may others on this machine.
    Local,
    /// As the user says, anyhow.
    Any,
}

impl Trust {
    /// Whether a host may be spoken to without a check of its certificate.
    pub(super) fn spares(self, host: &str) -> bool {
        match self {
            Self::Checked => false,
            Self::Local => is_local(host),
            Self::Any => true,
        }
    }
}

/// Whether a host, with a port or without, is this machine.
pub(super) fn is_local(host: &str) -> bool {
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The clients for a registry and those that it sends us to.
pub(super) struct Http {
    trust: Trust,
    /// For hosts that are to be checked, and for the others.
    checked: reqwest::Client,
    unchecked: reqwest::Client,
}

impl Http {
    pub(super) fn new(trust: Trust) -> Result<Self, RegistryError> {
        // Fails only if there is one already, which will do.
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

    /// Whether `host` may be spoken to without a check of its certificate.
    pub(super) fn spares(&self, host: &str) -> bool {
        self.trust.spares(host)
    }

    /// For requests to `host`.
    pub(super) fn client(&self, host: &str) -> &reqwest::Client {
        match self.spares(host) {
            true => &self.unchecked,
            false => &self.checked,
        }
    }
}

fn client(checked: bool) -> Result<reqwest::Client, RegistryError> {
    let mut client = reqwest::Client::builder()
        // Also of where it is sent on to.
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

/// An answer that is a success, or what the registry says instead.
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

/// Distribution spec, "Error Codes".
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

/// What a registry says is wrong: codes, and text for people.
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

/// The challenges of an answer, one a header.
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
