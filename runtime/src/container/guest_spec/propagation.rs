//! Mount propagation (config.md of the OCI runtime spec, `mounts[].options` and
//! `linux.rootfsPropagation`; mount_namespaces(7)). Later mounts of the host reach a container
//! through a slave mount in the share tree on the host. Mounts inside a VM do not leave it.

use oci_spec::runtime::{Mount as OciMount, Spec};

use crate::error::{Error, Result, SpecError};
use crate::host::mount::{Mount, Options, mounts_below};

/// Whether an option of a mount is about propagation.
pub(super) fn is_one(option: &str) -> bool {
    let kind = option.strip_prefix('r').unwrap_or(option);
    matches!(kind, "private" | "slave" | "shared" | "unbindable")
}

/// Takes the root's propagation out of the spec, since libcontainer supports only some of its
/// values. Returns the propagation of bind mounts that do not name one: as with runc, the
/// root's; `None` stands for slave.
///
/// # Errors
/// [`SpecError::SharedPropagation`]; [`Error::InvalidValue`] for unknown values.
pub(super) fn of_root(spec: &mut Spec) -> Result<Option<&'static str>> {
    let Some(linux) = spec.linux_mut() else {
        return Ok(None);
    };
    let default = match linux.rootfs_propagation().as_deref() {
        None | Some("" | "slave" | "rslave") => None,
        Some("private" | "rprivate" | "unbindable" | "runbindable") => Some("rprivate"),
        Some(shared @ ("shared" | "rshared")) => {
            return Err(refused("linux.rootfsPropagation", shared));
        }
        Some(other) => {
            let expected = "private, slave, shared or unbindable (or rprivate …)";
            return Err(Error::invalid("linux.rootfsPropagation", other, expected));
        }
    };
    linux.set_rootfs_propagation(None);
    Ok(default)
}

/// Refuses a mount that asks for shared propagation with the host.
///
/// # Errors
/// [`SpecError::SharedPropagation`] naming the mount.
pub(super) fn check(mount: &OciMount) -> Result<()> {
    let options = mount.options().iter().flatten();
    match options
        .into_iter()
        .find(|o| matches!(o.as_str(), "shared" | "rshared"))
    {
        Some(shared) => {
            let what = format!("mount on {}", mount.destination().display());
            Err(refused(what, shared))
        }
        None => Ok(()),
    }
}

fn refused(what: impl Into<String>, shared: &str) -> Error {
    SpecError::SharedPropagation {
        what: what.into(),
        propagation: shared.to_owned(),
    }
    .into()
}

/// Leaves it to the host to enforce a `ro` that must not apply to mounts below. As with runc,
/// `ro` applies to the bound mount alone. In the guest all these mounts may be one file system,
/// where `ro` would apply to all; the host's mounts refuse the writes instead.
///
/// # Errors
/// [`Error::Io`] if mountinfo cannot be read.
pub(super) fn leave_writable_below(mount: &mut OciMount, bind: &Mount) -> Result<()> {
    if host_alone_refuses(bind)?
        && let Some(options) = mount.options_mut()
    {
        options.retain(|option| option != "ro");
    }
    Ok(())
}

/// Whether a bind is read-only on the host alone (see [`leave_writable_below`]).
///
/// # Errors
/// [`Error::Io`] if mountinfo cannot be read.
pub(crate) fn host_alone_refuses(bind: &Mount) -> Result<bool> {
    let options = Options::parse(&bind.options);
    let read_only = options.flags.contains(nix::mount::MsFlags::MS_RDONLY);
    let recursive = options.flags.contains(nix::mount::MsFlags::MS_REC);
    if !read_only || !recursive || options.all_read_only {
        return Ok(false);
    }
    let source = std::fs::canonicalize(&bind.source).unwrap_or_else(|_| (&bind.source).into());
    let below = mounts_below(&source)?.iter().any(|at| *at != source);
    Ok(below || options.is_slave())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mount(options: &[&str]) -> OciMount {
        let json =
            json!({"destination": "/data", "type": "bind", "source": "/", "options": options});
        serde_json::from_value(json).unwrap()
    }

    fn spec(propagation: &str) -> Spec {
        let json = json!({"ociVersion": "1.0.2", "linux": {"rootfsPropagation": propagation}});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn shared_mounts_are_refused_by_name() {
        for shared in ["shared", "rshared"] {
            for (refused, place) in [
                (check(&mount(&["rbind", shared])).unwrap_err(), "/data"),
                (
                    of_root(&mut spec(shared)).unwrap_err(),
                    "linux.rootfsPropagation",
                ),
            ] {
                assert!(
                    matches!(
                        &refused,
                        Error::Spec(SpecError::SharedPropagation { what, propagation })
                            if what.contains(place) && propagation == shared
                    ),
                    "{refused}"
                );
            }
        }
        check(&mount(&["rbind", "rslave", "ro"])).unwrap();
        assert!(matches!(
            of_root(&mut spec("sideways")),
            Err(Error::InvalidValue { .. })
        ));
    }

    #[test]
    fn mounts_that_ask_for_nothing_have_what_the_root_has() {
        for (given, default) in [("rslave", None), ("private", Some("rprivate")), ("", None)] {
            let mut spec = spec(given);
            assert_eq!(of_root(&mut spec).unwrap(), default, "{given}");
            let left = spec.linux().as_ref().unwrap().rootfs_propagation();
            assert_eq!(*left, None);
        }
    }

    #[test]
    fn read_only_is_not_for_mounts_below() {
        let kept = |source: &str, options: &[&str]| {
            let mut mount = mount(options);
            let bind = Mount {
                source: source.into(),
                options: options.iter().map(|o| (*o).to_owned()).collect(),
                ..Mount::default()
            };
            leave_writable_below(&mut mount, &bind).unwrap();
            mount.options().clone().unwrap().contains(&"ro".to_owned())
        };
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().to_str().unwrap();
        // `/proc` is mounted below `/`.
        assert!(!kept("/", &["rbind", "ro"]));
        assert!(kept("/", &["bind", "ro"]));
        assert!(kept("/", &["rbind", "ro", "rro"]));
        assert!(kept(plain, &["rbind", "ro", "rprivate"]));
        assert!(!kept(plain, &["rbind", "ro", "rslave"]));
    }

    #[test]
    fn the_host_alone_refuses_writes_only_for_a_whole_tree_with_mounts_below() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().to_str().unwrap();
        for (source, options, alone) in [
            ("/", &["rbind"][..], false),
            ("/", &["rbind", "ro"], true),
            ("/", &["bind", "ro"], false),
            ("/", &["rbind", "ro", "rro"], false),
            (plain, &["rbind", "ro"], false),
            (plain, &["rbind", "ro", "rslave"], true),
            (plain, &["bind", "ro", "slave"], false),
            ("/no/such", &["rbind", "ro"], false),
        ] {
            let bind = Mount {
                source: source.into(),
                options: options.iter().map(|option| (*option).to_owned()).collect(),
                ..Mount::default()
            };
            assert_eq!(
                host_alone_refuses(&bind).unwrap(),
                alone,
                "{source} {options:?}"
            );
        }
    }
}
