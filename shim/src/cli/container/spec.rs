//! The arguments that describe a new container, and the OCI spec that they make.

use std::path::PathBuf;

use clap::Args;
use oci_spec::runtime::{
    LinuxBuilder, Mount, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, User,
    UserBuilder, get_default_maskedpaths, get_default_readonly_paths,
};
use runtime::engine::capabilities;
use runtime::engine::image::{Effective, HeldImage, Overrides};
use runtime::engine::records::definition::{ContainerDefinition, Rootfs, STOP_TIMEOUT};
use runtime::engine::restart::RestartPolicy;
use runtime::{Error, Result};

use super::limits::Limits;
use super::mounts::Mounts;
use crate::cli::arguments::{Environment, Labels};
use crate::cli::context::Context;
use crate::cli::error::{CliResult, spec_error};
use crate::cli::pull::{Policy, PullOptions, obtain};
use crate::cli::values::{environment, pairs, signal};

/// The arguments that describe a container.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Name of the container [default: generated]
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// Directory to use as the root file system; written to in place
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "image",
        conflicts_with = "image"
    )]
    rootfs: Option<PathBuf>,

    /// Image to create the container from: a name such as quay.io/org/app:1, or oci:DIR or
    /// oci-archive:FILE, optionally with :TAG
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,

    /// When to pull the image
    #[arg(long, value_enum, default_value_t)]
    pull: Policy,

    #[command(flatten)]
    registry: PullOptions,

    /// Override the entrypoint of the image: a program, or a JSON list of words
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,

    #[command(flatten)]
    environment: Environment,

    /// Working directory [default: that of the image, or /]
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<PathBuf>,

    /// User name or id, optionally with :GROUP [default: that of the image, or root]
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Allocate a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,

    /// Keep stdin open
    #[arg(long, short)]
    pub(crate) interactive: bool,

    #[command(flatten)]
    mounts: Mounts,

    #[command(flatten)]
    labels: Labels,

    /// Container of the pod that must be running first
    #[arg(long, value_name = "CONTAINER")]
    requires: Vec<String>,

    #[command(flatten)]
    limits: Limits,

    /// Add a capability to the default set
    #[arg(long, value_name = "NAME")]
    cap_add: Vec<String>,

    /// Drop a capability from the default set
    #[arg(long, value_name = "NAME")]
    cap_drop: Vec<String>,

    /// Give all capabilities and mask no paths
    #[arg(long)]
    privileged: bool,

    /// Make the root file system read-only
    #[arg(long)]
    read_only: bool,

    /// Signal to stop the container [default: that of the image, or TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = signal)]
    stop_signal: Option<i32>,

    /// Seconds between the stop signal and SIGKILL
    #[arg(long, value_name = "SECONDS", default_value_t = STOP_TIMEOUT)]
    stop_timeout: u32,

    /// Restart policy
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "no",
        help = "Restart policy when the container ends: no, on-failure[:N], always or unless-stopped"
    )]
    restart: String,

    /// Remove the container when it has ended
    #[arg(long)]
    pub(crate) rm: bool,

    /// Command to run
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Options {
    /// The image of `--image`, pulled if needed.
    pub(crate) async fn image(&self, context: &Context) -> CliResult<Option<HeldImage>> {
        match &self.image {
            None => Ok(None),
            Some(image) => {
                let held = obtain(context, image, self.pull, &self.registry).await?;
                Ok(Some(held))
            }
        }
    }

    /// The container that the arguments describe.
    pub(crate) fn definition(
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
            return Err(Error::Conflict {
                option: "--rm",
                with: "--restart",
            });
        }
        Ok(definition)
    }

    /// The source of the root file system.
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
            .ok_or_else(|| Error::requires("a container", "--image or --rootfs DIR"))?;
        let found = directory.canonicalize();
        let found = found.map_err(Error::invalid_path("root file system", directory))?;
        Ok(Rootfs::Directory(found))
    }

    /// The image's configuration with the arguments applied.
    fn effective(&self, image: Option<&HeldImage>) -> Result<Effective> {
        let overrides = Overrides {
            entrypoint: self.entrypoint.as_deref().map(entrypoint),
            command: self.command.clone(),
            env: environment(&self.environment.env)?,
            terminal: self.tty,
            workdir: self.workdir.clone(),
            user: self.user.clone(),
            stop_signal: self.stop_signal,
            labels: pairs(&self.labels.label, "label")?,
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
            .root(root.build().map_err(spec_error)?)
            .mounts(mounts)
            .linux(linux.build().map_err(spec_error)?);
        let mut spec = spec.build().map_err(spec_error)?;
        // The pod sets it; the builder has a default.
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
            .map_err(spec_error)
    }
}

/// The default user of a process.
fn root() -> Result<User> {
    let user = UserBuilder::default().uid(0u32).gid(0u32);
    user.additional_gids(vec![0u32]).build().map_err(spec_error)
}

/// An entrypoint as podman reads it: a JSON list, or one word; an empty text unsets it.
fn entrypoint(text: &str) -> Vec<String> {
    match serde_json::from_str(text) {
        Ok(list) => list,
        Err(_) if text.is_empty() => Vec::new(),
        Err(_) => vec![text.to_owned()],
    }
}
