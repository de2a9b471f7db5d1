//! The changing state of pods and containers, as it is on disk.

use std::collections::BTreeMap;
use std::time::SystemTime;

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::exec::ExecSession;
use crate::engine::status::ContainerStatus;
use crate::events::Exit;
use crate::state_dir::Stored;

/// The state of a pod whose removal was begun, with the remedy.
pub(crate) const REMOVING: &str = "being removed; `pod rm --force` ends what was begun";

/// The state of a pod (`state.json`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    /// The id of the infra container; `None` without one, and during its removal.
    pub infra: Option<String>,
    /// Whether the pod is being removed: it accepts no containers and is not started. The next
    /// removal continues.
    pub removing: bool,
    /// Whether the infra container, that is, the VM, runs without other containers.
    pub started: bool,
    /// The boot of the host that this state belongs to (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// The hypervisor and the reason for its choice; `None` before the first VM.
    pub hypervisor: Option<String>,
    /// The reason why the VM was lost; `None` after an orderly end.
    pub problem: Option<String>,
}

/// The state of a container (`containers/<name>/state.json`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Its status.
    pub status: ContainerStatus,
    /// Its pid on the host; 0 while it has none.
    pub pid: u32,
    /// The time of its last start.
    pub started: Option<SystemTime>,
    /// The time of its last end.
    pub finished: Option<SystemTime>,
    /// The exit code of its last run.
    pub exit_code: Option<u32>,
    /// Whether the guest's kernel killed a process of it for memory.
    pub oom_killed: bool,
    /// Why it could not be started, or why it ended, as text.
    pub problem: Option<String>,
    /// Whether a user stopped or killed it: then its policy does not start it again.
    pub stopped_by_user: bool,
    /// How often its policy has started it again.
    pub restarts: u32,
    /// How often its root file system is mounted for users (`mount`).
    pub mounts: u32,
    /// Limits that were changed since it was defined; they override those of its spec.
    #[serde(default)]
    pub limits: Option<LinuxResources>,
    /// Its further processes.
    pub execs: BTreeMap<String, ExecSession>,
}

impl Stored for PodState {}
impl Stored for ContainerState {}

impl ContainerState {
    /// This state after the VM was lost without a record of how the container ended: exited, as
    /// if killed by SIGKILL. `None` if it needs no change.
    pub fn lost(&self, why: &str) -> Option<Self> {
        if !self.status.is_live() && self.execs.is_empty() {
            return None;
        }
        let mut after = self.clone();
        after.execs.clear();
        if self.status == ContainerStatus::Initialized {
            after.status = ContainerStatus::Configured;
        } else if self.status.is_live() {
            after.status = ContainerStatus::Exited;
            after.exit_code = Some(Exit::KILLED);
            after.finished = Some(SystemTime::now());
            after.problem = Some(why.to_owned());
        }
        after.pid = 0;
        Some(after)
    }
}

#[cfg(test)]
mod tests {
    use super::super::exec::ExecRequest;
    use super::*;

    #[test]
    fn what_is_lost_has_ended_with_137_and_never_with_0() {
        let mut state = ContainerState {
            status: ContainerStatus::Running,
            pid: 7,
            ..Default::default()
        };
        let after = state.lost("the host was restarted").unwrap();
        assert_eq!(
            (after.status, after.exit_code),
            (ContainerStatus::Exited, Some(137))
        );
        assert_eq!(after.pid, 0);
        assert_eq!(after.lost("again"), None);

        state.status = ContainerStatus::Initialized;
        assert_eq!(state.lost("x").unwrap().status, ContainerStatus::Configured);
        assert_eq!(ContainerState::default().lost("x"), None);
    }

    fn session(status: ContainerStatus) -> ExecSession {
        ExecSession {
            pid: 9,
            created: SystemTime::UNIX_EPOCH,
            ..ExecSession::new(ExecRequest::default(), status)
        }
    }

    #[test]
    fn each_state_is_lost_to_what_it_was_before_or_to_an_end() {
        use ContainerStatus::*;
        let before = |status, execs: usize| ContainerState {
            status,
            pid: 7,
            exit_code: Some(3),
            problem: Some("before".into()),
            restarts: 2,
            stopped_by_user: true,
            execs: (0..execs)
                .map(|n| (n.to_string(), session(Running)))
                .collect(),
            ..ContainerState::default()
        };
        for (status, lost, killed) in [
            (Configured, None, false),
            (Initialized, Some(Configured), false),
            (Running, Some(Exited), true),
            (Paused, Some(Exited), true),
            (Stopping, Some(Exited), true),
            (Exited, None, false),
        ] {
            let state = before(status, 0);
            let after = state.lost("why");
            assert_eq!(after.as_ref().map(|after| after.status), lost, "{status}");
            let Some(after) = after else {
                // Its further processes have ended with the VM all the same.
                let without = before(status, 1).lost("why").unwrap();
                let expected = ContainerState { pid: 0, ..state };
                assert_eq!(without, expected, "{status}");
                continue;
            };
            let finished = after.finished;
            assert_eq!(finished.is_some(), killed, "{status}");
            let expected = ContainerState {
                status: after.status,
                pid: 0,
                exit_code: Some(if killed { 137 } else { 3 }),
                problem: Some(if killed { "why" } else { "before" }.into()),
                finished,
                ..state
            };
            assert_eq!(after, expected, "{status}");
            assert_eq!(before(status, 2).lost("why").unwrap().execs.len(), 0);
        }
    }
}
