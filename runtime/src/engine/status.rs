//! The states of a container, the operations that they allow, and the state of a pod that
//! follows from its containers': podman's libpod semantics, as pure functions.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The status of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerStatus {
    /// Defined, and not in a VM.
    #[default]
    #[serde(rename = "created")]
    Configured,
    /// Its init waits in the VM to be started.
    Initialized,
    /// Its init runs.
    Running,
    /// All its processes are frozen.
    Paused,
    /// It was asked to stop, and has not ended yet.
    Stopping,
    /// It has ended, or its VM has.
    Exited,
}

impl ContainerStatus {
    /// Whether it needs a VM.
    pub fn is_live(self) -> bool {
        !matches!(self, Self::Configured | Self::Exited)
    }

    /// Whether processes of it may run.
    pub fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Stopping)
    }
}

impl fmt::Display for ContainerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Podman's words.
        f.write_str(match self {
            Self::Configured => "created",
            Self::Initialized => "initialized",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Exited => "exited",
        })
    }
}

/// An operation of a pod on each of its containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Build it up to the point where its init waits.
    Init,
    /// Run it.
    Start,
    /// End it.
    Stop,
    /// Freeze it.
    Pause,
    /// Thaw it.
    Unpause,
    /// Send it a signal.
    Kill,
}

/// Whether an operation applies to a container in its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applicability {
    /// The operation changes the container.
    Applies,
    /// The container is already as the operation would make it: stopping a stopped one.
    NoOp,
    /// The operation makes no sense in this state. Asked for by name it fails; an operation
    /// on the whole pod skips the container, except for a start, which always fails.
    Invalid,
}

impl Operation {
    /// Whether the operation applies to a container in this state.
    pub fn applicability(self, status: ContainerStatus) -> Applicability {
        use Applicability::{Applies, Invalid, NoOp};
        use ContainerStatus::*;
        use Operation::*;
        match (self, status) {
            (Init, Configured | Exited) => Applies,
            (Init, _) => Invalid,
            (Start, Configured | Exited | Initialized) => Applies,
            (Start, Running) => NoOp,
            (Start, Paused | Stopping) => Invalid,
            (Stop, Initialized | Running | Paused | Stopping) => Applies,
            (Stop, Configured | Exited) => NoOp,
            (Pause, Running) => Applies,
            (Unpause, Paused) => Applies,
            (Pause | Unpause, _) => Invalid,
            (Kill, Running | Stopping | Paused) => Applies,
            (Kill, _) => Invalid,
        }
    }

    /// Whether an operation on a whole pod applies to a container in this state: as with libpod
    /// (`Pod.StopWithTimeout`, `Pod.Kill`), paused ones are ignored.
    pub fn applicability_in_pod(self, status: ContainerStatus) -> Applicability {
        match (self, status) {
            (Self::Stop | Self::Kill, ContainerStatus::Paused) => Applicability::Invalid,
            _ => self.applicability(status),
        }
    }

    /// The error for a container in a state in which the operation is invalid.
    pub(crate) fn refusal(self, container: &str, status: ContainerStatus) -> Error {
        Error::WrongState {
            what: "container",
            id: container.to_owned(),
            operation: self.name(),
            state: status.to_string(),
        }
    }

    /// The name of the operation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Kill => "kill",
        }
    }
}

/// The status of a pod, derived from its containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PodStatus {
    /// None of its containers has run yet.
    Created,
    /// All containers run.
    Running,
    /// Some containers run, others do not.
    Degraded,
    /// All containers are paused.
    Paused,
    /// Some containers have ended, and none runs.
    Stopped,
    /// All containers have ended.
    Exited,
    /// A file of it cannot be read.
    Error,
}

impl PodStatus {
    /// The status of a pod with these containers; `None` stands for a container whose state
    /// cannot be read. As with libpod (`createPodStatusResults`); a pod without containers runs
    /// while its infra container does.
    pub fn of<I>(containers: I, infra_runs: bool) -> Self
    where
        I: IntoIterator<Item = Option<ContainerStatus>>,
    {
        let (mut all, mut running, mut paused, mut ended, mut bad) = (0, 0, 0, 0, 0);
        for status in containers {
            all += 1;
            match status {
                Some(ContainerStatus::Running | ContainerStatus::Stopping) => running += 1,
                Some(ContainerStatus::Paused) => paused += 1,
                Some(ContainerStatus::Exited) => ended += 1,
                Some(ContainerStatus::Configured | ContainerStatus::Initialized) => {}
                None => bad += 1,
            }
        }
        match () {
            () if all == 0 && infra_runs => Self::Running,
            () if all == 0 => Self::Created,
            () if running == all => Self::Running,
            () if running > 0 => Self::Degraded,
            () if paused == all => Self::Paused,
            () if infra_runs && bad == 0 && (ended > 0 || paused > 0) => Self::Degraded,
            () if ended == all => Self::Exited,
            () if ended > 0 => Self::Stopped,
            () if bad > 0 => Self::Error,
            () => Self::Created,
        }
    }
}

impl fmt::Display for PodStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The result of an operation, container by container.
#[derive(Debug, Default)]
#[must_use = "it may hold errors of single containers"]
pub struct Outcome {
    /// The containers for which it was done.
    pub done: Vec<String>,
    /// The containers that needed no change.
    pub ignored: Vec<String>,
    /// The containers for which it failed.
    pub errors: BTreeMap<String, crate::Error>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [ContainerStatus; 6] = [
        ContainerStatus::Configured,
        ContainerStatus::Initialized,
        ContainerStatus::Running,
        ContainerStatus::Paused,
        ContainerStatus::Stopping,
        ContainerStatus::Exited,
    ];

    #[test]
    fn pods_stand_as_libpod_has_it() {
        use ContainerStatus::*;
        let of = |list: &[ContainerStatus]| PodStatus::of(list.iter().copied().map(Some), false);
        assert_eq!(of(&[]), PodStatus::Created);
        assert_eq!(of(&[Configured, Initialized]), PodStatus::Created);
        assert_eq!(of(&[Running, Running]), PodStatus::Running);
        assert_eq!(of(&[Running, Exited]), PodStatus::Degraded);
        assert_eq!(of(&[Running, Configured]), PodStatus::Degraded);
        assert_eq!(of(&[Paused, Paused]), PodStatus::Paused);
        assert_eq!(of(&[Exited, Exited]), PodStatus::Exited);
        assert_eq!(of(&[Exited, Configured]), PodStatus::Stopped);
        assert_eq!(of(&[Paused, Exited]), PodStatus::Stopped);
        let bad = PodStatus::of([None, Some(Configured)], false);
        assert_eq!(bad, PodStatus::Error);
    }

    #[test]
    fn an_infra_container_counts() {
        use ContainerStatus::*;
        let of = |list: &[ContainerStatus]| PodStatus::of(list.iter().copied().map(Some), true);
        assert_eq!(of(&[]), PodStatus::Running);
        assert_eq!(of(&[Exited]), PodStatus::Degraded);
        assert_eq!(of(&[Running]), PodStatus::Running);
        assert_eq!(of(&[Paused]), PodStatus::Paused);
    }

    proptest! {
        #[test]
        fn a_pod_runs_exactly_when_all_containers_do(
            states in proptest::collection::vec(proptest::sample::select(&ALL[..]), 1..8)
        ) {
            let runs = |s: &ContainerStatus| {
                matches!(s, ContainerStatus::Running | ContainerStatus::Stopping)
            };
            let status = PodStatus::of(states.iter().copied().map(Some), false);
            prop_assert_eq!(status == PodStatus::Running, states.iter().all(runs));
            prop_assert_eq!(
                status == PodStatus::Degraded,
                states.iter().any(runs) && !states.iter().all(runs)
            );
        }
    }

    #[test]
    fn what_is_fine_leads_where_the_operation_would() {
        use ContainerStatus::*;
        for status in ALL {
            if Operation::Stop.applicability(status) == Applicability::NoOp {
                assert!(!status.is_live(), "{status}");
            }
            if Operation::Start.applicability(status) == Applicability::NoOp {
                assert_eq!(status, Running);
            }
        }
    }

    #[test]
    fn each_operation_applies_as_the_table_says() {
        use Applicability::{Applies as A, Invalid as I, NoOp as N};
        // Configured, Initialized, Running, Paused, Stopping, Exited.
        for (operation, name, row) in [
            (Operation::Init, "init", [A, I, I, I, I, A]),
            (Operation::Start, "start", [A, A, N, I, I, A]),
            (Operation::Stop, "stop", [N, A, A, A, A, N]),
            (Operation::Pause, "pause", [I, I, A, I, I, I]),
            (Operation::Unpause, "unpause", [I, I, I, A, I, I]),
            (Operation::Kill, "kill", [I, I, A, A, A, I]),
        ] {
            assert_eq!(
                ALL.map(|status| operation.applicability(status)),
                row,
                "{name}"
            );
            assert_eq!(operation.name(), name);
        }
    }

    #[test]
    fn states_are_called_as_podman_calls_them_also_on_disk() {
        let names = [
            ("created", false, false),
            ("initialized", true, false),
            ("running", true, true),
            ("paused", true, true),
            ("stopping", true, true),
            ("exited", false, false),
        ];
        for (status, (name, live, running)) in ALL.into_iter().zip(names) {
            assert_eq!(status.to_string(), name);
            assert_eq!(serde_json::to_value(status).unwrap(), name);
            assert_eq!(
                (status.is_live(), status.is_running()),
                (live, running),
                "{name}"
            );
        }
        assert_eq!(PodStatus::Degraded.to_string(), "Degraded");
    }

    #[test]
    fn containers_that_cannot_be_read_count_too() {
        use ContainerStatus::*;
        for (containers, alone, with_infra) in [
            (&[None][..], PodStatus::Error, PodStatus::Error),
            (
                &[None, Some(Configured)],
                PodStatus::Error,
                PodStatus::Error,
            ),
            (&[None, Some(Paused)], PodStatus::Error, PodStatus::Error),
            (
                &[None, Some(Exited)],
                PodStatus::Stopped,
                PodStatus::Stopped,
            ),
            (
                &[None, Some(Running)],
                PodStatus::Degraded,
                PodStatus::Degraded,
            ),
            (
                &[None, Some(Stopping)],
                PodStatus::Degraded,
                PodStatus::Degraded,
            ),
            (&[Some(Stopping)], PodStatus::Running, PodStatus::Running),
            (&[Some(Configured)], PodStatus::Created, PodStatus::Created),
            (
                &[Some(Initialized), Some(Paused)],
                PodStatus::Created,
                PodStatus::Degraded,
            ),
            (
                &[Some(Initialized), Some(Exited)],
                PodStatus::Stopped,
                PodStatus::Degraded,
            ),
            (
                &[Some(Paused), Some(Exited)],
                PodStatus::Stopped,
                PodStatus::Degraded,
            ),
            (
                &[Some(Paused), Some(Running)],
                PodStatus::Degraded,
                PodStatus::Degraded,
            ),
        ] {
            let of = |infra| PodStatus::of(containers.iter().copied(), infra);
            assert_eq!((of(false), of(true)), (alone, with_infra), "{containers:?}");
        }
    }

    /// The table of `docs/states.md`, from the code's.
    fn documented() -> String {
        let operations = [
            Operation::Init,
            Operation::Start,
            Operation::Stop,
            Operation::Pause,
            Operation::Unpause,
            Operation::Kill,
        ];
        let mut table = String::from("| |");
        for status in ALL {
            table += &format!(" {status} |");
        }
        table += &format!("\n|---|{}\n", "---|".repeat(ALL.len()));
        for operation in operations {
            for in_pod in [false, true] {
                let of = if in_pod { "pod" } else { "container" };
                table += &format!("| `{of} {}` |", operation.name());
                for status in ALL {
                    let applicability = match in_pod {
                        true => operation.applicability_in_pod(status),
                        false => operation.applicability(status),
                    };
                    table += match applicability {
                        Applicability::Applies => " yes |",
                        Applicability::NoOp => " nothing to do |",
                        // A start of a pod without an error means that its containers run.
                        Applicability::Invalid if in_pod && operation != Operation::Start => {
                            " ignored |"
                        }
                        Applicability::Invalid => " refused |",
                    };
                }
                table += "\n";
            }
        }
        table
    }

    #[test]
    fn the_documented_table_is_the_codes() {
        const STATES: &str = include_str!("../../../docs/states.md");
        let table = documented();
        assert!(STATES.contains(&table), "docs/states.md must have\n{table}");
    }
}
