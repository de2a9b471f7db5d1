//! Helpers for images: making, using and removing them in a bed.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bed::Bed;
use crate::layout::{Layout, Packing, Tar};
use crate::leak;
use crate::run::{Input, Output, run};
use crate::scene::limit;

/// An empty layout in a new folder.
pub fn layout(bed: &Bed) -> Layout {
    Layout::new(bed.fresh("layout"))
}

/// An image with busybox only.
pub fn busybox(layout: &Layout, config: &Value) -> Value {
    let layer = layout.layer(&Tar::busybox().finish(), Packing::Gzip);
    layout.image(&[layer], config)
}

/// The output of `rust-kata image ls`.
pub fn list(bed: &Bed) -> Vec<Value> {
    let text = bed
        .rust_kata(&["image", "ls", "--format", "json"])
        .ok()
        .out();
    serde_json::from_str(&text).expect("JSON")
}

/// `rust-kata run --rm` of an image.
pub fn run_of(bed: &Bed, image: &str, words: &[&str], command: &[&str]) -> Output {
    let mut args = vec!["run", "--rm", "--image", image];
    args.extend_from_slice(words);
    args.push("--");
    args.extend_from_slice(command);
    run(bed.cli(&args), Input::Null, limit())
}

/// The files below the image store, without its own folders.
pub fn left(bed: &Bed) -> Vec<PathBuf> {
    let store = bed.data().join("images");
    let found = leak::tree(&store).into_iter().map(|(path, _)| path);
    let depth = |path: &Path| path.strip_prefix(&store).map_or(0, |p| p.iter().count());
    found.filter(|path| depth(path) == 2).collect()
}

/// Removes all images, and checks that nothing is left of them.
pub fn prune(bed: &Bed) {
    bed.rust_kata(&["image", "prune", "--all"]).ok();
    assert_eq!(left(bed), Vec::<PathBuf>::new());
}
