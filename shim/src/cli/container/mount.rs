//! `rust-kata container mount`.

use std::path::PathBuf;

use clap::Args;
use runtime::engine::records::definition::Rootfs;
use serde_json::json;

use crate::cli::arguments::OutputFormat;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::failures::Failures;
use crate::cli::output::{Format, json as print_json, print, table};

/// Arguments of `container mount`.
#[derive(Debug, Args)]
pub(crate) struct Mount {
    /// Containers by name, POD/NAME, id or the beginning of an id [default: list mounted
    /// containers]
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,

    #[command(flatten)]
    output: OutputFormat,
}

impl Mount {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        if self.containers.is_empty() {
            return show(context, self.output.format);
        }
        let mut failures = Failures::default();
        let single = self.containers.len() == 1;
        for wanted in &self.containers {
            let Some(path) = failures.check(mount(context, wanted).await) else {
                continue;
            };
            let path = path.display();
            print(&match single {
                true => format!("{path}\n"),
                false => format!("{wanted} {path}\n"),
            })?;
        }
        failures.finish()
    }
}

async fn mount(context: &Context, wanted: &str) -> CliResult<PathBuf> {
    let (pod, name) = context.container(wanted)?;
    Ok(pod.mount(&name).await?)
}

/// The containers that are mounted: pod, name, number of mounts, path.
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
                Rootfs::Image { .. } => view.paths.container(name)?.rootfs(),
            };
            let pod = view.paths.name().to_owned();
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
