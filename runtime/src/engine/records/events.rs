//! The journal's events of pods and containers.

use super::definition::{ContainerDefinition, PodDefinition};
use crate::engine::journal::{Event, Kind};

impl Event {
    /// An event of a pod.
    pub fn pod(pod: &PodDefinition, action: &str) -> Self {
        Self {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            labels: pod.labels.clone(),
            ..Self::new(Kind::Pod, action, &pod.name, &pod.id)
        }
    }

    /// An event of a container.
    pub fn container(pod: &PodDefinition, container: &ContainerDefinition, action: &str) -> Self {
        Self {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            labels: container.labels.clone(),
            ..Self::new(Kind::Container, action, &container.name, &container.id)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeMap;

    use crate::engine::records::definition::Rootfs;

    #[test]
    fn an_event_names_its_object_and_its_pod_with_the_labels() {
        let label = |value: &str| BTreeMap::from([("a".to_owned(), value.to_owned())]);
        let mut pod = PodDefinition::new("ns", "web");
        pod.labels = label("pod").into_iter().collect();
        let root = Rootfs::Directory("/".into());
        let mut container = ContainerDefinition::new("db", root, Default::default());
        container.labels = label("container").into_iter().collect();
        let expected = |kind, name: &str, id: &str, labels| Event {
            time: String::new(),
            kind,
            action: "start".into(),
            namespace: "ns".into(),
            pod: "web".into(),
            name: name.into(),
            id: id.into(),
            attributes: BTreeMap::new(),
            labels,
        };
        assert_eq!(
            Event::pod(&pod, "start"),
            expected(Kind::Pod, "web", &pod.id, label("pod"))
        );
        assert_eq!(
            Event::container(&pod, &container, "start"),
            expected(Kind::Container, "db", &container.id, label("container"))
        );
    }
}
