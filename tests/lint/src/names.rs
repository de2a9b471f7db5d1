//! Names that were replaced by the field's own and must not come back.

use syn::Ident;
use syn::visit::{self, Visit};

use crate::tree::{File, attributes, of_tests};

/// Forbidden names of functions, types, fields, variants, modules and constants. A `*` at the
/// end matches any rest.
const OLD: [&str; 35] = [
    "passing",
    "passing_name",
    "aside",
    "glance",
    "Moment",
    "Authority",
    "rooms",
    "Room",
    "Holder",
    "leftovers",
    "theirs",
    "Theirs",
    "Ours",
    "FrontDoor",
    "front_door*",
    "homes",
    "PodDir",
    "PodHome",
    "tell",
    "tell_*",
    "told",
    "hear",
    "notice",
    "note",
    "stays",
    "restless",
    "welcome",
    "lend",
    "lent",
    "settle*",
    "Fit",
    "visit",
    "Visit",
    "Visits",
    "whoever",
];

/// The forbidden names that a file defines, each with its line.
pub fn old(file: &File) -> Vec<(usize, String)> {
    let mut names = Names(Vec::new());
    names.visit_file(&file.syntax);
    names.0
}

struct Names(Vec<(usize, String)>);

impl Names {
    fn check(&mut self, ident: &Ident) {
        let name = ident.to_string();
        let is_old = OLD.iter().any(|old| match old.strip_suffix('*') {
            Some(begin) => name.starts_with(begin),
            None => name == *old,
        });
        if is_old {
            self.0.push((ident.span().start().line, name));
        }
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if of_tests(attributes(item)) {
            return;
        }
        match item {
            syn::Item::Struct(i) => self.check(&i.ident),
            syn::Item::Enum(i) => self.check(&i.ident),
            syn::Item::Trait(i) => self.check(&i.ident),
            syn::Item::Type(i) => self.check(&i.ident),
            syn::Item::Const(i) => self.check(&i.ident),
            syn::Item::Static(i) => self.check(&i.ident),
            syn::Item::Mod(i) => self.check(&i.ident),
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.check(&signature.ident);
        visit::visit_signature(self, signature);
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if let Some(ident) = &field.ident {
            self.check(ident);
        }
        visit::visit_field(self, field);
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.check(&variant.ident);
        visit::visit_variant(self, variant);
    }
}
