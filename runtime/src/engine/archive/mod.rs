//! Directory trees as streams of tar(5): [`pack`] writes one, [`extract`] makes a
//! tree of one. Neither follows a link out of the tree that it is given, and
//! neither keeps contents in memory.

mod pack;
mod sparse;
#[cfg(test)]
mod tests;

pub(in crate::engine) use self::pack::{Holes, Packer};
pub(in crate::engine) use super::image::unpack::{Owner, extract};
