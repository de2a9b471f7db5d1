//! `rust-kata volume`.

use clap::{Args, Subcommand};
use runtime::engine::volume::{Volume, VolumeView};
use runtime::new_id;

use super::Context;
use super::error::CliResult;
use super::output::{Format, ago, json, print, table, value};
use super::spec::pairs;

/// `rust-kata volume`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Creates a volume
    Create(Create),
    /// Lists volumes
    #[command(alias = "list")]
    Ls(Ls),
    /// Shows all there is to know about volumes, as JSON
    Inspect(Volumes),
    /// Removes volumes that no container uses
    Rm(Rm),
    /// Removes all volumes that no container uses
    Prune,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Its name [default: made up]
    name: Option<String>,

    /// A label
    #[arg(long, short, value_name = "NAME=VALUE")]
    label: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    /// How to show them
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Names alone
    #[arg(long, short)]
    quiet: bool,
}

/// Which volumes.
#[derive(Debug, Args)]
pub(super) struct Volumes {
    /// Volumes by name
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    #[command(flatten)]
    which: Volumes,

    /// Remove the containers that use them, too
    #[arg(long, short)]
    force: bool,
}

pub(super) async fn run(context: &Context, command: Command) -> CliResult<()> {
    let engine = &context.engine;
    match command {
        Command::Create(args) => {
            let mut volume = Volume::new(&args.name.unwrap_or_else(new_id));
            volume.labels = pairs(&args.label, "label")?;
            engine.volumes().create(&volume)?;
            print(&format!("{}\n", volume.name))
        }
        Command::Ls(ls) => ls.run(context),
        Command::Inspect(which) => {
            let all = readable(context)?;
            let mut found = Vec::new();
            for name in &which.volumes {
                let one = all.iter().find(|view| view.volume.name == *name);
                found.push(value(
                    one.ok_or_else(|| runtime::Error::not_found("volume", name))?,
                )?);
            }
            json(&found)
        }
        Command::Rm(args) => {
            for name in &args.which.volumes {
                engine.remove_volume(name, args.force).await?;
                print(&format!("{name}\n"))?;
            }
            Ok(())
        }
        Command::Prune => {
            let removed = engine.prune_volumes()?;
            let names: String = removed.iter().map(|name| format!("{name}\n")).collect();
            print(&names)
        }
    }
}

/// All volumes that can be read; of the others is told.
fn readable(context: &Context) -> CliResult<Vec<VolumeView>> {
    let mut found = Vec::new();
    for volume in context.engine.list_volumes()? {
        match volume {
            Ok(volume) => found.push(volume),
            Err(e) => crate::terminal::say(&e.to_string()),
        }
    }
    Ok(found)
}

impl Ls {
    fn run(self, context: &Context) -> CliResult<()> {
        let volumes = readable(context)?;
        if self.quiet {
            let names = volumes.iter().map(|view| format!("{}\n", view.volume.name));
            return print(&names.collect::<String>());
        }
        if self.format == Format::Json {
            let shown = volumes.iter().map(value);
            return json(&shown.collect::<CliResult<Vec<_>>>()?);
        }
        let cells = volumes.iter().map(|view| {
            let name = match view.anonymous {
                true => view.volume.name.chars().take(12).collect(),
                false => view.volume.name.clone(),
            };
            vec![
                name,
                ago(view.volume.created),
                view.anonymous.to_string(),
                view.users.join(", "),
            ]
        });
        let heads = ["VOLUME", "CREATED", "ANONYMOUS", "USED BY"];
        table(&heads, &cells.collect::<Vec<_>>())
    }
}
