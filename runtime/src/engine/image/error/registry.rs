//! Errors of registries.

use crate::error::ErrorKind;

/// An error about a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry cannot be reached, or its certificate is not valid for it.
    #[error("{}", whole(.0))]
    Request(#[from] reqwest::Error),
    /// An answer takes too long.
    #[error("the registry does not answer in time")]
    Slow,
    /// The credentials are missing or wrong.
    #[error("not authorized: {url}; log in with `podman login` or give --creds")]
    Unauthorized {
        /// The requested address.
        url: String,
    },
    /// The registry refuses.
    #[error("the registry answered {status} to {url}{}{message}", if message.is_empty() { "" } else { ": " })]
    Refused {
        /// The HTTP status code.
        status: u16,
        /// The requested address.
        url: String,
        /// The codes of the answer (distribution spec, "Error Codes").
        codes: Vec<String>,
        /// The text of the answer.
        message: String,
    },
    /// An answer is too large to be kept in memory.
    #[error("{what} of the registry has more than {limit} bytes")]
    TooLarge {
        /// The part of the answer that is too large.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The registry names an address for tokens that would get the password unencrypted.
    #[error(
        "the registry refers to {realm:?} for a token, which is not an https address: use --tls-verify=false to allow it"
    )]
    Realm {
        /// The address.
        realm: String,
    },
    /// The answer to a request for a token is invalid.
    #[error("cannot get a token for the registry: {0}")]
    Token(String),
}

impl RegistryError {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Request(_) | Self::Slow => ErrorKind::Unavailable,
            Self::Refused { status: 404, .. } => ErrorKind::NotFound,
            Self::Refused { codes, .. } => {
                let unknown =
                    |code: &String| matches!(code.as_str(), "MANIFEST_UNKNOWN" | "NAME_UNKNOWN");
                match codes.iter().any(unknown) {
                    true => ErrorKind::NotFound,
                    false => ErrorKind::FailedPrecondition,
                }
            }
            _ => ErrorKind::FailedPrecondition,
        }
    }

    /// Whether the registry did not answer at all.
    pub(in crate::engine::image) fn is_no_answer(&self) -> bool {
        matches!(self, Self::Request(_))
    }
}

/// An error with all of its causes: an HTTP client by itself says no more than "error sending
/// request".
fn whole(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
