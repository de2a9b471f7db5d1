//! The engine and the namespace, shared by all commands.

use runtime::engine::{Engine, NAMESPACE};

/// The engine, and the options of all commands.
pub(crate) struct Context {
    pub(crate) engine: Engine,
    /// The namespace of `--namespace`.
    pub(crate) namespace: Option<String>,
}

impl Context {
    /// The namespace of new pods.
    pub(crate) fn new_namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(NAMESPACE)
    }
}
