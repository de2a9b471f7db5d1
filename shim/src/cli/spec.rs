//! The words of a command line that say what a container is, and the OCI spec
//! that comes of them.

use std::collections::BTreeMap;
use std::env::VarError;
use std::path::PathBuf;

use clap::Args;
use oci_spec::runtime::{
    LinuxBuilder, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources,
    LinuxResourcesBuilder, Mount, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, User,
    UserBuilder, get_default_maskedpaths, get_default_readonly_paths,
};
use runtime::engine::capabilities;
use runtime::engine::image::{Effective, HeldImage, Overrides};
use runtime::engine::records::definition::{ContainerDefinition, Rootfs, STOP_TIMEOUT};
use runtime::engine::restart::RestartPolicy;
use runtime::{Error, Result};

use super::Context;
use super::error::CliResult;
use super::mounts::Mounts;
use super::pull::{Policy, PullOptions, obtain};
/// What a container may use.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Limits {
    /// Its memory limit: a number with k, m or g
    #[arg(long, short, value_name = "BYTES")]
    memory: Option<String>,

    /// CPUs that it may use, as 1.5
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,

    /// Its weight against the others of its pod when CPU time is short, 2 to 262144
    #[arg(long, short = 'c', value_name = "SHARES")]
    cpu_shares: Option<u64>,

    /// Processes that it may have; -1: any number
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
}

impl Limits {
    /// Whether none is given.
    pub(super) fn is_empty(&self) -> bool {
        let cpu = self.cpus.is_none() && self.cpu_shares.is_none();
        cpu && self.memory.is_none() && self.pids_limit.is_none()
    }

    /// As the OCI runtime specification has them.
    pub(super) fn resources(&self) -> Result<LinuxResources> {
        let mut resources = LinuxResourcesBuilder::default();
        if let Some(memory) = &self.memory {
            let memory = LinuxMemoryBuilder::default().limit(bytes(memory)? as i64);
            resources = resources.memory(memory.build().map_err(internal)?);
        }
        if self.cpus.is_some() || self.cpu_shares.is_some() {
            let mut cpu = LinuxCpuBuilder::default();
            if let Some(cpus) = self.cpus {
                if !(0.01..=512.0).contains(&cpus) {
                    return Err(Error::Invalid(format!("--cpus {cpus}: from 0.01 to 512")));
                }
                cpu = cpu.period(100_000u64).quota((cpus * 100_000.0) as i64);
            }
            if let Some(shares) = self.cpu_shares {
                if !(2..=262_144).contains(&shares) {
                    return Err(Error::Invalid(format!(
                        "--cpu-shares {shares}: from 2 to 262144"
                    )));
                }
                cpu = cpu.shares(shares);
            }
            resources = resources.cpu(cpu.build().map_err(internal)?);
        }
        if let Some(limit) = self.pids_limit {
            let pids = LinuxPidsBuilder::default().limit(limit);
            resources = resources.pids(pids.build().map_err(internal)?);
        }
        resources.build().map_err(internal)
    }
}

/// What a container is.
#[derive(Debug, Clone, Args)]
pub(super) struct Options {
    /// Its name [default: made up]
    #[arg(long)]
    pub(super) name: Option<String>,

    /// A directory that is its root file system, written to in place
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "image",
        conflicts_with = "image"
    )]
    rootfs: Option<PathBuf>,

    /// The image that it is made of: a name as in quay.io/org/app:1, or oci:DIR or
    /// oci-archive:FILE, with :TAG if need be
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,

    /// When the registry of the image is asked
    #[arg(long, value_enum, default_value_t)]
    pull: Policy,

    #[command(flatten)]
    registry: PullOptions,

    /// What its command is given to, instead of the image's: a program, or a JSON list of words
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,

    /// A variable of its environment; without a value: ours, if we have it
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,

    /// Its working directory [default: that of the image, or /]
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<PathBuf>,

    /// Its user: name or id, with :GROUP if need be [default: that of the image, or root]
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Give it a terminal
    #[arg(long, short)]
    pub(super) tty: bool,

    /// Keep its stdin open
    #[arg(long, short)]
    pub(super) interactive: bool,

    #[command(flatten)]
    mounts: Mounts,

    /// A label
    #[arg(long, short, value_name = "NAME=VALUE")]
    label: Vec<String>,

    /// A container of the pod that runs before it does
    #[arg(long, value_name = "CONTAINER")]
    requires: Vec<String>,

    #[command(flatten)]
    limits: Limits,

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

    /// The signal that asks it to stop [default: that of the image, or TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = signal)]
    stop_signal: Option<i32>,

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
    /// The image that they name, taken in if need be.
    pub(super) async fn image(&self, context: &Context) -> CliResult<Option<HeldImage>> {
        match &self.image {
            None => Ok(None),
            Some(image) => {
                let held = obtain(context, image, self.pull, &self.registry).await?;
                Ok(Some(held))
            }
        }
    }

    /// The container that they describe.
    pub(super) fn definition(
        &self,
        context: &Context,
        name: &str,
        image: Option<&HeldImage>,
    ) -> Result<ContainerDefinition> {
        let effective = self.effective(image)?;
        let rootfs = self.root(context, image)?;
        let given = self.mounts.parse(&effective.volumes)?;
        let spec = self.spec(&effective, given.mounts)?;
        let mut definition = ContainerDefinition::new(name, rootfs, spec);
        definition.create_command = std::env::args().collect();
        definition.labels = effective.labels;
        definition.volumes = given.volumes;
        definition.depends_on = self.requires.iter().cloned().collect();
        definition.user = effective.user;
        definition.stdin_open = self.interactive;
        definition.stop_signal = effective.stop_signal;
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

    /// Where its files are from.
    fn root(&self, context: &Context, image: Option<&HeldImage>) -> Result<Rootfs> {
        if let (Some(image), Some(reference)) = (image, &self.image) {
            return Ok(Rootfs::Image {
                reference: reference.clone(),
                id: image.image().id.clone(),
                layers: context.engine.images()?.directories(image.image()),
            });
        }
        let directory = self
            .rootfs
            .as_ref()
            .ok_or_else(|| Error::Invalid("A container needs --image or --rootfs DIR".into()))?;
        let directory = directory.canonicalize().map_err(|e| {
            Error::Invalid(format!("The root file system {}: {e}", directory.display()))
        })?;
        Ok(Rootfs::Directory(directory))
    }

    /// What comes of the image and these words.
    fn effective(&self, image: Option<&HeldImage>) -> Result<Effective> {
        let overrides = Overrides {
            entrypoint: self.entrypoint.as_deref().map(entrypoint),
            command: self.command.clone(),
            env: environment(&self.env)?,
            terminal: self.tty,
            workdir: self.workdir.clone(),
            user: self.user.clone(),
            stop_signal: self.stop_signal,
            labels: pairs(&self.label, "label")?,
        };
        overrides.over(image.map(|image| &image.image().config))
    }

    fn spec(&self, effective: &Effective, mounts: Vec<Mount>) -> Result<Spec> {
        let mut linux = LinuxBuilder::default().resources(self.limits.resources()?);
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
        let spec = SpecBuilder::default()
            .version("1.0.2")
            .process(self.process(effective)?)
            .root(root.build().map_err(internal)?)
            .mounts(mounts)
            .linux(linux.build().map_err(internal)?);
        let mut spec = spec.build().map_err(internal)?;
        // The pod's; the builder has a name of its own.
        spec.set_hostname(None);
        Ok(spec)
    }

    fn process(&self, effective: &Effective) -> Result<Process> {
        let capabilities = if self.privileged {
            capabilities::all()
        } else {
            capabilities::usual(&self.cap_add, &self.cap_drop)?
        };
        ProcessBuilder::default()
            .terminal(self.tty)
            .args(effective.args.clone())
            .env(effective.env.clone())
            .user(root()?)
            .cwd(effective.workdir.clone())
            .capabilities(capabilities)
            .no_new_privileges(false)
            .build()
            .map_err(internal)
    }
}

/// Variables as they are given: `NAME=VALUE`, or `NAME` for the caller's value, if it
/// has one.
pub(super) fn environment(given: &[String]) -> Result<Vec<String>> {
    let mut variables = Vec::with_capacity(given.len());
    for pair in given {
        let name = pair.split_once('=').map_or(pair.as_str(), |(name, _)| name);
        if name.is_empty() {
            return Err(Error::Invalid(format!("The variable {pair:?} has no name")));
        }
        if name.len() < pair.len() {
            variables.push(pair.clone());
            continue;
        }
        match std::env::var(name) {
            Ok(value) => variables.push(format!("{name}={value}")),
            Err(VarError::NotPresent) => {}
            Err(VarError::NotUnicode(_)) => {
                return Err(Error::Invalid(format!(
                    "The value of the variable {name} is not UTF-8: a container's are"
                )));
            }
        }
    }
    Ok(variables)
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

/// The user of a process for which none is named.
fn root() -> Result<User> {
    let user = UserBuilder::default().uid(0u32).gid(0u32);
    user.additional_gids(vec![0u32]).build().map_err(internal)
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
    let number = runtime::engine::image::signal(text);
    number.ok_or_else(|| "a signal is a name as in TERM, or a number from 1 to 64".into())
}

/// An entrypoint as podman takes it: a JSON list, or one word; empty for none.
fn entrypoint(text: &str) -> Vec<String> {
    match serde_json::from_str(text) {
        Ok(list) => list,
        Err(_) if text.is_empty() => Vec::new(),
        Err(_) => vec![text.to_owned()],
    }
}

pub(super) fn internal(e: oci_spec::OciSpecError) -> Error {
    Error::Internal(e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_without_a_value_are_the_callers_or_none() {
        let list = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let path = std::env::var("PATH").unwrap();
        let found = environment(&list("A=1 B= PATH RUST_KATA_NOT_SET C=x=y")).unwrap();
        assert_eq!(found, ["A=1", "B=", &format!("PATH={path}"), "C=x=y"]);
        for bad in ["=x", "="] {
            let said = environment(&list(bad)).unwrap_err().to_string();
            assert!(said.contains("no name"), "{said}");
        }
    }

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
}
