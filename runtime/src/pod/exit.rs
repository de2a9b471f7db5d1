//! The end of a process, in this order:
//!
//! 1. the agent reports how it ended, or the VM is gone (137);
//! 2. its output is received;
//! 3. a container's execs have ended before the container does;
//! 4. with the last container its VM ends;
//! 5. its pid proxy ends;
//! 6. the end is saved, then published and reported at once.

use std::sync::Arc;
use std::time::Duration;

use protos::agent as api;

use crate::agent;
use crate::blocking::on_thread;
use crate::container::Container;
use crate::container::pid_proxy::{PidProxy, Signals};
use crate::container::process::Process;
use crate::error::Result;
use crate::events::{Exit, PodEvent};
use crate::pod::Pod;

/// How long the output may take to arrive that the agent says it has sent. The guest may claim
/// too much.
const OUTPUT_DEADLINE: Duration = Duration::from_secs(10);

/// How long a client may take to read the output before the end is reported. A slower one can
/// read it afterwards.
const CLIENT_DEADLINE: Duration = Duration::from_secs(1);

/// How long a client may take to read the rest when the process is removed.
const FLUSH_DEADLINE: Duration = Duration::from_secs(10);

/// How long the execs of a container may take to end after its init.
const EXECS_DEADLINE: Duration = Duration::from_secs(5);

impl Pod {
    /// Watches a process until its end has been handled.
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
                // An unknown end is never reported as a success.
                log::warn!("Container {id}: its end is not known: {e}");
                Exit::KILLED
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

    /// Ends the other processes of a container after its init.
    async fn end_container(self: &Arc<Self>, container: &Arc<Container>) {
        let id = &container.record.id;
        if !container.own_pid_namespace && self.guest.check().is_ok() {
            // The guest's kernel does not end the other processes by itself.
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

    /// Delivers the rest of a process's output to the client.
    pub(crate) async fn flush(&self, process: &Process) {
        let outputs = process.with_stdio(|stdio| stdio.outputs());
        for mut output in outputs.into_iter().flatten() {
            if !output.written(FLUSH_DEADLINE).await {
                log::warn!("Output of a removed process was not read");
            }
        }
    }

    /// Starts the pid proxy of a process.
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
        on_thread("moving a pid proxy", move || cgroup.add(pid)).await?;
        process.set_pid_proxy(pid_proxy);
        Ok(signals)
    }

    /// Forwards the pid proxy's signals until it ends.
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
                // The process has ended, and its pid proxy was removed.
                if !process.has_pid_proxy() {
                    return;
                }
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
