//! `rust-kata container session ls`.

use clap::Args;

use super::Shown;
use crate::cli::arguments::OutputFormat;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::output::{ago, command, json, print, table, value};
use crate::cli::select::OneContainer;

/// Arguments of `container session ls`.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    which: OneContainer,

    #[command(flatten)]
    output: OutputFormat,

    /// Print ids only
    #[arg(long, short)]
    quiet: bool,
}

impl Ls {
    pub(crate) fn run(&self, context: &Context) -> CliResult<()> {
        let (pod, name) = context.container(&self.which.container)?;
        let view = pod.view()?;
        let sessions = &view.container(&name)?.state.execs;
        if self.quiet {
            let ids: String = sessions.keys().map(|id| format!("{id}\n")).collect();
            return print(&ids);
        }
        if self.output.is_json() {
            let shown = sessions.iter().map(|(id, session)| Shown {
                id,
                container: &name,
                session,
            });
            let all: Vec<_> = shown.map(|one| value(&one)).collect::<Result<_, _>>()?;
            return json(&all);
        }
        let rows = sessions.iter().map(|(id, session)| {
            let code = session.exit_code.map(|code| format!(" ({code})"));
            vec![
                id.clone(),
                format!("{}{}", session.status, code.unwrap_or_default()),
                ago(session.created),
                session.request.user.clone().unwrap_or_default(),
                command(&session.request.command),
            ]
        });
        let heads = ["SESSION", "STATUS", "CREATED", "USER", "COMMAND"];
        table(&heads, &rows.collect::<Vec<_>>())
    }
}
