//! `rust-kata image`.

use std::time::SystemTime;

use clap::{Args, Subcommand};
use runtime::engine::image::{ImageView, Removed, full_name};
use serde::Serialize;

use super::Context;
use super::error::CliResult;
use super::output::{Format, ago, json, print, size, table, value};
use super::pull::PullOptions;

/// `rust-kata image`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Takes an image in: from a registry, or oci:DIR or oci-archive:FILE
    Pull(Pull),
    /// Takes an image in from an OCI archive or layout on disk
    Load(Load),
    /// Lists images
    #[command(alias = "list")]
    Ls(Ls),
    /// Shows all there is to know about images, as JSON
    Inspect(Images),
    /// Shows how an image was made
    History(History),
    /// Gives an image a further name
    Tag(Tag),
    /// Removes images, or one of the names of an image that has others
    Rm(Rm),
    /// Removes images that have lost their names
    Prune(Prune),
}

#[derive(Debug, Args)]
pub(super) struct Pull {
    /// Images: names as in quay.io/org/app:1, or oci:DIR or oci-archive:FILE, with :TAG if need be
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    #[command(flatten)]
    options: PullOptions,
}

#[derive(Debug, Args)]
pub(super) struct Load {
    /// The archive, or the directory of the layout; with :TAG if it has several images
    path: String,

    /// The name that the image gets [default: what the layout says, or its path]
    #[arg(long, short, value_name = "NAME")]
    tag: Option<String>,

    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    /// How to show them
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Ids alone
    #[arg(long, short)]
    quiet: bool,
}

/// Which images.
#[derive(Debug, Args)]
pub(super) struct Images {
    /// Images by name, id or the beginning of an id
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct History {
    /// An image by name, id or the beginning of an id
    image: String,

    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Tag {
    /// An image by name, id or the beginning of an id
    image: String,

    /// Its further name
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    #[command(flatten)]
    which: Images,

    /// Remove their containers and all their names, too
    #[arg(long, short)]
    force: bool,
}

#[derive(Debug, Args)]
pub(super) struct Prune {
    /// All that no container is of, not only those without a name
    #[arg(long, short)]
    all: bool,
}

/// An image in a list: once for each of its names.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: Option<String>,
    digest: String,
    created: Option<String>,
    size: u64,
}

pub(super) async fn run(context: &Context, command: Command) -> CliResult<()> {
    let engine = &context.engine;
    match command {
        Command::Pull(args) => {
            for image in &args.images {
                let pulled = args.options.pull(context, image, None).await?;
                print(&format!("{}\n", pulled.image().id))?;
            }
            Ok(())
        }
        Command::Load(args) => args.run(context).await,
        Command::Ls(ls) => ls.run(context),
        Command::Inspect(which) => {
            let images = engine.images()?;
            let found = which.images.iter().map(|wanted| images.find(wanted));
            let found = found.collect::<runtime::Result<Vec<ImageView>>>()?;
            let shown = found.iter().map(|image| {
                let mut shown = value(image)?;
                shown["size"] = image.image.size().into();
                Ok(shown)
            });
            json(&shown.collect::<CliResult<Vec<_>>>()?)
        }
        Command::History(history) => history.run(context),
        Command::Tag(args) => Ok(engine.images()?.tag(&args.image, &args.name)?),
        Command::Rm(args) => {
            for image in &args.which.images {
                tell(&engine.remove_image(image, args.force).await?)?;
            }
            Ok(())
        }
        Command::Prune(args) => {
            let removed = engine.prune_images(args.all)?;
            tell(&removed)?;
            crate::terminal::say(&format!("{} were freed", size(removed.bytes)));
            Ok(())
        }
    }
}

fn tell(removed: &Removed) -> CliResult<()> {
    for name in &removed.untagged {
        print(&format!("Untagged: {name}\n"))?;
    }
    for id in &removed.deleted {
        print(&format!("Deleted: {id}\n"))?;
    }
    Ok(())
}

impl Load {
    async fn run(&self, context: &Context) -> CliResult<()> {
        let (path, _) = self.path.rsplit_once(':').unwrap_or((&self.path, ""));
        let directory = [path, &self.path]
            .iter()
            .any(|path| std::path::Path::new(path).is_dir());
        let kind = if directory { "oci" } else { "oci-archive" };
        let options = PullOptions::from_disk(self.quiet);
        let name = self.tag.as_deref().map(full_name).transpose()?;
        let reference = format!("{kind}:{}", self.path);
        let loaded = options.pull(context, &reference, name).await?;
        let names = loaded.view().names.join(", ");
        print(&format!("Loaded image: {names}\n"))
    }
}

impl Ls {
    fn run(self, context: &Context) -> CliResult<()> {
        let (images, bad) = context.engine.images()?.list()?;
        for bad in bad {
            crate::terminal::say(&format!("image {}: {}", bad.id, bad.error));
        }
        if self.quiet {
            let ids: String = images.iter().map(|i| format!("{}\n", i.image.id)).collect();
            return print(&ids);
        }
        let rows = images.iter().flat_map(rows);
        let rows: Vec<Row> = rows.collect();
        if self.format == Format::Json {
            return json(&rows);
        }
        let cells = rows.iter().map(|row| {
            vec![
                row.name.clone().unwrap_or_else(|| "<none>".into()),
                short(&row.id),
                row.created.as_deref().map_or_else(String::new, age),
                size(row.size),
            ]
        });
        let heads = ["IMAGE", "IMAGE ID", "CREATED", "SIZE"];
        table(&heads, &cells.collect::<Vec<_>>())
    }
}

fn rows(view: &ImageView) -> Vec<Row> {
    let row = |name: Option<&String>| Row {
        id: view.image.id.clone(),
        name: name.cloned(),
        digest: view.image.digest.clone(),
        created: view.image.config.created().clone(),
        size: view.image.size(),
    };
    match view.names.is_empty() {
        true => vec![row(None)],
        false => view.names.iter().map(|name| row(Some(name))).collect(),
    }
}

impl History {
    fn run(&self, context: &Context) -> CliResult<()> {
        let image = context.engine.images()?.find(&self.image)?;
        let steps = image.image.config.history().clone().unwrap_or_default();
        if self.format == Format::Json {
            return json(&steps);
        }
        let mut sizes = image.image.layers.iter().map(|layer| layer.size);
        let mut rows = Vec::new();
        for step in &steps {
            let bytes = match step.empty_layer().unwrap_or(false) {
                true => 0,
                false => sizes.next().unwrap_or(0),
            };
            rows.push(vec![
                step.created().as_deref().map_or_else(String::new, age),
                step.created_by().clone().unwrap_or_default(),
                size(bytes),
                step.comment().clone().unwrap_or_default(),
            ]);
        }
        // As podman: the last step first.
        rows.reverse();
        table(&["CREATED", "CREATED BY", "SIZE", "COMMENT"], &rows)
    }
}

/// How long ago an image says something was; as it says it, if that is no time.
fn age(created: &str) -> String {
    match humantime::parse_rfc3339_weak(created) {
        Ok(at) => ago(at.min(SystemTime::now())),
        Err(_) => created.to_owned(),
    }
}

fn short(id: &str) -> String {
    let plain = id.rsplit(':').next().unwrap_or(id);
    plain.chars().take(12).collect()
}
