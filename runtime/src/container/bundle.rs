//! A container's OCI bundle (OCI runtime specification, "Filesystem Bundle"). The one
//! place in which its spec is parsed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use oci_spec::runtime::Spec;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::container::guest_spec::is_bind;
use crate::error::{Error, Result, SpecError};

/// The OCI spec in it.
pub(crate) const CONFIG: &str = "config.json";

/// Reads and checks `config.json` of a bundle.
///
/// # Errors
/// [`Error::Spec`] naming the file and what is wrong.
pub fn load_spec(bundle: &Path) -> Result<Spec> {
    let spec = read_config(bundle)?;
    check_spec(&spec, bundle)?;
    Ok(spec)
}

/// Reads the annotations in `config.json` of a bundle, and passes over the rest.
///
/// # Errors
/// [`Error::Spec`] if the file cannot be read or is not JSON of this form.
pub fn load_annotations(bundle: &Path) -> Result<HashMap<String, String>> {
    #[derive(Deserialize)]
    struct Annotated {
        annotations: Option<HashMap<String, String>>,
    }
    let config: Annotated = read_config(bundle)?;
    Ok(config.annotations.unwrap_or_default())
}

fn read_config<T: DeserializeOwned>(bundle: &Path) -> Result<T> {
    let path = bundle.join(CONFIG);
    match fs::read(&path) {
        Err(source) => Err(SpecError::Read { path, source }.into()),
        Ok(text) => {
            serde_json::from_slice(&text).map_err(|source| SpecError::Parse { path, source }.into())
        }
    }
}

/// Checks that the spec of a bundle has what every container needs.
///
/// # Errors
/// [`Error::Spec`] naming the bundle's file and the field.
pub(crate) fn check_spec(spec: &Spec, bundle: &Path) -> Result<()> {
    let path = || bundle.join(CONFIG);
    let missing = |field| SpecError::Missing {
        path: path(),
        field,
    };
    let process = spec.process().as_ref();
    let process = process.ok_or_else(|| missing("process"))?;
    if process.args().as_ref().is_none_or(|a| a.is_empty()) {
        return Err(missing("process.args").into());
    }
    if !process.cwd().is_absolute() {
        return Err(SpecError::RelativeCwd {
            path: path(),
            cwd: process.cwd().clone(),
        }
        .into());
    }
    if spec.root().is_none() {
        return Err(missing("root").into());
    }
    Ok(())
}

/// The host directory that `root.path` names.
pub fn root_directory(spec: &Spec, bundle: &Path) -> PathBuf {
    let path = spec
        .root()
        .as_ref()
        .map(|r| r.path().clone())
        .unwrap_or_default();
    bundle.join(path)
}

/// Checks, before a VM is started, that the paths of the host in the spec exist.
///
/// # Errors
/// [`Error::InvalidPath`] naming the path.
pub fn check_host_paths(spec: &Spec, bundle: &Path, has_rootfs_mounts: bool) -> Result<()> {
    let root = root_directory(spec, bundle);
    if !has_rootfs_mounts && !root.is_dir() {
        let error = io::ErrorKind::NotADirectory;
        return Err(Error::invalid_path("root.path", root)(error));
    }
    for mount in spec.mounts().iter().flatten().filter(|m| is_bind(m)) {
        let source = bundle.join(mount.source().clone().unwrap_or_default());
        if let Err(e) = fs::metadata(&source) {
            let what = format!("source of the mount on {}", mount.destination().display());
            return Err(Error::invalid_path(what, source)(e));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_checked_before_anything_starts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let failure = |text: &str| {
            std::fs::write(&path, text).unwrap();
            match load_spec(dir.path()).unwrap_err() {
                Error::Spec(error) => error,
                other => panic!("{other:?}"),
            }
        };
        let none = load_spec(&dir.path().join("none")).unwrap_err();
        assert!(
            matches!(
                &none,
                Error::Spec(SpecError::Read { path, .. }) if path.ends_with("none/config.json")
            ),
            "{none}"
        );
        assert!(matches!(
            failure(r#"{"ociVersion": "1.0.2", "root"#),
            SpecError::Parse { .. }
        ));
        assert!(matches!(
            failure(r#"{"ociVersion": "1.0.2"}"#),
            SpecError::Missing {
                field: "process",
                ..
            }
        ));
        let process = |args: &str, cwd: &str| {
            let user = r#"{"uid":0,"gid":0}"#;
            format!(
                r#"{{"ociVersion":"1","process":{{"args":{args},"cwd":"{cwd}","user":{user}}}}}"#
            )
        };
        assert!(matches!(
            failure(&process("[]", "/")),
            SpecError::Missing {
                field: "process.args",
                ..
            }
        ));
        assert!(matches!(
            failure(&process(r#"["sh"]"#, "etc")),
            SpecError::RelativeCwd { cwd, .. } if cwd == Path::new("etc")
        ));
        assert!(matches!(
            failure(&process(r#"["sh"]"#, "/")),
            SpecError::Missing { field: "root", .. }
        ));

        let given = r#"{
        "ociVersion": "1.0.2", "root": {"path": "rootfs"},
        "mounts": [{"destination": "/x", "type": "bind", "source": "/no/such"}]
    }"#;
        let given: Spec = serde_json::from_str(given).unwrap();
        for (has_rootfs_mounts, bad) in [
            (false, dir.path().join("rootfs")),
            (true, "/no/such".into()),
        ] {
            match check_host_paths(&given, dir.path(), has_rootfs_mounts).unwrap_err() {
                Error::InvalidPath { path, .. } => assert_eq!(path, bad),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn annotations_are_read_whatever_else_a_spec_has() {
        let dir = tempfile::tempdir().unwrap();
        let annotations = |text: &str| {
            std::fs::write(dir.path().join(CONFIG), text).unwrap();
            load_annotations(dir.path())
        };
        let one = HashMap::from([("a".to_owned(), "b".to_owned())]);
        let found = annotations(r#"{"process": {"args": 7}, "annotations": {"a": "b"}}"#);
        assert_eq!(found.unwrap(), one);
        assert!(annotations(r#"{"annotations": null}"#).unwrap().is_empty());
        assert!(annotations("{}").unwrap().is_empty());
        for bad in [r#"{"annotations": {"a": 7}}"#, r#"{"annotations": {"#, ""] {
            let error = annotations(bad).unwrap_err().to_string();
            assert!(error.contains(CONFIG), "{bad}: {error}");
        }
    }
}
