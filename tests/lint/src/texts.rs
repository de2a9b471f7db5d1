//! The texts of errors: lower case and no full stop, as in Rust's API guidelines, and as podman
//! and kubectl write them.

use proc_macro2::TokenTree;
use syn::visit::Visit;
use syn::{Attribute, Lit, Meta};

use crate::tree::File;

/// Names, which keep their capital letter at the beginning of a text.
const NAMES: [&str; 3] = ["Debian", "Kubernetes", "Linux"];

/// The texts in `#[error("…")]` of a file that break the rule, each with its line and its fault.
pub fn wrong(file: &File) -> Vec<(usize, String)> {
    let mut texts = Texts(Vec::new());
    texts.visit_file(&file.syntax);
    texts.0
}

struct Texts(Vec<(usize, String)>);

impl<'ast> Visit<'ast> for Texts {
    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let Meta::List(list) = &attribute.meta else {
            return;
        };
        if !list.path.is_ident("error") {
            return;
        }
        if let Some(TokenTree::Literal(literal)) = list.tokens.clone().into_iter().next()
            && let Lit::Str(text) = Lit::new(literal)
            && let Some(fault) = fault(&text.value())
        {
            self.0.push((text.span().start().line, fault));
        }
    }
}

/// The fault of a text, if it has one.
fn fault(text: &str) -> Option<String> {
    let word = text.split(|c: char| !c.is_alphanumeric()).next()?;
    let mut letters = word.chars();
    // An abbreviation, such as QEMU, has a second capital letter.
    let is_capital = letters.next().is_some_and(char::is_uppercase)
        && letters.next().is_none_or(char::is_lowercase);
    if is_capital && !NAMES.contains(&word) {
        return Some(format!("{word:?} begins with a capital letter"));
    }
    let stopped = text.ends_with('.') && !text.ends_with("..");
    stopped.then(|| format!("{text:?} ends with a full stop"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_begin_in_lower_case_and_end_without_a_full_stop() {
        for fine in [
            "cannot open {}: {source}",
            "{what} {id:?} not found",
            "QEMU command {command} failed",
            "KVM refuses to set MSR {0:#x}",
            "/dev/kvm has API version {0}",
            "Kubernetes asks for it",
            "a path without ..",
            "",
        ] {
            assert_eq!(fault(fine), None, "{fine}");
        }
        for wrong in [
            "Cannot open {}",
            "A vCPU did not stop",
            "Übung macht den Meister",
            "it failed.",
        ] {
            assert!(fault(wrong).is_some(), "{wrong}");
        }
    }

    #[test]
    fn attributes_are_found_with_their_lines() {
        let text = "#[error(\"Bad\")]\nenum E {\n#[error(\n\"fine {0}\"\n)]\nA,\n#[error(transparent)]\nB,\n\
                    #[error(\"{}\", \"Not this\")]\nC,\n#[other(\"Bad\")]\nD,\n#[error(\"end.\")]\nF }";
        let mut texts = Texts(Vec::new());
        texts.visit_file(&syn::parse_file(text).unwrap());
        let lines: Vec<usize> = texts.0.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 13]);
    }
}
