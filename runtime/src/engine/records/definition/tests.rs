//! Invalid definitions of pods and containers, and the errors for them.

use super::*;

fn refused(change: impl FnOnce(&mut PodDefinition)) -> String {
    let mut pod = PodDefinition::new("local", "web");
    pod.check().unwrap();
    change(&mut pod);
    pod.check().unwrap_err().to_string()
}

#[test]
fn bad_definitions_are_refused_by_field() {
    assert!(refused(|p| p.name = "a/b".into()).contains("pod name"));
    assert!(refused(|p| p.infra = false).contains("infra"));
    assert!(refused(|p| p.hostname = Some("-x".into())).contains("host name"));
    assert!(refused(|p| p.hostname = Some("a..b".into())).contains("host name"));
    assert!(refused(|p| p.resources.cpu_shares = Some(1)).contains("262144"));
    assert!(refused(|p| p.resources.cpu_period = Some(1)).contains("1000000"));
    assert!(refused(|p| p.resources.cpu_quota = Some(1)).contains("1000"));
    assert!(refused(|p| p.resources.cpuset = Some("x".into())).contains("0-3,7"));
    for parent in ["x", "/a/../b", "/a/b.slice", "a--b.slice", "-a.slice"] {
        let said = refused(|p| p.cgroup_parent = Some(parent.into()));
        assert!(said.contains("cgroup parent"), "{parent}: {said}");
    }
}

#[test]
fn a_pods_cgroup_is_named_as_its_parent_wants_it() {
    let mut pod = PodDefinition::new("local", "web");
    pod.id = "1".into();
    let of = |pod: &PodDefinition| pod.cgroup_path().map(|p| p.display().to_string());
    assert_eq!(of(&pod), None);
    pod.resources.cpu_shares = Some(2);
    assert_eq!(of(&pod).as_deref(), Some("/rust-kata-1"));
    pod.cgroup_parent = Some("/pods/x".into());
    assert_eq!(of(&pod).as_deref(), Some("/pods/x/1"));
    pod.cgroup_parent = Some("a-b.slice".into());
    assert_eq!(of(&pod).as_deref(), Some("a-b.slice:rust-kata:1"));
}

#[test]
fn good_definitions_are_taken() {
    let mut pod = PodDefinition::new("local", "web");
    pod.infra = false;
    pod.share.clear();
    pod.hostname = Some("a-1.example".into());
    for parent in ["/pods/x", "machine.slice", "a-b.slice", "-.slice"] {
        pod.cgroup_parent = Some(parent.into());
        pod.check().unwrap();
    }
}

#[test]
fn containers_need_a_command_and_a_root() {
    let root = Rootfs::Directory("/nonexistent".into());
    let mut spec = Spec::default();
    let container = ContainerDefinition::new("c", root, spec.clone());
    assert!(
        container
            .check()
            .unwrap_err()
            .to_string()
            .contains("nonexistent")
    );
    spec.set_process(None);
    let root = Rootfs::Directory("/".into());
    let container = ContainerDefinition::new("c", root, spec);
    assert!(
        container
            .check()
            .unwrap_err()
            .to_string()
            .contains("command")
    );
}
