//! The states of a process (a container's init or an exec) as one table.

use serde::{Deserialize, Serialize};

/// The status of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is being built; only removal is allowed.
    Creating,
    /// It waits to be started.
    Created,
    /// A start was requested and has not been answered.
    Starting,
    /// It runs.
    Running,
    /// It is frozen.
    Paused,
    /// It has ended.
    Stopped,
}

/// A step in the life of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The guest has built it.
    Built,
    /// A start is requested.
    Start,
    /// The guest has started it.
    Started,
    /// The guest could not start it; it stays as it was, and is about to be ended.
    StartFailed,
    /// It was frozen.
    Pause,
    /// It was thawed.
    Resume,
    /// It or its VM ended.
    Exit,
}

/// Every allowed step. All others are refused.
pub const TABLE: &[(Status, Step, Status)] = {
    use Status::*;
    &[
        (Creating, Step::Built, Created),
        (Creating, Step::Exit, Stopped),
        (Created, Step::Start, Starting),
        (Created, Step::Exit, Stopped),
        (Starting, Step::Started, Running),
        (Starting, Step::StartFailed, Created),
        (Starting, Step::Exit, Stopped),
        (Running, Step::Pause, Paused),
        (Running, Step::Exit, Stopped),
        (Paused, Step::Resume, Running),
        (Paused, Step::Exit, Stopped),
    ]
};

impl Status {
    /// The status after `step`, or `None` if the step is not allowed.
    pub fn after(self, step: Step) -> Option<Status> {
        TABLE
            .iter()
            .find(|(from, by, _)| *from == self && *by == step)
            .map(|(_, _, to)| *to)
    }

    /// Whether the process has ended.
    pub fn is_stopped(self) -> bool {
        self == Status::Stopped
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Creating => "being created",
            Status::Created => "created",
            Status::Starting => "being started",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STEPS: [Step; 7] = [
        Step::Built,
        Step::Start,
        Step::Started,
        Step::StartFailed,
        Step::Pause,
        Step::Resume,
        Step::Exit,
    ];

    #[test]
    fn each_pair_of_status_and_step_stands_once() {
        for (i, (from, by, _)) in TABLE.iter().enumerate() {
            let again = TABLE[i + 1..].iter().any(|(f, b, _)| f == from && b == by);
            assert!(!again, "{from:?} {by:?} stands twice");
        }
    }

    proptest! {
        #[test]
        fn nothing_leaves_stopped_and_exit_always_leads_there(
            steps in proptest::collection::vec(proptest::sample::select(&STEPS[..]), 0..40)
        ) {
            let mut status = Status::Creating;
            for step in steps {
                let next = status.after(step);
                if status.is_stopped() {
                    prop_assert_eq!(next, None);
                } else if step == Step::Exit {
                    prop_assert_eq!(next, Some(Status::Stopped));
                }
                status = next.unwrap_or(status);
            }
        }
    }

    const STATUSES: [Status; 6] = [
        Status::Creating,
        Status::Created,
        Status::Starting,
        Status::Running,
        Status::Paused,
        Status::Stopped,
    ];

    #[test]
    fn each_step_leads_where_the_table_says_and_nowhere_else() {
        use Status::*;
        // Built, Start, Started, StartFailed, Pause, Resume, Exit.
        for (status, row) in STATUSES.into_iter().zip([
            [Some(Created), None, None, None, None, None, Some(Stopped)],
            [None, Some(Starting), None, None, None, None, Some(Stopped)],
            [
                None,
                None,
                Some(Running),
                Some(Created),
                None,
                None,
                Some(Stopped),
            ],
            [None, None, None, None, Some(Paused), None, Some(Stopped)],
            [None, None, None, None, None, Some(Running), Some(Stopped)],
            [None; 7],
        ]) {
            assert_eq!(STEPS.map(|step| status.after(step)), row, "{status}");
        }
    }

    #[test]
    fn states_are_told_in_words_and_written_in_one() {
        let words = [
            ("being created", "creating"),
            ("created", "created"),
            ("being started", "starting"),
            ("running", "running"),
            ("paused", "paused"),
            ("stopped", "stopped"),
        ];
        for (status, (told, written)) in STATUSES.into_iter().zip(words) {
            assert_eq!(status.to_string(), told);
            assert_eq!(serde_json::to_value(status).unwrap(), written);
            assert_eq!(status.is_stopped(), told == "stopped");
        }
    }
}
