//! One container: its init, its exec sessions, its cgroup, and the operations that each state
//! allows.
//!
//! Changes of one container run one after the other (`changes`). Nothing else waits for them,
//! in particular no other container.

mod exec;
pub(crate) mod process;
pub(crate) mod process_info;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use oci_spec::runtime::{Hook, LinuxResources};
use protos::agent;

use crate::blocking::blocking;
use crate::cgroup::Cgroup;
use crate::cgroup::oom::{Events, OomWatch};
use crate::container::process::Process;
use crate::error::{Context, Error, Result};
use crate::launch::helper::{self, LAUNCH_FILE, PROCESS_FILE, Request, SPEC_FILE};
use crate::launch::mount_point;
use crate::launch::spawn::Spawner;
use crate::launch::spec::{self, Inherited, Plan};
use crate::stdio::Connections;
use crate::stdio::descriptor::Ends;
use crate::stdio::listener::Arrivals;
use crate::sync::lock;

/// The bundles, one directory per container.
const BUNDLES: &str = "/run/rust-kata/containers";

/// The state of libcontainer.
const STATE: &str = "/run/rust-kata/state";

/// The environment for creating a container.
#[derive(Clone)]
pub struct Environment {
    pub spawner: Arc<Spawner>,
    pub events: Arc<Events>,
    pub arrivals: Arc<Arrivals>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
    Removed,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Status::Creating => "being created",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
            Status::Removed => "removed",
        }
    }
}

pub struct Container {
    id: String,
    environment: Environment,
    cgroup: Cgroup,
    inherited: Inherited,
    private_pid_namespace: bool,
    poststart: Vec<Hook>,
    poststop: Vec<Hook>,
    oom: Arc<OomWatch>,
    pub init: Arc<Process>,
    execs: Mutex<HashMap<String, Arc<Process>>>,
    status: Mutex<Status>,
    changes: tokio::sync::Mutex<()>,
}

/// Checks an id, which becomes the name of files.
pub fn check_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    if id.is_empty() || id == "." || id == ".." || !id.chars().all(allowed) || id.len() > 128 {
        let expected = "1 to 128 letters, digits, '_', '+', '-' or '.'";
        return Err(Error::invalid("id", id, expected));
    }
    Ok(())
}

impl Container {
    /// Creates a container. Its init then waits for the start.
    pub async fn create(
        environment: &Environment,
        id: &str,
        plan: Plan,
        stdio: &agent::Stdio,
    ) -> Result<Arc<Container>> {
        let bundle = Path::new(BUNDLES).join(id);
        let made = Self::make(environment, id, plan, stdio, &bundle).await;
        if made.is_err() {
            let _ = fs::remove_dir_all(&bundle);
            let _ = fs::remove_dir_all(helper::state_folder(Path::new(STATE), id));
        }
        made
    }

    async fn make(
        environment: &Environment,
        id: &str,
        plan: Plan,
        stdio: &agent::Stdio,
        bundle: &Path,
    ) -> Result<Arc<Container>> {
        let (poststart, poststop) = helper::late_hooks(&plan.spec);
        write_json(bundle, LAUNCH_FILE, &plan.launch)?;
        let (spec, folder) = (plan.spec, bundle.to_owned());
        blocking("make the mount points", move || {
            mount_point::prepare(&spec).what("make the mount points")?;
            // libcontainer takes a spec only as a file.
            write_json(&folder, SPEC_FILE, &spec)
        })
        .await?;
        for (key, value) in &plan.net_sysctls {
            let path = Path::new("/proc/sys").join(key.replace('.', "/"));
            fs::write(&path, value).path(path)?;
        }
        let connections = Connections::take(&environment.arrivals, stdio).await?;
        plan.cgroup.create()?;
        let build = async {
            plan.cgroup.apply(&plan.resources)?;
            let devices = plan.resources.devices().as_deref().unwrap_or_default();
            plan.cgroup.restrict_devices(devices)?;
            let container = Arc::new(Container {
                id: id.to_owned(),
                environment: environment.clone(),
                inherited: plan.inherited,
                private_pid_namespace: plan.private_pid_namespace,
                poststart,
                poststop,
                oom: OomWatch::start(id, &plan.cgroup, &environment.events)?,
                init: Arc::new(Process::new(id, "", connections)),
                execs: Mutex::default(),
                status: Mutex::new(Status::Creating),
                changes: tokio::sync::Mutex::new(()),
                cgroup: plan.cgroup.clone(),
            });
            let request = Request::Create {
                id: id.to_owned(),
                folder: bundle.to_owned(),
                state: STATE.into(),
                terminal: stdio.terminal,
            };
            let started = container
                .start_process(container.init.clone(), &request, stdio.terminal)
                .await;
            match started {
                Ok(_) => Ok(container),
                Err(e) => {
                    container.oom.stop();
                    Err(container.explain_oom(e))
                }
            }
        };
        match build.await {
            Ok(container) => {
                *lock(&container.status) = Status::Created;
                Ok(container)
            }
            Err(e) => {
                if let Err(e) = plan.cgroup.remove().await {
                    log::warn!("cgroup of {id}: {e}");
                }
                Err(e)
            }
        }
    }

    /// Explains the error of a container whose own memory limit killed it during its creation.
    fn explain_oom(&self, error: Error) -> Error {
        match self.cgroup.oom_kills() {
            0 => error,
            _ => Error::OomKilled(Box::new(error)),
        }
    }

    /// Starts a process by a helper, and watches it.
    async fn start_process(
        self: &Arc<Self>,
        process: Arc<Process>,
        request: &Request,
        terminal: bool,
    ) -> Result<i32> {
        let mut connections = process.begin()?;
        let started = async {
            let (descriptors, served) = connections.descriptors()?;
            let mut ends = Ends {
                descriptors,
                ..Ends::default()
            };
            if terminal {
                let mut started = self.environment.spawner.start(request, ends).await?;
                let master = started.master.take().ok_or(Error::NoTerminal)?;
                Ok((started, connections.terminal(master)?.with(served)))
            } else {
                let (pipes, stdio) = connections.pipes()?;
                ends.stdio = pipes;
                let started = self.environment.spawner.start(request, ends).await?;
                Ok((started, stdio.with(served)))
            }
        };
        let (started, stdio) = match started.await {
            Ok(both) => both,
            Err(e) => {
                process.fail();
                return Err(e);
            }
        };
        let pid = started.pid;
        let container = Arc::downgrade(self);
        let is_init = Arc::ptr_eq(&process, &self.init);
        process.run(started, stdio, &self.oom, move || {
            if is_init && let Some(container) = container.upgrade() {
                container.init_ended();
            }
        });
        Ok(pid)
    }

    fn init_ended(&self) {
        // The kernel has killed the others, unless they can live on.
        if !self.private_pid_namespace
            && let Err(e) = self.cgroup.signal(libc::SIGKILL)
        {
            log::warn!("rest of {}: {e}", self.id);
        }
        let mut status = lock(&self.status);
        if *status != Status::Removed {
            *status = Status::Stopped;
        }
    }

    fn must_be(&self, allowed: &[Status], wanted: &'static str) -> Result<()> {
        let status = *lock(&self.status);
        if allowed.contains(&status) {
            return Ok(());
        }
        Err(Error::State {
            what: format!("container {}", self.id),
            state: status.name(),
            wanted,
        })
    }

    /// Changes the status unless the container has ended meanwhile.
    fn transition(&self, from: Status, to: Status) {
        let mut status = lock(&self.status);
        if *status == from {
            *status = to;
        }
    }

    /// Lets the init continue.
    pub async fn start(&self) -> Result<()> {
        let _changing = self.changes.lock().await;
        self.must_be(&[Status::Created], "created")?;
        let folder = helper::state_folder(Path::new(STATE), &self.id);
        notify(&folder.join(libcontainer::notify_socket::NOTIFY_FILE))?;
        self.transition(Status::Created, Status::Running);
        self.run_hooks(&self.poststart).await
    }

    async fn run_hooks(&self, hooks: &[Hook]) -> Result<()> {
        if hooks.is_empty() {
            return Ok(());
        }
        let request = Request::Hooks {
            id: self.id.clone(),
            state: STATE.into(),
            hooks: hooks.to_vec(),
        };
        self.environment.spawner.run(&request).await
    }

    /// Removes the remains of a container that does not run.
    pub async fn remove(&self) -> Result<()> {
        let _changing = self.changes.lock().await;
        self.must_be(&[Status::Created, Status::Stopped], "stopped")?;
        self.destroy().await
    }

    /// Kills and removes it in any state.
    pub async fn destroy(&self) -> Result<()> {
        self.cgroup.remove().await?;
        *lock(&self.status) = Status::Removed;
        self.oom.stop();
        self.init.disconnect();
        for (_, exec) in lock(&self.execs).drain() {
            exec.disconnect();
        }
        if let Err(e) = self.run_hooks(&self.poststop).await {
            log::warn!("poststop hooks of {}: {e}", self.id);
        }
        let _ = fs::remove_dir_all(Path::new(BUNDLES).join(&self.id));
        let _ = fs::remove_dir_all(helper::state_folder(Path::new(STATE), &self.id));
        Ok(())
    }

    pub async fn pause(&self) -> Result<()> {
        let _changing = self.changes.lock().await;
        self.must_be(&[Status::Running], "running")?;
        if let Err(e) = self.cgroup.freeze(true).await {
            let _ = self.cgroup.freeze(false).await;
            return Err(e);
        }
        self.transition(Status::Running, Status::Paused);
        Ok(())
    }

    pub async fn resume(&self) -> Result<()> {
        let _changing = self.changes.lock().await;
        self.must_be(&[Status::Paused], "paused")?;
        self.cgroup.freeze(false).await?;
        self.transition(Status::Paused, Status::Running);
        Ok(())
    }

    pub async fn update(&self, resources: &LinuxResources) -> Result<()> {
        let _changing = self.changes.lock().await;
        self.must_be(
            &[Status::Created, Status::Running, Status::Paused],
            "created or running",
        )?;
        self.cgroup.apply(resources)
    }

    pub fn stats(&self) -> agent::StatsResponse {
        self.cgroup.stats()
    }

    pub fn processes(&self) -> Result<Vec<u32>> {
        self.cgroup.processes()
    }

    /// Signals every process of the container.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        if !(1..=64).contains(&signal) {
            return Err(Error::invalid("signal", signal, "1 to 64"));
        }
        self.cgroup.signal(signal)
    }

    /// The init, or an exec.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(self.init.clone());
        }
        let execs = lock(&self.execs);
        let exec = execs.get(exec_id).ok_or_else(|| self.no_process(exec_id))?;
        Ok(exec.clone())
    }

    fn no_process(&self, exec_id: &str) -> Error {
        Error::NoProcess {
            container: self.id.clone(),
            exec: exec_id.to_owned(),
        }
    }
}

fn write_json(folder: &Path, name: &str, value: &impl serde::Serialize) -> Result<()> {
    fs::create_dir_all(folder).path(folder)?;
    let path = folder.join(name);
    let json = serde_json::to_vec(value)
        .map_err(std::io::Error::from)
        .path(&path)?;
    fs::write(&path, json).path(path)
}

/// Lets libcontainer's waiting init continue.
fn notify(socket: &Path) -> Result<()> {
    let folder = socket.parent().unwrap_or(Path::new("/"));
    let name = socket.file_name().unwrap_or_default();
    let folder = fs::File::open(folder).path(folder)?;
    // A path can be longer than the address of a socket.
    let short = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(name);
    let mut stream = UnixStream::connect(short).path(socket)?;
    stream.write_all(b"start container").path(socket)
}

#[cfg(test)]
mod tests;
