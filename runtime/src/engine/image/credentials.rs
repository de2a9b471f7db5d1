//! User and password for a registry, from the files of `podman login` and `docker login`
//! (containers-auth.json(5)).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use oci_spec::distribution::Reference;
use serde::Deserialize;

use super::error::ImageError;
use crate::error::{Error, Result};

/// User and password for a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The password or token.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials of {}", self.user)
    }
}

impl FromStr for Credentials {
    type Err = Error;

    /// Parses `USER:PASSWORD`.
    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once(':').filter(|(user, _)| !user.is_empty());
        let (user, password) = parts.ok_or(ImageError::NoPassword)?;
        Ok(Self {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
}

/// Looks up the credentials for an image's registry in `file`, or else in the usual files.
///
/// # Errors
/// [`ImageError::Credentials`] if `file` cannot be read, or one of them is damaged.
pub(super) fn find(reference: &Reference, file: Option<&Path>) -> Result<Option<Credentials>> {
    if let Some(file) = file {
        return in_file(file, reference, true);
    }
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    for file in usual_files(variable) {
        if let Some(found) = in_file(&file, reference, false)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The files of podman and docker, by these variables (containers-auth.json(5)).
fn usual_files(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    if let Some(file) = variable("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let run = variable("XDG_RUNTIME_DIR").unwrap_or_else(|| {
        let user = nix::unistd::geteuid();
        PathBuf::from(format!("/run/containers/{user}"))
    });
    let mut files = vec![run.join("containers/auth.json"), run.join("auth.json")];
    if let Some(home) = variable("HOME") {
        files.push(home.join(".config/containers/auth.json"));
        files.push(home.join(".docker/config.json"));
    }
    files
}

fn in_file(path: &Path, reference: &Reference, must: bool) -> Result<Option<Credentials>> {
    let bad = |problem: String| ImageError::Credentials {
        file: path.display().to_string(),
        problem,
    };
    let text = match std::fs::read(path) {
        Err(_) if !must => return Ok(None),
        other => other.map_err(|e| bad(e.to_string()))?,
    };
    let file: File = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
    let entry = keys(reference)
        .into_iter()
        .find_map(|key| file.auths.get(&key));
    let Some(auth) = entry.and_then(|entry| entry.auth.as_deref()) else {
        return Ok(None);
    };
    let plain = BASE64_STANDARD.decode(auth.trim()).ok();
    let plain = plain.and_then(|bytes| String::from_utf8(bytes).ok());
    let found = plain.and_then(|plain| plain.parse().ok());
    found.map(Some).ok_or_else(|| {
        let registry = reference.registry();
        bad(format!(
            "those of {registry} are not USER:PASSWORD in base64"
        ))
        .into()
    })
}

/// The keys for an image's registry in such a file, most specific first.
fn keys(reference: &Reference) -> Vec<String> {
    let registry = reference.registry();
    let mut keys = Vec::new();
    let mut path = reference.repository();
    loop {
        keys.push(format!("{registry}/{path}"));
        match path.rsplit_once('/') {
            Some((above, _)) => path = above,
            None => break,
        }
    }
    keys.push(registry.to_owned());
    if registry == "docker.io" {
        keys.push("https://index.docker.io/v1/".to_owned());
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_special_entry_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        let entry = |text: &str| format!("{{\"auth\": {:?}}}", BASE64_STANDARD.encode(text));
        let text = format!(
            "{{\"auths\": {{\"h:1\": {}, \"h:1/org\": {}, \"bad\": {{\"auth\": \"x\"}}}}, \"other\": 1}}",
            entry("a:b:c"),
            entry("o:p")
        );
        std::fs::write(&path, text).unwrap();
        let found = |image: &str| {
            let found = find(&image.parse().unwrap(), Some(&path));
            found.map(|found| found.map(|c| (c.user, c.password)))
        };
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(found("h:1/app").unwrap(), pair("a", "b:c"));
        assert_eq!(found("h:1/org/app").unwrap(), pair("o", "p"));
        assert_eq!(found("quay.io/app").unwrap(), None);
        assert!(find(&"h:1/a".parse().unwrap(), Some(Path::new("/nonexistent"))).is_err());
    }

    #[test]
    fn passwords_are_not_shown() {
        let who: Credentials = "me:secret".parse().unwrap();
        assert!(!format!("{who:?}").contains("secret"));
        assert!(":x".parse::<Credentials>().is_err() && "x".parse::<Credentials>().is_err());
    }

    #[test]
    fn the_usual_files_are_those_of_podman_and_then_of_docker() {
        let user = nix::unistd::geteuid();
        let files = |set: &[(&str, &str)]| {
            usual_files(|name| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| PathBuf::from(value))
            })
        };
        let own = ("REGISTRY_AUTH_FILE", "/own");
        assert_eq!(files(&[own, ("HOME", "/h")]), [Path::new("/own")]);
        let run = format!("/run/containers/{user}");
        let run = [
            format!("{run}/containers/auth.json"),
            format!("{run}/auth.json"),
        ];
        assert_eq!(files(&[]), run.map(PathBuf::from));
        assert_eq!(
            files(&[("XDG_RUNTIME_DIR", "/x"), ("HOME", "/h")]),
            [
                "/x/containers/auth.json",
                "/x/auth.json",
                "/h/.config/containers/auth.json",
                "/h/.docker/config.json",
            ]
            .map(PathBuf::from)
        );
    }
}
