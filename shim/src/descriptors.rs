//! The limit of open descriptors of an owner.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit, which is low for programs that call select(2), to the hard one: each
/// process of a pod costs its owner about seven descriptors.
pub fn allow_all() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        log::warn!("The limit of descriptors stays as it is: {error}");
    }
}
