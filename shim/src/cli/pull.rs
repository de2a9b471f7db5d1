//! The image of a container: from the local store, or pulled.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use runtime::engine::image::{
    Credentials, HeldImage, ImageSource, LayerProgress, LayerStep, RegistryOptions, Report, silent,
};

use super::context::Context;
use super::error::CliResult;

/// The arguments for pulling images.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PullOptions {
    /// Require TLS with a valid certificate [default: except for a registry on this machine]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    tls_verify: Option<bool>,

    /// Credentials for the registry
    #[arg(long, value_name = "USER:PASSWORD", value_parser = credentials)]
    creds: Option<Credentials>,

    /// File with credentials, as written by `podman login` [default: podman's and docker's]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,

    /// Hide the progress
    #[arg(long, short)]
    quiet: bool,
}

/// When the image is pulled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    /// Pull if the image is not in the local store.
    #[default]
    Missing,
    /// Always pull.
    Always,
    /// Never pull.
    Never,
}

/// The image `reference`, pulled if needed, and held for the container to be created.
pub(crate) async fn obtain(
    context: &Context,
    reference: &str,
    policy: Policy,
    options: &PullOptions,
) -> CliResult<HeldImage> {
    let images = context.engine.images()?;
    let local = !reference.starts_with("oci:") && !reference.starts_with("oci-archive:");
    if local && policy != Policy::Always {
        match images.hold(reference) {
            Err(runtime::Error::NotFound { .. }) if policy == Policy::Missing => {}
            other => return Ok(other?),
        }
    }
    // An archive or layout on disk is read each time; only its new layers are unpacked.
    options.pull(context, reference, None).await
}

impl PullOptions {
    /// The options for an image on disk.
    pub(crate) fn from_disk(quiet: bool) -> Self {
        Self {
            quiet,
            ..Self::default()
        }
    }

    /// Pulls an image.
    pub(crate) async fn pull(
        &self,
        context: &Context,
        reference: &str,
        name: Option<String>,
    ) -> CliResult<HeldImage> {
        let images = context.engine.images()?;
        let source: ImageSource = reference.parse()?;
        let registry = RegistryOptions {
            tls_verify: self.tls_verify,
            credentials: self.creds.clone(),
            auth_file: self.authfile.clone(),
        };
        let bars = Arc::new(Bars::new(self.quiet));
        let report: Report = if bars.shown.is_hidden() {
            silent()
        } else {
            let bars = bars.clone();
            Arc::new(move |now| bars.update(now))
        };
        let pulled = images.pull(&source, name, &registry, report).await;
        // The bars end before an error is printed.
        bars.end();
        Ok(pulled?)
    }
}

fn credentials(text: &str) -> Result<Credentials, String> {
    text.parse().map_err(|e: runtime::Error| e.to_string())
}

/// A bar for each layer, on a terminal.
struct Bars {
    shown: MultiProgress,
    layers: Mutex<HashMap<String, (LayerStep, ProgressBar)>>,
}

impl Bars {
    fn new(quiet: bool) -> Self {
        // indicatif shows nothing if stderr is not a terminal.
        let target = if quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        Self {
            shown: MultiProgress::with_draw_target(target),
            layers: Mutex::default(),
        }
    }

    fn update(&self, now: LayerProgress<'_>) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = now.digest.digest();
        let (step, bar) = layers.entry(digest.to_owned()).or_insert_with(|| {
            let bar = self.shown.add(ProgressBar::new(now.total));
            bar.set_style(style());
            bar.set_prefix(digest.chars().take(12).collect::<String>());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar.set_message(words(now.step));
            (now.step, bar)
        });
        if *step != now.step {
            *step = now.step;
            bar.set_message(words(now.step));
        }
        bar.set_position(now.done);
        if matches!(now.step, LayerStep::Present | LayerStep::Done) {
            bar.finish();
        }
    }

    fn end(&self) {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, bar) in layers.values() {
            if !bar.is_finished() {
                bar.abandon();
            }
        }
    }
}

fn words(step: LayerStep) -> &'static str {
    match step {
        LayerStep::Present => "is here",
        LayerStep::Fetching => "copying",
        LayerStep::Unpacking => "unpacking",
        LayerStep::Done => "done",
    }
}

fn style() -> ProgressStyle {
    const TEMPLATE: &str = "{prefix} {msg:9} [{bar:30}] {bytes}/{total_bytes}";
    ProgressStyle::with_template(TEMPLATE)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
