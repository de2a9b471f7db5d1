//! Foreign pods: those of containerd and of the shim's `run`. They can be listed,
//! inspected and entered, but only their manager changes them.

use std::collections::BTreeMap;

use protos::management as api;
use runtime::Error;
use runtime::engine::foreign::{self, ListedPod};
use runtime::engine::handle::client::OwnerClient;
use runtime::engine::status::Outcome;
use runtime::engine::time::rfc3339;
use runtime::engine::wire::attach;
use runtime::engine::wire::errors::to_outcome;
use runtime::error::OwnerError;
use serde::Serialize;
use tokio::net::UnixStream;

use super::context::Context;
use super::error::CliResult;
use super::output::value;
use crate::error::Context as _;

/// A container in a foreign pod.
pub(crate) struct ForeignContainer {
    pub(crate) pod: ListedPod,
    pub(crate) container: String,
}

/// The foreign pods of the chosen namespace, or of all. A pod that cannot be read is
/// reported and left out.
pub(crate) fn pods(context: &Context) -> CliResult<Vec<ListedPod>> {
    let root = &context.engine.config().root;
    let listed = foreign::foreign(root, context.namespace.as_deref())?;
    Ok(listed
        .into_iter()
        .filter_map(|pod| {
            let unreadable = |bad: &foreign::UnreadableForeignPod| {
                crate::terminal::say(&format!("{}/{}: {}", bad.namespace, bad.pod, bad.error));
            };
            pod.inspect_err(unreadable).ok()
        })
        .collect())
}

/// A foreign pod, by its id, the beginning of its id, or its name in Kubernetes.
pub(crate) fn pod(context: &Context, wanted: &str) -> CliResult<Option<ListedPod>> {
    let fitting = pods(context)?
        .into_iter()
        .filter_map(|pod| Some((Match::of_pod(&pod, wanted)?, pod)));
    let id = |pod: &ListedPod| pod.config.id.clone();
    best(fitting.collect(), "pod", wanted, id)
}

/// A foreign container, by `POD/ID`, its id, the beginning of its id, or its name in
/// Kubernetes.
pub(crate) fn container(context: &Context, wanted: &str) -> CliResult<Option<ForeignContainer>> {
    let (of_pod, id) = match wanted.split_once('/') {
        Some((pod, id)) => (Some(pod), id),
        None => (None, wanted),
    };
    let mut all = Vec::new();
    for pod in pods(context)? {
        if of_pod.is_some_and(|wanted| Match::of_pod(&pod, wanted).is_none()) {
            continue;
        }
        let fitting = pod.containers.iter().filter_map(|(there, files)| {
            let files = files.as_ref().ok();
            let name = || files.and_then(|files| Match::of(&files.bundle_info().name?, id));
            let fit = Match::of(there, id).or_else(name)?;
            // Kubernetes creates containers of the same name one after the other: the last is meant.
            let age = files.map(|files| (files.status().is_live(), files.record.created));
            Some(((fit, age), there.clone()))
        });
        if let Some(((fit, _), container)) = fitting.max() {
            all.push((fit, ForeignContainer { pod, container }));
        }
    }
    let id = |container: &ForeignContainer| {
        format!("{}/{}", container.pod.config.id, container.container)
    };
    best(all, "container", wanted, id)
}

/// How well a name matches the one asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    Prefix,
    Exact,
}

impl Match {
    fn of(id: &str, wanted: &str) -> Option<Self> {
        match id.strip_prefix(wanted) {
            Some("") => Some(Self::Exact),
            // As docker and podman: an abbreviated id, not any word's beginning.
            Some(_) if wanted.len() >= 4 && id.len() == 64 => Some(Self::Prefix),
            _ => None,
        }
    }

    fn of_pod(pod: &ListedPod, wanted: &str) -> Option<Self> {
        Self::of(&pod.config.id, wanted).max(Self::of(pod.name(), wanted))
    }
}

/// The best match. It is ambiguous when Kubernetes has pods of one name in several of its
/// namespaces, which share one namespace of containerd.
fn best<T>(
    mut all: Vec<(Match, T)>,
    what: &'static str,
    wanted: &str,
    id: impl Fn(&T) -> String,
) -> CliResult<Option<T>> {
    let best = all.iter().map(|(fit, _)| *fit).max();
    all.retain(|(fit, _)| best == Some(*fit));
    if all.len() > 1 {
        let ids: Vec<String> = all.iter().map(|(_, found)| id(found)).collect();
        return Err(Error::Ambiguous {
            what,
            id: wanted.to_owned(),
            matches: ids,
        }
        .into());
    }
    Ok(all.pop().map(|(_, found)| found))
}

impl ForeignContainer {
    /// The error for commands that only the manager of the pod may run.
    pub(crate) fn refusal(&self) -> crate::error::Error {
        self.pod.refusal(&self.container).into()
    }

    /// A client of the owner.
    pub(crate) async fn owner(&self) -> CliResult<OwnerClient> {
        owner(&self.pod).await.ok_or_else(|| {
            let no_answer = OwnerError::NoShim {
                pod: self.pod.config.id.clone(),
                manager: self.pod.config.managed_by.to_string(),
            };
            Error::from(no_answer).into()
        })
    }

    /// A connection for the streams of a process.
    pub(crate) async fn attachment(&self) -> CliResult<UnixStream> {
        let address = attach::address_of(&self.pod.management());
        UnixStream::connect(&address)
            .await
            .on("connect to", &address)
    }

    /// Sends a signal to the container.
    pub(crate) async fn kill(&self, signal: u32, all: bool) -> CliResult<Outcome> {
        let request = api::KillRequest {
            containers: vec![self.container.clone()],
            signal,
            all,
            ..Default::default()
        };
        Ok(to_outcome(self.owner().await?.kill(request).await?))
    }

    /// Waits for the container to end.
    pub(crate) async fn wait(&self) -> CliResult<u32> {
        let ended = self.pod.containers.get(&self.container);
        let ended = ended.and_then(|c| c.as_ref().ok()?.state.init.exit);
        if let Some(exit) = ended {
            return Ok(exit.status);
        }
        let request = api::ProcessRequest {
            container: self.container.clone(),
            ..Default::default()
        };
        Ok(self.owner().await?.wait(request).await?.exit_code)
    }

    /// The configuration and state of the container.
    pub(crate) fn inspect(&self) -> CliResult<serde_json::Value> {
        let found = self.pod.containers.get(&self.container);
        let files = match found {
            Some(Ok(files)) => files,
            _ => return Err(Error::not_found("container", &self.container).into()),
        };
        let init = files.state.init;
        let described = files.bundle_info();
        value(&InspectedContainer {
            pod: &self.pod.config.id,
            namespace: &self.pod.config.namespace,
            managed_by: self.pod.config.managed_by.to_string(),
            id: &files.record.id,
            name: described.name.as_ref().unwrap_or(&files.record.id),
            status: files.status().to_string(),
            created: rfc3339(files.record.created),
            bundle: files.record.bundle.display().to_string(),
            command: described.command,
            spec: runtime::load_spec(&files.record.bundle).ok(),
            state: InspectedState {
                status: files.status().to_string(),
                pid: init.pid,
                exit_code: init.exit.map(|exit| exit.status),
                finished: init.exit.map(|exit| rfc3339(exit.at)),
                execs: files.state.execs.keys().collect(),
            },
        })
    }
}

/// A client of the owner of a foreign pod, if the owner answers.
pub(crate) async fn owner(pod: &ListedPod) -> Option<OwnerClient> {
    pod.owner.as_ref()?;
    OwnerClient::connect(&pod.management()).await
}

#[derive(Serialize)]
struct InspectedContainer<'a> {
    pod: &'a str,
    namespace: &'a str,
    #[serde(rename = "front_door")]
    managed_by: String,
    id: &'a str,
    name: &'a str,
    status: String,
    created: String,
    bundle: String,
    command: Vec<String>,
    spec: Option<oci_spec::runtime::Spec>,
    state: InspectedState<'a>,
}

#[derive(Serialize)]
struct InspectedState<'a> {
    status: String,
    pid: u32,
    exit_code: Option<u32>,
    finished: Option<String>,
    execs: Vec<&'a String>,
}

#[derive(Serialize)]
struct InspectedPod<'a> {
    id: &'a str,
    name: &'a str,
    namespace: &'a str,
    #[serde(rename = "front_door")]
    managed_by: String,
    status: String,
    owner_pid: Option<u32>,
    path: String,
    labels: BTreeMap<&'a String, &'a String>,
    config: &'a foreign::PodConfig,
    state: &'a foreign::PodRunState,
    containers: Vec<Part<'a>>,
}

#[derive(Serialize)]
struct Part<'a> {
    name: &'a str,
    id: &'a str,
    status: String,
}

/// The configuration and state of a foreign pod.
pub(crate) fn inspect_pod(pod: &ListedPod) -> CliResult<serde_json::Value> {
    let containers = pod.containers.iter().map(|(id, files)| Part {
        name: id,
        id,
        status: match files {
            Ok(files) => files.status().to_string(),
            Err(error) => format!("error: {error}"),
        },
    });
    value(&InspectedPod {
        id: &pod.config.id,
        name: pod.name(),
        namespace: &pod.config.namespace,
        managed_by: pod.config.managed_by.to_string(),
        status: pod.status().to_string(),
        owner_pid: pod.owner.as_ref().map(|owner| owner.pid),
        path: pod.path().display().to_string(),
        labels: pod.config.labels.iter().collect(),
        config: &pod.config,
        state: &pod.state,
        containers: containers.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_may_be_cut_short_and_names_may_not() {
        let id = "5a".repeat(32);

        assert_eq!(Match::of(&id, &id), Some(Match::Exact));
        assert_eq!(Match::of(&id, "5a5a"), Some(Match::Prefix));
        assert_eq!(Match::of(&id, "5a5"), None);
        assert_eq!(Match::of("web-0", "web-0"), Some(Match::Exact));
        assert_eq!(Match::of("web-0", "web-"), None);
    }

    #[test]
    fn what_fits_whole_is_meant_and_two_of_it_are_told_apart() {
        let find = |all: &[(Match, &str)]| {
            let all = all.iter().map(|(fit, id)| (*fit, (*id).to_owned()));
            best(all.collect(), "pod", "web-0", String::clone)
        };
        let (whole, part) = (Match::Exact, Match::Prefix);

        assert_eq!(find(&[]).ok(), Some(None));
        let found = find(&[(part, "a"), (whole, "b"), (part, "c")]);
        assert_eq!(found.ok().flatten().as_deref(), Some("b"));
        let Err(refused) = find(&[(whole, "5a"), (part, "6b"), (whole, "7c")]) else {
            panic!("one of two pods of this name was taken");
        };
        match refused {
            crate::error::Error::Runtime(Error::Ambiguous { id, matches, .. }) => {
                assert_eq!(id, "web-0");
                assert_eq!(matches, ["5a", "7c"]);
            }
            other => panic!("{other:?}"),
        }
    }
}
