//! Images of registries, which the tests play: HTTP on this machine.

mod authentication;
mod refusals;

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::sync::lock;

/// A request, as the registry got it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    /// The path, with the query.
    path: String,
    accept: String,
    authorization: Option<String>,
}

/// The answer to a request.
#[derive(Debug, Clone)]
struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Whether the length of the body is announced.
    announced: bool,
}

impl Response {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            announced: true,
        }
    }

    fn with(mut self, header: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((header, value.into()));
        self
    }
}

/// A registry on this machine, without TLS.
struct Registry {
    /// `HOST:PORT`.
    address: String,
    heard: Arc<Mutex<Vec<Request>>>,
}

impl Registry {
    async fn start(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), heard.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), log.clone()));
            }
        });
        Self { address, heard }
    }

    /// A registry with the blobs of a layout; `tags` are the digests of its tags.
    async fn of(layout: &Layout, tags: &[(&str, &Value)]) -> Self {
        let dir = layout.0.clone();
        let tags: Vec<(String, String)> = tags
            .iter()
            .map(|(tag, image)| {
                let digest = image["digest"].as_str().unwrap();
                ((*tag).to_owned(), digest.to_owned())
            })
            .collect();
        Self::start(move |request| content(&dir, &tags, &request.path)).await
    }

    fn source(&self, rest: &str) -> ImageSource {
        format!("{}/{rest}", self.address).parse().unwrap()
    }

    /// The requests since the last call.
    fn heard(&self) -> Vec<Request> {
        std::mem::take(&mut *lock(&self.heard))
    }

    /// The paths of the requests since the last call.
    fn paths(&self) -> Vec<String> {
        let heard = self.heard().into_iter();
        heard.map(|request| request.path).collect()
    }
}

/// The answer of a registry with the repository `app`.
fn content(dir: &Path, tags: &[(String, String)], path: &str) -> Response {
    let missing = || Response::new(404, "");
    let digest = if let Some(version) = path.strip_prefix("/v2/app/manifests/") {
        let tag = tags.iter().find(|(tag, _)| tag == version);
        tag.map_or(version, |(_, digest)| digest)
    } else if let Some(digest) = path.strip_prefix("/v2/app/blobs/") {
        digest
    } else {
        return missing();
    };
    let blob = fs::read(dir.join("blobs").join(digest.replace(':', "/")));
    blob.map_or_else(|_| missing(), |blob| Response::new(200, blob))
}

async fn serve(
    stream: TcpStream,
    answer: Arc<impl Fn(&Request) -> Response>,
    log: Arc<Mutex<Vec<Request>>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    // TLS begins with a record of type 22 (RFC 8446, section 5.1); HTTP with a letter.
    if stream.fill_buf().await?.first() == Some(&22) {
        return Ok(());
    }
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let header = |name: &str| {
            let mut lines = head
                .lines()
                .skip(1)
                .filter_map(|line| line.split_once(": "));
            let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_owned())
        };
        let request = Request {
            path: head.split(' ').nth(1).unwrap_or_default().to_owned(),
            accept: header("accept").unwrap_or_default(),
            authorization: header("authorization"),
        };
        lock(&log).push(request.clone());
        let response = answer(&request);
        let mut text = format!("HTTP/1.1 {} X\r\n", response.status);
        for (name, value) in &response.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if response.announced {
            text.push_str(&format!("content-length: {}\r\n\r\n", response.body.len()));
        } else {
            text.push_str("connection: close\r\n\r\n");
        }
        stream.write_all(text.as_bytes()).await?;
        stream.write_all(&response.body).await?;
        if !response.announced {
            stream.shutdown().await?;
            // A reset could overtake the answer.
            return stream.read_to_end(&mut Vec::new()).await.map(drop);
        }
    }
}

const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

fn manifest(version: &str) -> String {
    format!("/v2/app/manifests/{version}")
}

fn blob(digest: &str) -> String {
    format!("/v2/app/blobs/{digest}")
}

#[tokio::test]
async fn an_image_of_a_registry_is_fetched_once_and_by_its_digests() {
    let bed = Bed::new();
    let layers = [layer("a", "one"), layer("b", "two")];
    let image = bed.layout.image(&layers);
    let registry = Registry::of(&bed.layout, &[("latest", &image), ("1", &image)]).await;

    let held = bed.pull(&registry.source("app"), None).await.unwrap();

    let name = format!("{}/app:latest", registry.address);
    assert_eq!(held.view().names, [name]);
    assert_eq!(held.image().digest, image["digest"]);
    let dirs = bed.images.directories(held.image());
    assert_eq!(fs::read(dirs[1].join("b")).unwrap(), b"two");
    let heard = registry.heard();
    let config = blob(&held.image().id);
    let expected = |path: String, accept: &str| Request {
        path,
        accept: accept.to_owned(),
        authorization: None,
    };
    assert_eq!(heard[0], expected(manifest("latest"), ACCEPT));
    assert_eq!(heard[1], expected(config.clone(), "*/*"));
    let mut blobs: Vec<_> = heard[2..].iter().map(|heard| heard.path.clone()).collect();
    blobs.sort();
    let mut expected = layers.clone().map(|layer| blob(&sha256(&layer)));
    expected.sort();
    assert_eq!(blobs, expected);

    // The layers are there already.
    let tag = bed.pull(&registry.source("app:1"), Some("given")).await;
    assert!(tag.unwrap().view().names.contains(&"given".to_owned()));
    assert_eq!(registry.paths(), [manifest("1"), config]);
}

#[tokio::test]
async fn equal_layers_are_fetched_once_and_their_progress_is_told() {
    let bed = Bed::new();
    let same = layer("a", &"x".repeat(100_000));
    let image = bed.layout.image(&[same.clone(), same.clone()]);
    let registry = Registry::of(&bed.layout, &[("latest", &image)]).await;
    let steps: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
    let seen = steps.clone();
    let report: Report = Arc::new(move |step| {
        if step.step == LayerStep::Fetching {
            lock(&seen).push((step.done, step.total));
        }
    });

    let options = RegistryOptions::default();
    let source = registry.source("app");
    bed.images
        .pull(&source, None, &options, report)
        .await
        .unwrap();

    let of_layer = blob(&sha256(&same));
    let fetched = registry
        .paths()
        .into_iter()
        .filter(|path| *path == of_layer);
    assert_eq!(fetched.count(), 1);
    let steps = lock(&steps);
    let size = same.len() as u64;
    assert_eq!(
        (steps[0], steps[steps.len() - 1]),
        ((0, size), (size, size))
    );
    assert!(steps.is_sorted() && steps.iter().all(|step| step.1 == size));
}

#[tokio::test]
async fn an_index_of_a_registry_leads_to_the_image_for_this_machine() {
    let bed = Bed::new();
    let mut foreign = bed.layout.image(&[layer("a", "0")]);
    foreign["platform"] = json!({"os": "windows", "architecture": "amd64"});
    let image = bed.layout.image(&[layer("a", "1")]);
    let list = bed
        .layout
        .document(INDEX, &index(&[foreign, image.clone()]));
    let registry = Registry::of(&bed.layout, &[("latest", &list)]).await;
    let held = bed.pull(&registry.source("app"), None).await.unwrap();
    assert_eq!(held.image().digest, image["digest"]);
    let paths = registry.paths();
    assert_eq!(
        paths[..2],
        [
            manifest("latest"),
            manifest(image["digest"].as_str().unwrap())
        ]
    );
}

#[tokio::test]
async fn an_image_that_is_named_by_its_digest_must_have_it() {
    let bed = Bed::new();
    let image = bed.layout.image(&[layer("a", "1")]);
    let digest = image["digest"].as_str().unwrap().to_owned();
    let registry = Registry::of(&bed.layout, &[]).await;
    let source = registry.source(&format!("app@{digest}"));
    let held = bed.pull(&source, None).await.unwrap();
    assert_eq!(held.image().digest, digest);
    assert_eq!(
        held.view().names,
        [format!("{}/app@{digest}", registry.address)]
    );

    let other = bed.layout.image(&[layer("a", "2")]);
    let lying = Registry::of(&bed.layout, &[(&digest, &other)]).await;
    let bed = Bed::new();
    let source = lying.source(&format!("app@{digest}"));
    let refused = image_error(bed.pull(&source, None).await);
    let ImageError::Digest { expected, found } = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(
        (expected, found),
        (digest, other["digest"].as_str().unwrap().to_owned())
    );
}

#[tokio::test]
async fn a_registry_without_tls_is_asked_nothing_if_tls_is_required() {
    let bed = Bed::new();
    let image = bed.layout.image(&[layer("a", "1")]);
    let registry = Registry::of(&bed.layout, &[("latest", &image)]).await;
    let pull = async |tls_verify| {
        let options = RegistryOptions {
            tls_verify,
            ..RegistryOptions::default()
        };
        let source = registry.source("app");
        bed.images.pull(&source, None, &options, silent()).await
    };
    let refused = image_error(pull(Some(true)).await);
    let ImageError::Registry { source, .. } = &refused else {
        panic!("{refused:?}");
    };
    assert!(matches!(**source, RegistryError::Request(_)), "{source:?}");
    assert_eq!(refused.kind(), crate::error::ErrorKind::Unavailable);
    assert!(registry.heard().is_empty());
    pull(Some(false)).await.unwrap();
}
