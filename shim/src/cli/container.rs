//! `rust-kata container`.

use clap::{Args, Subcommand};
use protos::management as api;
use runtime::engine::PodHandle;
use runtime::engine::status::Outcome;

use super::attach::{Attach, DETACH_KEYS, attach, visit};
use super::containers::{Ls, inspect};
use super::create::create;
use super::error::{CliResult, settle};
use super::files::{Artifact, Cp, Export, Mount, Unmount};
use super::foreign::Theirs;
use super::logs::Logs;
use super::output::print;
use super::preserve::{Preserve, Preserved};
use super::progress::patiently;
use super::session;
use super::spec::{Options, environment, signal};
use super::start::Start;
use super::top::top;
use super::update::Update;
use super::wait::Wait;
use super::{Context, Either};

/// `rust-kata container`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Creates a container, in a new pod or a given one
    Create(Box<Create>),
    /// Builds containers in their pod's VM without starting them
    Init(Containers),
    /// Starts containers
    Start(Start),
    /// Stops containers
    Stop(Stop),
    /// Stops and starts containers
    Restart(Stop),
    /// Freezes containers
    Pause(Several),
    /// Thaws containers
    Unpause(Several),
    /// Sends a signal to containers
    Kill(Kill),
    /// Attaches to a running container
    Attach(AttachArgs),
    /// Runs a further process in a running container
    Exec(Exec),
    /// Waits for containers to end, or for another state, and tells their exit codes
    Wait(Wait),
    /// Removes containers
    Rm(Rm),
    /// Lists containers
    #[command(visible_alias = "ps", alias = "list")]
    Ls(Ls),
    /// Shows all there is to know about containers, as JSON
    Inspect(Containers),
    /// Lists the processes of a container
    Top(One),
    /// Shows what a container has said
    Logs(Logs),
    /// Changes limits of containers: at once, and for every later start
    Update(Update),
    /// Undoes what the last run of containers that do not run has left
    Cleanup(Several),
    /// Further processes that were run in a container: list, inspect, remove
    #[command(subcommand)]
    Session(session::Command),
    /// Mounts the root file systems of containers on the host, and tells where
    Mount(Mount),
    /// Undoes `mount`
    #[command(visible_alias = "umount")]
    Unmount(Unmount),
    /// Writes a container's root file system as a tar archive
    Export(Export),
    /// Copies files into containers, out of them and between them
    Cp(Cp),
    /// Files kept with a container, of which it sees nothing
    #[command(subcommand)]
    Artifact(Artifact),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The pod that it is to be in [default: a new one, of its name]
    #[arg(long, value_name = "POD")]
    pod: Option<String>,

    #[command(flatten)]
    options: Options,
}

/// Which containers.
#[derive(Debug, Args)]
pub(super) struct Containers {
    /// Containers by name, POD/NAME, id or the beginning of an id
    #[arg(required = true, value_name = "CONTAINER")]
    pub(super) containers: Vec<String>,
}

/// Which containers, or all.
#[derive(Debug, Args)]
pub(super) struct Several {
    /// Containers by name, POD/NAME, id or the beginning of an id
    #[arg(required_unless_present = "all", value_name = "CONTAINER")]
    containers: Vec<String>,

    /// All containers that rust-kata has made
    #[arg(long, short, conflicts_with = "containers")]
    all: bool,
}

impl Several {
    /// As if they had been named.
    fn named(self, context: &Context) -> CliResult<Containers> {
        let mut containers = self.containers;
        if self.all {
            for pod in context.engine.pods(context.namespace.as_deref())? {
                let pod = pod.map_err(|bad| bad.error)?;
                let names = pod.containers.keys();
                containers.extend(names.map(|name| format!("{}/{name}", pod.definition.name)));
            }
        }
        Ok(Containers { containers })
    }
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// A container by name, POD/NAME, id or the beginning of an id
    pub(super) container: String,
}

#[derive(Debug, Args)]
pub(super) struct Stop {
    #[command(flatten)]
    which: Several,

    /// Seconds before SIGKILL, instead of each container's own; 0: at once
    #[arg(long, short, value_name = "SECONDS")]
    time: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct Kill {
    #[command(flatten)]
    which: Containers,

    /// The signal
    #[arg(long, short, value_name = "SIGNAL", default_value = "KILL", value_parser = signal)]
    signal: i32,

    /// Every process of the container, not its init alone
    #[arg(long, short)]
    all: bool,
}

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// A container by name, POD/NAME, id or the beginning of an id
    container: String,

    /// Do not pass on our stdin
    #[arg(long)]
    no_stdin: bool,

    /// Do not show its stdout
    #[arg(long)]
    no_stdout: bool,

    /// Do not show its stderr
    #[arg(long)]
    no_stderr: bool,

    /// The keys that leave it alone
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    detach_keys: String,
}

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// A container by name, POD/NAME, id or the beginning of an id
    container: String,

    /// Give it a terminal
    #[arg(long, short)]
    tty: bool,

    /// Pass on our stdin
    #[arg(long, short)]
    interactive: bool,

    /// Do not wait for it
    #[arg(long, short, conflicts_with_all = ["preserve_fds", "preserve_fd"])]
    detach: bool,

    /// A variable of its environment; without a value: ours, if we have it
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,

    /// Its working directory [default: that of the container]
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<String>,

    /// Its user: name or id, with :GROUP if need be [default: that of the container]
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// All capabilities
    #[arg(long)]
    privileged: bool,

    #[command(flatten)]
    preserve: Preserve,

    /// The keys that leave it alone
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    detach_keys: String,

    /// Its command
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    #[command(flatten)]
    which: Several,

    /// Stop those that run
    #[arg(long, short)]
    force: bool,

    /// Seconds before SIGKILL, instead of each container's own; 0: at once
    #[arg(long, short, value_name = "SECONDS")]
    time: Option<u32>,
}

impl Command {
    /// Which of our descriptors it passes on, if it is one that does.
    pub(super) fn preserve(&mut self) -> Option<&mut Preserve> {
        match self {
            Command::Exec(exec) => Some(&mut exec.preserve),
            Command::Start(start) => Some(&mut start.preserve),
            _ => None,
        }
    }
}

pub(super) async fn run(context: &Context, command: Command) -> CliResult<u8> {
    match command {
        Command::Create(args) => {
            let (_, name) = create(context, args.pod.as_deref(), &args.options).await?;
            print(&format!("{name}\n"))?;
        }
        Command::Ls(ls) => return ls.run(context),
        Command::Inspect(which) => inspect(context, &which)?,
        Command::Start(start) => return start.run(context).await,
        Command::Init(which) => {
            which
                .each(context, "Building", async |pod, names| {
                    pod.init(names).await
                })
                .await?;
        }
        Command::Stop(args) => {
            let time = args.time;
            args.which
                .named(context)?
                .each(context, "Stopping", async |pod, names| {
                    pod.stop(names, time).await
                })
                .await?;
        }
        Command::Restart(args) => {
            let time = args.time;
            args.which
                .named(context)?
                .each(context, "Restarting", async |pod, names| {
                    pod.restart(names, time).await
                })
                .await?;
        }
        Command::Pause(which) => {
            which
                .named(context)?
                .each(context, "Pausing", async |pod, names| {
                    pod.pause(names).await
                })
                .await?;
        }
        Command::Unpause(which) => {
            which
                .named(context)?
                .each(context, "Unpausing", async |pod, names| {
                    pod.unpause(names).await
                })
                .await?;
        }
        Command::Kill(args) => {
            let signal = args.signal as u32;
            let (ours, theirs) = args.which.of_either(context)?;
            let send =
                async |pod: &PodHandle, names: &[String]| pod.kill(names, signal, args.all).await;
            ours.each(context, "Killing", send).await?;
            for theirs in theirs {
                settle(theirs.kill(signal, args.all).await?)?;
                print(&format!("{}\n", theirs.container))?;
            }
        }
        Command::Rm(args) => args.run(context).await?,
        Command::Wait(wait) => wait.run(context).await?,
        Command::Update(update) => update.run(context).await?,
        Command::Session(command) => session::run(context, command).await?,
        Command::Cleanup(which) => {
            let clean = async |pod: &PodHandle, names: &[String]| pod.cleanup(names).await;
            let which = which.named(context)?;
            which.each(context, "Cleaning up", clean).await?;
        }
        Command::Attach(args) => return args.run(context).await,
        Command::Exec(exec) => return exec.run(context).await,
        Command::Top(one) => top(context, &one).await?,
        Command::Logs(logs) => logs.run(context).await?,
        Command::Mount(mount) => mount.run(context).await?,
        Command::Unmount(unmount) => unmount.run(context).await?,
        Command::Export(export) => export.run(context).await?,
        Command::Cp(cp) => cp.run(context).await?,
        Command::Artifact(artifact) => artifact.run(context)?,
    }
    Ok(0)
}

impl Containers {
    pub(super) fn new(containers: Vec<String>) -> Self {
        Self { containers }
    }

    /// Does something to the containers, pod by pod, and tells the names of
    /// those for which it worked.
    pub(super) async fn each(
        &self,
        context: &Context,
        doing: &str,
        work: impl AsyncFn(&PodHandle, &[String]) -> runtime::Result<Outcome>,
    ) -> CliResult<()> {
        let mut outcome = Outcome::default();
        for (pod, names) in self.by_pod(context)? {
            let what = format!("{doing} {}", names.join(", "));
            let part = patiently(what, work(&pod, &names)).await?;
            outcome.done.extend(part.done);
            outcome.ignored.extend(part.ignored);
            outcome.errors.extend(part.errors);
        }
        let asked = [&outcome.done[..], &outcome.ignored[..]].concat();
        for name in asked {
            print(&format!("{name}\n"))?;
        }
        settle(outcome).map(drop)
    }

    /// Those of the engine, and those of other front doors.
    pub(super) fn of_either(&self, context: &Context) -> CliResult<(Self, Vec<Theirs>)> {
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for wanted in &self.containers {
            match context.either(wanted)? {
                Either::Ours(..) => ours.push(wanted.clone()),
                Either::Theirs(theirs) => others.push(*theirs),
            }
        }
        Ok((Self { containers: ours }, others))
    }

    pub(super) fn by_pod(&self, context: &Context) -> CliResult<Vec<(PodHandle, Vec<String>)>> {
        let mut pods: Vec<(PodHandle, Vec<String>)> = Vec::new();
        for wanted in &self.containers {
            let (pod, name) = context.container(wanted)?;
            match pods
                .iter_mut()
                .find(|(there, _)| there.home() == pod.home())
            {
                Some((_, names)) if names.contains(&name) => {}
                Some((_, names)) => names.push(name),
                None => pods.push((pod, vec![name])),
            }
        }
        Ok(pods)
    }
}

impl AttachArgs {
    async fn run(self, context: &Context) -> CliResult<u8> {
        let (pod, name) = context.container(&self.container)?;
        let tty = pod.view()?.container(&name)?.definition.terminal();
        let how = Attach {
            container: name,
            stdin: !self.no_stdin,
            stdout: !self.no_stdout,
            stderr: !self.no_stderr,
            tty,
            detach_keys: self.detach_keys,
            ..Attach::default()
        };
        attach(&pod, how).await
    }
}

impl Exec {
    async fn run(self, context: &Context) -> CliResult<u8> {
        let preserved = self.preserve.taken();
        let found = context.either(&self.container)?;
        let (owner, name) = match &found {
            Either::Theirs(theirs) => (theirs.owner().await?, theirs.container.clone()),
            Either::Ours(pod, name) => {
                let not_running = || runtime::Error::WrongState {
                    what: "container",
                    id: name.clone(),
                    operation: "run a process in",
                    state: "not running".into(),
                };
                let owner = pod.owner().await?.ok_or_else(not_running)?;
                (owner, name.clone())
            }
        };
        let request = api::CreateExecRequest {
            container: name.clone(),
            command: self.command,
            env: environment(&self.env)?,
            cwd: self.workdir.unwrap_or_default(),
            user: self.user.unwrap_or_default(),
            terminal: self.tty,
            privileged: self.privileged,
            preserve_fds: preserved.iter().map(Preserved::request).collect(),
            ..Default::default()
        };
        let created = owner.create_exec(request).await?;
        if self.detach {
            let exec = created.exec.clone();
            owner.start_exec(created).await?;
            print(&format!("{exec}\n"))?;
            return Ok(0);
        }
        let how = Attach {
            container: name,
            exec: created.exec,
            stdin: self.interactive,
            tty: self.tty,
            start: true,
            detach_keys: self.detach_keys,
            preserved,
            ..Attach::default()
        };
        match &found {
            Either::Ours(pod, _) => attach(pod, how).await,
            Either::Theirs(theirs) => visit(theirs, how).await,
        }
    }
}

impl Rm {
    async fn run(self, context: &Context) -> CliResult<()> {
        let (force, time) = (self.force, self.time);
        let remove = async |pod: &PodHandle, names: &[String]| {
            let outcome = pod.remove_containers(names, force, time).await?;
            // A pod that was made for a container goes with its last one.
            pod.remove_if_spent().await?;
            Ok(outcome)
        };
        let which = self.which.named(context)?;
        which.each(context, "Removing", remove).await
    }
}
