//! `rust-kata container start`: named containers, or all that match a filter, as
//! a service does after the host has booted.

use std::mem::discriminant;

use clap::Args;
use runtime::engine::records::ContainerFiles;
use runtime::engine::restart::RestartPolicy;

use crate::cli::attach::{Client, attach};
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::failures::report_errors;
use crate::cli::filter::{Filter, Key, Kind, Wanted};
use crate::cli::preserve::Preserve;
use crate::cli::select::{Groups, Manner};

/// Keys of `--filter`, as podman has them: the restart policy, regardless of its
/// retry count; whether the policy starts the container when the host has booted.
const POLICY: &str = "restart-policy";
const ON_BOOT: &str = "should-start-on-boot";
const KEYS: [Key; 2] = [
    (
        POLICY,
        Kind::Checked(
            |policy| policy.parse::<RestartPolicy>().is_ok(),
            "no, on-failure, always or unless-stopped",
        ),
    ),
    (
        ON_BOOT,
        Kind::Checked(|text| text.parse::<bool>().is_ok(), "true or false"),
    ),
];

fn matches(files: &ContainerFiles, key: &str, wanted: &Wanted) -> bool {
    let value = wanted.text();
    let policy = files.definition.restart;
    if key == POLICY {
        let wanted = value.parse::<RestartPolicy>();
        return wanted.is_ok_and(|wanted| discriminant(&wanted) == discriminant(&policy));
    }
    value.parse() == Ok(policy.starts_on_boot(files.state.stopped_by_user))
}

/// Arguments of `container start`.
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Containers by name, POD/NAME, id or the beginning of an id
    #[arg(required_unless_present = "all", value_name = "CONTAINER")]
    containers: Vec<String>,

    /// Select all containers that are not running
    #[arg(long, conflicts_with_all = ["containers", "attach"])]
    all: bool,

    /// With --all: filter by restart-policy=POLICY or should-start-on-boot=true
    #[arg(long, short, value_name = "KEY=VALUE", requires = "all")]
    filter: Vec<String>,

    /// Attach to the container before it starts
    #[arg(long, short)]
    attach: bool,

    /// With --attach: pass stdin to the container
    #[arg(long, short)]
    interactive: bool,

    #[command(flatten)]
    pub(crate) preserve: Preserve,

    /// Do not start the containers that it depends on
    #[arg(long)]
    no_dependencies: bool,
}

impl Start {
    pub(crate) async fn run(self, context: &Context) -> CliResult<u8> {
        if self.attach {
            return self.attach(context).await;
        }
        if !self.preserve.is_empty() {
            return Err(runtime::Error::requires("passing descriptors", "--attach").into());
        }
        let dependencies = !self.no_dependencies;
        let which = match self.all {
            true => self.filtered(context)?,
            false => Groups::named(context, Manner::InTurn, &self.containers),
        };
        which
            .each("Starting", async |pod, names| {
                pod.start(names, dependencies).await
            })
            .await?;
        Ok(0)
    }

    fn filtered(&self, context: &Context) -> CliResult<Groups> {
        let filter = Filter::parse(&self.filter, &KEYS)?;
        Groups::all(context, Manner::InTurn, |files| {
            !files.state.status.is_running()
                && filter.matches(|key, wanted| matches(files, key, wanted))
        })
    }

    async fn attach(self, context: &Context) -> CliResult<u8> {
        let [wanted] = self.containers.as_slice() else {
            return Err(runtime::Error::requires("--attach", "exactly one container").into());
        };
        let (pod, name) = context.container(wanted)?;
        let definition = pod.view()?.container(&name)?.definition.clone();
        if !self.no_dependencies && !definition.depends_on.is_empty() {
            let on: Vec<String> = definition.depends_on.iter().cloned().collect();
            report_errors(pod.start(&on, true).await?)?;
        }
        let client = Client {
            stdin: self.interactive,
            tty: definition.terminal(),
            preserved: self.preserve.into_preserved(),
            ..Client::default()
        };
        Ok(attach(&pod, &name, true, client).await?.code())
    }
}
