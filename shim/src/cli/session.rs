//! `rust-kata container session`: the processes that `container exec` has run
//! in a container, and still runs.

use clap::{Args, Subcommand};
use protos::management as api;
use runtime::Error;
use runtime::engine::records::record::ExecSession;
use serde::Serialize;

use super::Context;
use super::error::CliResult;
use super::output::{Format, ago, command, json, print, table, value};

/// `rust-kata container session`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists the processes that were run in a container
    #[command(alias = "list")]
    Ls(Ls),
    /// Shows all there is to know about one, as JSON
    Inspect(Inspect),
    /// Forgets one that has ended
    Rm(Rm),
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    /// A container by name, POD/NAME, id or the beginning of an id
    container: String,

    /// How to show them
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Ids alone
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// A container by name, POD/NAME, id or the beginning of an id
    container: String,

    /// The session's id
    session: String,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    /// A container by name, POD/NAME, id or the beginning of an id
    container: String,

    /// The session's id
    session: String,

    /// Kill it if it runs
    #[arg(long, short)]
    force: bool,
}

/// A session, with its id.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    container: &'a str,
    #[serde(flatten)]
    session: &'a ExecSession,
}

pub(super) async fn run(context: &Context, command: Command) -> CliResult<()> {
    match command {
        Command::Ls(ls) => ls.run(context),
        Command::Inspect(inspect) => inspect.run(context),
        Command::Rm(rm) => rm.run(context).await,
    }
}

impl Ls {
    fn run(&self, context: &Context) -> CliResult<()> {
        let (pod, name) = context.container(&self.container)?;
        let view = pod.view()?;
        let sessions = &view.container(&name)?.state.execs;
        if self.quiet {
            let ids: String = sessions.keys().map(|id| format!("{id}\n")).collect();
            return print(&ids);
        }
        if self.format == Format::Json {
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
                session.user.clone().unwrap_or_default(),
                command(&session.command),
            ]
        });
        let heads = ["SESSION", "STATUS", "CREATED", "USER", "COMMAND"];
        table(&heads, &rows.collect::<Vec<_>>())
    }
}

impl Inspect {
    fn run(&self, context: &Context) -> CliResult<()> {
        let (pod, name) = context.container(&self.container)?;
        let view = pod.view()?;
        let sessions = &view.container(&name)?.state.execs;
        let session = sessions
            .get(&self.session)
            .ok_or_else(|| Error::not_found("exec", &self.session))?;
        let shown = Shown {
            id: &self.session,
            container: &name,
            session,
        };
        json(&[value(&shown)?])
    }
}

impl Rm {
    async fn run(self, context: &Context) -> CliResult<()> {
        let (pod, name) = context.container(&self.container)?;
        let missing = || Error::not_found("exec", &self.session);
        // Sessions are of a container that is in a VM.
        let owner = pod.owner().await?.ok_or_else(missing)?;
        let request = api::RemoveExecRequest {
            container: name,
            exec: self.session.clone(),
            force: self.force,
            ..Default::default()
        };
        owner.remove_exec(request).await?;
        print(&format!("{}\n", self.session))
    }
}
