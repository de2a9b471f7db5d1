//! Creating pods, alone or with their containers.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::Graph;
use super::journal::Event;
use super::records::definition::{ContainerDefinition, PodDefinition};
use super::records::paths::DataPaths;
use super::records::record::PodState;
use super::{Engine, PodHandle, RemoveOptions, names, records};
use crate::error::{Error, Result};

impl Engine {
    /// Creates a pod. An empty name stands for a generated one.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if the name is taken; [`Error::InvalidValue`] naming what is wrong
    /// with the definition.
    pub fn create_pod(&self, definition: PodDefinition) -> Result<PodHandle> {
        self.create_pod_with(definition, &[])
    }

    /// Creates a pod with its containers, all or none, and starts nothing (virtcontainers'
    /// `CreatePod`).
    ///
    /// # Errors
    /// As [`Engine::create_pod`]; [`Error::AlreadyExists`] for two containers of one name;
    /// [`Error::Dependency`] for a dependency that is not among them, and for a circle.
    pub fn create_pod_with(
        &self,
        mut definition: PodDefinition,
        containers: &[ContainerDefinition],
    ) -> Result<PodHandle> {
        check_containers(containers)?;
        let generated = definition.name.is_empty();
        for turn in 0..names::TRIES {
            if generated {
                definition.name = names::name_for(turn);
            }
            definition.check()?;
            definition.check_cgroup_manager(self.config.cgroup_manager)?;
            let paths = DataPaths::new(
                &self.config.data_root,
                &definition.namespace,
                &definition.name,
            )?;
            match self.place(&paths, &definition, containers) {
                Err(Error::AlreadyExists { .. }) if generated => {}
                other => return other,
            }
        }
        Err(Error::NoFreeName { what: "pod" })
    }

    /// Creates a pod with its containers and starts them all (virtcontainers' `RunPod`). If one
    /// cannot be started, nothing is left of the pod.
    ///
    /// # Errors
    /// As [`Engine::create_pod_with`] and [`PodHandle::start`]; the error of the first container
    /// that could not be started.
    pub async fn run_pod(
        &self,
        definition: PodDefinition,
        containers: &[ContainerDefinition],
    ) -> Result<PodHandle> {
        let pod = self.create_pod_with(definition, containers)?;
        let started = pod.start(&[], true).await;
        let error = match started {
            Ok(outcome) => outcome.errors.into_values().next(),
            Err(error) => Some(error),
        };
        let Some(error) = error else { return Ok(pod) };
        let by_force = RemoveOptions {
            seconds: Some(0),
            ..RemoveOptions::FORCE
        };
        match pod.remove(by_force).await {
            Ok(outcome) => debug_assert!(outcome.errors.is_empty()),
            Err(e) => log::error!("Pod {} is not removed: {e}", pod.name()),
        }
        Err(error)
    }

    /// Places the files of a new pod.
    fn place(
        &self,
        paths: &DataPaths,
        definition: &PodDefinition,
        containers: &[ContainerDefinition],
    ) -> Result<PodHandle> {
        let state = PodState {
            boot: records::boot_id()?,
            infra: definition.infra.then(|| definition.id.clone()),
            ..PodState::default()
        };
        let volumes: Vec<_> = containers.iter().flat_map(|c| c.volumes.clone()).collect();
        self.check_not_anonymous(&volumes)?;
        let create = || {
            // Held until the containers count as users of them. None are made for a pod whose
            // name is taken.
            let _volumes = match paths.path().exists() {
                true => None,
                false => self.volumes().prepare(&volumes)?,
            };
            records::create_pod(paths, definition, &state, containers)
        };
        let mut created = create();
        if matches!(created, Err(Error::AlreadyExists { .. }))
            && PodHandle::new(self, paths.clone())
                .remove_spent()
                .unwrap_or(false)
        {
            created = create();
        }
        created?;
        let journal = paths.journal();
        journal.append_or_warn(Event::pod(definition, "create"));
        for container in containers {
            journal.append_or_warn(Event::container(definition, container, "create"));
        }
        Ok(PodHandle::new(self, paths.clone()))
    }
}

/// Checks the containers of a new pod, each and together.
fn check_containers(containers: &[ContainerDefinition]) -> Result<()> {
    let mut depends_on: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for container in containers {
        container.check()?;
        let name = container.name.clone();
        let dependencies = container.depends_on.clone();
        if depends_on.insert(name, dependencies).is_some() {
            return Err(Error::AlreadyExists {
                what: "container",
                id: container.name.clone(),
            });
        }
    }
    let graph = Graph::new(depends_on);
    containers
        .iter()
        .try_for_each(|container| graph.check(&container.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::records::definition::{Rootfs, VolumeUse};
    use crate::engine::status::{ContainerStatus, PodStatus};
    use crate::error::ErrorKind;

    fn container(name: &str, on: &[&str]) -> ContainerDefinition {
        let root = Rootfs::Directory("/".into());
        let mut definition = ContainerDefinition::new(name, root, Default::default());
        definition.depends_on = on.iter().map(|on| (*on).to_owned()).collect();
        definition
    }

    #[test]
    fn a_pod_is_created_with_all_its_containers() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::below(dir.path());
        let mut web = container("web", &["db"]);
        web.volumes = vec![VolumeUse {
            name: "data".into(),
            anonymous: false,
            target: "/data".into(),
            options: Vec::new(),
            copy: false,
        }];
        let containers = [web, container("db", &[])];
        let definition = PodDefinition::new("local", "p");

        let pod = engine.create_pod_with(definition, &containers).unwrap();

        let view = pod.view().unwrap();
        assert_eq!(view.status(), PodStatus::Created);
        assert_eq!(view.graph().order(), ["db", "web"]);
        for definition in &containers {
            let files = view.container(&definition.name).unwrap();
            assert_eq!(&files.definition, definition);
            assert_eq!(files.state.status, ContainerStatus::Configured);
        }
        assert_eq!(engine.list_volumes().unwrap().len(), 1);
        let mut events = super::super::journal::Reader::open(&engine.journal()).unwrap();
        let events = events.events().unwrap().into_iter();
        let events: Vec<_> = events
            .filter(|event| event.action == "create" && event.name != "data")
            .map(|event| event.name)
            .collect();
        assert_eq!(events, ["p", "web", "db"]);
    }

    #[test]
    fn a_pod_is_not_created_without_one_of_its_containers() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::below(dir.path());
        let nameless = container("a/b", &[]);
        for (containers, kind) in [
            (
                vec![container("a", &[]), container("a", &[])],
                ErrorKind::AlreadyExists,
            ),
            (vec![container("a", &["b"])], ErrorKind::InvalidArgument),
            (
                vec![container("a", &["b"]), container("b", &["a"])],
                ErrorKind::InvalidArgument,
            ),
            (
                vec![container("a", &[]), nameless],
                ErrorKind::InvalidArgument,
            ),
        ] {
            let definition = PodDefinition::new("local", "p");
            let refused = engine.create_pod_with(definition, &containers);
            assert_eq!(refused.unwrap_err().kind(), kind, "{containers:?}");
            assert!(engine.pods(None).unwrap().is_empty());
        }
    }
}
