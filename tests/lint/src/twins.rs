//! Types of the same name in two modules of a crate.

use std::collections::BTreeMap;

use crate::tree::{Crate, attributes, of_tests};

/// Modules whose types belong to the module's own subject: a command's arguments, a device's
/// fixture.
const NAMED_BY_MODULE: [&str; 3] = ["cli", "run", "transport::conformance"];

/// The visible types whose names two modules define.
pub fn of(tree: &Crate) -> Vec<String> {
    let mut defined: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in &tree.files {
        let by_module = NAMED_BY_MODULE.iter().any(|name| {
            let rest = file.module.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        });
        if by_module {
            continue;
        }
        for item in &file.syntax.items {
            let (visibility, ident) = match item {
                syn::Item::Struct(i) => (&i.vis, &i.ident),
                syn::Item::Enum(i) => (&i.vis, &i.ident),
                syn::Item::Trait(i) => (&i.vis, &i.ident),
                syn::Item::Type(i) => (&i.vis, &i.ident),
                _ => continue,
            };
            let private = matches!(visibility, syn::Visibility::Inherited);
            if private || of_tests(attributes(item)) || GENERAL.contains(&&*ident.to_string()) {
                continue;
            }
            let path = file.path.display().to_string();
            defined.entry(ident.to_string()).or_default().push(path);
        }
    }
    defined
        .into_iter()
        .filter(|(_, paths)| paths.len() > 1)
        .map(|(name, paths)| format!("{name}: defined in {}", paths.join(" and ")))
        .collect()
}

/// Names that Rust programs give to one type per module, and that are used with their path.
const GENERAL: [&str; 2] = ["Error", "Result"];
