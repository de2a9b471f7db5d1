//! `rust-kata container mount|unmount|export|cp|artifact`: the files of containers.

use std::fs::File;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use runtime::Error;
use runtime::engine::files::copy::{End, Source, Target, copy, export};
use runtime::engine::records::definition::Rootfs;
use serde_json::json;

use super::Context;
use super::error::CliResult;
use super::output::{Format, json as print_json, print, table};
use super::written::Written;
use crate::error::Context as _;

/// `rust-kata container mount`.
#[derive(Debug, Args)]
pub(super) struct Mount {
    /// Containers by name, POD/NAME, id or the beginning of an id [default: show what is mounted]
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,

    /// How what is mounted is shown
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// `rust-kata container unmount`.
#[derive(Debug, Args)]
pub(super) struct Unmount {
    /// Containers by name, POD/NAME, id or the beginning of an id
    #[arg(value_name = "CONTAINER", required_unless_present = "all")]
    containers: Vec<String>,

    /// All that are mounted
    #[arg(long, short, conflicts_with = "containers")]
    all: bool,

    /// However often it was mounted, and though a process on the host uses it
    #[arg(long, short)]
    force: bool,
}

/// `rust-kata container export`.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// A container by name, POD/NAME, id or the beginning of an id
    container: String,

    /// The file that it is written to, which is as it was before until all is there [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// `rust-kata container cp`.
///
/// A directory that is there takes in what is copied, by its name. No link leads out
/// of a container.
#[derive(Debug, Args)]
pub(super) struct Cp {
    /// PATH or CONTAINER:PATH, PATH/. for what is in it; - for an archive on stdin
    source: String,

    /// PATH or CONTAINER:PATH; - for an archive on stdout
    target: String,

    /// What is copied becomes the container's user's, or on the host the caller's; false: it keeps its owner
    #[arg(long, short, value_name = "BOOL", default_value_t = true, num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    archive: bool,
}

/// `rust-kata container artifact`.
#[derive(Debug, Subcommand)]
pub(super) enum Artifact {
    /// Keeps a file with a container
    Add {
        container: String,
        /// What it is called
        artifact: String,
        /// Its content; - for stdin
        file: PathBuf,
    },
    /// Writes one to stdout
    Get { container: String, artifact: String },
    /// Lists those of a container
    Ls {
        container: String,
        /// How they are shown
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Removes one
    Rm { container: String, artifact: String },
}

impl Mount {
    pub(super) async fn run(self, context: &Context) -> CliResult<()> {
        if self.containers.is_empty() {
            return show(context, self.format);
        }
        let single = self.containers.len() == 1;
        for wanted in &self.containers {
            let (pod, name) = context.container(wanted)?;
            let path = pod.mount(&name).await?;
            let path = path.display();
            print(&match single {
                true => format!("{path}\n"),
                false => format!("{wanted} {path}\n"),
            })?;
        }
        Ok(())
    }
}

/// Containers that are mounted: pod, name, how often, where.
fn mounted(context: &Context) -> CliResult<Vec<(String, String, u32, PathBuf)>> {
    let views = context.engine.pods(context.namespace.as_deref())?;
    let mut mounted = Vec::new();
    for view in views.into_iter().flatten() {
        for (name, files) in &view.containers {
            let Ok(files) = files else { continue };
            if files.state.mounts == 0 {
                continue;
            }
            let path = match &files.definition.rootfs {
                Rootfs::Directory(path) => path.clone(),
                Rootfs::Image { .. } => view.home.container(name)?.rootfs(),
            };
            let pod = view.home.name().to_owned();
            mounted.push((pod, name.clone(), files.state.mounts, path));
        }
    }
    Ok(mounted)
}

fn show(context: &Context, format: Format) -> CliResult<()> {
    let mounted = mounted(context)?;
    match format {
        Format::Json => {
            let list = mounted.iter().map(|(pod, container, mounts, path)| {
                json!({"pod": pod, "container": container, "mounts": mounts, "path": path})
            });
            print_json(&list.collect::<Vec<_>>())
        }
        Format::Table => {
            let rows = mounted.into_iter().map(|(pod, container, mounts, path)| {
                vec![
                    pod,
                    container,
                    mounts.to_string(),
                    path.display().to_string(),
                ]
            });
            table(
                &["POD", "CONTAINER", "MOUNTS", "PATH"],
                &rows.collect::<Vec<_>>(),
            )
        }
    }
}

impl Unmount {
    pub(super) async fn run(self, context: &Context) -> CliResult<()> {
        let wanted = match self.all {
            true => mounted(context)?
                .into_iter()
                .map(|(pod, container, ..)| format!("{pod}/{container}"))
                .collect(),
            false => self.containers,
        };
        for wanted in wanted {
            let (pod, name) = context.container(&wanted)?;
            pod.unmount(&name, self.force).await?;
            print(&format!("{name}\n"))?;
        }
        Ok(())
    }
}

/// A stream for an archive, which is nothing for people to read.
fn archive_out() -> CliResult<Box<dyn Write + Send>> {
    if stdout().is_terminal() {
        let problem = "An archive is not for a terminal: redirect it, or name a file";
        return Err(Error::Invalid(problem.into()).into());
    }
    Ok(Box::new(stdout()))
}

impl Export {
    pub(super) async fn run(self, context: &Context) -> CliResult<()> {
        let (pod, name) = context.container(&self.container)?;
        let Some(path) = self.output else {
            return Ok(export(&pod, &name, archive_out()?).await?);
        };
        let file = Written::open(&path).on("create", &path)?;
        let writer = file.writer().on("create", &path)?;
        export(&pod, &name, Box::new(writer)).await?;
        file.keep().on("create", &path)
    }
}

impl Cp {
    pub(super) async fn run(self, context: &Context) -> CliResult<()> {
        let source = match self.source.as_str() {
            "-" => Source::Archive(Box::new(stdin())),
            path => Source::Path(end(context, path)?),
        };
        let target = match self.target.as_str() {
            "-" => Target::Archive(archive_out()?),
            path => Target::Path(end(context, path)?),
        };
        let left_out = copy(source, target, !self.archive).await?;
        if left_out.devices > 0 {
            crate::terminal::say(&format!(
                "{} device node(s) were left out, as nothing for the host; the first is {}",
                left_out.devices, left_out.first
            ));
        }
        Ok(())
    }
}

/// `CONTAINER:PATH`, or a path on the host: what begins with `/` or `.`, or has no
/// colon.
fn end(context: &Context, text: &str) -> CliResult<End> {
    let of_container = text
        .split_once(':')
        .filter(|(container, _)| !container.starts_with(['/', '.']) && !container.is_empty());
    Ok(match of_container {
        None => End::Host(text.into()),
        Some((wanted, path)) => {
            let (pod, container) = context.container(wanted)?;
            End::Container {
                pod,
                container,
                path: path.into(),
            }
        }
    })
}

impl Artifact {
    pub(super) fn run(self, context: &Context) -> CliResult<()> {
        match self {
            Self::Add {
                container,
                artifact,
                file,
            } => {
                let (pod, name) = context.container(&container)?;
                if file == Path::new("-") {
                    return Ok(pod.add_artifact(&name, &artifact, &mut stdin())?);
                }
                let mut content = File::open(&file).on("open", &file)?;
                Ok(pod.add_artifact(&name, &artifact, &mut content)?)
            }
            Self::Get {
                container,
                artifact,
            } => {
                let (pod, name) = context.container(&container)?;
                let mut content = pod.artifact(&name, &artifact)?;
                std::io::copy(&mut content, &mut stdout().lock()).doing("write the artifact")?;
                Ok(())
            }
            Self::Ls { container, format } => {
                let (pod, name) = context.container(&container)?;
                let artifacts = pod.artifact_names(&name)?;
                match format {
                    Format::Json => {
                        let list = artifacts.iter();
                        let list = list.map(|(name, size)| json!({"name": name, "size": size}));
                        print_json(&list.collect::<Vec<_>>())
                    }
                    Format::Table => {
                        let rows = artifacts.into_iter();
                        let rows = rows.map(|(name, size)| vec![name, size.to_string()]);
                        table(&["ARTIFACT", "SIZE"], &rows.collect::<Vec<_>>())
                    }
                }
            }
            Self::Rm {
                container,
                artifact,
            } => {
                let (pod, name) = context.container(&container)?;
                Ok(pod.remove_artifact(&name, &artifact)?)
            }
        }
    }
}
