//! Finds foreign pods and containers by id or name.

use super::{ForeignContainer, ListedPod, UnreadableForeignPod, foreign};
use crate::engine::Engine;
use crate::engine::find::only_one;
use crate::error::Result;

impl Engine {
    /// The pods of other managers, of one namespace or of all.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if a directory cannot be read; an error of a single pod takes its place in
    /// the list.
    pub fn foreign_pods(
        &self,
        namespace: Option<&str>,
    ) -> Result<Vec<Result<ListedPod, UnreadableForeignPod>>> {
        foreign(&self.config().root, namespace)
    }
}

/// The pod with this id, start of its id, or name in Kubernetes, if any.
///
/// # Errors
/// [`crate::Error::Ambiguous`] if several pods match.
pub fn find_pod(pods: Vec<ListedPod>, wanted: &str) -> Result<Option<ListedPod>> {
    let fitting = pods
        .into_iter()
        .filter_map(|pod| Some((Match::of_pod(&pod, wanted)?, pod)));
    let id = |pod: &ListedPod| pod.config.id.clone();
    best(fitting.collect(), "pod", wanted, id)
}

/// The container with this `POD/ID`, id, start of its id, or name in Kubernetes, if any.
///
/// # Errors
/// [`crate::Error::Ambiguous`] if several containers match.
pub fn find_container(pods: Vec<ListedPod>, wanted: &str) -> Result<Option<ForeignContainer>> {
    let (of_pod, id) = match wanted.split_once('/') {
        Some((pod, id)) => (Some(pod), id),
        None => (None, wanted),
    };
    let mut all = Vec::new();
    for pod in pods {
        if of_pod.is_some_and(|wanted| Match::of_pod(&pod, wanted).is_none()) {
            continue;
        }
        let fitting = pod.containers.iter().filter_map(|(there, files)| {
            let files = files.as_ref().ok();
            let name = || files.and_then(|files| Match::of(&files.bundle_info().name?, id));
            let fit = Match::of(there, id).or_else(name)?;
            // Kubernetes creates containers of the same name one after the other: the last one
            // counts.
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

/// The quality of a match with the requested name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    Prefix,
    Exact,
}

impl Match {
    fn of(id: &str, wanted: &str) -> Option<Self> {
        match id.strip_prefix(wanted) {
            Some("") => Some(Self::Exact),
            // As with docker and podman: a short id, but not the start of any other word.
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
) -> Result<Option<T>> {
    let best = all.iter().map(|(fit, _)| *fit).max();
    all.retain(|(fit, _)| best == Some(*fit));
    let best = all.into_iter().map(|(_, found)| found).collect();
    only_one(best, what, wanted, id)
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
        assert_eq!(
            refused.to_string(),
            "pod \"web-0\" is ambiguous: give one of 5a, 7c"
        );
    }
}
