//! Handles of pods, with an owner that the tests play (`owner`) or without one.

mod access;
mod attach;
mod calls;
mod files;
pub(in crate::engine) mod owner;
mod remove;
mod volumes;

use std::fs;

use oci_spec::runtime::Spec;
use tempfile::TempDir;

use self::owner::{Owned, PlayedOwner};
use super::*;
use crate::engine::journal::Reader;
use crate::engine::records::definition::{ContainerDefinition, PodDefinition, Rootfs};
use crate::engine::records::record::ContainerState;
use crate::engine::status::ContainerStatus;

/// A pod and its handle.
struct Lab {
    root: TempDir,
    engine: Engine,
    pod: PodHandle,
}

impl Lab {
    /// With containers that are named like `web<db`: `web` depends on `db`.
    async fn new(containers: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let engine = Engine::below(root.path());
        let pod = engine.create_pod(PodDefinition::new("local", "web"));
        let lab = Self {
            root,
            engine,
            pod: pod.unwrap(),
        };
        for name in containers {
            let mut parts = name.split('<');
            let mut definition = lab.definition(parts.next().unwrap());
            definition.depends_on = parts.map(str::to_owned).collect();
            lab.pod.create_container(&definition).await.unwrap();
        }
        lab
    }

    fn definition(&self, name: &str) -> ContainerDefinition {
        let root = Rootfs::Directory(self.root.path().to_owned());
        ContainerDefinition::new(name, root, Spec::default())
    }

    /// An owner for the pod.
    async fn owned(&self) -> Owned {
        let address = self.engine.owner_address(self.pod.paths());
        PlayedOwner::of(self.pod.paths(), &address).await
    }

    /// Writes the state of a container.
    fn put(&self, name: &str, change: impl FnOnce(&mut ContainerState)) {
        let held = PodLock::exclusive(self.pod.paths()).unwrap();
        let mut state = self.saved(name);
        change(&mut state);
        let paths = self.pod.paths().container(name).unwrap();
        records::write_container(&paths, &state, &held).unwrap();
    }

    /// Writes the state of a container that has ended with this code.
    fn put_ended(&self, name: &str, code: u32) {
        self.put(name, |state| {
            state.status = ContainerStatus::Exited;
            state.exit_code = Some(code);
        });
    }

    /// Reads the state of a container on disk.
    fn saved(&self, name: &str) -> ContainerState {
        let paths = self.pod.paths().container(name).unwrap();
        crate::state_dir::read(&paths.state()).unwrap()
    }

    /// The journal's lines, without the creations: `name action attributes`.
    fn journal(&self) -> Vec<String> {
        let mut reader = Reader::open(&self.engine.journal()).unwrap();
        let events = reader.events().unwrap().into_iter();
        events
            .filter(|event| event.action != "create")
            .map(|event| {
                let more = event.attributes.iter();
                let more: String = more.map(|(key, value)| format!(" {key}={value}")).collect();
                format!("{} {}{more}", event.name, event.action)
            })
            .collect()
    }
}

/// The outcome of an operation: done, ignored, and failed with the kind of the error.
fn parts(outcome: Outcome) -> (Vec<String>, Vec<String>, Vec<(String, ErrorKind)>) {
    let errors = outcome.errors.into_iter();
    let errors = errors.map(|(name, error)| (name, error.kind())).collect();
    (outcome.done, outcome.ignored, errors)
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
