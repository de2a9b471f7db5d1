//! The image and root file system of the tests, made of busybox without a registry.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::capture::hex;
use crate::dist;

/// The image's name in containerd.
pub const IMAGE: &str = "localhost/busybox:1";

const BUSYBOX: &str = "/bin/busybox";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    user:x:1000:1000:user:/tmp:/bin/sh\n\
    nobody:x:65534:65534:nobody:/:/bin/false\n";

const GROUP: &str = "root:x:0:\nuser:x:1000:\nextra:x:2000:user\nnogroup:x:65534:\n";

/// Makes a busybox root file system in `root`.
pub fn make_rootfs(root: &Path) {
    let make = || -> io::Result<()> {
        for folder in [
            "bin", "etc", "root", "proc", "sys", "dev", "mnt", "run", "tmp", "var",
        ] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777))?;
        fs::copy(BUSYBOX, root.join("bin/busybox"))?;
        for applet in applets()? {
            symlink("busybox", root.join("bin").join(applet))?;
        }
        fs::write(root.join("etc/passwd"), PASSWD)?;
        fs::write(root.join("etc/group"), GROUP)
    };
    make().unwrap_or_else(|error| {
        panic!("cannot make a root file system of {BUSYBOX} (package busybox-static) in {root:?}: {error}")
    });
}

fn applets() -> io::Result<Vec<String>> {
    let list = Command::new(BUSYBOX).arg("--list").output()?.stdout;
    let list = String::from_utf8_lossy(&list);
    Ok(list
        .lines()
        .filter(|name| *name != "busybox")
        .map(str::to_owned)
        .collect())
}

/// The OCI archive of [`IMAGE`], made once and kept under `target/`.
pub fn archive() -> &'static Path {
    static ARCHIVE: OnceLock<PathBuf> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let stamp = fs::metadata(BUSYBOX).and_then(|data| data.modified()).ok();
        let recipe = format!("{stamp:?}{PASSWD}{GROUP}v1");
        let key = &hex(&Sha256::digest(recipe))[..16];
        let folder = dist::workspace().join("target/test-images");
        let path = folder.join(format!("busybox-{key}.tar"));
        if !path.exists() {
            fs::create_dir_all(&folder)
                .and_then(|()| make_archive(&folder, &path))
                .unwrap_or_else(|error| panic!("cannot make the test image {path:?}: {error}"));
        }
        path
    })
}

fn make_archive(folder: &Path, path: &Path) -> io::Result<()> {
    let scratch = tempfile::tempdir_in(folder)?;
    let (root, layout) = (scratch.path().join("rootfs"), scratch.path().join("layout"));
    let (layer, unnamed) = (
        scratch.path().join("layer.tar"),
        scratch.path().join("image.tar"),
    );
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    make_rootfs(&root);
    tar(&root, &layer)?;
    let mut layer = store(&layout, &layer)?;
    layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");

    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = store_json(&layout, &config, "application/vnd.oci.image.config.v1+json")?;
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let mut manifest = store_json(
        &layout,
        &manifest,
        "application/vnd.oci.image.manifest.v1+json",
    )?;
    manifest["annotations"] = json!({ "io.containerd.image.name": IMAGE });
    fs::write(
        layout.join("index.json"),
        json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string(),
    )?;
    fs::write(
        layout.join("oci-layout"),
        json!({ "imageLayoutVersion": "1.0.0" }).to_string(),
    )?;
    tar(&layout, &unnamed)?;
    fs::rename(&unnamed, path)
}

fn tar(folder: &Path, into: &Path) -> io::Result<()> {
    let status = Command::new("tar")
        .args([
            "--sort=name",
            "--numeric-owner",
            "--owner=0",
            "--group=0",
            "-cf",
        ])
        .arg(into)
        .arg("-C")
        .arg(folder)
        .arg(".")
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("tar of {folder:?}: {status}")))
    }
}

fn store_json(layout: &Path, value: &Value, media: &str) -> io::Result<Value> {
    let file = layout.join("blob.json");
    fs::write(&file, value.to_string())?;
    let mut descriptor = store(layout, &file)?;
    descriptor["mediaType"] = json!(media);
    Ok(descriptor)
}

/// Moves `file` among the blobs and returns its descriptor.
fn store(layout: &Path, file: &Path) -> io::Result<Value> {
    let mut bytes = Vec::new();
    File::open(file)?.read_to_end(&mut bytes)?;
    let digest = hex(&Sha256::digest(&bytes));
    fs::rename(file, layout.join("blobs/sha256").join(&digest))?;
    Ok(json!({ "digest": format!("sha256:{digest}"), "size": bytes.len() }))
}
