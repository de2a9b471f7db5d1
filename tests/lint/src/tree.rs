//! The modules of a crate, found in its files as the compiler finds them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use syn::visit::Visit;
use syn::{Attribute, Item, UseTree};

use crate::Error;

/// The number of a module in [`Crate::modules`].
pub type ModuleId = usize;

/// The number of a file in [`Crate::files`].
pub type FileId = usize;

/// A source file of a program, without tests.
pub struct File {
    /// Its path, relative to the top of the tree.
    pub path: PathBuf,
    /// Its module, such as `pod::create`; empty for the root of a crate.
    pub module: String,
    /// Its text.
    pub text: String,
    /// Its syntax tree.
    pub syntax: syn::File,
    /// Whether it declares modules with files of their own, tests included.
    pub has_children: bool,
}

/// The meaning of a name in a module.
#[derive(Clone)]
pub enum Name {
    /// An item defined in the module.
    Item,
    /// A module below it.
    Module(ModuleId),
    /// A `use` of this path.
    Use(Vec<String>),
}

/// A module, in a file of its own or inline.
pub struct Module {
    /// The module that declares it.
    pub parent: Option<ModuleId>,
    /// The file with its text.
    pub file: FileId,
    /// The meanings of its names.
    pub names: BTreeMap<String, Name>,
    /// The modules that it imports by `use path::*`.
    pub globs: Vec<Vec<String>>,
}

/// A crate with its modules, without those of tests.
#[derive(Default)]
pub struct Crate {
    /// All files.
    pub files: Vec<File>,
    /// All modules; the root is the first.
    pub modules: Vec<Module>,
}

impl Crate {
    /// Reads the crate whose root module is in `root`, a path below `top`.
    ///
    /// # Errors
    /// [`Error::Read`] and [`Error::Parse`] for a file that is missing or not valid Rust.
    pub fn read(top: &Path, root: &Path) -> Result<Self, Error> {
        let mut tree = Self::default();
        tree.file(top, root, root.parent().unwrap_or(root), None, "")?;
        Ok(tree)
    }

    /// Reads a file and the modules declared in it, whose files are in `below`.
    fn file(
        &mut self,
        top: &Path,
        path: &Path,
        below: &Path,
        parent: Option<ModuleId>,
        module: &str,
    ) -> Result<ModuleId, Error> {
        let read = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read_to_string(top.join(path)).map_err(read)?;
        let syntax = syn::parse_file(&text).map_err(|source| Error::Parse {
            path: path.to_owned(),
            source,
        })?;
        let items = syntax.items.clone();
        let has_children = items
            .iter()
            .any(|item| matches!(item, Item::Mod(declared) if declared.content.is_none()));
        self.files.push(File {
            path: path.to_owned(),
            module: module.to_owned(),
            text,
            syntax,
            has_children,
        });
        let file = self.files.len() - 1;
        self.module(top, file, below, parent, module, &items)
    }

    fn module(
        &mut self,
        top: &Path,
        file: FileId,
        below: &Path,
        parent: Option<ModuleId>,
        module: &str,
        items: &[Item],
    ) -> Result<ModuleId, Error> {
        self.modules.push(Module {
            parent,
            file,
            names: BTreeMap::new(),
            globs: Vec::new(),
        });
        let id = self.modules.len() - 1;
        for item in items.iter().filter(|item| !of_tests(attributes(item))) {
            match item {
                Item::Mod(declared) => {
                    let name = declared.ident.to_string();
                    let path = join(module, &name);
                    let below = below.join(&name);
                    let child = match &declared.content {
                        Some((_, items)) => {
                            self.module(top, file, &below, Some(id), &path, items)?
                        }
                        None => {
                            let alone = below.with_extension("rs");
                            let found = if top.join(&alone).exists() {
                                alone
                            } else {
                                below.join("mod.rs")
                            };
                            self.file(top, &found, &below, Some(id), &path)?
                        }
                    };
                    self.modules[id].names.insert(name, Name::Module(child));
                }
                Item::Use(used) => self.uses(id, &mut Vec::new(), &used.tree),
                _ => {
                    if let Some(name) = defined(item) {
                        self.modules[id].names.insert(name, Name::Item);
                    }
                }
            }
        }
        Ok(id)
    }

    fn uses(&mut self, id: ModuleId, prefix: &mut Vec<String>, tree: &UseTree) {
        let module = &mut self.modules[id];
        let mut add = |name: String, path: Vec<String>| {
            module.names.entry(name).or_insert(Name::Use(path));
        };
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.uses(id, prefix, &path.tree);
                prefix.pop();
            }
            UseTree::Name(name) if name.ident == "self" => {
                if let Some(last) = prefix.last() {
                    add(last.clone(), prefix.clone());
                }
            }
            UseTree::Name(name) => {
                let path = [&prefix[..], &[name.ident.to_string()]].concat();
                // `use name;` of another crate refers to itself.
                if path.len() > 1 {
                    add(name.ident.to_string(), path);
                }
            }
            UseTree::Rename(rename) => {
                let mut path = prefix.clone();
                if rename.ident != "self" {
                    path.push(rename.ident.to_string());
                }
                // `as _` imports a trait's methods: use a unique name.
                let name = if rename.rename == "_" {
                    format!("_ {}", path.join("::"))
                } else {
                    rename.rename.to_string()
                };
                add(name, path);
            }
            UseTree::Glob(_) => module.globs.push(prefix.clone()),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.uses(id, prefix, tree);
                }
            }
        }
    }

    /// The file that defines `path` as named in a module, if it belongs to this crate.
    pub fn resolve(&self, module: ModuleId, path: &[String]) -> Option<FileId> {
        self.find(module, path, 0)
    }

    fn find(&self, start: ModuleId, path: &[String], depth: usize) -> Option<FileId> {
        // Two modules import each other by globs.
        if depth > 32 {
            return None;
        }
        let mut at = start;
        let mut explicit = false;
        for (index, segment) in path.iter().enumerate() {
            match segment.as_str() {
                "crate" if index == 0 => {
                    at = 0;
                    explicit = true;
                    continue;
                }
                "self" if index == 0 => {
                    explicit = true;
                    continue;
                }
                "super" if index == 0 || explicit => {
                    at = self.modules[at].parent?;
                    explicit = true;
                    continue;
                }
                _ => explicit = false,
            }
            let rest = &path[index + 1..];
            match self.modules[at].names.get(segment) {
                Some(Name::Item) => return Some(self.modules[at].file),
                Some(Name::Module(child)) => at = *child,
                Some(Name::Use(used)) => {
                    if used.first() == Some(segment) && used.len() == 1 {
                        return None;
                    }
                    return self.find(at, &[used, rest].concat(), depth + 1);
                }
                None => {
                    let rest = &path[index..];
                    return self.modules[at]
                        .globs
                        .iter()
                        .find_map(|glob| self.find(at, &[glob, rest].concat(), depth + 1));
                }
            }
        }
        Some(self.modules[at].file)
    }
}

fn join(module: &str, name: &str) -> String {
    if module.is_empty() {
        name.to_owned()
    } else {
        format!("{module}::{name}")
    }
}

/// `#[cfg(test)]`, or the same for fuzz targets, which count as tests.
pub fn of_tests(attributes: &[Attribute]) -> bool {
    struct Names(bool);
    impl Visit<'_> for Names {
        fn visit_meta(&mut self, meta: &syn::Meta) {
            if let syn::Meta::List(list) = meta {
                let text = list.tokens.to_string();
                self.0 |= text == "test" || text.contains("\"fuzzing\"") && !text.contains("not");
                self.0 |= text.starts_with("any (test");
                self.0 |= text.starts_with("all (test");
            }
        }
    }
    attributes.iter().any(|attribute| {
        let mut names = Names(false);
        if attribute.path().is_ident("cfg") {
            names.visit_meta(&attribute.meta);
        }
        names.0 || attribute.path().is_ident("test")
    })
}

/// The attributes of an item.
pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(i) => &i.attrs,
        Item::Enum(i) => &i.attrs,
        Item::ExternCrate(i) => &i.attrs,
        Item::Fn(i) => &i.attrs,
        Item::ForeignMod(i) => &i.attrs,
        Item::Impl(i) => &i.attrs,
        Item::Macro(i) => &i.attrs,
        Item::Mod(i) => &i.attrs,
        Item::Static(i) => &i.attrs,
        Item::Struct(i) => &i.attrs,
        Item::Trait(i) => &i.attrs,
        Item::TraitAlias(i) => &i.attrs,
        Item::Type(i) => &i.attrs,
        Item::Union(i) => &i.attrs,
        Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

/// The name that an item defines.
pub fn defined(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(i) => &i.ident,
        Item::Enum(i) => &i.ident,
        Item::Fn(i) => &i.sig.ident,
        Item::Macro(i) => i.ident.as_ref()?,
        Item::Static(i) => &i.ident,
        Item::Struct(i) => &i.ident,
        Item::Trait(i) => &i.ident,
        Item::TraitAlias(i) => &i.ident,
        Item::Type(i) => &i.ident,
        Item::Union(i) => &i.ident,
        _ => return None,
    };
    Some(ident.to_string())
}
