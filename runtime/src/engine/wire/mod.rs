//! What an owner and its callers send each other beside `management.proto`.

pub mod attach;
pub mod changes;
pub mod errors;
