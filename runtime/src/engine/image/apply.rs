//! The settings of an image for its containers (image spec, "config.md"), and those of the
//! command line, which override them as with podman.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use oci_spec::image::{Config, ImageConfiguration};

use crate::error::{Error, Result};

/// The search path, if neither image nor user sets one.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Settings that override those of the image.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Replaces the image's entrypoint and command; an empty list removes both.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub command: Vec<String>,
    /// `NAME=VALUE`, added to the image's.
    pub env: Vec<String>,
    /// Whether it has a pty.
    pub terminal: bool,
    /// Replaces the image's directory.
    pub workdir: Option<PathBuf>,
    /// Replaces the image's user.
    pub user: Option<String>,
    /// Replaces the image's signal.
    pub stop_signal: Option<i32>,
    /// Added to the image's labels.
    pub labels: BTreeMap<String, String>,
}

/// The resulting settings of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Its command.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<String>,
    /// Its directory.
    pub workdir: PathBuf,
    /// Its user, to be looked up in the container's files.
    pub user: Option<String>,
    /// The signal that asks it to stop.
    pub stop_signal: i32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Directories that become volumes.
    pub volumes: Vec<PathBuf>,
}

impl Overrides {
    /// Merges these settings with those of the image, if there is one.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a setting of the image that cannot be applied.
    pub fn over(self, image: Option<&ImageConfiguration>) -> Result<Effective> {
        let nothing = Config::default();
        let config = image.and_then(|image| image.config().as_ref());
        let config = config.unwrap_or(&nothing);
        let mut env = vec![PATH.to_owned()];
        if self.terminal {
            env.push("TERM=xterm".into());
        }
        let given = config.env().iter().flatten().chain(&self.env);
        given.for_each(|pair| set(&mut env, pair));
        let mut labels: BTreeMap<String, String> = config
            .labels()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect();
        labels.extend(self.labels);
        // As with podman, the caller's entrypoint is not followed by the image's command.
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let (mut args, command) = match self.entrypoint {
            Some(entrypoint) => (entrypoint, Vec::new()),
            None => (list(config.entrypoint()), list(config.cmd())),
        };
        args.extend(if self.command.is_empty() {
            command
        } else {
            self.command
        });
        let non_empty = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let stop_signal = match (self.stop_signal, non_empty(config.stop_signal())) {
            (Some(signal), _) => signal,
            (None, None) => libc::SIGTERM,
            (None, Some(text)) => signal(&text).ok_or_else(|| {
                let expected = "a signal: give another with --stop-signal";
                Error::invalid("stop signal of the image", text, expected)
            })?,
        };
        let workdir = self
            .workdir
            .or_else(|| non_empty(config.working_dir()).map(PathBuf::from));
        let workdir = workdir.unwrap_or_else(|| "/".into());
        // The default user is root. Naming it gives the process root's home and groups, too.
        let user = self.user.or_else(|| non_empty(config.user()));
        let user = user.or_else(|| image.map(|_| "0".to_owned()));
        let volumes = config.volumes().iter().flatten().map(PathBuf::from);
        let volumes: Vec<PathBuf> = volumes.collect();
        for path in volumes.iter().chain([&workdir]) {
            if !Path::new(path).is_absolute() {
                let expected = "an absolute path in the container";
                return Err(Error::invalid("directory", path.display(), expected));
            }
        }
        Ok(Effective {
            args,
            env,
            workdir,
            user,
            stop_signal,
            labels,
            volumes,
        })
    }
}

/// Sets a variable, in the position of an earlier one of the same name.
fn set(env: &mut Vec<String>, pair: &str) {
    fn name(pair: &str) -> &str {
        pair.split('=').next().unwrap_or_default()
    }
    match env.iter_mut().find(|there| name(there) == name(pair)) {
        Some(there) => *there = pair.to_owned(),
        None => env.push(pair.to_owned()),
    }
}

/// A signal by name (`TERM`, `SIGTERM`, `RTMIN+3`) or number.
pub fn signal(text: &str) -> Option<i32> {
    // As in the C library, which reserves two for itself.
    const RTMIN: i32 = 34;
    const RTMAX: i32 = 64;
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let plus = |base: i32, offset: &str| match offset {
        "" => Some(base),
        offset => base.checked_add(offset.parse().ok()?),
    };
    let number = if let Some(offset) = name.strip_prefix("RTMIN") {
        plus(RTMIN, offset)?
    } else if let Some(offset) = name.strip_prefix("RTMAX") {
        plus(RTMAX, offset)?
    } else if let Ok(signal) = format!("SIG{name}").parse::<Signal>() {
        signal as i32
    } else {
        // Real-time signals have no name.
        text.parse().ok()?
    };
    (1..=RTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(config: &str) -> ImageConfiguration {
        let text = format!(
            r#"{{"architecture": "amd64", "os": "linux", "config": {config},
                "rootfs": {{"type": "layers", "diff_ids": []}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_command_replaces_cmd_and_an_entrypoint_replaces_both() {
        let image = image(r#"{"Entrypoint": ["e"], "Cmd": ["c"]}"#);
        let args = |entrypoint: Option<&[&str]>, command: &[&str]| {
            let overrides = Overrides {
                entrypoint: entrypoint.map(list),
                command: list(command),
                ..Overrides::default()
            };
            overrides.over(Some(&image)).unwrap().args.join(" ")
        };
        assert_eq!(args(None, &[]), "e c");
        assert_eq!(args(None, &["x", "y"]), "e x y");
        assert_eq!(args(Some(&["n"]), &[]), "n");
        assert_eq!(args(Some(&["n"]), &["x"]), "n x");
        assert_eq!(args(Some(&[]), &["x"]), "x");
    }

    #[test]
    fn what_the_caller_says_goes_over_what_the_image_says() {
        let image = image(
            r#"{"Env": ["A=1", "PATH=/bin"], "User": "web", "WorkingDir": "/srv",
                "Labels": {"l": "1", "m": "1"}, "StopSignal": "SIGRTMIN+3", "Volumes": {"/data": {}}}"#,
        );
        let of_image = Overrides::default().over(Some(&image)).unwrap();
        assert_eq!(of_image.env, ["PATH=/bin", "A=1"]);
        assert_eq!(of_image.workdir, Path::new("/srv"));
        assert_eq!(of_image.user.as_deref(), Some("web"));
        assert_eq!(of_image.stop_signal, 37);
        assert_eq!(of_image.volumes, [Path::new("/data")]);
        let overrides = Overrides {
            env: list(&["A=2", "B=3"]),
            workdir: Some("/".into()),
            user: Some("0".into()),
            stop_signal: Some(9),
            labels: BTreeMap::from([("l".into(), "2".into())]),
            ..Overrides::default()
        };
        let said = overrides.over(Some(&image)).unwrap();
        assert_eq!(said.env, ["PATH=/bin", "A=2", "B=3"]);
        assert_eq!(
            (said.workdir.as_path(), said.stop_signal),
            (Path::new("/"), 9)
        );
        assert_eq!(said.user.as_deref(), Some("0"));
        assert_eq!((&*said.labels["l"], &*said.labels["m"]), ("2", "1"));
    }

    #[test]
    fn without_an_image_there_are_defaults() {
        let said = Overrides::default().over(None).unwrap();
        assert_eq!(said.env, [PATH]);
        assert_eq!((said.user, said.stop_signal), (None, 15));
        for bad in [
            r#"{"StopSignal": "NOPE"}"#,
            r#"{"Volumes": {"data": {}}}"#,
            r#"{"WorkingDir": "x"}"#,
        ] {
            assert!(
                Overrides::default().over(Some(&image(bad))).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(signal("TERM"), Some(15));
        assert_eq!(signal("sigkill"), Some(9));
        assert_eq!(signal("34"), Some(34));
        assert_eq!(signal("RTMAX-1"), Some(63));
        for (text, number) in [
            ("1", 1),
            ("64", 64),
            ("SIGUSR2", 12),
            ("rtmin", 34),
            ("SIGRTMIN+0", 34),
            ("RTMIN+30", 64),
            ("RTMAX", 64),
            ("RTMAX-30", 34),
        ] {
            assert_eq!(signal(text), Some(number), "{text}");
        }
        for bad in [
            "0",
            "-1",
            "65",
            "NOPE",
            "RTMIN+31",
            "RTMIN+40",
            "RTMAX+1",
            "RTMIN+x",
            "",
            "SIG",
            "SIG9",
            "9999999999",
            "RTMIN+2147483647",
            "RTMAX+2147483647",
            "RTMIN-2147483648",
        ] {
            assert_eq!(signal(bad), None, "{bad}");
        }
    }
}
