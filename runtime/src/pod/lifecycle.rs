//! Starting and removing containers. `create` makes them, `exit` handles their ends.

use std::sync::Arc;
use std::time::Duration;

use crate::agent;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::events::{Exit, PodEvent};
use crate::pod::Pod;
use crate::state::{Status, Step};
use crate::stdio::Stdio;
use crate::sync::lock;

/// How long a killed process may take to end.
pub(crate) const KILLED: Duration = Duration::from_secs(20);

impl Pod {
    /// Kills a container that was not started. If the guest does not do so, its VM is killed,
    /// unless other containers live in it.
    async fn kill_created(self: &Arc<Self>, container: &Container) -> Result<()> {
        let id = &container.record.id;
        match self.kill(id, None, libc::SIGKILL as u32, true).await {
            // It has ended by itself.
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(e) => return Err(e),
        }
        if tokio::time::timeout(KILLED, container.init.ended())
            .await
            .is_ok()
        {
            return Ok(());
        }
        let late = || Error::NotEnded {
            what: format!("Container {id}"),
            seconds: KILLED.as_secs(),
        };
        if self.others_live(id) {
            return Err(late());
        }
        self.guest
            .kill("the guest did not end a container that was killed")
            .await;
        let ended = tokio::time::timeout(KILLED, container.init.ended()).await;
        ended.map_err(|_| late())?.map(drop)
    }

    /// Releases the init of a created container.
    ///
    /// # Errors
    /// [`Error::WrongState`] unless it is created; the agent's.
    pub async fn start(self: &Arc<Self>, container: &str) -> Result<u32> {
        let found = self.container(container)?;
        self.detached(|pod| async move {
            let _op = pod.op.lock().await;
            let (id, init) = (&found.record.id, &found.init);
            init.step(Step::Start, "start")?;
            found.save()?;
            init.with_stdio(Stdio::start_input);
            let answer = pod
                .guest
                .unless_gone(pod.guest.agent.start_container(agent::container(id)))
                .await;
            if let Err(e) = answer {
                // It must not stay half started: its watcher reports the end.
                let _ = init.step(Step::StartFailed, "start");
                let _ = pod.kill(id, None, libc::SIGKILL as u32, true).await;
                return Err(e);
            }
            let pid = init.pid();
            pod.events.emit(PodEvent::Started {
                container: id.clone(),
                pid,
            });
            // It may have ended already: its watcher waits for this step.
            let _ = init.step(Step::Started, "start");
            found.save_or_warn();
            found.hooks.started(id, pid, &found.record.bundle).await;
            Ok(pid)
        })
        .await
    }

    /// Removes a container that has ended or was never started (without `exec`), or one of its
    /// execs. Returns its pid and how it ended.
    ///
    /// # Errors
    /// [`Error::WrongState`] while it runs.
    pub async fn delete(
        self: &Arc<Self>,
        container: &str,
        exec: Option<&str>,
    ) -> Result<(u32, Exit)> {
        if let Some(exec) = exec {
            return self.delete_exec(container, exec).await;
        }
        let found = self.container(container)?;
        self.detached(|pod| async move {
            if found.init.status() == Status::Created {
                pod.kill_created(&found).await?;
            }
            let _op = pod.op.lock().await;
            let id = &found.record.id;
            if !found.init.status().is_stopped() {
                return Err(found.init.wrong_state(found.init.status(), "delete"));
            }
            pod.container(id)?;
            let (pid, exit) = (found.init.pid(), found.init.ended().await?);
            if pod.guest.check().is_ok()
                && let Err(e) = pod.remove_from_guest(id).await
            {
                log::warn!("Container {id}: the guest did not let go of it: {e}");
            }
            pod.disks.detach(&pod.guest, id).await;
            for process in found.execs().iter().chain([&found.init]) {
                pod.flush(process).await;
                process.drop_stdio();
                process.drop_pid_proxy();
            }
            pod.forget(id).await?;
            lock(&pod.containers).remove(id);
            found.hooks.stopped(id, &found.record.bundle).await;
            pod.events.emit(PodEvent::Deleted {
                container: id.clone(),
                pid,
                exit,
            });
            Ok((pid, exit))
        })
        .await
    }
}
