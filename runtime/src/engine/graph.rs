//! The start order of the containers of a pod: each container starts after its dependencies.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{DependencyError, Error, Result};

/// The dependencies of the containers of one pod, without cycles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    depends_on: BTreeMap<String, BTreeSet<String>>,
    /// All containers, each after its dependencies.
    order: Vec<String>,
}

impl Graph {
    /// Builds the graph from the dependencies of each container.
    ///
    /// # Errors
    /// [`Error::Dependency`] for an unknown dependency, and for a cycle, naming its containers in
    /// order.
    pub fn new(depends_on: BTreeMap<String, BTreeSet<String>>) -> Result<Self> {
        for (name, dependencies) in &depends_on {
            if let Some(missing) = dependencies.iter().find(|d| !depends_on.contains_key(*d)) {
                return Err(DependencyError::Missing {
                    container: name.clone(),
                    on: missing.clone(),
                }
                .into());
            }
        }
        let mut order: Vec<String> = Vec::with_capacity(depends_on.len());
        let mut placed = BTreeSet::new();
        while order.len() < depends_on.len() {
            let ready: Vec<String> = depends_on
                .iter()
                .filter(|(name, on)| !placed.contains(*name) && on.is_subset(&placed))
                .map(|(name, _)| name.clone())
                .collect();
            if ready.is_empty() {
                return Err(cycle(&depends_on, &placed));
            }
            placed.extend(ready.iter().cloned());
            order.extend(ready);
        }
        Ok(Self { depends_on, order })
    }

    /// All containers, each after its dependencies.
    pub fn order(&self) -> &[String] {
        &self.order
    }

    /// `wanted` and all their direct and indirect dependencies, in start order.
    pub fn with_dependencies<'a>(&self, wanted: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut needed = BTreeSet::new();
        let mut open: Vec<&str> = wanted.into_iter().collect();
        while let Some(name) = open.pop() {
            if needed.insert(name) {
                open.extend(self.dependencies(name));
            }
        }
        let chosen = self.order.iter().filter(|n| needed.contains(n.as_str()));
        chosen.cloned().collect()
    }

    /// The direct dependencies of a container.
    pub fn dependencies(&self, name: &str) -> impl Iterator<Item = &str> {
        let on = self.depends_on.get(name).into_iter().flatten();
        on.map(String::as_str)
    }

    /// The containers that depend on a container directly.
    pub fn dependents(&self, name: &str) -> Vec<String> {
        let on = self.depends_on.iter().filter(|(_, on)| on.contains(name));
        on.map(|(dependent, _)| dependent.clone()).collect()
    }
}

/// Finds one cycle among the containers that could not be placed.
fn cycle(depends_on: &BTreeMap<String, BTreeSet<String>>, placed: &BTreeSet<String>) -> Error {
    let next = |name: &String| depends_on[name].iter().find(|d| !placed.contains(*d));
    let mut path: Vec<&String> = Vec::new();
    let mut at = depends_on.keys().find(|name| !placed.contains(*name));
    while let Some(name) = at {
        if let Some(start) = path.iter().position(|seen| *seen == name) {
            path = path.split_off(start);
            path.push(name);
            break;
        }
        path.push(name);
        at = next(name);
    }
    DependencyError::Circle {
        path: path.into_iter().cloned().collect(),
        no_start: placed.is_empty(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn graph(edges: &[(&str, &[&str])]) -> Result<Graph> {
        let set = |names: &&[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Graph::new(
            edges
                .iter()
                .map(|(n, on)| ((*n).to_owned(), set(on)))
                .collect(),
        )
    }

    #[test]
    fn order_and_selection() {
        let g = graph(&[
            ("web", &["db", "cache"]),
            ("db", &["net"]),
            ("cache", &[]),
            ("net", &[]),
        ])
        .unwrap();
        assert_eq!(g.order(), ["cache", "net", "db", "web"]);
        assert_eq!(g.with_dependencies(["db"]), ["net", "db"]);
        assert_eq!(g.dependents("net"), ["db"]);
        assert!(graph(&[]).unwrap().order().is_empty());
    }

    #[test]
    fn missing_dependencies_and_circles_are_named() {
        let missing = graph(&[("web", &["db"])]).unwrap_err();
        assert!(
            matches!(
                &missing,
                Error::Dependency(DependencyError::Missing { container, on })
                    if container == "web" && on == "db"
            ),
            "{missing}"
        );
        let circle = |containers: &[(&str, &[&str])]| match graph(containers).unwrap_err() {
            Error::Dependency(DependencyError::Circle { path, no_start }) => (path, no_start),
            other => panic!("{other:?}"),
        };
        let found = circle(&[("a", &["b"]), ("b", &["a"])]);
        assert_eq!(found, (["a", "b", "a"].map(str::to_owned).into(), true));
        let found = circle(&[("x", &[]), ("y", &["x", "z"]), ("z", &["y"])]);
        assert_eq!(found, (["y", "z", "y"].map(str::to_owned).into(), false));
        assert!(graph(&[("a", &["a"])]).is_err());
    }

    proptest! {
        #[test]
        fn everything_comes_after_what_it_depends_on(
            edges in proptest::collection::vec((0u8..12, 0u8..12), 0..30)
        ) {
            let mut depends_on: BTreeMap<String, BTreeSet<String>> =
                (0u8..12).map(|n| (n.to_string(), BTreeSet::new())).collect();
            let mut circle = false;
            for (a, b) in edges {
                // Edges to smaller numbers alone cannot form a circle.
                circle |= a <= b;
                depends_on.get_mut(&a.to_string()).unwrap().insert(b.to_string());
            }
            match Graph::new(depends_on.clone()) {
                Err(_) => prop_assert!(circle),
                Ok(g) => {
                    prop_assert_eq!(g.order().len(), 12);
                    let place = |n: &String| g.order().iter().position(|o| o == n).unwrap();
                    for (name, on) in &depends_on {
                        for d in on {
                            prop_assert!(place(d) < place(name));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_needed_is_chosen_once_and_in_order() {
        let g = graph(&[
            ("a", &["b", "c"]),
            ("b", &["d"]),
            ("c", &["d"]),
            ("d", &[]),
            ("e", &["d"]),
            ("f", &[]),
        ])
        .unwrap();
        let chosen = |wanted: &[&'static str]| g.with_dependencies(wanted.iter().copied());
        assert_eq!(chosen(&["a"]), ["d", "b", "c", "a"]);
        assert_eq!(chosen(&["e", "f"]), ["d", "f", "e"]);
        assert_eq!(chosen(&["b", "d", "b"]), ["d", "b"]);
        assert!(chosen(&[]).is_empty() && chosen(&["x"]).is_empty());
        assert_eq!(g.dependencies("a").collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(g.dependencies("d").count() + g.dependencies("x").count(), 0);
        assert_eq!(g.dependents("d"), ["b", "c", "e"]);
        assert!(g.dependents("a").is_empty() && g.dependents("x").is_empty());
    }

    #[test]
    fn a_circle_is_told_of_without_the_way_to_it() {
        let edges: [(&str, &[&str]); 5] = [
            ("a", &["b"]),
            ("b", &["c", "z"]),
            ("c", &["d"]),
            ("d", &["b"]),
            ("z", &[]),
        ];
        let said = graph(&edges).unwrap_err().to_string();
        assert!(said.ends_with(" b → c → d → b"), "{said}");
    }
}
