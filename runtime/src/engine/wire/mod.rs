//! Messages between an owner and its callers, beside `management.proto`.

pub mod attach;
pub mod changes;
pub mod errors;
