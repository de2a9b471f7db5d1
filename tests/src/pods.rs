//! Helpers for pods of `rust-kata`, without containerd: their containers run a script.

use serde_json::Value;

use crate::bed::Bed;
use crate::run::Output;

/// A script that sleeps until it is asked to end.
pub const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

/// Makes a pod and its containers, given by names, options and scripts.
pub fn pod(bed: &Bed, name: &str, words: &[&str], containers: &[(&str, &[&str], &str)]) {
    let create = [&["pod", "create", "--name", name], words].concat();
    bed.rust_kata(&create).ok();
    for (container, words, script) in containers {
        create_container(bed, name, container, words, script).ok();
    }
}

/// Makes a container in a pod.
pub fn create_container(bed: &Bed, pod: &str, name: &str, words: &[&str], script: &str) -> Output {
    let rootfs = bed.rootfs();
    let root = rootfs.to_str().expect("an ASCII path");
    let fixed = ["container", "create", "--pod", pod, "--name", name];
    let root = ["--rootfs", root];
    let args = [&fixed[..], &root, words, &["--", "sh", "-c", script]].concat();
    bed.rust_kata(&args)
}

/// Runs a script in a container.
pub fn exec(bed: &Bed, name: &str, script: &str) -> Output {
    bed.rust_kata(&["container", "exec", name, "sh", "-c", script])
}

/// The output of `inspect` of a `pod` or `container`.
pub fn inspect(bed: &Bed, what: &str, name: &str) -> Value {
    let text = bed.rust_kata(&[what, "inspect", name]).ok().out();
    let all: Value = serde_json::from_str(&text).expect("JSON");
    all[0].clone()
}
