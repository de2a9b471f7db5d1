//! The imports between the files of a crate.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Item, UseTree};

use crate::tree::{Crate, FileId, ModuleId, Name, attributes, of_tests};

/// For each file, the files whose items it names.
pub type Imports = BTreeMap<FileId, BTreeSet<FileId>>;

/// Reads the imports of all files. A module's declaration of another module, and a re-export of
/// its items under the module's own name, are not imports.
pub fn of(tree: &Crate) -> Imports {
    let mut imports = Imports::new();
    for (id, module) in tree.modules.iter().enumerate() {
        // Modules within a file are visited with the items of their file.
        let of_file = module
            .parent
            .is_none_or(|parent| tree.modules[parent].file != module.file);
        if of_file {
            let mut paths = Paths {
                tree,
                module: id,
                found: imports.entry(module.file).or_default(),
            };
            for item in &tree.files[module.file].syntax.items {
                paths.visit_item(item);
            }
        }
    }
    for (file, found) in &mut imports {
        found.remove(file);
    }
    imports
}

struct Paths<'a> {
    tree: &'a Crate,
    module: ModuleId,
    found: &'a mut BTreeSet<FileId>,
}

impl Paths<'_> {
    fn add(&mut self, path: &[String]) {
        self.found.extend(self.tree.resolve(self.module, path));
    }

    fn uses(&mut self, prefix: &mut Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.uses(prefix, &path.tree);
                prefix.pop();
            }
            UseTree::Name(name) if name.ident == "self" => self.add(prefix),
            UseTree::Name(name) => {
                self.add(&[&prefix[..], &[name.ident.to_string()]].concat());
            }
            UseTree::Rename(rename) => {
                self.add(&[&prefix[..], &[rename.ident.to_string()]].concat());
            }
            UseTree::Glob(_) => self.add(prefix),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.uses(prefix, tree);
                }
            }
        }
    }

    /// Paths in the arguments of a macro: `a::b::c`.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.add_tokens(&path);
                        path.clear();
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.add_tokens(&path);
                    path.clear();
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.add_tokens(&path);
    }

    fn add_tokens(&mut self, path: &[String]) {
        // A single word is ambiguous; if it is imported, its `use` counts.
        if path.len() > 1 {
            self.add(path);
        }
    }
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if of_tests(attributes(item)) {
            return;
        }
        match item {
            Item::Mod(declared) => {
                let Some((_, items)) = &declared.content else {
                    return;
                };
                let name = declared.ident.to_string();
                if let Some(Name::Module(inner)) = self.tree.modules[self.module].names.get(&name) {
                    let outer = std::mem::replace(&mut self.module, *inner);
                    for item in items {
                        self.visit_item(item);
                    }
                    self.module = outer;
                }
            }
            Item::Use(used) => {
                if matches!(used.vis, syn::Visibility::Inherited) {
                    self.uses(&mut Vec::new(), &used.tree);
                }
            }
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attributes = match item {
            syn::ImplItem::Const(i) => &i.attrs,
            syn::ImplItem::Fn(i) => &i.attrs,
            syn::ImplItem::Type(i) => &i.attrs,
            _ => return visit::visit_impl_item(self, item),
        };
        if !of_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.add(&names);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.tokens(called.tokens.clone());
        visit::visit_macro(self, called);
    }
}
