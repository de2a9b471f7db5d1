//! The size of a pod's VM, and what its containers use of it.

use std::collections::HashMap;

use test_support::require;

use super::*;
use crate::engine::records::definition::{PodResources, SharedNamespace};
use crate::engine::usage::{ContainerProcess, ContainerUsage, PodUsage};
use crate::state_dir::record::PodConfig;

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_of_the_named_ones_or_of_all_that_run() {
    let lab = require!(Lab::started(&["a", "b"]).await);
    let used = async |wanted: &[&str]| -> Result<Vec<String>> {
        let used = lab.owner.measure(&names(wanted)).await?.containers;
        Ok(used.into_iter().map(|usage| usage.container).collect())
    };
    let one = lab.owner.measure(&names(&["a"])).await.unwrap();
    let one = one.containers.into_iter().next().unwrap();
    let expected = ContainerUsage {
        container: "a".into(),
        cpu_ns: 2000,
        memory: 3,
        memory_limit: Some(4),
        pids: 5,
        read: 66,
        written: 770,
        at: one.at,
    };
    assert_eq!(one, expected);
    assert_eq!(used(&[]).await.unwrap(), ["a", "b"]);
    lab.owner.stop(&names(&["a"]), Some(0)).await.unwrap();
    assert_eq!(used(&[]).await.unwrap(), ["b"]);
    let wrong = |error: Error, verb: &str| match error {
        Error::WrongState {
            what: "container",
            id,
            operation,
            state,
        } => assert_eq!((&*id, operation, &*state), ("a", verb, "exited")),
        other => panic!("{other:?}"),
    };
    wrong(used(&["b", "a"]).await.unwrap_err(), "measure");
    wrong(
        lab.owner.list_processes("a").await.unwrap_err(),
        "list the processes of",
    );
    let listed = lab.owner.list_processes("b").await.unwrap();
    assert_eq!(
        listed,
        [ContainerProcess {
            pid: 7,
            parent: 1,
            uid: 8,
            cpu_ms: 9,
            resident_bytes: 10,
            command: listed[0].command.clone(),
        }]
    );
    for missing in [
        used(&["none"]).await.map(drop).unwrap_err(),
        lab.owner
            .list_processes("none")
            .await
            .map(drop)
            .unwrap_err(),
    ] {
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
    lab.owner.end_vm("enough").await;
    assert_eq!(lab.owner.measure(&[]).await.unwrap(), PodUsage::default());
    wrong(used(&["a"]).await.unwrap_err(), "measure");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_has_the_names_and_the_limits_of_its_pod() {
    let change = |pod: &mut PodDefinition| {
        pod.hostname = Some("h".into());
        pod.memory_mib = Some(300);
        pod.vcpus = Some(3);
        pod.share = [SharedNamespace::Pid].into();
        pod.resources = PodResources {
            cpu_quota: Some(150_000),
            cpu_period: Some(50_000),
            cpu_shares: Some(7),
            cpuset: Some("0".into()),
            memory: Some(1 << 30),
        };
    };
    let lab = require!(Lab::with(&[], change, |_| ()).await);
    let manager = lab.owner.engine.config().cgroup_manager;
    let definition = lab.owner.definition();
    let label = |name: &str, value: &str| (format!("io.rust-kata.{name}"), value.to_owned());
    let expected = PodConfig {
        namespace: "local".into(),
        id: "web".into(),
        hostname: Some("h".into()),
        cgroups_path: Some(definition.cgroup_path(manager)),
        cpu_limits: definition.resources.cpu_limits(),
        labels: HashMap::from([label("memory_mib", "300"), label("vcpus", "3")]),
        memory_limit: Some(1 << 30),
        cpus: Some(3),
        share_pid: true,
        outlives_containers: true,
        ..PodConfig::default()
    };
    assert_eq!(lab.owner.pod_config(), expected);

    let lab = require!(Lab::new(&[]).await);
    let usual = lab.owner.pod_config();
    assert_eq!(usual.hostname.as_deref(), Some("web"));
    assert_eq!(
        (usual.memory_limit, usual.cpus, usual.share_pid),
        (None, None, false)
    );
    assert!(usual.labels.is_empty() && usual.outlives_containers);
}

#[tokio::test(flavor = "multi_thread")]
async fn cpus_are_whole_ones_of_a_quota() {
    for (quota, period, cpus) in [
        (Some(100_000), None, Some(1)),
        (Some(100_001), None, Some(2)),
        (Some(1000), Some(1_000_000), Some(1)),
        (Some(-1), None, None),
        (None, Some(1000), None),
    ] {
        let change = |pod: &mut PodDefinition| {
            pod.resources.cpu_quota = quota;
            pod.resources.cpu_period = period;
        };
        let lab = require!(Lab::with(&[], change, |_| ()).await);
        assert_eq!(lab.owner.pod_config().cpus, cpus, "{quota:?} {period:?}");
    }
}
