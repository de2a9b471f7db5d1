//! Further processes of a container, and operations on any process: signals, stdin, pty size.

use std::sync::Arc;
use std::time::SystemTime;

use oci_spec::runtime::BoxBuilder;
use protos::agent as api;

use crate::agent;
use crate::container::process::Process;
use crate::error::{Error, Result};
use crate::events::{Exit, PodEvent};
use crate::pod::Pod;
use crate::state::{Status, Step};
use crate::state_dir::id::check_id;
use crate::stdio::{ProcessIo, Stdio};

impl Pod {
    /// Records a further process of a running container and opens what its streams lead
    /// to; [`Pod::start_exec`] runs it. The guest learns of it only then.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if the id is taken, [`Error::WrongState`]
    /// unless the container runs; [`Error::BadFile`] for a stream that cannot be opened.
    pub async fn add_exec(
        self: &Arc<Self>,
        container: &str,
        exec: &str,
        process: oci_spec::runtime::Process,
        io: ProcessIo,
    ) -> Result<()> {
        check_id("exec id", exec)?;
        let found = self.container(container)?;
        if process.args().as_ref().is_none_or(|a| a.is_empty()) {
            return Err(Error::NoCommand {
                what: "exec",
                id: exec.to_owned(),
            });
        }
        let mut process = process;
        process.set_apparmor_profile(None);
        process.set_selinux_label(None);
        let exec = exec.to_owned();
        self.detached(|pod| async move {
            let status = found.init.status();
            if status != Status::Running {
                return Err(found.init.wrong_state(status, "run a process in"));
            }
            let added = Arc::new(Process::new(&found.record.id, Some(&exec), &io));
            found.insert_exec(&exec, added.clone())?;
            let planned = pod.streams.prepare(io).and_then(|pending| {
                added.plan(process, pending);
                added.step(Step::Built, "create")
            });
            if let Err(e) = planned {
                found.remove_exec(&exec);
                return Err(e);
            }
            found.save_or_warn();
            pod.events.emit(PodEvent::ExecAdded {
                container: found.record.id.clone(),
                exec,
            });
            Ok(())
        })
        .await
    }

    /// Runs a recorded process. Returns its pid on the host.
    ///
    /// # Errors
    /// [`Error::WrongState`] unless it was added and not started yet; the agent's, such as for
    /// a command that does not exist.
    pub async fn start_exec(self: &Arc<Self>, container: &str, exec: &str) -> Result<u32> {
        let found = self.container(container)?;
        let process = found.process(Some(exec))?;
        let exec = exec.to_owned();
        self.detached(|pod| async move {
            let id = &found.record.id;
            process.step(Step::Start, "start")?;
            let started = async {
                let signals = pod.start_pid_proxy(&process, id).await?;
                pod.run_exec(id, &exec, &process).await?;
                Ok(signals)
            }
            .await;
            let signals = match started {
                Ok(signals) => signals,
                Err(e) => {
                    if matches!(e, Error::AgentTimeout { .. }) {
                        pod.kill_unanswered(id, &exec);
                    }
                    // To the outside, it never ran; 255 stands for an unknown end.
                    process.end(255, |_| {});
                    process.drop_stdio();
                    process.drop_pid_proxy();
                    found.save_or_warn();
                    return Err(e);
                }
            };
            let pid = process.pid();
            pod.events.emit(PodEvent::ExecStarted {
                container: id.clone(),
                exec,
                pid,
            });
            let _ = process.step(Step::Started, "start");
            found.save_or_warn();
            pod.watch(found.clone(), process.clone());
            pod.forward_signals(found.clone(), process, signals);
            Ok(pid)
        })
        .await
    }

    /// Has the guest run an exec, and connects its streams meanwhile.
    async fn run_exec(
        self: &Arc<Self>,
        container: &str,
        exec: &str,
        process: &Process,
    ) -> Result<()> {
        let planned = process.take_plan();
        let again = || process.wrong_state(process.status(), "start");
        let (mut plan, pending) = planned.ok_or_else(again)?;
        let size = process.kept_size();
        if let Some((width, height)) = size {
            let size = BoxBuilder::default().width(width).height(height).build();
            plan.set_console_size(Some(size.map_err(Error::encode("the size of a terminal"))?));
        }
        let request = api::ExecProcessRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
            process: serde_json::to_vec(&plan).map_err(Error::encode("the OCI process"))?,
            stdio: Some(pending.request()).into(),
            ..Default::default()
        };
        let (answer, stdio) = tokio::join!(
            self.guest
                .unless_gone(self.guest.agent.exec_process(request)),
            self.guest.unless_gone(pending.connect()),
        );
        answer?;
        let stdio = stdio.inspect_err(|_| self.kill_unanswered(container, exec))?;
        process.set_stdio(stdio);
        process.with_stdio(Stdio::start_input);
        if let Some((width, height)) = process.take_size().filter(|last| Some(*last) != size) {
            let resized = self.resize_pty(container, Some(exec), width, height).await;
            resized.unwrap_or_else(|e| log::debug!("The terminal of exec {exec}: {e}"));
        }
        Ok(())
    }

    /// Kills an exec whose start was not answered in time, so that it does not run on
    /// unnoticed. Nothing waits for this: the guest is slow or stuck.
    fn kill_unanswered(self: &Arc<Self>, container: &str, exec: &str) {
        let pod = self.clone();
        let request = api::SignalProcessRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
            signal: libc::SIGKILL as u32,
            ..Default::default()
        };
        tokio::spawn(async move {
            if let Err(e) = pod
                .guest
                .unless_gone(pod.guest.agent.signal_process(request))
                .await
            {
                log::warn!("An exec whose start was not answered: {e}");
            }
        });
    }

    pub(crate) async fn delete_exec(
        self: &Arc<Self>,
        container: &str,
        exec: &str,
    ) -> Result<(u32, Exit)> {
        let found = self.container(container)?;
        let process = found.process(Some(exec))?;
        let exec = exec.to_owned();
        self.detached(|pod| async move {
            let status = process.status();
            let exit = match (status, process.now().exit) {
                (Status::Stopped, Some(exit)) => exit,
                // It was never started, so it cannot have failed.
                (Status::Created, _) => Exit {
                    status: 0,
                    at: SystemTime::UNIX_EPOCH,
                },
                _ => return Err(process.wrong_state(status, "delete")),
            };
            let id = &found.record.id;
            if status == Status::Stopped && pod.guest.check().is_ok() {
                let request = agent::process(id, Some(&exec));
                if let Err(e) = pod
                    .guest
                    .unless_gone(pod.guest.agent.remove_process(request))
                    .await
                {
                    log::debug!("Exec {exec} of container {id}: {e}");
                }
            }
            pod.flush(&process).await;
            process.drop_stdio();
            found.remove_exec(&exec);
            found.save_or_warn();
            // No event is sent: containerd gets them for deleted containers only.
            Ok((process.pid(), exit))
        })
        .await
    }

    /// Sends a signal to a process, or with `all` to every process of the container.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it has ended, [`Error::WrongState`] for an exec that was not
    /// started. If a guest does not answer to SIGKILL, its VM is killed, unless other
    /// containers live in it.
    pub async fn kill(
        self: &Arc<Self>,
        container: &str,
        exec: Option<&str>,
        signal: u32,
        all: bool,
    ) -> Result<()> {
        let found = self.container(container)?;
        let process = found.process(exec)?;
        let ended = || Error::not_found("process (it has ended) of container", container);
        match process.status() {
            Status::Stopped => return Err(ended()),
            Status::Creating => return Err(process.wrong_state(Status::Creating, "kill")),
            Status::Created if exec.is_some() => {
                return Err(process.wrong_state(Status::Created, "kill"));
            }
            // The guest may not know it yet.
            Status::Starting if exec.is_some() => {
                process.start_answered().await;
                if process.status().is_stopped() {
                    return Err(ended());
                }
            }
            _ => {}
        }
        // kill(2): signal 0 only asks whether the process exists. CRI-O uses it, and it must
        // not depend on the guest.
        if signal == 0 {
            return Ok(());
        }
        let request = api::SignalProcessRequest {
            container_id: container.to_owned(),
            exec_id: exec.unwrap_or_default().to_owned(),
            signal,
            all: all && exec.is_none(),
            ..Default::default()
        };
        self.detached(|pod| async move {
            let answer = pod
                .guest
                .unless_gone(pod.guest.agent.signal_process(request))
                .await;
            match answer {
                // The signal's purpose is fulfilled.
                Err(Error::VmGone { .. }) => Ok(()),
                Err(e @ Error::AgentTimeout { .. }) if signal == libc::SIGKILL as u32 => {
                    if pod.others_live(&found.record.id) {
                        return Err(e);
                    }
                    pod.guest.kill("the guest did not answer to SIGKILL").await;
                    Ok(())
                }
                other => other.map(drop),
            }
        })
        .await
    }

    /// Sets the size of a process's pty; before the start of an exec, the one that it
    /// begins with. Without a pty nothing happens.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the agent's.
    pub async fn resize_pty(
        &self,
        container: &str,
        exec: Option<&str>,
        width: u32,
        height: u32,
    ) -> Result<()> {
        let process = self.container(container)?.process(exec)?;
        if process.status().is_stopped() {
            return Err(process.wrong_state(Status::Stopped, "resize"));
        }
        if !process.terminal() || process.keep_size((width, height)) {
            return Ok(());
        }
        let request = api::ResizePtyRequest {
            container_id: container.to_owned(),
            exec_id: exec.unwrap_or_default().to_owned(),
            width,
            height,
            ..Default::default()
        };
        self.guest
            .unless_gone(self.guest.agent.resize_pty(request))
            .await
            .map(drop)
    }

    /// Ends a process's stdin after the data that the client has written.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn close_stdin(&self, container: &str, exec: Option<&str>) -> Result<()> {
        let process = self.container(container)?.process(exec)?;
        process.with_stdio(|stdio| stdio.close_stdin());
        Ok(())
    }
}
