//! Owners of pods whose VM and agent are played by the tests (`pod::tests`).

#![allow(
    unused_must_use,
    reason = "where an outcome is not looked at, the states are"
)]

mod attach;
mod change;
mod dependencies;
mod ending;
mod exec;
mod leaving;
mod usage;
mod waiting;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use test_support::Reason;

use super::*;
use crate::config::Timeouts;
use crate::engine::Engine;
use crate::engine::journal::Reader;
use crate::engine::records::definition::{ContainerDefinition, PodDefinition, Rootfs};
use crate::engine::status::{ContainerStatus, Outcome};
use crate::error::ErrorKind;
use crate::pod::tests::guest::{Guest, Refusal};
use crate::pod::tests::{Bed, PATIENCE};

/// A pod with its owner, in whose VM nothing runs yet.
struct Lab {
    owner: Arc<Owner>,
    guest: Arc<Guest>,
    bed: Bed,
}

fn no_change(_: &mut PodDefinition) {}

impl Lab {
    /// With containers that are named like `web<db`: `web` depends on `db`.
    async fn new(containers: &[&str]) -> Result<Self, Reason> {
        Self::with(containers, no_change, |_| ()).await
    }

    async fn with(
        containers: &[&str],
        change_pod: impl FnOnce(&mut PodDefinition),
        change: impl Fn(&mut ContainerDefinition),
    ) -> Result<Self, Reason> {
        let mut bed = Bed::with(Timeouts::default(), |spec| {
            spec.namespace = "local".into();
            spec.id = "web".into();
            spec.outlives_containers = true;
        })
        .await?;
        let engine = Engine::below(bed.root.path());
        let mut definition = PodDefinition::new("local", "web");
        change_pod(&mut definition);
        let pod = engine.create_pod(definition).unwrap();
        let root = bed.root.path().join("rootfs");
        fs::create_dir(&root).unwrap();
        for name in containers {
            let mut parts = name.split('<');
            let name = parts.next().unwrap();
            let spec = serde_json::from_value(json!({
                "ociVersion": "1.0.2",
                "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
                "linux": {}
            }));
            let root = Rootfs::Directory(root.clone());
            let mut definition = ContainerDefinition::new(name, root, spec.unwrap());
            definition.depends_on = parts.map(str::to_owned).collect();
            change(&mut definition);
            pod.create_container(&definition).await.unwrap();
        }
        let address = Path::new("/nowhere");
        let claimed = Owner::claim(&engine, pod.paths(), address, || Ok::<_, Error>(()));
        let (owner, ()) = claimed.unwrap();
        tokio::spawn(owner.clone().listen(bed.pod.clone(), bed.take_events()));
        *lock(&owner.vm) = Some(bed.pod.clone());
        owner.vm_reported.store(true, Ordering::Relaxed);
        Ok(Self {
            owner,
            guest: bed.guest.clone(),
            bed,
        })
    }

    fn now(&self, name: &str) -> ContainerState {
        self.owner.tracked(name).unwrap().now()
    }

    fn status(&self, name: &str) -> ContainerStatus {
        self.now(name).status
    }

    /// The state on disk is the one that the owner has.
    fn is_saved(&self, name: &str) {
        let paths = self.owner.paths().container(name).unwrap();
        let saved: ContainerState = crate::state_dir::read(&paths.state()).unwrap();
        assert_eq!(saved, self.now(name));
    }

    async fn started(containers: &[&str]) -> Result<Self, Reason> {
        let lab = Self::new(containers).await?;
        lab.start().await;
        Ok(lab)
    }

    /// Starts all; what the guest heard of it, and the journal has of it, is passed over.
    async fn start(&self) {
        let outcome = self.owner.start(&[], false).await.unwrap();
        assert!(outcome.errors.is_empty(), "{outcome:?}");
        self.guest.heard();
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let waits = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waits).await;
        waited.unwrap_or_else(|_| panic!("{what}: {:?}", *lock(&self.owner.containers)));
    }

    /// The journal's lines but for the creation: `name action attributes`.
    fn journal(&self) -> Vec<String> {
        let mut reader = Reader::open(&self.owner.paths().journal()).unwrap();
        let events = reader.events().unwrap().into_iter();
        let line = |event: Event| {
            let more = event.attributes.iter();
            let more: String = more.map(|(key, value)| format!(" {key}={value}")).collect();
            format!("{} {}{more}", event.name, event.action)
        };
        events
            .filter(|event| event.action != "create")
            .map(line)
            .collect()
    }

    async fn has_ended(&self) {
        let ended = tokio::time::timeout(PATIENCE, self.owner.ended()).await;
        ended.expect("the owner ends");
    }

    fn has_not_ended(&self) {
        assert!(!*self.owner.ended.borrow() && self.owner.live().is_some());
    }
}

/// Names of an outcome: done, ignored, and failed with the kind of the error.
fn parts(outcome: Outcome) -> (Vec<String>, Vec<String>, Vec<(String, ErrorKind)>) {
    let errors = outcome.errors.into_iter();
    let errors = errors.map(|(name, error)| (name, error.kind())).collect();
    (outcome.done, outcome.ignored, errors)
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn wrong(container: &str) -> Vec<(String, ErrorKind)> {
    vec![(container.to_owned(), ErrorKind::FailedPrecondition)]
}
