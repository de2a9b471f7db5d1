//! The rules that every device must follow on every transport.

pub mod hostile;
pub mod idle;
pub mod interrupts;
pub mod layout;
pub mod lifecycle;
pub mod negotiation;
pub mod random;
