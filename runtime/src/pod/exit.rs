//! The end of a process: noticed, written down and told of, in this order:
//!
//! 1. the agent says how it ended, or the VM is gone (137);
//! 2. its output is taken in;
//! 3. a container's execs have ended before the container does;
//! 4. with the last container its VM goes;
//! 5. its stand-in on the host goes;
//! 6. the end is saved, then published and told of at once.

use std::sync::Arc;
use std::time::Duration;

use protos::agent as api;

use crate::agent;
use crate::container::Container;
use crate::container::pid_proxy::{PidProxy, Signals};
use crate::container::process::Process;
use crate::error::{Error, Result};
use crate::events::PodEvent;
use crate::pod::Pod;

/// A process that was lost with its VM, as one killed by SIGKILL.
const LOST: u32 = 128 + libc::SIGKILL as u32;

/// For output that the agent says it has sent. It is on the way; the guest may
/// be lying.
const OUTPUT_DEADLINE: Duration = Duration::from_secs(10);

/// For a client to read what was written before it hears of the end. One that
/// does not read can still do so afterwards.
const CLIENT_DEADLINE: Duration = Duration::from_secs(1);

/// For a client to read the rest, when the process is removed.
const FLUSH_DEADLINE: Duration = Duration::from_secs(10);

/// For the execs of a container whose init has ended.
const EXECS_DEADLINE: Duration = Duration::from_secs(5);

impl Pod {
    /// Sees a process to its end.
    pub(crate) fn watch(self: &Arc<Self>, container: Arc<Container>, process: Arc<Process>) {
        let pod = self.clone();
        tokio::spawn(async move { pod.see_to_the_end(&container, &process).await });
    }

    async fn see_to_the_end(self: &Arc<Self>, container: &Arc<Container>, process: &Arc<Process>) {
        let id = &container.record.id;
        let request = agent::process(id, process.exec());
        let status = match self
            .guest
            .unless_gone(self.guest.agent.wait_process(request))
            .await
        {
            Ok(answer) => {
                self.take_in(process, &answer).await;
                if answer.oom_killed {
                    container.report_oom();
                }
                answer.exit_status
            }
            Err(e) => {
                // Whatever the reason: an end that is not known is not a success.
                log::warn!("Container {id}: its end is not known: {e}");
                LOST
            }
        };
        process.start_answered().await;
        if process.exec().is_none() {
            self.end_container(container).await;
        }
        let outputs = process.with_stdio(|stdio| {
            stdio.stop_input();
            stdio.outputs()
        });
        for mut output in outputs.into_iter().flatten() {
            output.written(CLIENT_DEADLINE).await;
        }
        process.drop_pid_proxy();
        process.decide_end(status);
        container.save_or_warn();
        let pid = process.pid();
        process.end(status, |exit| {
            self.events.emit(PodEvent::Exited {
                container: id.clone(),
                exec: process.exec().map(ToOwned::to_owned),
                pid,
                exit,
            });
        });
    }

    /// Waits for the output that the process had written when it ended.
    async fn take_in(&self, process: &Process, answer: &api::WaitProcessResponse) {
        let written = process.with_stdio(|stdio| stdio.written(answer));
        let received = written.into_iter().flatten();
        let received = received.map(|(mut output, total)| async move {
            if !output.received(total, OUTPUT_DEADLINE).await {
                log::warn!("The guest announced output that it did not send");
            }
        });
        tokio::select! {
            _ = futures::future::join_all(received) => {}
            _ = self.guest.gone() => {}
        }
    }

    /// What goes with the init of a container.
    async fn end_container(self: &Arc<Self>, container: &Arc<Container>) {
        let id = &container.record.id;
        if !container.own_pid_namespace && self.guest.check().is_ok() {
            // Nothing in the guest's kernel ends the others.
            let all = api::SignalProcessRequest {
                container_id: id.clone(),
                signal: libc::SIGKILL as u32,
                all: true,
                ..Default::default()
            };
            if let Err(e) = self
                .guest
                .unless_gone(self.guest.agent.signal_process(all))
                .await
            {
                log::debug!("Container {id}: killing what its init left: {e}");
            }
        }
        container.set_ended();
        let last = !self.others_live(id);
        let execs = container.execs();
        let running = execs
            .iter()
            .filter(|p| !p.status().is_stopped() && p.pid() != 0);
        let ended = futures::future::join_all(running.map(|p| p.ended()));
        if tokio::time::timeout(EXECS_DEADLINE, ended).await.is_err() && !last {
            log::warn!("Container {id}: an exec outlives it");
        }
        if last && !self.spec.outlives_containers {
            self.guest.stop("its last container ended").await;
        }
    }

    /// Gives the client the rest of a process's output.
    pub(crate) async fn flush(&self, process: &Process) {
        let outputs = process.with_stdio(|stdio| stdio.outputs());
        for mut output in outputs.into_iter().flatten() {
            if !output.written(FLUSH_DEADLINE).await {
                log::warn!("Output of a removed process was not read");
            }
        }
    }

    /// Starts the stand-in of a process.
    pub(crate) async fn start_pid_proxy(
        &self,
        process: &Process,
        container: &str,
    ) -> Result<Signals> {
        let name = match process.exec() {
            None => container.to_owned(),
            Some(exec) => format!("{container}/{exec}"),
        };
        let (pid_proxy, signals) = PidProxy::start(&name, self.spec.netns.as_deref()).await?;
        let (cgroup, pid) = (self.cgroup.clone(), pid_proxy.pid());
        // The kernel may wait for all processors first.
        tokio::task::spawn_blocking(move || cgroup.add(pid))
            .await
            .map_err(|e| Error::Internal(format!("Moving a pid proxy broke off: {e}")))?;
        process.set_pid_proxy(pid_proxy);
        Ok(signals)
    }

    /// Passes the stand-in's signals on, until it goes.
    pub(crate) fn forward_signals(
        self: &Arc<Self>,
        container: Arc<Container>,
        process: Arc<Process>,
        mut signals: Signals,
    ) {
        let pod = self.clone();
        tokio::spawn(async move {
            loop {
                let signal = tokio::select! {
                    signal = signals.next() => signal,
                    _ = process.ended() => return,
                };
                if let Err(e) = pod
                    .kill(&container.record.id, process.exec(), signal, false)
                    .await
                {
                    log::debug!("Container {}: signal {signal}: {e}", container.record.id);
                }
                if signal == libc::SIGKILL as u32 {
                    return;
                }
            }
        });
    }
}
