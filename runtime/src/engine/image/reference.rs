//! References to images, as with podman: `oci:DIR[:tag]`, `oci-archive:FILE[:tag]`, or a name
//! in a registry, with or without `docker://`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_spec::distribution::Reference;

use super::error::ImageError;
use crate::error::{Error, Result};

/// The source of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// An OCI image layout: a directory.
    Layout {
        /// The directory.
        dir: PathBuf,
        /// The tag of the image; `None` for the only one.
        tag: Option<String>,
    },
    /// An OCI image layout in a tar archive.
    Archive {
        /// The archive.
        file: PathBuf,
        /// The tag of the image; `None` for the only one.
        tag: Option<String>,
    },
    /// A name in a registry.
    Registry(Reference),
}

impl ImageSource {
    /// The name for an image from this source.
    pub fn name(&self) -> String {
        match self {
            Self::Registry(reference) => reference.whole(),
            Self::Layout { dir: path, tag } | Self::Archive { file: path, tag } => {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                // Repository names are in lower case (distribution spec, "Pulling manifests").
                let plain = |c: char| match c.to_ascii_lowercase() {
                    c if c.is_ascii_alphanumeric() => c,
                    _ => '-',
                };
                let name: String = stem.chars().map(plain).collect();
                let name = match name.trim_matches('-') {
                    "" => "image",
                    name => name,
                };
                format!("localhost/{name}:{}", tag.as_deref().unwrap_or("latest"))
            }
        }
    }
}

impl FromStr for ImageSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (file, tag) = path_and_tag(text, rest)?;
            return Ok(Self::Archive { file, tag });
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            let (dir, tag) = path_and_tag(text, rest)?;
            return Ok(Self::Layout { dir, tag });
        }
        let name = text.strip_prefix("docker://").unwrap_or(text);
        let problem = match name.parse::<Reference>() {
            Ok(reference) => return Ok(Self::Registry(reference)),
            Err(_) if Path::new(name).is_absolute() || name.starts_with('.') => {
                "a path is given as oci:DIR or oci-archive:FILE".to_owned()
            }
            Err(e) => e.to_string(),
        };
        Err(reference_error(text, &problem))
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, path, tag) = match self {
            Self::Registry(reference) => return f.write_str(&reference.whole()),
            Self::Layout { dir, tag } => ("oci", dir, tag),
            Self::Archive { file, tag } => ("oci-archive", file, tag),
        };
        write!(f, "{kind}:{}", path.display())?;
        tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
    }
}

/// Splits `PATH[:tag]`; an existing path may contain colons.
fn path_and_tag(text: &str, rest: &str) -> Result<(PathBuf, Option<String>)> {
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !Path::new(rest).exists() => (path, Some(tag.to_owned())),
        _ => (rest, None),
    };
    if path.is_empty() || tag.as_deref() == Some("") {
        return Err(reference_error(
            text,
            "the path or what follows the colon is empty",
        ));
    }
    let path = std::path::absolute(path).map_err(|e| reference_error(text, &e.to_string()))?;
    Ok((path, tag))
}

fn reference_error(text: &str, problem: &str) -> Error {
    ImageError::Reference {
        text: text.to_owned(),
        problem: problem.to_owned(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> String {
        text.parse::<ImageSource>().unwrap().name()
    }

    #[test]
    fn names_are_completed_as_podman_does() {
        assert_eq!(name("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(name("docker://quay.io/a/b:1"), "quay.io/a/b:1");
        assert_eq!(name("localhost:5000/x"), "localhost:5000/x:latest");
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(name(&format!("h:1/a@{digest}")), format!("h:1/a@{digest}"));
        assert_eq!(name("oci:/tmp/My App:2"), "localhost/my-app:2");
        assert_eq!(name("oci-archive:/x/app.tar"), "localhost/app:latest");
    }

    #[test]
    fn paths_may_have_colons() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a:b");
        std::fs::create_dir(&odd).unwrap();
        let text = format!("oci:{}", odd.display());
        let source: ImageSource = text.parse().unwrap();
        assert_eq!(
            source,
            ImageSource::Layout {
                dir: odd.clone(),
                tag: None
            }
        );
        assert_eq!(source.to_string(), text);
        let source: ImageSource = format!("{text}:c").parse().unwrap();
        let tag = Some("c".to_owned());
        assert_eq!(source, ImageSource::Layout { dir: odd, tag });
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_cure() {
        for bad in ["", "A", "oci:", "oci:/x:", "./dir", "/dir", "a b"] {
            let said = bad.parse::<ImageSource>().unwrap_err().to_string();
            assert!(said.contains("oci:DIR"), "{bad}: {said}");
        }
    }
}
