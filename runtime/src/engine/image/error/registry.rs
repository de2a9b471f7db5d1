//! What can go wrong with a registry.

use crate::error::ErrorKind;

/// An error about a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached, or its certificate is not for it.
    #[error("{}", whole(.0))]
    Request(#[from] reqwest::Error),
    /// It does not come to an end.
    #[error("The registry takes too long to answer")]
    Slow,
    /// It does not let us in.
    #[error("Not authorized: {url}; log in with `podman login` or give --creds")]
    Unauthorized {
        /// What was asked for.
        url: String,
    },
    /// It refuses.
    #[error("The registry answers {status} to {url}{}{message}", if message.is_empty() { "" } else { ": " })]
    Refused {
        /// HTTP's code.
        status: u16,
        /// What was asked for.
        url: String,
        /// Those of the distribution spec, "Error Codes".
        codes: Vec<String>,
        /// What it says.
        message: String,
    },
    /// Its answer would fill the memory.
    #[error("{what} of the registry has more than {limit} bytes")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// As much is read.
        limit: usize,
    },
    /// It would have our password sent to anybody who listens.
    #[error(
        "The registry wants a token to be fetched from {realm:?}, which is no https address: --tls-verify=false allows it"
    )]
    Realm {
        /// Where from.
        realm: String,
    },
    /// A token that is none.
    #[error("No token for the registry: {0}")]
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

    /// Whether nothing was to be had of the other side at all.
    pub(in crate::engine::image) fn is_no_answer(&self) -> bool {
        matches!(self, Self::Request(_))
    }
}

/// An error with all that led to it: an HTTP client says no more than "error
/// sending request" by itself.
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
