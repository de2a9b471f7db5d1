//! Tests: random sequences of operations on pods without owners, against a small model. A
//! running owner would need a VM; the files that a killed owner leaves do not, and are among
//! the operations.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::runtime::Spec;
use proptest::prelude::*;

use super::records;
use super::records::definition::{ContainerDefinition, PodDefinition, Rootfs};
use super::records::record::ContainerState;
use super::status::{Applicability, ContainerStatus, Operation, Outcome, PodStatus};
use super::{Engine, PodHandle, RemoveOptions};
use crate::error::{ErrorKind, Result};
use crate::state_dir::lock::PodLock;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// The ways to remove a pod.
fn ways() -> Vec<RemoveOptions> {
    let with_containers = RemoveOptions {
        containers: true,
        ..RemoveOptions::default()
    };
    vec![
        RemoveOptions::default(),
        with_containers,
        RemoveOptions::FORCE,
    ]
}

/// An operation. Numbers are indices of names.
#[derive(Debug, Clone)]
enum Act {
    Create(usize),
    Remove(usize, RemoveOptions),
    Add(usize, usize, Vec<usize>),
    Take(usize, Vec<usize>, bool),
    /// The owner is killed with a container in this state.
    Die(usize, usize, ContainerStatus),
    Stop(usize, Vec<usize>),
    Signal(usize, Operation, Vec<usize>),
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Container {
    on: BTreeSet<String>,
    exited: bool,
    by_user: bool,
}

type Model = BTreeMap<String, BTreeMap<String, Container>>;

/// The result: for the whole operation, or container by container. `Some` is a class of errors.
#[derive(Debug, PartialEq)]
enum Went {
    Whole(Option<ErrorKind>),
    Each(BTreeMap<String, Option<ErrorKind>>),
}

fn acts() -> impl Strategy<Value = Act> {
    let pod = 0..2usize;
    let some = || proptest::collection::vec(0..NAMES.len(), 0..3);
    let live = proptest::sample::select(vec![
        ContainerStatus::Initialized,
        ContainerStatus::Running,
        ContainerStatus::Paused,
        ContainerStatus::Stopping,
    ]);
    let signals = vec![Operation::Pause, Operation::Unpause, Operation::Kill];
    prop_oneof![
        3 => pod.clone().prop_map(Act::Create),
        1 => (pod.clone(), proptest::sample::select(ways())).prop_map(|(p, h)| Act::Remove(p, h)),
        6 => (pod.clone(), 0..NAMES.len(), some()).prop_map(|(p, c, on)| Act::Add(p, c, on)),
        3 => (pod.clone(), some(), any::<bool>()).prop_map(|(p, c, f)| Act::Take(p, c, f)),
        3 => (pod.clone(), 0..NAMES.len(), live).prop_map(|(p, c, s)| Act::Die(p, c, s)),
        2 => (pod.clone(), some()).prop_map(|(p, c)| Act::Stop(p, c)),
        2 => (pod, proptest::sample::select(signals), some())
            .prop_map(|(p, o, c)| Act::Signal(p, o, c)),
    ]
}

fn names(which: &[usize]) -> Vec<String> {
    let names: BTreeSet<usize> = which.iter().copied().collect();
    names.into_iter().map(|n| NAMES[n].to_owned()).collect()
}

/// Applies an operation to the model and returns the expected result.
fn expect(model: &mut Model, act: &Act) -> Went {
    use ErrorKind::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
    let name = |n: &usize| NAMES[*n].to_owned();
    let (Act::Create(pod)
    | Act::Remove(pod, _)
    | Act::Add(pod, ..)
    | Act::Take(pod, ..)
    | Act::Die(pod, ..)
    | Act::Stop(pod, _)
    | Act::Signal(pod, ..)) = act;
    if let Act::Create(_) = act {
        let taken = model.contains_key(NAMES[*pod]);
        model.entry(name(pod)).or_default();
        return Went::Whole(taken.then_some(AlreadyExists));
    }
    let Some(containers) = model.get_mut(NAMES[*pod]) else {
        return Went::Whole(Some(NotFound));
    };
    let chosen = |asked: &[usize], containers: &BTreeMap<String, Container>| {
        let asked = names(asked);
        match asked.iter().all(|name| containers.contains_key(name)) {
            false => Err(Went::Whole(Some(NotFound))),
            true if asked.is_empty() => Ok(containers.keys().cloned().collect()),
            true => Ok(asked),
        }
    };
    match act {
        Act::Create(_) => unreachable!("done above"),
        Act::Remove(_, how) => {
            if *how == RemoveOptions::default() && !containers.is_empty() {
                return Went::Whole(Some(FailedPrecondition));
            }
            model.remove(NAMES[*pod]);
            Went::Whole(None)
        }
        Act::Add(_, container, on) => {
            let on: BTreeSet<String> = names(on).into_iter().collect();
            if on.iter().any(|on| !containers.contains_key(on)) {
                return Went::Whole(Some(InvalidArgument));
            }
            if containers.contains_key(NAMES[*container]) {
                return Went::Whole(Some(AlreadyExists));
            }
            let new = Container {
                on,
                ..Container::default()
            };
            containers.insert(name(container), new);
            Went::Whole(None)
        }
        Act::Take(_, asked, _) => {
            // No names given: all containers, each of which may be a dependency of another.
            let chosen: Vec<String> = match chosen(asked, containers) {
                Ok(chosen) => chosen,
                Err(went) => return went,
            };
            // A container stays if one depends on it that stays.
            let mut going: BTreeSet<String> = chosen.iter().cloned().collect();
            loop {
                let stays = |name: &String| {
                    let mut all = containers.iter();
                    all.any(|(other, c)| c.on.contains(name) && !going.contains(other))
                };
                let staying: Vec<_> = going.iter().filter(|n| stays(n)).cloned().collect();
                if staying.is_empty() {
                    break;
                }
                going.retain(|name| !staying.contains(name));
            }
            containers.retain(|name, _| !going.contains(name));
            let result = |name: String| {
                let refused = (!going.contains(&name)).then_some(FailedPrecondition);
                (name, refused)
            };
            Went::Each(chosen.into_iter().map(result).collect())
        }
        Act::Die(_, container, status) => {
            if let Some(container) = containers.get_mut(NAMES[*container])
                && *status != ContainerStatus::Initialized
            {
                container.exited = true;
                container.by_user = false;
            } else if let Some(container) = containers.get_mut(NAMES[*container]) {
                *container = Container {
                    on: container.on.clone(),
                    ..Container::default()
                };
            }
            Went::Whole(None)
        }
        Act::Stop(_, asked) => match chosen(asked, containers) {
            Err(went) => went,
            Ok(chosen) => {
                for name in &chosen {
                    let container = containers.get_mut(name).unwrap();
                    container.by_user |= container.exited;
                }
                Went::Each(chosen.into_iter().map(|name| (name, None)).collect())
            }
        },
        Act::Signal(_, operation, asked) => match chosen(asked, containers) {
            Err(went) => went,
            Ok(chosen) => {
                let each = chosen.into_iter().map(|name| {
                    let status = match containers[&name].exited {
                        true => ContainerStatus::Exited,
                        false => ContainerStatus::Configured,
                    };
                    let no_op = operation.applicability(status) == Applicability::NoOp;
                    let wrong = !no_op && !asked.is_empty();
                    (name, wrong.then_some(FailedPrecondition))
                });
                Went::Each(each.collect())
            }
        },
    }
}

async fn perform(engine: &Engine, act: &Act) -> Went {
    let find = |pod: &usize| engine.pod("local", NAMES[*pod]);
    let whole = |result: Result<()>| Went::Whole(result.err().map(|e| e.kind()));
    let each = |result: Result<Outcome>| match result {
        Err(e) => Went::Whole(Some(e.kind())),
        Ok(outcome) => {
            let fine = outcome.done.into_iter().chain(outcome.ignored);
            let errors = outcome.errors.into_iter();
            Went::Each(
                fine.map(|name| (name, None))
                    .chain(errors.map(|(name, e)| (name, Some(e.kind()))))
                    .collect(),
            )
        }
    };
    match act {
        Act::Create(pod) => {
            let definition = PodDefinition::new("local", NAMES[*pod]);
            whole(engine.create_pod(definition).map(drop))
        }
        Act::Remove(pod, how) => match find(pod) {
            Ok(pod) => whole(pod.remove(*how).await.map(|outcome| {
                assert!(outcome.errors.is_empty(), "{outcome:?}");
            })),
            Err(e) => whole(Err(e)),
        },
        Act::Add(pod, container, on) => {
            let root = Rootfs::Directory("/".into());
            let mut definition = ContainerDefinition::new(NAMES[*container], root, Spec::default());
            definition.depends_on = names(on).into_iter().collect();
            match find(pod) {
                Ok(pod) => whole(pod.create_container(&definition).await),
                Err(e) => whole(Err(e)),
            }
        }
        Act::Take(pod, asked, force) => match find(pod) {
            Ok(pod) => each(pod.remove_containers(&names(asked), *force, None).await),
            Err(e) => whole(Err(e)),
        },
        Act::Die(pod, container, status) => match find(pod) {
            Ok(pod) => {
                die(&pod, NAMES[*container], *status);
                Went::Whole(None)
            }
            Err(e) => whole(Err(e)),
        },
        Act::Stop(pod, asked) => match find(pod) {
            Ok(pod) => each(pod.stop(&names(asked), None).await),
            Err(e) => whole(Err(e)),
        },
        Act::Signal(pod, operation, asked) => match find(pod) {
            Ok(pod) => each(match operation {
                Operation::Pause => pod.pause(&names(asked)).await,
                Operation::Unpause => pod.unpause(&names(asked)).await,
                _ => pod.kill(&names(asked), 9, false).await,
            }),
            Err(e) => whole(Err(e)),
        },
    }
}

/// Leaves the files of a container as a killed owner does.
fn die(pod: &PodHandle, container: &str, status: ContainerStatus) {
    let paths = pod.paths().container(container).unwrap();
    if paths.path().is_dir() {
        let held = PodLock::exclusive(pod.paths()).unwrap();
        let state = ContainerState {
            status,
            pid: 7,
            ..ContainerState::default()
        };
        records::write_container(&paths, &state, &held).unwrap();
    }
}

/// Compares the pods on disk with the model.
fn check(engine: &Engine, model: &Model) {
    let views = engine.pods(None).unwrap();
    let views: Vec<_> = views.into_iter().map(|view| view.unwrap()).collect();
    let seen: Model = views
        .iter()
        .map(|view| {
            let containers = view.containers.iter().map(|(name, files)| {
                let files = files.as_ref().unwrap();
                let exited = files.state.status == ContainerStatus::Exited;
                assert!(exited || files.state.status == ContainerStatus::Configured);
                // The exit was not reported: its code must not be an invented 0.
                assert_eq!(files.state.exit_code, exited.then_some(137));
                let container = Container {
                    on: files.definition.depends_on.iter().cloned().collect(),
                    exited,
                    by_user: files.state.stopped_by_user,
                };
                (name.clone(), container)
            });
            (view.paths.name().to_owned(), containers.collect())
        })
        .collect();
    assert_eq!(&seen, model);
    for view in views {
        let of = &model[view.paths.name()];
        let exited = of.values().filter(|c| c.exited).count();
        let status = match (exited, of.len()) {
            (0, _) => PodStatus::Created,
            (n, all) if n == all => PodStatus::Exited,
            _ => PodStatus::Stopped,
        };
        assert_eq!(view.status(), status);
        let graph = view.graph();
        for name in view.containers.keys() {
            graph.check(name).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn pods_that_nobody_owns_are_as_the_model_has_them(
        acts in proptest::collection::vec(acts(), 1..30)
    ) {
        let root = tempfile::tempdir().unwrap();
        let engine = Engine::below(root.path());
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut model = Model::new();
        for act in &acts {
            let expected = expect(&mut model, act);
            let went = tokio.block_on(perform(&engine, act));
            prop_assert_eq!(went, expected, "{:?}", act);
            check(&engine, &model);
        }
    }
}
