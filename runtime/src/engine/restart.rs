//! Restart policies for containers that have ended.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// When the pod's owner starts an ended container again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// After a failure; at most as often as the number says, if there is one. 0 is no limit, as
    /// with podman.
    OnFailure(Option<u32>),
    /// After every end.
    Always,
    /// After every end, but not after a reboot if a user had stopped it.
    UnlessStopped,
}

impl RestartPolicy {
    /// Whether to restart a container that ended with `exit_code`, given whether a user stopped
    /// it and how often it was restarted.
    pub fn applies(self, exit_code: u32, stopped_by_user: bool, restarts: u32) -> bool {
        if stopped_by_user {
            return false;
        }
        match self {
            Self::No => false,
            Self::OnFailure(most) => {
                let most = most.filter(|most| *most > 0);
                exit_code != 0 && most.is_none_or(|most| restarts < most)
            }
            Self::Always | Self::UnlessStopped => true,
        }
    }

    /// Whether to start a container after a boot of the host, given whether a user had stopped
    /// it before.
    pub fn starts_on_boot(self, stopped_by_user: bool) -> bool {
        match self {
            Self::No | Self::OnFailure(_) => false,
            Self::Always => true,
            Self::UnlessStopped => !stopped_by_user,
        }
    }
}

/// The pause before a restart, after so many restarts in a row. It doubles each time, so that a container that fails at once
/// does not keep the host busy.
pub fn back_off(restarts: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(60);
    FIRST
        .saturating_mul(1u32.checked_shl(restarts).unwrap_or(u32::MAX))
        .min(LONGEST)
}

/// A container that has run for this long has recovered: the pauses start from the shortest
/// again. Its restarts still count, as with podman.
pub const RECOVERED: Duration = Duration::from_secs(10);

impl FromStr for RestartPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            let expected = "no, on-failure[:N], always or unless-stopped";
            Error::invalid("restart policy", text, expected)
        };
        Ok(match text.split_once(':') {
            None => match text {
                "no" | "never" | "" => Self::No,
                "on-failure" => Self::OnFailure(None),
                "always" => Self::Always,
                "unless-stopped" => Self::UnlessStopped,
                _ => return Err(bad()),
            },
            Some(("on-failure", most)) => Self::OnFailure(Some(most.parse().map_err(|_| bad())?)),
            Some(_) => return Err(bad()),
        })
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure(None) => f.write_str("on-failure"),
            Self::OnFailure(Some(most)) => write!(f, "on-failure:{most}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_read_back_as_written() {
        for text in [
            "no",
            "on-failure",
            "on-failure:3",
            "always",
            "unless-stopped",
        ] {
            assert_eq!(text.parse::<RestartPolicy>().unwrap().to_string(), text);
        }
        for text in ["sometimes", "always:3", "on-failure:x", "on-failure:-1"] {
            let error = text.parse::<RestartPolicy>().unwrap_err();
            assert!(
                matches!(&error, Error::InvalidValue { value, .. } if value == text),
                "{error}"
            );
        }
    }

    #[test]
    fn when_each_applies() {
        use RestartPolicy::*;
        for policy in [
            No,
            OnFailure(None),
            OnFailure(Some(9)),
            Always,
            UnlessStopped,
        ] {
            assert!(!policy.applies(1, true, 0), "{policy}: a user stopped it");
        }
        assert!(!No.applies(1, false, 0));
        assert!(OnFailure(None).applies(1, false, 1000));
        assert!(!OnFailure(None).applies(0, false, 0));
        assert!(OnFailure(Some(2)).applies(1, false, 1));
        assert!(!OnFailure(Some(2)).applies(1, false, 2));
        assert!(Always.applies(0, false, 1000) && UnlessStopped.applies(0, false, 5));
    }

    #[test]
    fn only_unless_stopped_minds_a_user_after_a_boot() {
        use RestartPolicy::*;
        assert!(Always.starts_on_boot(true) && Always.starts_on_boot(false));
        assert!(UnlessStopped.starts_on_boot(false) && !UnlessStopped.starts_on_boot(true));
        assert!(!No.starts_on_boot(false) && !OnFailure(None).starts_on_boot(false));
    }

    #[test]
    fn pauses_grow_to_a_minute() {
        assert_eq!(back_off(0), Duration::from_millis(100));
        assert_eq!(back_off(3), Duration::from_millis(800));
        for n in [10, 31, 32, u32::MAX] {
            assert_eq!(back_off(n), Duration::from_secs(60));
        }
    }

    #[test]
    fn each_policy_applies_as_the_table_says() {
        use RestartPolicy::*;
        for (policy, failed, succeeded, on_boot, on_boot_if_stopped) in [
            (No, [false; 4], false, false, false),
            (OnFailure(None), [true; 4], false, false, false),
            (OnFailure(Some(0)), [true; 4], false, false, false),
            (
                OnFailure(Some(2)),
                [true, true, false, false],
                false,
                false,
                false,
            ),
            (Always, [true; 4], true, true, true),
            (UnlessStopped, [true; 4], true, true, false),
        ] {
            let after = |code, stopped| [0, 1, 2, 3].map(|n| policy.applies(code, stopped, n));
            assert_eq!(after(1, false), failed, "{policy}");
            assert_eq!(after(137, false), failed, "{policy}");
            assert_eq!(after(0, false), [succeeded; 4], "{policy}");
            assert_eq!(after(1, true), [false; 4], "{policy}");
            assert_eq!(policy.starts_on_boot(false), on_boot, "{policy}");
            assert_eq!(policy.starts_on_boot(true), on_boot_if_stopped, "{policy}");
        }
    }

    #[test]
    fn policies_are_read_by_their_other_names_and_up_to_the_last_number() {
        use RestartPolicy::*;
        for (text, policy) in [
            ("", No),
            ("never", No),
            ("on-failure:0", OnFailure(Some(0))),
            ("on-failure:4294967295", OnFailure(Some(u32::MAX))),
        ] {
            assert_eq!(text.parse::<RestartPolicy>().unwrap(), policy, "{text}");
        }
        for text in [
            "on-failure:",
            "on-failure:4294967296",
            "no:1",
            "Always",
            "unless",
        ] {
            let refused = text.parse::<RestartPolicy>().unwrap_err();
            assert_eq!(
                refused.kind(),
                crate::error::ErrorKind::InvalidArgument,
                "{text}"
            );
        }
        for policy in [
            No,
            OnFailure(None),
            OnFailure(Some(7)),
            Always,
            UnlessStopped,
        ] {
            let text = serde_json::to_string(&policy).unwrap();
            assert_eq!(
                serde_json::from_str::<RestartPolicy>(&text).unwrap(),
                policy
            );
        }
    }

    #[test]
    fn each_pause_is_twice_the_one_before_up_to_the_longest() {
        let pauses: Vec<u128> = (0..12).map(|n| back_off(n).as_millis()).collect();
        assert_eq!(
            pauses,
            [
                100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 60_000, 60_000
            ]
        );
    }
}
