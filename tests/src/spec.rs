//! OCI runtime specs, for settings that `ctr run` has no flags for.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use serde_json::{Value, json};

/// The default spec of `ctr`.
static DEFAULT: LazyLock<Value> = LazyLock::new(|| {
    let output = Command::new("ctr")
        .args(["oci", "spec"])
        .output()
        .expect("ctr is installed (package containerd)");
    serde_json::from_slice(&output.stdout).expect("`ctr oci spec` prints JSON")
});

/// A spec under construction.
#[derive(Clone, Debug)]
pub struct Spec(pub Value);

impl Spec {
    /// The default spec with this root file system and command.
    pub fn new(rootfs: &Path, argv: &[&str]) -> Self {
        Self(DEFAULT.clone())
            .set("/root", json!({ "path": rootfs }))
            .set("/process/args", json!(argv))
            .set("/process/env", json!(["PATH=/bin:/sbin"]))
    }

    /// Sets the value at `path` (`/a/b/c`); missing objects are made.
    pub fn set(mut self, path: &str, value: Value) -> Self {
        let mut place = &mut self.0;
        for key in path.split('/').skip(1) {
            if !place.is_object() {
                *place = json!({});
            }
            place = &mut place[key];
        }
        *place = value;
        self
    }

    /// Appends to the list at `path`; a missing list is made.
    pub fn push(self, path: &str, value: Value) -> Self {
        let mut list = self.0.pointer(path).cloned().unwrap_or_else(|| json!([]));
        list.as_array_mut().expect("a list").push(value);
        self.set(path, list)
    }

    /// Adds a mount.
    pub fn mount(self, kind: &str, source: &Path, destination: &str, options: &[&str]) -> Self {
        let mount = json!({ "type": kind, "source": source, "destination": destination, "options": options });
        self.push("/mounts", mount)
    }

    /// Runs the process on a terminal.
    pub fn terminal(self) -> Self {
        self.set("/process/terminal", json!(true))
    }

    /// Marks the container as the sandbox of pod `pod`, as the CRI plugin does.
    pub fn sandbox(self, pod: &str) -> Self {
        self.set(
            "/annotations/io.kubernetes.cri.container-type",
            json!("sandbox"),
        )
        .set("/annotations/io.kubernetes.cri.sandbox-id", json!(pod))
        .set("/annotations/io.kubernetes.cri.sandbox-name", json!("pod"))
        .set(
            "/annotations/io.kubernetes.cri.sandbox-namespace",
            json!("default"),
        )
    }

    /// Marks the container as one of pod `pod`, as the CRI plugin does.
    pub fn in_pod(self, pod: &str) -> Self {
        self.set(
            "/annotations/io.kubernetes.cri.container-type",
            json!("container"),
        )
        .set("/annotations/io.kubernetes.cri.sandbox-id", json!(pod))
        .set(
            "/annotations/io.kubernetes.cri.container-name",
            json!("app"),
        )
    }

    /// Replaces the namespace of type `kind`: a new one, or the one at `path`.
    pub fn namespace(mut self, kind: &str, path: Option<&Path>) -> Self {
        let list = self.0["linux"]["namespaces"]
            .as_array_mut()
            .expect("the default has namespaces");
        list.retain(|namespace| namespace["type"] != kind);
        list.push(path.map_or(
            json!({ "type": kind }),
            |path| json!({ "type": kind, "path": path }),
        ));
        self
    }

    /// Replaces every capability set by `names`.
    pub fn capabilities(self, names: &[&str]) -> Self {
        let sets = json!({ "bounding": names, "effective": names, "permitted": names });
        self.set("/process/capabilities", sets)
    }

    /// Writes it as `file`.
    pub fn write(&self, file: &Path) {
        std::fs::write(file, self.0.to_string())
            .unwrap_or_else(|error| panic!("cannot write {file:?}: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_makes_what_is_missing() {
        let spec = Spec(json!({ "a": 1 }))
            .set("/b/c", json!(2))
            .push("/b/d", json!(3));

        assert_eq!(spec.0, json!({ "a": 1, "b": { "c": 2, "d": [3] } }));
    }
}
