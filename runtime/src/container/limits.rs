//! Upper limits of a container's resources.

use oci_spec::runtime::LinuxResources;

/// Upper limits of a container's resources; 0 stands for no limit given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The number of whole CPUs.
    pub(crate) cpus: u32,
    /// The memory in bytes.
    pub(crate) memory: u64,
}

impl Limits {
    /// The limits in OCI resources.
    pub(crate) fn of(resources: Option<&LinuxResources>) -> Self {
        Self::default().updated(resources)
    }

    /// These limits, with those that `resources` changes.
    pub(crate) fn updated(mut self, resources: Option<&LinuxResources>) -> Self {
        let cpu = resources.and_then(|r| r.cpu().as_ref());
        match cpu.map(|cpu| (cpu.quota(), cpu.period())) {
            Some((Some(quota), Some(period))) if period > 0 => {
                let quota = u64::try_from(quota).unwrap_or(0);
                self.cpus = u32::try_from(quota.div_ceil(period)).unwrap_or(u32::MAX);
            }
            _ => {}
        }
        let memory = resources.and_then(|r| r.memory().as_ref());
        if let Some(limit) = memory.and_then(|memory| memory.limit()) {
            self.memory = u64::try_from(limit).unwrap_or(0);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn limits(cpus: u32, mib: u64) -> Limits {
        Limits {
            cpus,
            memory: mib * MIB,
        }
    }

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn limits_are_read_and_what_is_not_said_stays() {
        let first =
            resources(r#"{"cpu":{"quota":150000,"period":100000},"memory":{"limit":1048576}}"#);
        let memory = resources(r#"{"memory":{"limit":2097152}}"#);
        let none = resources(r#"{"cpu":{"quota":-1,"period":100000},"memory":{"limit":-1}}"#);

        let at_first = Limits::of(Some(&first));

        assert_eq!(at_first, limits(2, 1));
        assert_eq!(at_first.updated(Some(&memory)), limits(2, 2));
        assert_eq!(at_first.updated(Some(&none)), limits(0, 0));
        assert_eq!(at_first.updated(None), at_first);
    }

    #[test]
    fn cpus_are_whole_and_what_is_no_limit_is_none() {
        for (json, expected) in [
            (r#"{"cpu":{"quota":100000,"period":100000}}"#, 1),
            (r#"{"cpu":{"quota":100001,"period":100000}}"#, 2),
            (r#"{"cpu":{"quota":1,"period":100000}}"#, 1),
            (r#"{"cpu":{"quota":0,"period":100000}}"#, 0),
            (r#"{"cpu":{"quota":-1,"period":100000}}"#, 0),
            (
                r#"{"cpu":{"quota":9223372036854775807,"period":1}}"#,
                u32::MAX,
            ),
            // Not said whole: as before.
            (r#"{"cpu":{"quota":100000}}"#, 7),
            (r#"{"cpu":{"period":100000}}"#, 7),
            (r#"{"cpu":{"quota":100000,"period":0}}"#, 7),
            (r#"{"cpu":{"shares":2}}"#, 7),
            ("{}", 7),
        ] {
            let after = limits(7, 3).updated(Some(&resources(json)));
            assert_eq!(after, limits(expected, 3), "{json}");
        }
        for (limit, bytes) in [(0, 0), (1, 1), (-1, 0), (i64::MAX, i64::MAX as u64)] {
            let json = format!(r#"{{"memory":{{"limit":{limit}}}}}"#);
            let after = limits(7, 3).updated(Some(&resources(&json)));
            assert_eq!(
                after,
                Limits {
                    cpus: 7,
                    memory: bytes
                },
                "{limit}"
            );
        }
    }
}
