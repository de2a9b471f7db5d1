//! A container's statistics, read from its cgroup's files.

use std::collections::HashMap;

use protobuf::MessageField;
use protos::agent::{CpuStats, IoStats, MemoryStats, PidsStats, StatsResponse};

use super::{Cgroup, parse_flat};

impl Cgroup {
    /// All statistics. A file that does not exist, since its controller is not built in, counts
    /// as zeroes.
    pub fn stats(&self) -> StatsResponse {
        StatsResponse {
            cpu: MessageField::some(self.cpu()),
            memory: MessageField::some(self.memory()),
            pids: MessageField::some(PidsStats {
                current: self.single("pids.current"),
                limit: self.single("pids.max"),
                ..Default::default()
            }),
            io: parse_io(&self.read("io.stat").unwrap_or_default()),
            ..Default::default()
        }
    }

    fn cpu(&self) -> CpuStats {
        let stat = self.flat("cpu.stat");
        let get = |key: &str| stat.get(key).copied().unwrap_or(0);
        CpuStats {
            usage_usec: get("usage_usec"),
            user_usec: get("user_usec"),
            system_usec: get("system_usec"),
            nr_periods: get("nr_periods"),
            nr_throttled: get("nr_throttled"),
            throttled_usec: get("throttled_usec"),
            ..Default::default()
        }
    }

    fn memory(&self) -> MemoryStats {
        let usage = self.single("memory.current");
        MemoryStats {
            usage,
            max_usage: self.single("memory.peak").max(usage),
            limit: self.single("memory.max"),
            swap_usage: self.single("memory.swap.current"),
            swap_limit: self.single("memory.swap.max"),
            stat: self.flat("memory.stat"),
            events: self.flat("memory.events"),
            ..Default::default()
        }
    }

    fn single(&self, name: &str) -> u64 {
        self.read(name).map_or(0, |text| parse_single(&text))
    }

    fn flat(&self, name: &str) -> HashMap<String, u64> {
        parse_flat(&self.read(name).unwrap_or_default())
    }
}

/// A number, or "max".
fn parse_single(text: &str) -> u64 {
    match text.trim() {
        "max" => u64::MAX,
        number => number.parse().unwrap_or(0),
    }
}

/// Lines as "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0".
fn parse_io(text: &str) -> Vec<IoStats> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            let mut stats = IoStats {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                ..Default::default()
            };
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                let value = value.parse().unwrap_or(0);
                match key {
                    "rbytes" => stats.rbytes = value,
                    "wbytes" => stats.wbytes = value,
                    "rios" => stats.rios = value,
                    "wios" => stats.wios = value,
                    _ => {}
                }
            }
            Some(stats)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_is_the_largest_number() {
        assert_eq!(parse_single("max\n"), u64::MAX);
        assert_eq!(parse_single("4096\n"), 4096);
        assert_eq!(parse_single(""), 0);
    }

    #[test]
    fn io_lines_are_parsed_whatever_their_order() {
        let io = parse_io("254:16 rios=3 rbytes=1 wbytes=2 wios=4 dbytes=0\n\n8:0\n");
        assert_eq!(io.len(), 2);
        assert_eq!((io[0].major, io[0].minor), (254, 16));
        assert_eq!((io[0].rbytes, io[0].wbytes), (1, 2));
        assert_eq!((io[0].rios, io[0].wios), (3, 4));
    }

    #[test]
    fn statistics_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let cpu = "usage_usec 1\nuser_usec 2\nsystem_usec 3\nnr_periods 4\nnr_throttled 5\n\
                   throttled_usec 6\n";
        for (file, text) in [
            ("cpu.stat", cpu),
            ("memory.current", "10\n"),
            ("memory.peak", "11\n"),
            ("memory.max", "12\n"),
            ("memory.swap.current", "13\n"),
            ("memory.swap.max", "max\n"),
            ("memory.stat", "anon 14\nfile 15\n"),
            ("memory.events", "oom_kill 16\n"),
            ("pids.current", "17\n"),
            ("pids.max", "18\n"),
            (
                "io.stat",
                "19:20 rbytes=21 wbytes=22 rios=23 wios=24 dbytes=25 dios=26\n",
            ),
        ] {
            std::fs::write(folder.path().join(file), text).unwrap();
        }
        let cgroup = Cgroup {
            path: folder.path().to_owned(),
        };
        let expected = StatsResponse {
            cpu: MessageField::some(CpuStats {
                usage_usec: 1,
                user_usec: 2,
                system_usec: 3,
                nr_periods: 4,
                nr_throttled: 5,
                throttled_usec: 6,
                ..Default::default()
            }),
            memory: MessageField::some(MemoryStats {
                usage: 10,
                max_usage: 11,
                limit: 12,
                swap_usage: 13,
                swap_limit: u64::MAX,
                stat: [("anon".into(), 14), ("file".into(), 15)].into(),
                events: [("oom_kill".into(), 16)].into(),
                ..Default::default()
            }),
            pids: MessageField::some(PidsStats {
                current: 17,
                limit: 18,
                ..Default::default()
            }),
            io: vec![IoStats {
                major: 19,
                minor: 20,
                rbytes: 21,
                wbytes: 22,
                rios: 23,
                wios: 24,
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(cgroup.stats(), expected);

        // Read later than the peak, the usage may be more.
        std::fs::write(folder.path().join("memory.current"), "99\n").unwrap();
        assert_eq!(cgroup.stats().memory.max_usage, 99);
    }
}
