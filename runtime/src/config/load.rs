//! Finding and reading the configuration: one file, then its drop-ins in the order of their
//! names.
//!
//! The file is the first of `--config`, `$RUST_KATA_CONFIG`, `/etc/rust-kata/config.toml` and
//! the one of the installation; its drop-ins are `<file>.d/*.toml`. The drop-ins in `/etc` also
//! apply to the installation's file: one key can be changed without a copy of the file.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{CONFIG_ENV, Config, SYSTEM_CONFIG};
use crate::error::{ConfigError, Context, Error, Result};

/// The least similarity of an unknown key to a known one for it to count as a typing error.
const LIKE: f64 = 0.5;

/// A configuration, and the file of each of its values.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values in effect.
    pub config: Config,
    /// The files that were read; later ones override earlier ones.
    pub files: Vec<PathBuf>,
    origins: BTreeMap<String, PathBuf>,
}

impl Loaded {
    /// The file of a value, by its key (`timeouts.boot`); `None` for a default.
    pub fn origin(&self, key: &str) -> Option<&Path> {
        self.origins.get(key).map(PathBuf::as_path)
    }
}

impl Config {
    /// Loads the configuration (see `config/load.rs` for the places).
    ///
    /// # Errors
    /// [`Error::Config`] if a named file is missing, is not TOML, or has an unknown key or a
    /// value out of range.
    pub fn load(explicit: Option<&Path>) -> Result<Self> {
        Self::load_with_origin(explicit).map(|loaded| loaded.config)
    }

    /// Loads the configuration with the file of each value.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with_origin(explicit: Option<&Path>) -> Result<Loaded> {
        let exe = std::env::current_exe().map_err(ConfigError::NoBinary)?;
        let bin = exe.parent().unwrap_or(Path::new("/"));
        let share = bin
            .parent()
            .unwrap_or(Path::new("/"))
            .join("share/rust-kata");
        let named = explicit
            .map(Path::to_owned)
            .or_else(|| std::env::var_os(CONFIG_ENV).map(PathBuf::from));
        let drop_ins = drop_in_dir(named.as_deref().unwrap_or(Path::new(SYSTEM_CONFIG)));
        let file = named.or_else(|| {
            [PathBuf::from(SYSTEM_CONFIG), share.join("config.toml")]
                .into_iter()
                .find(|p| p.exists())
        });
        let mut loaded = read(file, &drop_ins)?;
        let config = &mut loaded.config;
        for path in [&mut config.kernel, &mut config.initrd] {
            *path = share.join(&*path);
        }
        config.vmm.get_or_insert_with(|| bin.join("rust-kata-vmm"));
        Ok(loaded)
    }
}

fn drop_in_dir(file: &Path) -> PathBuf {
    let mut dir = file.as_os_str().to_owned();
    dir.push(".d");
    dir.into()
}

/// Reads a file and its drop-ins. Each file must be valid by itself.
fn read(file: Option<PathBuf>, drop_ins: &Path) -> Result<Loaded> {
    let files: Vec<PathBuf> = file.into_iter().chain(files_in(drop_ins)?).collect();
    let (mut merged, mut origins) = (Table::new(), BTreeMap::new());
    for path in &files {
        let values = parse(path)?;
        record_origins(&values, "", path, &mut origins);
        merge(&mut merged, values);
    }
    let config = merged.try_into().map_err(ConfigError::Merge)?;
    Ok(Loaded {
        config,
        files,
        origins,
    })
}

/// The drop-ins of a directory, sorted by name; empty if the directory does not exist.
fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).on("read", dir),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.on("read", dir)?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        if !hidden && path.extension().is_some_and(|end| end == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn parse(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let wrong = |e: toml::de::Error| ConfigError::Parse {
        path: path.to_owned(),
        problem: one_line(&text, &e),
    };
    let values: Table = text.parse().map_err(wrong)?;
    if let Some((key, near)) = unknown_key(&values, &known()?, "") {
        let path = path.to_owned();
        return Err(ConfigError::UnknownKey { path, key, near }.into());
    }
    let config: Config = toml::from_str(&text).map_err(wrong)?;
    for (key, dir) in [("root", config.root), ("data_root", config.data_root)] {
        if !dir.is_absolute() {
            let path = path.to_owned();
            let value = dir;
            return Err(ConfigError::Relative { path, key, value }.into());
        }
    }
    Ok(values)
}

/// A table with every known key.
fn known() -> Result<Table> {
    let whole = Config {
        vmm: Some(PathBuf::new()),
        rust_kata: Some(PathBuf::new()),
        ..Config::default()
    };
    Table::try_from(whole).map_err(Error::encode("the keys of the configuration"))
}

/// The first unknown key, and the known one that is most like it.
fn unknown_key(values: &Table, known: &Table, prefix: &str) -> Option<(String, Option<String>)> {
    values
        .iter()
        .find_map(|(key, value)| match (known.get(key), value) {
            (None, _) => {
                let near = nearest(key, known).map(|near| format!("{prefix}{near}"));
                Some((format!("{prefix}{key}"), near))
            }
            (Some(Value::Table(known)), Value::Table(values)) => {
                unknown_key(values, known, &format!("{prefix}{key}."))
            }
            _ => None,
        })
}

fn nearest<'a>(key: &str, known: &'a Table) -> Option<&'a str> {
    let likeness = |other: &str| strsim::normalized_damerau_levenshtein(key, other);
    let keys = known.keys().map(|other| (likeness(other), other.as_str()));
    let (like, nearest) = keys.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (like >= LIKE).then_some(nearest)
}

/// Records the file of each value; those of tables by `table.key`.
fn record_origins(
    values: &Table,
    prefix: &str,
    path: &Path,
    origins: &mut BTreeMap<String, PathBuf>,
) {
    for (key, value) in values {
        match value {
            Value::Table(inner) => record_origins(inner, &format!("{prefix}{key}."), path, origins),
            _ => {
                origins.insert(format!("{prefix}{key}"), path.to_owned());
            }
        }
    }
}

/// Overwrites values of a table, key by key also within its tables.
fn merge(there: &mut Table, values: Table) {
    for (key, value) in values {
        match (there.get_mut(&key), value) {
            (Some(Value::Table(there)), Value::Table(values)) => merge(there, values),
            (_, value) => {
                there.insert(key, value);
            }
        }
    }
}

/// The error and its position as one line, since it is shown as part of another message.
fn one_line(text: &str, error: &toml::de::Error) -> String {
    let problem = error.message().trim().replace('\n', "; ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return problem;
    };
    let index = before.matches('\n').count();
    let line = text.lines().nth(index).unwrap_or_default().trim();
    format!("line {} ({line}): {problem}", index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_and_bad_values_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let error = Config::load(Some(&path)).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("c.toml") && !text.contains('\n'), "{text}");
            match error {
                Error::Config(error) => error,
                other => panic!("{other:?}"),
            }
        };
        for (text, key, near) in [
            ("memroy_mib = 1", "memroy_mib", Some("memory_mib")),
            ("[timeouts]\nbot = 1", "timeouts.bot", Some("timeouts.boot")),
            ("vnm = \"x\"", "vnm", Some("vmm")),
            ("colour = 1", "colour", None),
        ] {
            match load(text) {
                ConfigError::UnknownKey {
                    key: found,
                    near: nearest,
                    ..
                } => assert_eq!((&*found, nearest.as_deref()), (key, near)),
                other => panic!("{text}: {other:?}"),
            }
        }
        for (text, want) in [
            ("[timeouts]\nboot = 0", "0 is not a number of seconds"),
            ("vcpus = -1", "vcpus"),
            ("vcpus = ", "line 1"),
        ] {
            match load(text) {
                ConfigError::Parse { problem, .. } => assert!(problem.contains(want), "{problem}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(matches!(
            load("root = \"here\""),
            ConfigError::Relative { key: "root", .. }
        ));
    }

    #[test]
    fn drop_ins_go_over_the_file_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        let drop_ins = dir.path().join("c.toml.d");
        std::fs::create_dir(&drop_ins).unwrap();
        let write = |name: &str, text: &str| std::fs::write(drop_ins.join(name), text).unwrap();
        std::fs::write(&path, "vcpus = 2\nmemory_mib = 300\n[timeouts]\nboot = 5\n").unwrap();
        write("20-b.toml", "vcpus = 4\n");
        write("10-a.toml", "vcpus = 3\n[timeouts]\ncall = 7\n");
        write("30-c.conf", "vcpus = 9\n");
        write(".30-c.toml", "vcpus = 9\n");

        let loaded = Config::load_with_origin(Some(&path)).unwrap();

        let config = &loaded.config;
        assert_eq!((config.vcpus, config.memory_mib), (4, 300));
        let timeouts = (
            config.timeouts.boot.as_secs(),
            config.timeouts.call.as_secs(),
        );
        assert_eq!(timeouts, (5, 7));
        assert_eq!(loaded.origin("vcpus"), Some(&*drop_ins.join("20-b.toml")));
        assert_eq!(loaded.origin("timeouts.boot"), Some(&*path));
        assert_eq!(
            loaded.origin("timeouts.call"),
            Some(&*drop_ins.join("10-a.toml"))
        );
        assert_eq!(loaded.origin("timeouts.create"), None);
        assert_eq!(loaded.files.len(), 3);

        write("20-b.toml", "vcpu = 4\n");
        let error = Config::load(Some(&path)).unwrap_err();
        assert!(
            matches!(
                &error,
                Error::Config(ConfigError::UnknownKey { path, near: Some(near), .. })
                    if path.ends_with("20-b.toml") && near == "vcpus"
            ),
            "{error}"
        );
    }

    #[test]
    fn a_named_file_must_be_there() {
        let error = Config::load(Some(Path::new("/nonexistent.toml"))).unwrap_err();
        assert!(
            matches!(
                &error,
                Error::Config(ConfigError::Read { path, .. }) if path == Path::new("/nonexistent.toml")
            ),
            "{error}"
        );
    }
}
