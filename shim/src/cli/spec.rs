//! The words of a command line that say what a container is, and the OCI spec
//! that comes of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use oci_spec::runtime::{
    LinuxBuilder, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources,
    LinuxResourcesBuilder, Mount, MountBuilder, Process, ProcessBuilder, RootBuilder, Spec,
    SpecBuilder, get_default_maskedpaths, get_default_readonly_paths,
};
use runtime::engine::capabilities;
use runtime::engine::definition::{ContainerDefinition, Rootfs, STOP_TIMEOUT};
use runtime::engine::restart::RestartPolicy;
use runtime::{Error, Result};

/// What a container is.
#[derive(Debug, Clone, Args)]
pub(super) struct Options {
    /// Its name [default: made up]
    #[arg(long)]
    pub(super) name: Option<String>,

    /// A directory that is its root file system, written to in place
    #[arg(long, value_name = "DIR")]
    pub(super) rootfs: Option<PathBuf>,

    /// A variable of its environment
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// Its working directory
    #[arg(long, short, value_name = "DIR", default_value = "/")]
    workdir: PathBuf,

    /// Its user: name or id, with :GROUP if need be
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Give it a terminal
    #[arg(long, short)]
    pub(super) tty: bool,

    /// Keep its stdin open
    #[arg(long, short)]
    pub(super) interactive: bool,

    /// A directory or file of the host in it
    #[arg(long, short, value_name = "HOST:CONTAINER[:ro]")]
    volume: Vec<String>,

    /// A tmpfs in it
    #[arg(long, value_name = "DIR[:OPTIONS]")]
    tmpfs: Vec<String>,

    /// A label
    #[arg(long, short, value_name = "NAME=VALUE")]
    label: Vec<String>,

    /// A container of the pod that runs before it does
    #[arg(long, value_name = "CONTAINER")]
    requires: Vec<String>,

    /// Its memory limit: a number with k, m or g
    #[arg(long, short, value_name = "BYTES")]
    memory: Option<String>,

    /// CPUs that it may use, as 1.5
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,

    /// Processes that it may have
    #[arg(long, value_name = "N")]
    pids_limit: Option<i64>,

    /// A capability more than usual
    #[arg(long, value_name = "NAME")]
    cap_add: Vec<String>,

    /// A capability less than usual
    #[arg(long, value_name = "NAME")]
    cap_drop: Vec<String>,

    /// All capabilities, and nothing masked
    #[arg(long)]
    privileged: bool,

    /// Its root file system cannot be written to
    #[arg(long)]
    read_only: bool,

    /// The signal that asks it to stop
    #[arg(long, value_name = "SIGNAL", default_value = "TERM", value_parser = signal)]
    stop_signal: i32,

    /// Seconds until it is killed when it was asked to stop
    #[arg(long, value_name = "SECONDS", default_value_t = STOP_TIMEOUT)]
    stop_timeout: u32,

    /// What happens when it ends
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "no",
        help = "What happens when it ends: no, on-failure[:N], always or unless-stopped"
    )]
    restart: String,

    /// Remove it when it has ended
    #[arg(long)]
    pub(super) rm: bool,

    /// Its command
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Options {
    /// The container that they describe.
    pub(super) fn definition(&self, name: &str) -> Result<ContainerDefinition> {
        let directory = self
            .rootfs
            .as_ref()
            .ok_or_else(|| Error::Invalid("A container needs --rootfs DIR".into()))?;
        let directory = directory.canonicalize().map_err(|e| {
            Error::Invalid(format!("The root file system {}: {e}", directory.display()))
        })?;
        let mut definition =
            ContainerDefinition::new(name, Rootfs::Directory(directory), self.spec()?);
        definition.create_command = std::env::args().collect();
        definition.labels = pairs(&self.label, "label")?;
        definition.depends_on = self.requires.iter().cloned().collect();
        definition.user = self.user.clone();
        definition.stdin_open = self.interactive;
        definition.stop_signal = self.stop_signal;
        definition.stop_timeout = self.stop_timeout;
        definition.restart = self.restart.parse::<RestartPolicy>()?;
        definition.remove_at_exit = self.rm;
        if self.rm && definition.restart != RestartPolicy::No {
            return Err(Error::Invalid(
                "--rm and --restart exclude each other: what is removed is not started again"
                    .into(),
            ));
        }
        Ok(definition)
    }

    fn spec(&self) -> Result<Spec> {
        let mut linux = LinuxBuilder::default().resources(self.resources()?);
        if self.privileged {
            linux = linux.masked_paths(Vec::new()).readonly_paths(Vec::new());
        } else {
            linux = linux
                .masked_paths(get_default_maskedpaths())
                .readonly_paths(get_default_readonly_paths());
        }
        let root = RootBuilder::default()
            .path("rootfs")
            .readonly(self.read_only);
        SpecBuilder::default()
            .version("1.0.2")
            .process(self.process()?)
            .root(root.build().map_err(internal)?)
            .mounts(self.mounts()?)
            .linux(linux.build().map_err(internal)?)
            .build()
            .map_err(internal)
    }

    fn process(&self) -> Result<Process> {
        const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let mut env = vec![PATH.to_owned()];
        if self.tty {
            env.push("TERM=xterm".into());
        }
        for pair in &self.env {
            let name = pair.split('=').next().unwrap_or_default();
            let value = match pair.split_once('=') {
                Some(_) => pair.clone(),
                // As podman: the caller's.
                None => format!("{name}={}", std::env::var(name).unwrap_or_default()),
            };
            env.retain(|there| there.split('=').next() != Some(name));
            env.push(value);
        }
        let capabilities = if self.privileged {
            capabilities::all()
        } else {
            capabilities::usual(&self.cap_add, &self.cap_drop)?
        };
        ProcessBuilder::default()
            .terminal(self.tty)
            .args(self.command.clone())
            .env(env)
            .cwd(self.workdir.clone())
            .capabilities(capabilities)
            .no_new_privileges(false)
            .build()
            .map_err(internal)
    }

    fn resources(&self) -> Result<LinuxResources> {
        let mut resources = LinuxResourcesBuilder::default();
        if let Some(memory) = &self.memory {
            let memory = LinuxMemoryBuilder::default().limit(bytes(memory)? as i64);
            resources = resources.memory(memory.build().map_err(internal)?);
        }
        if let Some(cpus) = self.cpus {
            if !(0.01..=512.0).contains(&cpus) {
                return Err(Error::Invalid(format!("--cpus {cpus}: from 0.01 to 512")));
            }
            let cpu = LinuxCpuBuilder::default()
                .period(100_000u64)
                .quota((cpus * 100_000.0) as i64);
            resources = resources.cpu(cpu.build().map_err(internal)?);
        }
        if let Some(limit) = self.pids_limit {
            let pids = LinuxPidsBuilder::default().limit(limit);
            resources = resources.pids(pids.build().map_err(internal)?);
        }
        resources.build().map_err(internal)
    }

    fn mounts(&self) -> Result<Vec<Mount>> {
        let mut mounts = usual_mounts()?;
        for tmpfs in &self.tmpfs {
            let (target, options) = tmpfs.split_once(':').unwrap_or((tmpfs, "rw,nosuid,nodev"));
            mounts.push(mount(target, "tmpfs", "tmpfs", options)?);
        }
        for volume in &self.volume {
            mounts.push(bind(volume)?);
        }
        Ok(mounts)
    }
}

/// What every container has, as podman's do.
fn usual_mounts() -> Result<Vec<Mount>> {
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
        return Err(Error::Invalid(format!(
            "{target:?} is no absolute path in the container"
        )));
    }
    MountBuilder::default()
        .destination(target)
        .typ(kind)
        .source(source)
        .options(options.split(',').map(str::to_owned).collect::<Vec<_>>())
        .build()
        .map_err(internal)
}

/// `HOST:CONTAINER[:OPTIONS]`.
fn bind(text: &str) -> Result<Mount> {
    let mut parts = text.splitn(3, ':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
        return Err(Error::Invalid(format!(
            "--volume {text}: it is HOST:CONTAINER or HOST:CONTAINER:ro"
        )));
    };
    let options = match parts.next() {
        None | Some("rw") => "rbind,rprivate,rw",
        Some("ro") => "rbind,rprivate,ro",
        Some(other) => {
            return Err(Error::Invalid(format!(
                "--volume {text}: {other:?} is neither ro nor rw"
            )));
        }
    };
    let source = Path::new(source)
        .canonicalize()
        .map_err(|e| Error::Invalid(format!("--volume {text}: {source}: {e}")))?;
    mount(target, "bind", &source.to_string_lossy(), options)
}

/// `NAME=VALUE` pairs.
pub(super) fn pairs(list: &[String], what: &str) -> Result<BTreeMap<String, String>> {
    list.iter()
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if name.is_empty() {
                return Err(Error::Invalid(format!("The {what} {pair:?} has no name")));
            }
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// A number of bytes: `512m`, `2g`, `1048576`.
pub(super) fn bytes(text: &str) -> Result<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1u64 << 30,
        _ => 0,
    };
    let number = digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor));
    number.filter(|n| *n > 0).ok_or_else(|| {
        Error::Invalid(format!(
            "{text:?} is no number of bytes: a number with k, m or g"
        ))
    })
}

/// A signal by name (`TERM`, `SIGTERM`) or number.
pub(super) fn signal(text: &str) -> std::result::Result<i32, String> {
    use nix::sys::signal::Signal;
    let upper = text.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") {
        upper.clone()
    } else {
        format!("SIG{upper}")
    };
    if let Ok(signal) = full.parse::<Signal>() {
        return Ok(signal as i32);
    }
    // Those that have no name: the real-time ones.
    let number = text.parse::<i32>().ok().filter(|n| (1..=64).contains(n));
    number.ok_or_else(|| "a signal is a name as in TERM, or a number from 1 to 64".into())
}

fn internal(e: oci_spec::OciSpecError) -> Error {
    Error::Internal(e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_signals() {
        assert_eq!(bytes("512m").unwrap(), 512 << 20);
        assert_eq!(bytes("7").unwrap(), 7);
        assert_eq!(bytes("2G").unwrap(), 2 << 30);
        for bad in ["", "m", "-1", "1x", "0", "99999999999999g"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(signal("TERM"), Ok(15));
        assert_eq!(signal("sigkill"), Ok(9));
        assert_eq!(signal("34"), Ok(34));
        assert!(signal("0").is_err() && signal("NOPE").is_err());
    }

    #[test]
    fn volumes() {
        let mounted = bind("/tmp:/data:ro").unwrap();
        assert_eq!(mounted.destination(), Path::new("/data"));
        assert!(
            mounted
                .options()
                .as_ref()
                .unwrap()
                .contains(&"ro".to_owned())
        );
        for bad in ["/tmp", "/nonexistent:/x", "/tmp:data", "/tmp:/x:weird"] {
            assert!(bind(bad).is_err(), "{bad}");
        }
    }
}
