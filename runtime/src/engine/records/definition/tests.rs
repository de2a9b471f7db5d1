//! Invalid definitions of pods and containers, and the errors for them.

use super::*;

fn refused(change: impl FnOnce(&mut PodDefinition)) -> Error {
    let mut pod = PodDefinition::new("local", "web");
    pod.check().unwrap();
    change(&mut pod);
    pod.check().unwrap_err()
}

/// The field whose value is refused.
fn field(change: impl FnOnce(&mut PodDefinition)) -> String {
    match refused(change) {
        Error::InvalidValue { field, .. } => field.into_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn bad_definitions_are_refused_by_field() {
    assert_eq!(field(|p| p.name = "a/b".into()), "pod name");
    assert!(matches!(
        refused(|p| p.infra = false),
        Error::Requires { .. }
    ));
    assert_eq!(field(|p| p.hostname = Some("-x".into())), "host name");
    assert_eq!(field(|p| p.hostname = Some("a..b".into())), "host name");
    assert_eq!(field(|p| p.resources.cpu_shares = Some(1)), "CPU shares");
    assert_eq!(field(|p| p.resources.cpu_period = Some(1)), "CPU period");
    assert_eq!(field(|p| p.resources.cpu_quota = Some(1)), "CPU quota");
    let cpus = |p: &mut PodDefinition| p.resources.cpuset = Some("x".into());
    assert_eq!(field(cpus), "CPU set");
    for parent in ["x", "/a/../b", "/a/b.slice", "a--b.slice", "-a.slice"] {
        let field = field(|p| p.cgroup_parent = Some(parent.into()));
        assert_eq!(field, "cgroup parent", "{parent}");
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
