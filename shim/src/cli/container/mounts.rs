//! The mounts of a container: `--volume`, `--tmpfs`, and the default ones.

use std::path::{Path, PathBuf};

use clap::Args;
use oci_spec::runtime::{Mount, MountBuilder};
use runtime::engine::records::definition::VolumeUse;
use runtime::error::SpecError;
use runtime::new_id;
use runtime::{Error, Result, check_id};

use crate::cli::error::spec_error;

/// The arguments for mounts.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Mounts {
    /// Mount a volume (NAME:DIR), a path of the host (PATH:DIR), or an anonymous volume (DIR).
    /// Options: ro; rslave to propagate later mounts of the host; nocopy to leave a new volume empty
    #[arg(long, short, value_name = "VOLUME")]
    volume: Vec<String>,

    /// Mount a tmpfs
    #[arg(long, value_name = "DIR[:OPTIONS]")]
    tmpfs: Vec<String>,
}

/// The parsed arguments.
#[derive(Debug, Default)]
pub(crate) struct ParsedMounts {
    /// All mounts except volumes.
    pub(crate) mounts: Vec<Mount>,
    /// The volumes.
    pub(crate) volumes: Vec<VolumeUse>,
}

impl Mounts {
    /// The mounts, with an anonymous volume for each one of the image at whose target
    /// nothing else is mounted.
    pub(crate) fn parse(&self, image: &[PathBuf]) -> Result<ParsedMounts> {
        let mut given = ParsedMounts::default();
        for tmpfs in &self.tmpfs {
            let (target, options) = tmpfs.split_once(':').unwrap_or((tmpfs, "rw,nosuid,nodev"));
            given.mounts.push(mount(target, "tmpfs", "tmpfs", options)?);
        }
        for text in &self.volume {
            match volume(text)? {
                MountSource::Host(mount) => given.mounts.push(mount),
                MountSource::Volume(volume) => given.volumes.push(volume),
            }
        }
        let mut targets = given.targets();
        targets.sort();
        if let Some(twice) = targets.windows(2).find(|pair| pair[0] == pair[1]) {
            let expected = "one mount for each";
            return Err(Error::invalid("mount target", twice[0].display(), expected));
        }
        for target in image {
            if !targets.contains(target) {
                let target = target.clone();
                given.volumes.push(anonymous(target, Vec::new(), true));
            }
        }
        let mut mounts = default_mounts()?;
        mounts.append(&mut given.mounts);
        given.mounts = mounts;
        Ok(given)
    }
}

impl ParsedMounts {
    fn targets(&self) -> Vec<PathBuf> {
        let mounts = self.mounts.iter().map(|mount| mount.destination().clone());
        let volumes = self.volumes.iter().map(|volume| volume.target.clone());
        mounts.chain(volumes).collect()
    }
}

enum MountSource {
    Host(Mount),
    Volume(VolumeUse),
}

/// `[NAME|PATH:]DIR[:OPTIONS]`.
fn volume(text: &str) -> Result<MountSource> {
    let bad = |expected: &'static str| Error::invalid("volume", text, expected);
    let bad_option = |option: &str, expected: &'static str| {
        Error::invalid(format!("option of the volume {text:?}"), option, expected)
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(bad("[NAME|PATH:]DIR[:OPTIONS]")),
    };
    if !target.starts_with('/') {
        return Err(bad("an absolute path in the container"));
    }
    let target = plain(target);
    if target == Path::new("/") {
        return Err(bad("a directory other than the container's root"));
    }
    let of_host = source.is_some_and(|source| source.starts_with(['/', '.']));
    let mut copy = true;
    let mut access = "rw";
    let mut bind = "rbind";
    let mut propagation = "rprivate";
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "rw" => access = option,
            "copy" => copy = true,
            "nocopy" => copy = false,
            // podman's SELinux labels; the VM needs none.
            "z" | "Z" => {}
            "shared" | "rshared" => {
                return Err(SpecError::SharedPropagation {
                    what: format!("volume {text:?}"),
                    propagation: option.to_owned(),
                }
                .into());
            }
            "bind" | "rbind" if of_host => bind = option,
            "private" | "rprivate" | "slave" | "rslave" if of_host => propagation = option,
            other if of_host => {
                let expected = "ro, rw, bind, rbind, private, rprivate, slave or rslave";
                return Err(bad_option(other, expected));
            }
            other => {
                return Err(bad_option(other, "ro, rw, copy or nocopy"));
            }
        }
    }
    let options = vec![access.to_owned()];
    match source {
        None => Ok(MountSource::Volume(anonymous(target, options, copy))),
        Some(path) if of_host => {
            let path = Path::new(path)
                .canonicalize()
                .map_err(Error::invalid_path("source of a volume", path))?;
            let options = format!("{bind},{propagation},{access}");
            let target = target.to_string_lossy();
            let bind = mount(&target, "bind", &path.to_string_lossy(), &options)?;
            Ok(MountSource::Host(bind))
        }
        Some(name) => {
            check_id("volume name", name)?;
            Ok(MountSource::Volume(VolumeUse {
                name: name.to_owned(),
                anonymous: false,
                target,
                options,
                copy,
            }))
        }
    }
}

fn anonymous(target: PathBuf, options: Vec<String>, copy: bool) -> VolumeUse {
    VolumeUse {
        name: new_id(),
        anonymous: true,
        target,
        options,
        copy,
    }
}

/// A path without redundant parts: `/a//b/./` becomes `/a/b`.
fn plain(path: &str) -> PathBuf {
    Path::new(path).components().collect()
}

/// The default mounts of a container, as podman has them.
fn default_mounts() -> Result<Vec<Mount>> {
    [
        ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        (
            "/dev",
            "tmpfs",
            "tmpfs",
            "nosuid,strictatime,mode=755,size=65536k",
        ),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        (
            "/dev/shm",
            "tmpfs",
            "shm",
            "nosuid,noexec,nodev,mode=1777,size=65536k",
        ),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
        (
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            "nosuid,noexec,nodev,relatime,ro",
        ),
    ]
    .into_iter()
    .map(|(target, kind, source, options)| mount(target, kind, source, options))
    .collect()
}

fn mount(target: &str, kind: &str, source: &str, options: &str) -> Result<Mount> {
    if !target.starts_with('/') {
        let expected = "an absolute path in the container";
        return Err(Error::invalid("mount target", target, expected));
    }
    MountBuilder::default()
        .destination(target)
        .typ(kind)
        .source(source)
        .options(options.split(',').map(str::to_owned).collect::<Vec<_>>())
        .build()
        .map_err(spec_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(volume: &[&str], tmpfs: &[&str], image: &[&str]) -> Result<ParsedMounts> {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let mounts = Mounts {
            volume: list(volume),
            tmpfs: list(tmpfs),
        };
        let image: Vec<PathBuf> = image.iter().map(PathBuf::from).collect();
        mounts.parse(&image)
    }

    #[test]
    fn directories_of_the_host_and_volumes() {
        let given = given(
            &["/tmp:/host:ro,rslave", "name:/named/:ro,nocopy", "/own"],
            &[],
            &[],
        )
        .unwrap();
        let host = given.mounts.last().unwrap();
        assert_eq!(host.destination(), Path::new("/host"));
        assert_eq!(
            host.options().as_deref().unwrap(),
            ["rbind", "rslave", "ro"]
        );
        let [named, own] = &given.volumes[..] else {
            panic!("{given:?}");
        };
        assert_eq!(
            (&*named.name, named.anonymous, named.copy),
            ("name", false, false)
        );
        assert_eq!(
            (named.target.as_path(), &*named.options),
            (Path::new("/named"), &["ro".to_owned()][..])
        );
        assert!(own.anonymous && own.copy && own.name.len() == 64);
    }

    #[test]
    fn what_an_image_wants_gives_way() {
        let given = given(&["v:/a"], &["/b"], &["/a", "/b", "/c"]).unwrap();
        let targets: Vec<_> = given.volumes.iter().map(|v| v.target.clone()).collect();
        assert_eq!(targets, [Path::new("/a"), Path::new("/c")]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            "data",
            "/nonexistent:/x",
            "/tmp:data",
            "/tmp:/x:weird",
            "/tmp:/x:rshared",
            "v:/x:rslave",
            "a b:/x",
            "/",
            "v:/.",
            "a:/b:ro:x",
        ] {
            assert!(given(&[bad], &[], &[]).is_err(), "{bad}");
        }
        assert!(given(&["a:/x", "b:/x/"], &[], &[]).is_err());
        assert!(given(&["a:/x"], &["/x"], &[]).is_err());
    }
}
