//! Circles of imports.

use std::collections::{BTreeMap, BTreeSet};

use crate::imports::Imports;
use crate::tree::{Crate, FileId};

type Graph = BTreeMap<usize, BTreeSet<usize>>;

/// The imports between children of a module; each child includes all modules below it.
type Edges = BTreeMap<(String, String), Vec<(FileId, FileId)>>;

/// For each module with children, the circles between these.
pub fn between_siblings(tree: &Crate, imports: &Imports) -> Vec<String> {
    let mut parents: BTreeMap<String, Edges> = BTreeMap::new();
    for (from, found) in imports {
        for to in found {
            let (a, b) = (
                parts(&tree.files[*from].module),
                parts(&tree.files[*to].module),
            );
            let common = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            if common < a.len() && common < b.len() {
                let edges = parents.entry(a[..common].join("::")).or_default();
                let between = (a[common].to_owned(), b[common].to_owned());
                edges.entry(between).or_default().push((*from, *to));
            }
        }
    }
    let mut problems = Vec::new();
    for (parent, edges) in parents {
        let names: BTreeSet<&String> = edges.keys().flat_map(|(a, b)| [a, b]).collect();
        let names: Vec<&String> = names.into_iter().collect();
        let id = |name: &String| names.binary_search(&name).unwrap_or_default();
        let mut graph = Graph::new();
        for (a, b) in edges.keys() {
            graph.entry(id(a)).or_default().insert(id(b));
            graph.entry(id(b)).or_default();
        }
        for circle in circles(&graph) {
            let members: Vec<&str> = circle.iter().map(|i| names[*i].as_str()).collect();
            let inside = edges
                .iter()
                .filter(|((a, b), _)| circle.contains(&id(a)) && circle.contains(&id(b)))
                .flat_map(|(_, files)| files)
                .map(|(from, to)| {
                    format!(
                        "\n    {} -> {}",
                        tree.files[*from].module, tree.files[*to].module
                    )
                });
            let place = if parent.is_empty() {
                "the crate"
            } else {
                &parent
            };
            problems.push(format!(
                "circle in {place} ({}): {}{}",
                tree.files[0].path.display(),
                members.join(", "),
                inside.collect::<String>()
            ));
        }
    }
    problems
}

fn parts(module: &str) -> Vec<&str> {
    module.split("::").filter(|part| !part.is_empty()).collect()
}

/// The circles: sets in which each member reaches all others.
fn circles(graph: &Graph) -> Vec<Vec<usize>> {
    let reached: BTreeMap<usize, BTreeSet<usize>> = graph
        .keys()
        .map(|file| (*file, reachable(graph, *file)))
        .collect();
    let mut seen: BTreeSet<usize> = BTreeSet::new();
    let mut circles = Vec::new();
    for file in graph.keys() {
        if seen.contains(file) || !reached[file].contains(file) {
            continue;
        }
        let circle: Vec<_> = reached[file]
            .iter()
            .copied()
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(file)))
            .collect();
        seen.extend(&circle);
        circles.push(circle);
    }
    circles
}

fn reachable(graph: &Graph, from: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut open = vec![from];
    while let Some(file) = open.pop() {
        for next in graph.get(&file).into_iter().flatten() {
            if found.insert(*next) {
                open.push(*next);
            }
        }
    }
    found
}
