//! Making a container, and the pod for it if it is to have one of its own.

use runtime::engine::definition::PodDefinition;
use runtime::engine::{PodHandle, new_name};

use super::Context;
use super::error::CliResult;
use super::spec::Options;

/// Creates the container in `pod`, or in a new pod of the same name.
pub(super) async fn create(
    context: &Context,
    pod: Option<&str>,
    options: &Options,
) -> CliResult<(PodHandle, String)> {
    let name = options.name.clone().unwrap_or_else(new_name);
    // Held until the container counts as a user of it.
    let image = options.image(context).await?;
    let definition = options.definition(context, &name, image.as_ref())?;
    // Before a pod is made for it in vain.
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
            pod.remove(true, None).await?;
        }
        return Err(error.into());
    }
    Ok((pod, name))
}
