//! Resolving a reference to an image for this machine: index, manifest and configuration, each
//! checked against the digest in the document before.

use oci_spec::image::{
    Arch, Descriptor, Digest, ImageConfiguration, ImageIndex, ImageManifest, Os,
};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::content::Content;
use super::error::ImageError;
use crate::error::Result;

/// The largest depth of nested indexes.
const MAX_DEPTH: usize = 4;

/// The largest number of layers, from overlayfs's limit (`OVL_MAX_STACK`,
/// fs/overlayfs/params.h).
const MAX_LAYERS: usize = 500;

/// The annotation of an image's tag (image spec, "annotations.md").
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The annotation of the full name, as containerd, docker and podman write it.
const FULL_NAME: &str = "io.containerd.image.name";

/// An image that was found and fits this machine; its layers are not fetched yet.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    /// The digest of the manifest.
    pub(super) digest: Digest,
    /// The digest of the configuration, which is the image's id.
    pub(super) id: Digest,
    pub(super) config: ImageConfiguration,
    pub(super) layers: Vec<Descriptor>,
    /// Digests of the unpacked layers.
    pub(super) diff_ids: Vec<Digest>,
    /// Its full name, if the layout has it.
    pub(super) name: Option<String>,
}

/// The document that a descriptor refers to.
pub(super) enum Document {
    /// A list of images, and the descriptor of the fitting one.
    Index(Box<Descriptor>),
    /// An image.
    Manifest(Box<ImageManifest>),
}

/// Finds the image `tag` of a layout, or its only one.
pub(super) fn find(content: &dyn Content, tag: Option<&str>) -> Result<Resolved> {
    let what = format!("index.json of {}", content.name());
    let index: ImageIndex = parse(&content.index()?, &what)?;
    let mut entries = index.manifests().clone();
    let names = |entries: &[Descriptor]| {
        let mut names: Vec<String> = entries.iter().filter_map(ref_name).collect();
        names.sort();
        names.dedup();
        names
    };
    let tags = names(&entries);
    let there = match tags.is_empty() {
        true => "none".to_owned(),
        false => tags.join(", "),
    };
    let wrong = |problem: String| ImageError::Tag {
        layout: content.name(),
        problem,
        there: there.clone(),
    };
    if let Some(tag) = tag {
        let fits = |entry: &Descriptor| {
            let full = annotation(entry, FULL_NAME);
            ref_name(entry).as_deref() == Some(tag)
                || full.is_some_and(|full| full == tag || full.ends_with(&format!(":{tag}")))
        };
        entries.retain(fits);
        if entries.is_empty() {
            return Err(wrong(format!("it has no image of the tag {tag:?}")).into());
        }
    } else if tags.len() > 1 {
        return Err(wrong("it has several images: name the tag".to_owned()).into());
    }
    let chosen = choose(&entries, &content.name())?;
    let name = annotation(&chosen, FULL_NAME);
    let mut resolved = resolve(content, &chosen)?;
    resolved.name = name;
    Ok(resolved)
}

/// Follows a descriptor to its image.
pub(super) fn resolve(content: &dyn Content, from: &Descriptor) -> Result<Resolved> {
    let mut at = from.clone();
    for _ in 0..=MAX_DEPTH {
        let text = content.document("manifest", &at)?;
        match read(&text, at.digest())? {
            Document::Index(next) => at = *next,
            Document::Manifest(manifest) => {
                return complete(content, at.digest(), &manifest);
            }
        }
    }
    Err(ImageError::Document {
        what: format!("index {}", from.digest()),
        problem: "too many nested indexes".into(),
    }
    .into())
}

/// Parses an index or a manifest.
pub(super) fn read(text: &[u8], digest: &Digest) -> Result<Document> {
    /// The fields that only one of the two has.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        schema_version: u32,
        manifests: Option<IgnoredAny>,
        layers: Option<IgnoredAny>,
    }
    let what = format!("manifest {digest}");
    let wrong = |problem: &str| ImageError::Document {
        what: what.clone(),
        problem: problem.to_owned(),
    };
    let kind: Kind = parse(text, &what)?;
    match (kind.schema_version, kind.manifests, kind.layers) {
        (2, Some(_), None) => {
            let index: ImageIndex = parse(text, &what)?;
            Ok(Document::Index(Box::new(choose(index.manifests(), &what)?)))
        }
        (2, None, Some(_)) => Ok(Document::Manifest(Box::new(parse(text, &what)?))),
        // A document that is both would be read differently by other programs (CVE-2021-41190).
        (2, _, _) => Err(wrong("it is neither an index nor a manifest").into()),
        _ => Err(wrong("its schema version is not 2").into()),
    }
}

/// The image for this machine. Entries without a platform come last.
fn choose(entries: &[Descriptor], what: &str) -> Result<Descriptor> {
    let arch = Arch::default();
    let rank = |entry: &Descriptor| match entry.platform() {
        None => Some(2),
        Some(p) if *p.os() != Os::Linux || *p.architecture() != arch => None,
        // A variant may need more features than this machine has.
        Some(p) => Some(usize::from(
            p.variant().as_deref().is_some_and(|v| v != "v1"),
        )),
    };
    let fitting = entries.iter().filter_map(|e| Some((rank(e)?, e)));
    if let Some((_, entry)) = fitting.min_by_key(|(rank, _)| *rank) {
        return Ok(entry.clone());
    }
    let there: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform().as_ref())
        .map(|p| format!("{}/{}", p.os(), p.architecture()))
        .collect();
    Err(ImageError::Platform {
        image: what.to_owned(),
        wanted: format!("linux/{arch}"),
        there: match there.is_empty() {
            true => "no image".to_owned(),
            false => there.join(", "),
        },
    }
    .into())
}

fn complete(content: &dyn Content, digest: &Digest, manifest: &ImageManifest) -> Result<Resolved> {
    let what = format!("image {digest}");
    let wrong = |problem: String| ImageError::Document {
        what: what.clone(),
        problem,
    };
    let kind = manifest.config().media_type().as_ref();
    if !matches!(
        kind,
        "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
    ) {
        return Err(wrong(format!(
            "it is an artifact of {kind}, not a container's image"
        ))
        .into());
    }
    let text = content.document("configuration", manifest.config())?;
    let config: ImageConfiguration = parse(&text, &format!("configuration of {digest}"))?;
    let arch = Arch::default();
    if *config.os() != Os::Linux || *config.architecture() != arch {
        return Err(ImageError::Platform {
            image: what,
            wanted: format!("linux/{arch}"),
            there: format!("{}/{}", config.os(), config.architecture()),
        }
        .into());
    }
    let layers = manifest.layers().clone();
    let diff_ids = config.rootfs().diff_ids();
    if layers.len() != diff_ids.len() {
        let (layers, ids) = (layers.len(), diff_ids.len());
        return Err(wrong(format!("it has {layers} layers and {ids} diff ids")).into());
    }
    if layers.is_empty() || layers.len() > MAX_LAYERS {
        let count = layers.len();
        return Err(wrong(format!("it has {count} layers, not 1 to {MAX_LAYERS}")).into());
    }
    let digests = diff_ids.iter().map(|id| {
        let digest = id.parse::<Digest>();
        digest.map_err(|e| wrong(format!("its diff id {id:?} is not a digest: {e}")))
    });
    let diff_ids = digests.collect::<std::result::Result<Vec<Digest>, _>>()?;
    Ok(Resolved {
        digest: digest.clone(),
        id: manifest.config().digest().clone(),
        config,
        layers,
        diff_ids,
        name: None,
    })
}

fn parse<T: DeserializeOwned>(text: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(text).map_err(|source| {
        ImageError::Json {
            what: what.to_owned(),
            source,
        }
        .into()
    })
}

fn annotation(entry: &Descriptor, name: &str) -> Option<String> {
    entry.annotations().as_ref()?.get(name).cloned()
}

fn ref_name(entry: &Descriptor) -> Option<String> {
    annotation(entry, REF_NAME)
}
