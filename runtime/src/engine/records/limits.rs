//! Limits of a container that were changed after it was defined.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

/// Overwrites the limits in `there` with those that `given` sets.
pub(crate) fn put_over(there: &mut LinuxResources, given: &LinuxResources) {
    if let Some(cpu) = given.cpu() {
        let mut merged: LinuxCpu = there.cpu().clone().unwrap_or_default();
        merged.set_quota(cpu.quota().or(merged.quota()));
        merged.set_period(cpu.period().or(merged.period()));
        merged.set_shares(cpu.shares().or(merged.shares()));
        there.set_cpu(Some(merged));
    }
    if let Some(memory) = given.memory() {
        let mut merged: LinuxMemory = there.memory().unwrap_or_default();
        merged.set_limit(memory.limit().or(merged.limit()));
        merged.set_reservation(memory.reservation().or(merged.reservation()));
        merged.set_swap(memory.swap().or(merged.swap()));
        there.set_memory(Some(merged));
    }
    if let Some(pids) = given.pids() {
        there.set_pids(Some(*pids));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(json: serde_json::Value) -> LinuxResources {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn what_is_given_is_changed_and_the_rest_stays() {
        let mut there = limits(serde_json::json!({
            "cpu": {"quota": 1, "period": 2}, "memory": {"limit": 3}, "devices": []
        }));
        put_over(
            &mut there,
            &limits(serde_json::json!({"cpu": {"quota": 9, "shares": 8}, "pids": {"limit": 7}})),
        );
        assert_eq!(
            serde_json::to_value(&there).unwrap(),
            serde_json::json!({
                "cpu": {"quota": 9, "period": 2, "shares": 8},
                "memory": {"limit": 3}, "pids": {"limit": 7}, "devices": []
            })
        );
    }

    #[test]
    fn each_limit_that_is_given_is_put_over_the_one_that_is_there() {
        let whole = |base: i64| {
            serde_json::json!({
                "cpu": {"quota": base, "period": base + 1, "shares": base + 2},
                "memory": {"limit": base + 3, "reservation": base + 4, "swap": base + 5},
                "pids": {"limit": base + 6}
            })
        };
        let (there, given) = (whole(10), whole(20));
        let keys = ["quota", "period", "shares", "limit", "reservation", "swap"];
        for (group, key) in [0, 1, 2]
            .map(|n| ("cpu", keys[n]))
            .into_iter()
            .chain([3, 4, 5].map(|n| ("memory", keys[n])))
            .chain([("pids", "limit")])
        {
            let mut merged = limits(there.clone());
            put_over(
                &mut merged,
                &limits(serde_json::json!({group: {key: given[group][key]}})),
            );
            let mut expected = there.clone();
            expected[group][key] = given[group][key].clone();
            assert_eq!(
                serde_json::to_value(&merged).unwrap(),
                expected,
                "{group} {key}"
            );

            let mut alone = LinuxResources::default();
            put_over(&mut alone, &limits(serde_json::json!({group: {key: 5}})));
            assert_eq!(serde_json::to_value(&alone).unwrap()[group][key], 5);
        }
        let mut merged = limits(there.clone());
        put_over(&mut merged, &LinuxResources::default());
        assert_eq!(serde_json::to_value(&merged).unwrap(), there);
    }
}
