//! A registry on this machine (Debian's `docker-registry`), filled from layouts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::capture::Capture;
use crate::dist::patience;
use crate::layout::{Layout, text};
use crate::run::{Input, run};

/// The only user of a closed registry.
pub const USER: (&str, &str) = ("someone", "secret");

/// htpasswd's line for [`USER`] (bcrypt).
const HTPASSWD: &str = "someone:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A registry; stopped on drop.
pub struct Registry {
    process: Child,
    root: PathBuf,
    address: String,
}

impl Registry {
    /// Starts one below `folder` without authentication.
    pub fn open(folder: &Path) -> Self {
        Self::start(folder, "")
    }

    /// Starts one below `folder` that only [`USER`] may use.
    pub fn closed(folder: &Path) -> Self {
        fs::create_dir_all(folder).expect("the folder can be written");
        let passwords = folder.join("htpasswd");
        fs::write(&passwords, HTPASSWD).expect("the folder can be written");
        let path = passwords.display();
        Self::start(
            folder,
            &format!("auth:\n  htpasswd:\n    realm: tests\n    path: {path}\n"),
        )
    }

    /// Starts one below `folder` with TLS, with a certificate of its own
    /// ([`Registry::certificate`]) for `localhost`.
    pub fn with_tls(folder: &Path) -> Self {
        fs::create_dir_all(folder).expect("the folder can be written");
        let [key, certificate] = ["key.pem", "certificate.pem"].map(|name| folder.join(name));
        let mut openssl = Command::new("openssl");
        openssl
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args([
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost",
            ])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate);
        run(openssl, Input::Null, patience(60.0)).ok();
        let (key, certificate) = (key.display(), certificate.display());
        Self::start(
            folder,
            &format!("  tls:\n    certificate: {certificate}\n    key: {key}\n"),
        )
    }

    /// The certificate of [`Registry::with_tls`] below `folder`.
    pub fn certificate(folder: &Path) -> PathBuf {
        folder.join("certificate.pem")
    }

    fn start(folder: &Path, more: &str) -> Self {
        let root = folder.join("store");
        fs::create_dir_all(&root).expect("the folder can be written");
        let config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:0\n{more}",
            root.display()
        );
        let file = folder.join("registry.yml");
        fs::write(&file, config).expect("the folder can be written");
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start docker-registry (package docker-registry): {error}")
            });
        let log = Capture::of(process.stderr.take().expect("piped"));
        const LISTENS: &str = "listening on ";
        let from = log.expect(LISTENS, patience(20.0));
        let to = log.expect_after(from, "\n", patience(20.0));
        let said = String::from_utf8_lossy(&log.now().bytes[from..to]).into_owned();
        let address = said.split(['"', ' ', '\n', ',']).next().unwrap_or_default();
        Self {
            process,
            root,
            address: address.to_owned(),
        }
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Puts an image, or an index of images, with all its blobs into the registry's files, as
    /// after an upload.
    pub fn push(&self, layout: &Layout, image: &Value, name: &str, tag: &str) {
        let base = self.root.join("docker/registry/v2");
        let repository = base.join("repositories").join(name);
        let mut todo = vec![(image.clone(), true)];
        while let Some((descriptor, manifest)) = todo.pop() {
            let digest = text(&descriptor["digest"]);
            let hex = digest.trim_start_matches("sha256:");
            let blob = base.join("blobs/sha256").join(&hex[..2]).join(hex);
            fs::create_dir_all(&blob).expect("the store can be written");
            let bytes = fs::read(layout.blob_path(&descriptor)).expect("the layout has it");
            fs::write(blob.join("data"), &bytes).expect("the store can be written");
            link(&repository.join("_layers/sha256").join(hex), digest);
            if !manifest {
                continue;
            }
            link(
                &repository.join("_manifests/revisions/sha256").join(hex),
                digest,
            );
            let document: Value = serde_json::from_slice(&bytes).expect("JSON");
            let each = |key: &str| document[key].as_array().cloned().unwrap_or_default();
            todo.extend(each("manifests").into_iter().map(|entry| (entry, true)));
            todo.extend(each("layers").into_iter().map(|layer| (layer, false)));
            if document["config"].is_object() {
                todo.push((document["config"].clone(), false));
            }
        }
        let tags = repository.join("_manifests/tags").join(tag);
        let digest = text(&image["digest"]);
        link(&tags.join("current"), digest);
        let hex = digest.trim_start_matches("sha256:");
        link(&tags.join("index/sha256").join(hex), digest);
    }

    /// The file of a blob, for tests that damage it.
    pub fn blob(&self, descriptor: &Value) -> PathBuf {
        let hex = text(&descriptor["digest"]).trim_start_matches("sha256:");
        let base = self.root.join("docker/registry/v2/blobs/sha256");
        base.join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn link(folder: &Path, digest: &str) {
    fs::create_dir_all(folder).expect("the store can be written");
    fs::write(folder.join("link"), digest).expect("the store can be written");
}
