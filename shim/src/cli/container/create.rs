//! `rust-kata container create`; `run` creates its container here as well.

use clap::Args;
use runtime::engine::image::HeldImage;
use runtime::engine::records::definition::PodDefinition;
use runtime::engine::{NAME_TRIES, PodHandle, name_for};

use super::spec::Options;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::print;
use crate::error::Error;

/// Arguments of `container create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Pod of the container [default: a new one with the name of the container]
    #[arg(long, value_name = "POD")]
    pod: Option<String>,

    #[command(flatten)]
    options: Options,
}

impl Create {
    pub(crate) async fn run(self, context: &Context) -> CliResult<()> {
        let (_, name) = create(context, self.pod.as_deref(), &self.options).await?;
        print(&format!("{name}\n"))
    }
}

/// Creates the container in `pod`, or in a new pod of the same name.
pub(crate) async fn create(
    context: &Context,
    pod: Option<&str>,
    options: &Options,
) -> CliResult<(PodHandle, String)> {
    // Held until the container counts as a user of the image.
    let image = options.image(context).await?;
    let tries = if options.name.is_some() {
        1
    } else {
        NAME_TRIES
    };
    for turn in 0..tries {
        let name = options.name.clone().unwrap_or_else(|| name_for(turn));
        match create_named(context, pod, options, name, image.as_ref()).await {
            // The generated name is taken: try another.
            Err(Error::Runtime(runtime::Error::AlreadyExists { .. })) if turn + 1 < tries => {}
            other => return other,
        }
    }
    Err(runtime::Error::NoFreeName { what: "container" }.into())
}

async fn create_named(
    context: &Context,
    pod: Option<&str>,
    options: &Options,
    name: String,
    image: Option<&HeldImage>,
) -> CliResult<(PodHandle, String)> {
    let definition = options.definition(context, &name, image)?;
    // Before a pod is created for it.
    definition.check()?;
    let (pod, own) = match pod {
        Some(pod) => (context.pod(pod)?, false),
        None => {
            let mut single = PodDefinition::new(context.new_namespace(), &name);
            single.single = true;
            single.create_command = std::env::args().collect();
            (context.engine.create_pod(single)?, true)
        }
    };
    if let Err(error) = pod.create_container(&definition).await {
        if own {
            pod.remove_if_spent().await?;
        }
        return Err(error.into());
    }
    Ok((pod, name))
}
