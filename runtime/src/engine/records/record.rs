//! What changes about pods and containers, as it is on disk.

use std::collections::BTreeMap;
use std::time::SystemTime;

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::engine::status::ContainerStatus;
use crate::state_dir::Stored;
use crate::stdio::descriptor::Direction;

/// What a pod is whose removal was begun, in words that tell the cure.
pub(crate) const REMOVING: &str = "being removed; `pod rm --force` ends what was begun";

/// The state of a pod (`state.json`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    /// Id of the infra container; none without one, and while it is removed.
    pub infra: Option<String>,
    /// The pod is being removed: no container may come in, and it is not
    /// started; the next removal ends what was begun.
    pub removing: bool,
    /// The infra container, that is the VM, is to run without others.
    pub started: bool,
    /// The boot of the host that this is of (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// The hypervisor and why it was chosen, once there was a VM.
    pub hypervisor: Option<String>,
    /// Why the VM ended, if it was not asked to.
    pub problem: Option<String>,
}

/// The state of a container (`containers/<name>/state.json`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Where it stands.
    pub status: ContainerStatus,
    /// Its pid on the host; 0 while it has none.
    pub pid: u32,
    /// When it was last started.
    pub started: Option<SystemTime>,
    /// When it last ended.
    pub finished: Option<SystemTime>,
    /// How it last ended.
    pub exit_code: Option<u32>,
    /// The guest's kernel killed a process of it for memory.
    pub oom_killed: bool,
    /// Why it could not be started, or what ended it, in words.
    pub problem: Option<String>,
    /// A user stopped or killed it: it is not started again by its policy.
    pub stopped_by_user: bool,
    /// How often its policy has started it again.
    pub restarts: u32,
    /// How often its root file system is mounted for users (`mount`).
    pub mounts: u32,
    /// Limits that were changed since it was defined: over those of its spec.
    #[serde(default)]
    pub limits: Option<LinuxResources>,
    /// Its further processes.
    pub execs: BTreeMap<String, ExecSession>,
}

/// A further process of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSession {
    /// Its command.
    pub command: Vec<String>,
    /// It has a pty.
    pub terminal: bool,
    /// Its environment.
    pub env: Vec<String>,
    /// Its user as given; none: that of the container.
    pub user: Option<String>,
    /// Its directory.
    pub cwd: String,
    /// It has all capabilities.
    pub privileged: bool,
    /// What it is given open beside its stdio.
    #[serde(default)]
    pub preserve_fds: Vec<PreservedFd>,
    /// Where it stands.
    pub status: ContainerStatus,
    /// Its pid on the host; 0 while it has none.
    pub pid: u32,
    /// When it was created.
    pub created: SystemTime,
    /// How it ended.
    pub exit_code: Option<u32>,
    /// When it ended.
    pub finished: Option<SystemTime>,
}

/// How a process has ended whose end nobody saw: as if killed by SIGKILL.
pub(crate) const KILLED: u32 = 128 + libc::SIGKILL as u32;

/// A descriptor of the client that starts a process, which the process has, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreservedFd {
    /// Its number.
    pub number: u32,
    /// Which way its bytes go, as the process sees it.
    pub direction: Direction,
}

impl Stored for PodState {}
impl Stored for ContainerState {}

impl ContainerState {
    /// What it is after its VM went without anybody noting how it ended:
    /// lost, as if killed by SIGKILL. `None` if it needs no change.
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
            after.exit_code = Some(KILLED);
            after.finished = Some(SystemTime::now());
            after.problem = Some(why.to_owned());
        }
        after.pid = 0;
        Some(after)
    }
}

#[cfg(test)]
mod tests {
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
}
