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
