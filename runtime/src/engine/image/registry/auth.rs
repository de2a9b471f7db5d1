//! Authentication at a registry (distribution's "Token Authentication Specification"; RFC 7617
//! and 6750). Tokens are fetched from the address that the registry names, by TLS unless the
//! registry itself may go without.

use std::fmt;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_auth::parse_challenges;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::http::{Http, bounded, challenges};
use crate::engine::image::credentials::Credentials;
use crate::engine::image::error::registry::RegistryError;

/// The longest token: tokens go into a header.
const MAX_TOKEN: usize = 64 << 10;

/// How long fetching a token may take.
const TOKEN_TIME: Duration = Duration::from_secs(60);

/// The lifetime of a token that does not give one (Token Authentication Specification,
/// "expires_in").
const DEFAULT_LIFE: u64 = 60;

/// A registry's demand for authentication.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// The user's name and password.
    Basic,
    /// A token.
    Bearer {
        /// The address for tokens.
        realm: String,
        service: Option<String>,
    },
}

/// The value of the Authorization header, which is a secret.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Authorization {
    header: String,
    /// The time until which it is valid.
    until: Option<Instant>,
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization").finish_non_exhaustive()
    }
}

impl Authorization {
    pub(super) fn is_valid(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }

    pub(super) fn header(&self) -> Result<HeaderValue, RegistryError> {
        let mut value = HeaderValue::from_str(&self.header).map_err(|_| {
            RegistryError::Token("it contains characters that a header cannot have".into())
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Challenge {
    /// The supported challenge in an answer; a token is preferred.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut found = None;
        for challenge in challenges(headers)
            .filter_map(|text| parse_challenges(text).ok())
            .flatten()
        {
            let param = |name: &str| {
                let mut params = challenge.params.iter();
                let named = params.find(|(key, _)| key.eq_ignore_ascii_case(name));
                named.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                let realm = param("realm")?;
                let service = param("service");
                return Some(Self::Bearer { realm, service });
            }
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                found = Some(Self::Basic);
            }
        }
        found
    }

    /// Answers the challenge, if possible.
    pub(super) async fn answer(
        &self,
        http: &Http,
        repository: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Option<Authorization>, RegistryError> {
        let basic = credentials.map(|user| {
            let both = format!("{}:{}", user.user, user.password);
            format!("Basic {}", BASE64_STANDARD.encode(both))
        });
        let basic = basic.map(|header| Authorization {
            header,
            until: None,
        });
        let Self::Bearer { realm, service } = self else {
            return Ok(basic);
        };
        let fetched =
            tokio::time::timeout(TOKEN_TIME, fetch(http, repository, realm, service, basic));
        fetched.await.map_err(|_| RegistryError::Slow)?.map(Some)
    }
}

async fn fetch(
    http: &Http,
    repository: &str,
    realm: &str,
    service: &Option<String>,
    basic: Option<Authorization>,
) -> Result<Authorization, RegistryError> {
    let wrong = || RegistryError::Realm {
        realm: realm
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect(),
    };
    let mut url: Url = realm.parse().map_err(|_| wrong())?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let fine = match url.scheme() {
        "https" => true,
        "http" => http.spares(&host),
        _ => false,
    };
    if !fine || !url.username().is_empty() || url.password().is_some() {
        return Err(wrong());
    }
    let scope = format!("repository:{repository}:pull");
    let mut query = url.query_pairs_mut();
    query.append_pair("scope", &scope);
    if let Some(service) = service {
        query.append_pair("service", service);
    }
    drop(query);
    let mut request = http.client(&host).get(url);
    if let Some(basic) = &basic {
        request = request.header(reqwest::header::AUTHORIZATION, basic.header()?);
    }
    let answer = request.send().await?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(RegistryError::Unauthorized {
                url: realm.to_owned(),
            });
        }
        status => {
            return Err(RegistryError::Token(format!(
                "its server answered {status}"
            )));
        }
    }
    let text = bounded(answer, "a token", MAX_TOKEN).await?;
    let token: Token = serde_json::from_slice(&text)
        .map_err(|e| RegistryError::Token(format!("the answer is not JSON with a token: {e}")))?;
    let life = Duration::from_secs(token.expires_in.unwrap_or(DEFAULT_LIFE).min(86_400));
    let text = token.token.or(token.access_token);
    let text = text.ok_or_else(|| RegistryError::Token("the answer has no token".into()))?;
    Ok(Authorization {
        header: format!("Bearer {text}"),
        until: Some(Instant::now() + life),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("www-authenticate", HeaderValue::from_static(value));
            }
            Challenge::of(&headers)
        };
        let bearer = |service: Option<&str>| {
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".into(),
                service: service.map(str::to_owned),
            })
        };
        assert_eq!(
            of(&[
                r#"Bearer realm="https://auth.example/token",service="registry.example",scope="x""#
            ]),
            bearer(Some("registry.example"))
        );
        assert_eq!(
            of(&[
                "Basic realm=x",
                r#"bearer Realm="https://auth.example/token""#
            ]),
            bearer(None)
        );
        assert_eq!(of(&["Basic realm=\"tests\""]), Some(Challenge::Basic));
        for none in [&[][..], &["Negotiate"], &["Bearer service=x"]] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }
}
