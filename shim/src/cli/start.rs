//! `rust-kata container start`: some containers, or all that a filter leaves,
//! as a service does after the host has booted.

use std::mem::discriminant;

use clap::Args;
use runtime::engine::records::ContainerFiles;
use runtime::engine::restart::RestartPolicy;

use super::Context;
use super::attach::{Attach, attach};
use super::container::Containers;
use super::error::{CliResult, settle};
use super::filter::Filter;
use super::preserve::Preserve;

/// What is asked for by `--filter`, in podman's words: a restart policy, whatever
/// its number of times; whether the policy starts it when the host has booted.
const POLICY: &str = "restart-policy";
const ON_BOOT: &str = "should-start-on-boot";

fn has(files: &ContainerFiles, key: &str, value: &str) -> bool {
    let policy = files.definition.restart;
    if key == POLICY {
        let wanted = value.parse::<RestartPolicy>();
        return wanted.is_ok_and(|wanted| discriminant(&wanted) == discriminant(&policy));
    }
    value.parse() == Ok(policy.starts_on_boot(files.state.stopped_by_user))
}

#[derive(Debug, Args)]
pub(super) struct Start {
    /// Containers by name, POD/NAME, id or the beginning of an id
    #[arg(required_unless_present = "all", value_name = "CONTAINER")]
    containers: Vec<String>,

    /// All containers that do not run
    #[arg(long, conflicts_with_all = ["containers", "attach"])]
    all: bool,

    /// With --all: those of which restart-policy=POLICY or should-start-on-boot=true
    #[arg(long, short, value_name = "KEY=VALUE", requires = "all")]
    filter: Vec<String>,

    /// Attach to it from its first word on
    #[arg(long, short)]
    attach: bool,

    /// With --attach: pass on our stdin
    #[arg(long, short)]
    interactive: bool,

    #[command(flatten)]
    pub(super) preserve: Preserve,

    /// Do not start those that it depends on
    #[arg(long)]
    no_dependencies: bool,
}

impl Start {
    pub(super) async fn run(self, context: &Context) -> CliResult<u8> {
        if self.attach {
            return self.attach(context).await;
        }
        if !self.preserve.is_empty() {
            let problem = "start passes descriptors on with --attach alone: add it".to_owned();
            return Err(runtime::Error::Invalid(problem).into());
        }
        let with = !self.no_dependencies;
        let which = if self.all {
            self.filtered(context)?
        } else {
            Containers::new(self.containers)
        };
        which
            .each(context, "Starting", async |pod, names| {
                pod.start(names, with).await
            })
            .await?;
        Ok(0)
    }

    fn filtered(&self, context: &Context) -> CliResult<Containers> {
        let filter = Filter::parse(&self.filter, &[POLICY, ON_BOOT])?;
        let mut found = Vec::new();
        for pod in context.engine.pods(context.namespace.as_deref())? {
            let view = match pod {
                Ok(view) => view,
                Err(bad) => {
                    crate::terminal::say(&bad.error.to_string());
                    continue;
                }
            };
            for (name, files) in &view.containers {
                let fits = |files: &ContainerFiles| {
                    !files.state.status.is_running()
                        && filter.fits(|key, value| has(files, key, value))
                };
                if files.as_ref().is_ok_and(fits) {
                    found.push(format!("{}/{name}", view.home.name()));
                }
            }
        }
        Ok(Containers::new(found))
    }

    async fn attach(self, context: &Context) -> CliResult<u8> {
        let [wanted] = self.containers.as_slice() else {
            let problem = "start --attach takes one container".to_owned();
            return Err(runtime::Error::Invalid(problem).into());
        };
        let (pod, name) = context.container(wanted)?;
        let definition = pod.view()?.container(&name)?.definition.clone();
        if !self.no_dependencies && !definition.depends_on.is_empty() {
            let on: Vec<String> = definition.depends_on.iter().cloned().collect();
            settle(pod.start(&on, true).await?)?;
        }
        let how = Attach {
            container: name,
            stdin: self.interactive,
            tty: definition.terminal(),
            start: true,
            preserved: self.preserve.taken(),
            ..Attach::default()
        };
        attach(&pod, how).await
    }
}
