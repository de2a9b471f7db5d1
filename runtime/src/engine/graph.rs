//! The start order of the containers of a pod: each container starts after its dependencies.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{DependencyError, Result};

/// The dependencies of the containers of one pod. A missing dependency, and a circle, keep the
/// containers concerned from starting ([`Graph::check`]), and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    depends_on: BTreeMap<String, BTreeSet<String>>,
    /// All containers, each after its dependencies; last, those in and behind circles.
    order: Vec<String>,
    /// The containers in and behind circles.
    unplaced: BTreeSet<String>,
}

impl Graph {
    /// Builds the graph from the dependencies of each container.
    pub fn new(depends_on: BTreeMap<String, BTreeSet<String>>) -> Self {
        let mut order: Vec<String> = Vec::with_capacity(depends_on.len());
        let mut placed = BTreeSet::new();
        loop {
            let is_placed = |on: &String| placed.contains(on) || !depends_on.contains_key(on);
            let ready: Vec<String> = depends_on
                .iter()
                .filter(|(name, on)| !placed.contains(*name) && on.iter().all(is_placed))
                .map(|(name, _)| name.clone())
                .collect();
            if ready.is_empty() {
                break;
            }
            placed.extend(ready.iter().cloned());
            order.extend(ready);
        }
        let unplaced: BTreeSet<String> = depends_on
            .keys()
            .filter(|name| !placed.contains(*name))
            .cloned()
            .collect();
        order.extend(unplaced.iter().cloned());
        Self {
            depends_on,
            order,
            unplaced,
        }
    }

    /// Checks that a container has all its dependencies, and none that waits for it.
    ///
    /// # Errors
    /// [`crate::Error::Dependency`] for a missing dependency, and for a circle, naming its
    /// containers in order.
    pub fn check(&self, name: &str) -> Result<()> {
        let missing = |on: &&str| !self.depends_on.contains_key(*on);
        if let Some(on) = self.dependencies(name).find(missing) {
            let container = name.to_owned();
            let on = on.to_owned();
            return Err(DependencyError::Missing { container, on }.into());
        }
        match self.unplaced.get(name) {
            Some(name) => Err(self.circle(name).into()),
            None => Ok(()),
        }
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

    /// The given containers, each before its dependencies: the order for stopping and removing.
    pub fn dependents_first<'a>(
        &'a self,
        wanted: &BTreeSet<String>,
    ) -> impl Iterator<Item = &'a String> {
        let order = self.order.iter().rev();
        order.filter(move |name| wanted.contains(*name))
    }

    /// Those of the given containers that one depends on that stays, directly or through others,
    /// each with a dependent that stays.
    pub fn needed(&self, going: &BTreeSet<String>) -> BTreeMap<String, String> {
        let mut needed = BTreeMap::new();
        for name in self.dependents_first(going) {
            let stays = |d: &String| !going.contains(d) || needed.contains_key(d);
            if let Some(dependent) = self.dependents(name).into_iter().find(stays) {
                needed.insert(name.clone(), dependent);
            }
        }
        needed
    }

    /// Splits the given containers into those that no other one of them depends on directly, and
    /// the others: what may stop first, and what has to wait. Never empty in front, even if they
    /// depend on each other in a circle.
    pub fn split_free(&self, names: &BTreeSet<String>) -> (BTreeSet<String>, BTreeSet<String>) {
        let is_free = |name: &String| !self.dependents(name).iter().any(|d| names.contains(d));
        let (now, later): (BTreeSet<_>, BTreeSet<_>) = names.iter().cloned().partition(is_free);
        match now.is_empty() {
            true => (later, now),
            false => (now, later),
        }
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

    /// The circle that a container that could not be placed is in, or leads to.
    fn circle(&self, name: &str) -> DependencyError {
        let next = |name: &str| {
            let mut on = self.dependencies(name);
            on.find(|on| self.unplaced.contains(*on))
        };
        let mut path: Vec<&str> = Vec::new();
        let mut at = Some(name);
        while let Some(name) = at {
            let seen = path.iter().position(|seen| *seen == name);
            path.push(name);
            if let Some(start) = seen {
                path.drain(..start);
                break;
            }
            at = next(name);
        }
        DependencyError::Circle {
            path: path.into_iter().map(str::to_owned).collect(),
            no_start: self.unplaced.len() == self.order.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use proptest::prelude::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
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
        ]);
        assert_eq!(g.order(), ["cache", "net", "db", "web"]);
        assert_eq!(g.with_dependencies(["db"]), ["net", "db"]);
        assert_eq!(g.dependents("net"), ["db"]);
        assert!(graph(&[]).order().is_empty());
    }

    fn circle_of(graph: &Graph, name: &str) -> (Vec<String>, bool) {
        match graph.check(name).unwrap_err() {
            Error::Dependency(DependencyError::Circle { path, no_start }) => (path, no_start),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_missing_dependency_concerns_only_its_dependents() {
        let g = graph(&[("app", &["web"]), ("web", &["cache", "db"]), ("cache", &[])]);
        assert_eq!(g.order(), ["cache", "web", "app"]);
        for fine in ["cache", "app"] {
            g.check(fine).unwrap();
        }
        let missing = g.check("web").unwrap_err();
        assert!(
            matches!(
                &missing,
                Error::Dependency(DependencyError::Missing { container, on })
                    if container == "web" && on == "db"
            ),
            "{missing}"
        );
        assert_eq!(g.with_dependencies(["app"]), ["cache", "web", "app"]);
        assert_eq!(g.dependents("db"), ["web"]);
    }

    #[test]
    fn circles_are_named_and_concern_only_what_is_in_and_behind_them() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let all = graph(&[("a", &["b"]), ("b", &["a"])]);
        assert_eq!(circle_of(&all, "a"), (names(&["a", "b", "a"]), true));
        assert_eq!(circle_of(&all, "b"), (names(&["b", "a", "b"]), true));
        assert_eq!(all.order(), ["a", "b"]);
        let some = graph(&[("a", &["y"]), ("x", &[]), ("y", &["x", "z"]), ("z", &["y"])]);
        some.check("x").unwrap();
        assert_eq!(circle_of(&some, "a"), (names(&["y", "z", "y"]), false));
        assert_eq!(some.order(), ["x", "a", "y", "z"]);
        let own = graph(&[("a", &["a"])]);
        assert_eq!(circle_of(&own, "a"), (names(&["a", "a"]), true));
    }

    #[test]
    fn dependents_come_first_when_things_go() {
        let g = graph(&[("a", &["b"]), ("b", &["c"]), ("c", &[]), ("d", &[])]);
        let wanted = ["b", "c", "d", "x"].map(str::to_owned).into();
        let order: Vec<_> = g.dependents_first(&wanted).collect();
        assert_eq!(order, ["b", "d", "c"]);
    }

    #[test]
    fn what_others_need_waits_for_them() {
        let g = graph(&[
            ("a", &["b"]),
            ("b", &["c"]),
            ("c", &[]),
            ("x", &["y"]),
            ("y", &["x"]),
        ]);
        let split = |names: &[&str]| {
            let (now, later) = g.split_free(&names.iter().map(|n| (*n).to_owned()).collect());
            [now, later].map(|names| Vec::from_iter(names).join(""))
        };
        assert_eq!(split(&["a", "b", "c"]), ["a", "bc"]);
        assert_eq!(split(&["a", "c"]), ["ac", ""]);
        assert_eq!(split(&["b", "c"]), ["b", "c"]);
        assert_eq!(split(&["x", "y"]), ["xy", ""]);
        assert_eq!(split(&[]), ["", ""]);
    }

    #[test]
    fn what_is_needed_by_one_that_stays_is_told_with_it() {
        let g = graph(&[
            ("app", &["web"]),
            ("web", &["db"]),
            ("db", &["net", "gone"]),
            ("net", &[]),
            ("log", &["net"]),
        ]);
        let needed = |going: &[&str]| {
            let going = going.iter().map(|n| (*n).to_owned()).collect();
            let needed = g.needed(&going).into_iter();
            needed
                .map(|(on, by)| format!("{on}<{by}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(needed(&["app", "log"]), [""; 0]);
        assert_eq!(needed(&["db", "net", "log"]), ["db<web", "net<db"]);
        assert_eq!(needed(&["app", "web", "db", "net"]), ["net<log"]);
        assert_eq!(needed(&["app", "web", "db", "net", "log"]), [""; 0]);
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
            let g = Graph::new(depends_on.clone());
            prop_assert_eq!(g.order().len(), 12);
            let place = |n: &String| g.order().iter().position(|o| o == n).unwrap();
            for (name, on) in &depends_on {
                match g.check(name) {
                    Err(_) => prop_assert!(circle),
                    Ok(()) => for d in on {
                        prop_assert!(place(d) < place(name));
                    },
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
        ]);
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
        let said = graph(&edges).check("a").unwrap_err().to_string();
        assert!(said.ends_with(" b → c → d → b"), "{said}");
    }
}
