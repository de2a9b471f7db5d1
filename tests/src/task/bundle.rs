//! Bundles as containerd writes them, and the command line of their shim.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use super::stdio::fifo;
use crate::bed::Bed;
use crate::capture::Capture;
use crate::dist;
use crate::run::{Input, Output, run};
use crate::spec::Spec;

/// The shim binary of a runtime, by containerd's rule for runtime names.
pub fn binary(runtime: &str) -> PathBuf {
    let mut parts = runtime.rsplit('.');
    let (version, name) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let file = format!("containerd-shim-{name}-{version}");
    let ours = dist::binary(&file);
    if ours.exists() { ours } else { file.into() }
}

/// A bundle folder as containerd lays it out.
pub struct Bundle {
    /// The container's id.
    pub id: String,
    /// Its path.
    pub path: PathBuf,
    /// The log of its shim.
    pub log: Capture,
}

impl Bundle {
    /// Makes a bundle. `config` is the content of its `config.json`, if it has one.
    pub fn new(bed: &Bed, id: &str, config: Option<&str>) -> Self {
        bed.note(id);
        // As with containerd, its folder has the id as its name.
        let path = bed.fresh("bundles").join(id);
        fs::create_dir_all(&path).expect("the bed is ours");
        let log = fifo(&path, "log");
        // The shim waits for a reader of its log.
        let log = Capture::of(
            File::options()
                .read(true)
                .write(true)
                .open(log)
                .expect("our fifo"),
        );
        if let Some(config) = config {
            fs::write(path.join("config.json"), config).expect("the bed is ours");
        }
        Self {
            id: id.to_owned(),
            path,
            log,
        }
    }

    /// A bundle with a spec, in the cgroup that the bed checks.
    pub fn of(bed: &Bed, id: &str, spec: &Spec) -> Self {
        let group = format!("/{}/{id}", bed.namespace());
        let spec = spec
            .clone()
            .set("/linux/cgroupsPath", serde_json::json!(group));
        Self::new(bed, id, Some(&spec.0.to_string()))
    }

    /// The shim's command line for this bundle, without its action.
    pub fn shim(&self, bed: &Bed, runtime: &str) -> Command {
        let mut command = Command::new(binary(runtime));
        command
            .current_dir(&self.path)
            .envs(bed.environment())
            .env("TTRPC_ADDRESS", bed.dir().join("containerd.sock.ttrpc"))
            .args(["-namespace", bed.namespace(), "-address"])
            .arg(bed.socket())
            .args(["-publish-binary", "/usr/bin/containerd", "-id", &self.id]);
        command
    }

    /// `shim … start`.
    #[track_caller]
    pub fn start(&self, bed: &Bed, runtime: &str) -> Output {
        let mut command = self.shim(bed, runtime);
        command.arg("start");
        run(command, Input::Null, dist::patience(20.0))
    }

    /// `shim … delete`.
    #[track_caller]
    pub fn delete(&self, bed: &Bed, runtime: &str) -> Output {
        let mut command = self.shim(bed, runtime);
        command.arg("-bundle").arg(&self.path).arg("delete");
        run(command, Input::Null, dist::patience(20.0))
    }
}
