//! Pods without an owner: the views of readers, and the records that they write.

use std::time::SystemTime;

use oci_spec::runtime::Spec;

use super::*;
use crate::engine::Engine;
use crate::engine::journal::Reader;
use crate::engine::records::definition::{ContainerDefinition, Rootfs};
use crate::engine::records::exec::{ExecRequest, ExecSession};

struct Lab {
    root: tempfile::TempDir,
    paths: DataPaths,
}

impl Lab {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let engine = Engine::below(root.path());
        let pod = engine
            .create_pod(PodDefinition::new("local", "web"))
            .unwrap();
        let paths = pod.paths().clone();
        Self { root, paths }
    }

    fn add(&self, name: &str, on: &[&str], state: ContainerState) {
        let held = PodLock::exclusive(&self.paths).unwrap();
        let root = Rootfs::Directory("/".into());
        let mut definition = ContainerDefinition::new(name, root, Spec::default());
        definition.depends_on = on.iter().map(|name| (*name).to_owned()).collect();
        records::create_container(&self.paths, &definition, &held).unwrap();
        let paths = self.paths.container(name).unwrap();
        records::write_container(&paths, &state, &held).unwrap();
    }

    /// Writes the pod's files as an owner does, with this boot id.
    fn started(&self, boot: &str) {
        let held = PodLock::exclusive(&self.paths).unwrap();
        let mut state = PodView::read_locked(&self.paths, &held).unwrap().state;
        state.started = true;
        state.boot = boot.to_owned();
        records::write_pod(&self.paths, &state, &held).unwrap();
    }

    /// The journal's events, without those of the pod's creation.
    fn journal(&self) -> Vec<String> {
        let mut reader = Reader::open(&self.paths.journal()).unwrap();
        let events = reader.events().unwrap().into_iter();
        let events = events.filter(|event| event.action != "create");
        let line = |event: Event| {
            let more = event.attributes.iter();
            let more: String = more.map(|(key, value)| format!(" {key}={value}")).collect();
            format!("{} {}{more}", event.name, event.action)
        };
        events.map(line).collect()
    }
}

fn state(status: ContainerStatus, execs: &[(&str, ContainerStatus)]) -> ContainerState {
    let session = |status| ExecSession {
        pid: 9,
        created: SystemTime::UNIX_EPOCH,
        ..ExecSession::new(ExecRequest::default(), status)
    };
    let execs = execs
        .iter()
        .map(|(id, status)| ((*id).to_owned(), session(*status)));
    ContainerState {
        status,
        execs: execs.collect(),
        ..ContainerState::default()
    }
}

fn owner() -> OwnerProcess {
    OwnerProcess {
        pid: 7,
        start_time: 8,
        address: String::new(),
    }
}

#[test]
fn what_a_dead_owner_lost_is_shown_by_each_reader_and_recorded_by_one() {
    use ContainerStatus::*;
    let lab = Lab::new();
    let execs = [("x1", Running), ("x2", Exited), ("x3", Configured)];
    lab.add("ran", &[], state(Running, &execs));
    lab.add("waited", &[], state(Initialized, &[]));
    lab.add("over", &[], state(Exited, &[("y", Running)]));
    lab.add("never", &[], state(Configured, &[]));
    lab.started(&records::boot_id().unwrap());

    for _ in 0..2 {
        let view = PodView::read(&lab.paths).unwrap();
        assert_eq!(view.lost_containers(), ["over", "ran", "waited"]);
        let ran = &view.container("ran").unwrap().state;
        assert_eq!((ran.status, ran.exit_code), (Exited, Some(137)));
        assert_eq!(ran.problem.as_deref(), Some(LOST));
        assert!(lab.journal().is_empty(), "to look changes nothing");
    }
    for _ in 0..2 {
        let view = PodView::read_and_record(&lab.paths).unwrap();
        assert!(view.lost_containers().is_empty() && !view.state.started);
        assert_eq!(
            lab.journal(),
            [
                "over exec_died exec=y exit_code=137".to_owned(),
                "ran exec_died exec=x1 exit_code=137".into(),
                "ran died exit_code=137".into(),
                format!("web died reason={LOST}"),
            ]
        );
    }
    let statuses = ["ran", "waited", "over", "never"].map(|name| {
        let view = PodView::read(&lab.paths).unwrap();
        view.container(name).unwrap().state.status
    });
    assert_eq!(statuses, [Exited, Configured, Exited, Configured]);
}

#[test]
fn a_reboot_is_the_reason_if_there_was_one() {
    for (boot, why) in [("", LOST), ("another", REBOOTED)] {
        let lab = Lab::new();
        lab.add("a", &[], state(ContainerStatus::Paused, &[]));
        lab.started(boot);
        let view = PodView::read_and_record(&lab.paths).unwrap();
        let a = &view.container("a").unwrap().state;
        assert_eq!(a.problem.as_deref(), Some(why));
        assert_eq!(
            lab.journal().last().unwrap(),
            &format!("web died reason={why}")
        );
        drop(lab.root);
    }
}

#[test]
fn nothing_of_a_pod_with_an_owner_is_lost() {
    let lab = Lab::new();
    lab.add("a", &[], state(ContainerStatus::Running, &[]));
    lab.started("another");
    let owned = OwnerLock::take(&lab.paths, &owner()).unwrap();
    for view in [
        PodView::read(&lab.paths),
        PodView::read_and_record(&lab.paths),
    ] {
        let view = view.unwrap();
        assert_eq!(view.owner, Some(owner()));
        assert!(view.infra_runs() && view.state.started);
        assert_eq!(view.status(), PodStatus::Running);
        assert_eq!(view.in_state(ContainerStatus::is_running), ["a"]);
    }
    assert!(lab.journal().is_empty());
    drop(owned);
    assert!(!PodView::read(&lab.paths).unwrap().infra_runs());
}

#[test]
fn the_infra_container_runs_with_an_owner_once_it_was_started() {
    let lab = Lab::new();
    let owned = OwnerLock::take(&lab.paths, &owner()).unwrap();
    assert!(!PodView::read(&lab.paths).unwrap().infra_runs());
    lab.started("");
    let mut view = PodView::read(&lab.paths).unwrap();
    assert!(view.infra_runs());
    view.definition.infra = false;
    assert!(!view.infra_runs());
    drop(owned);
}

#[test]
fn a_lock_that_another_holds_is_not_waited_for_to_record() {
    let lab = Lab::new();
    lab.add("a", &[], state(ContainerStatus::Running, &[]));
    lab.started("");
    let held = PodLock::shared(&lab.paths).unwrap();
    let view = PodView::read_and_record(&lab.paths).unwrap();
    assert_eq!(view.lost_containers(), ["a"]);
    assert!(lab.journal().is_empty());
    drop(held);
    PodView::read_and_record(&lab.paths).unwrap();
    assert_eq!(lab.journal().len(), 2);
}

#[test]
fn containers_are_chosen_by_name_or_all_of_them() {
    use ContainerStatus::*;
    let lab = Lab::new();
    lab.add("b", &[], state(Exited, &[]));
    lab.add("a", &["b"], state(Configured, &[]));
    lab.add("bad", &[], state(Configured, &[]));
    std::fs::write(lab.paths.container("bad").unwrap().state(), "").unwrap();
    let view = PodView::read(&lab.paths).unwrap();
    let chosen = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        view.chosen(&names)
    };
    assert_eq!(chosen(&[]).unwrap(), ["a", "b", "bad"]);
    assert_eq!(chosen(&["b", "a"]).unwrap(), ["b", "a"]);
    match chosen(&["a", "none"]) {
        Err(Error::NotFound { what, id }) => assert_eq!((what, &*id), ("container", "none")),
        other => panic!("{other:?}"),
    }
    assert_eq!(view.graph().order(), ["b", "bad", "a"]);
    assert_eq!(view.in_state(|status| status == Exited), ["b"]);
    assert_eq!(
        view.in_state(|_| true),
        ["a", "b"],
        "of one that is not read nothing is known"
    );
    assert_eq!(view.status(), PodStatus::Stopped);
    assert!(matches!(
        view.container("none"),
        Err(Error::NotFound { .. })
    ));
    match view.container("bad") {
        Err(Error::BadFile { path, .. }) => assert_eq!(path, lab.paths.containers().join("bad")),
        other => panic!("{other:?}"),
    }
}
