//! Events of the VM: ends of containers, and their consequences.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::{Owner, Tracked, exec};
use crate::engine::journal;
use crate::engine::records::definition::ExitPolicy;
use crate::engine::restart::{RECOVERED, back_off};
use crate::engine::status::ContainerStatus;
use crate::error::Result;
use crate::events::{Exit, PodEvent};
use crate::pod::Pod;
use crate::sync::lock;

/// How long the last output of containers may take to be logged after their VM has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl Owner {
    /// Handles the events of a VM until its end.
    pub(super) async fn listen(
        self: Arc<Self>,
        pod: Arc<Pod>,
        mut events: mpsc::UnboundedReceiver<PodEvent>,
    ) {
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => self.handle_event(&pod, event).await,
                    None => return,
                },
                reason = pod.guest.gone() => {
                    self.vm_gone(&pod, &mut events, reason).await;
                    return;
                }
            }
        }
    }

    async fn handle_event(self: &Arc<Self>, pod: &Arc<Pod>, event: PodEvent) {
        match event {
            PodEvent::Exited {
                container,
                exec: None,
                exit,
                ..
            } => self.container_ended(pod, &container, exit).await,
            PodEvent::Exited {
                container,
                exec: Some(exec),
                exit,
                ..
            } => exec::ended(&**self, pod, &container, &exec, exit).await,
            PodEvent::Oom { container } => {
                if let Ok(container) = self.tracked(&container) {
                    self.record_change(&container, |state| state.oom_killed = true);
                    self.append_container_event(&container, |event| event.action("oom"));
                }
            }
            PodEvent::Started { container, .. } => {
                if let Ok(container) = self.tracked(&container) {
                    self.record_start(&container);
                }
            }
            // Changes that were requested here have been recorded by their operations.
            _ => {}
        }
    }

    /// Records that all containers of the VM have ended with it, and reports each.
    async fn vm_gone(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        events: &mut mpsc::UnboundedReceiver<PodEvent>,
        reason: String,
    ) {
        self.record_vm_end(&pod.guest.lost());
        let in_vm = || {
            let containers = lock(&self.containers);
            containers.values().any(|c| c.now().status.is_live())
        };
        let deadline = tokio::time::Instant::now() + LAST_WORDS;
        while in_vm() {
            match tokio::time::timeout_at(deadline, events.recv()).await {
                Ok(Some(event)) => self.handle_event(pod, event).await,
                _ => break,
            }
        }
        let left: Vec<_> = lock(&self.containers).values().cloned().collect();
        for container in left {
            let problem = format!("the VM ended: {reason}");
            if let Some(lost) = container.now().lost(&problem) {
                let code = lost.exit_code.unwrap_or_default();
                self.record_change(&container, |state| *state = lost);
                self.record_end(&container, code);
            }
        }
        if let Err(e) = pod.shutdown().await {
            ::log::error!("Something may be left of the VM: {e}");
        }
        self.run_stop_hooks().await;
        self.end_if_unused().await;
    }

    async fn container_ended(self: &Arc<Self>, pod: &Arc<Pod>, name: &str, exit: Exit) {
        let Ok(container) = self.tracked(name) else {
            return;
        };
        let streams = lock(&container.streams).take();
        if let Some(streams) = streams {
            // The output is logged before the end is reported.
            let _ = tokio::time::timeout(LAST_WORDS, streams.drained()).await;
        }
        // The container is removed from the VM before it can be started again.
        if let Err(e) = pod.delete(name, None).await {
            ::log::debug!("Container {name}: {e}");
        }
        lock(&container.execs).clear();
        let before = container.now();
        let ran = before
            .started
            .and_then(|at| exit.at.duration_since(at).ok());
        let policy = container.definition.restart;
        let again = before.status != ContainerStatus::Initialized
            && policy.applies(exit.status, before.stopped_by_user, before.restarts);
        if again {
            self.pending.send_modify(|pending| *pending += 1);
        }
        self.record_change(&container, |state| {
            state.pid = 0;
            state.execs.clear();
            if state.status == ContainerStatus::Initialized && !state.stopped_by_user {
                // The container never ran.
                state.status = ContainerStatus::Configured;
                return;
            }
            state.status = ContainerStatus::Exited;
            state.exit_code = Some(exit.status);
            state.finished = Some(exit.at);
        });
        if ran.is_some_and(|ran| ran >= RECOVERED) {
            container.in_a_row.store(0, Ordering::Relaxed);
        }
        self.record_end(&container, exit.status);
        if again {
            tokio::spawn(self.clone().restart_later(container));
        } else if container.definition.remove_at_exit {
            let owner = self.clone();
            tokio::spawn(async move {
                if let Err(e) = owner.remove_ended(&container).await {
                    ::log::error!("Container {} is not removed: {e}", container.name());
                }
                owner.end_if_unused().await;
            });
        } else {
            self.end_if_unused().await;
        }
    }

    /// Boxed, since it may boot a VM, whose listener calls this.
    fn restart_later(self: Arc<Self>, container: Arc<Tracked>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let before = container.in_a_row.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(back_off(before)).await;
            let result = self.restart_by_policy(&container).await;
            self.pending.send_modify(|pending| *pending -= 1);
            if let Err(e) = result {
                ::log::error!("Container {} is not started again: {e}", container.name());
                self.record_change(&container, |state| state.problem = Some(e.to_string()));
            }
            self.end_if_unused().await;
        })
    }

    async fn restart_by_policy(self: &Arc<Self>, container: &Arc<Tracked>) -> Result<()> {
        let _op = self.op.lock().await;
        let now = container.now();
        // A user has stopped or removed the container meanwhile.
        if now.status != ContainerStatus::Exited || now.stopped_by_user || !self.has(container) {
            return Ok(());
        }
        let pod = self.boot().await?;
        self.start_one(&pod, container, now.restarts + 1).await?;
        self.append_container_event(container, |event| event.action("restart"));
        Ok(())
    }

    pub(super) fn has(&self, container: &Arc<Tracked>) -> bool {
        let found = self.tracked(container.name());
        found.is_ok_and(|found| Arc::ptr_eq(&found, container))
    }

    /// Ends the VM and the owner if no container of the pod runs or is about to.
    pub(super) async fn end_if_unused(self: &Arc<Self>) {
        // The operation that holds the lock checks again at its end.
        let Ok(_op) = self.op.try_lock() else {
            return;
        };
        self.end_if_unused_locked().await;
    }

    pub(in crate::engine) async fn end_if_unused_locked(&self) {
        let used = !self.in_vm().is_empty() || *self.pending.borrow() > 0;
        if used || *self.ended.borrow() {
            return;
        }
        let started = lock(&self.state).started;
        let keeps_running = self.definition.infra
            && started
            && self.definition.exit_policy == ExitPolicy::Continue
            && !self.definition.single;
        if keeps_running && self.live().is_some() {
            return;
        }
        self.end("its last container ended").await;
    }

    /// Ends the VM, if there is one, and the owner.
    pub(super) async fn end(&self, reason: &str) {
        self.end_vm(reason).await;
        if let Err(e) = self.change_pod(|state| state.started = false) {
            ::log::error!("{e}");
        }
        self.ended.send_replace(true);
    }

    /// Ends the VM. Its listener reports the ends of the containers in it.
    pub(super) async fn end_vm(&self, reason: &str) {
        let pod = lock(&self.vm).take();
        if let Some(pod) = pod {
            ::log::info!("Pod {}: the VM ends: {reason}", self.paths.name());
            // Checked before the shutdown is requested: the VM may have ended by itself.
            let lost = pod.guest.lost();
            if let Err(e) = pod.shutdown().await {
                ::log::error!("Something may be left of the VM: {e}");
            }
            self.record_vm_end(&lost);
        }
        // Also if its listener runs them: the owner must not end before.
        self.run_stop_hooks().await;
    }

    /// Runs the post-stop hooks, once for each VM. Other callers wait for them.
    async fn run_stop_hooks(&self) {
        let mut due = self.stop_hooks_due.lock().await;
        if !std::mem::replace(&mut *due, false) {
            return;
        }
        let hooks = self.run_hooks(&self.definition.hooks.post_stop, "stopped");
        if let Err(e) = hooks.await {
            ::log::warn!("{e}");
        }
    }

    /// Records and reports, once, that the VM has ended, and the reason if it was lost.
    fn record_vm_end(&self, lost: &Option<String>) {
        if !self.vm_reported.swap(false, Ordering::Relaxed) {
            return;
        }
        let Some(reason) = lost else {
            return self.append_event("stop");
        };
        let changed = self.change_pod(|state| state.problem = Some(reason.clone()));
        changed.unwrap_or_else(|e| ::log::error!("{e}"));
        let died = journal::Event::pod(&self.definition, "died");
        self.paths
            .journal()
            .append_or_warn(died.with("reason", reason));
    }

    /// Runs hooks of the pod, with its state on stdin.
    pub(super) async fn run_hooks(
        &self,
        hooks: &[oci_spec::runtime::Hook],
        status: &str,
    ) -> Result<()> {
        let labels: BTreeMap<_, _> = self.definition.labels.clone();
        crate::container::hooks::run_for_pod(
            hooks,
            &self.definition.id,
            status,
            self.paths.path(),
            labels,
        )
        .await
    }
}
