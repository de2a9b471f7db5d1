//! What an owner and its callers send each other: `management.proto`, from and to the
//! engine's own types.

pub mod attach;
pub mod changes;
pub mod errors;
pub mod exec;
pub mod usage;
