//! Tests: state files of earlier builds (`runtime/fixtures`; `tests/compat` describes how they
//! are made) can be listed, inspected and removed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::engine::foreign;
use crate::engine::{Engine, RemoveOptions};
use crate::pod::recovery;

/// The files of one build: `run` and `data` are those below `/run/rust-kata` and
/// `/var/lib/rust-kata`.
struct Left {
    name: String,
    root: tempfile::TempDir,
}

impl Left {
    /// A copy of the files of each build.
    fn all() -> Vec<Self> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let mut all = Vec::new();
        for build in entries(&fixtures) {
            for manager in entries(&build) {
                let root = tempfile::tempdir().unwrap();
                copy(&manager, root.path());
                let name = manager.strip_prefix(&fixtures).unwrap();
                all.push(Self {
                    name: name.display().to_string(),
                    root,
                });
            }
        }
        assert!(!all.is_empty());
        all
    }

    fn engine(&self) -> Engine {
        Engine::below(self.root.path())
    }

    fn run(&self) -> PathBuf {
        self.root.path().join("run")
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => Vec::new(),
    };
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for path in entries(from) {
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

fn block<T>(work: impl Future<Output = T>) -> T {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio.block_on(work)
}

#[test]
fn pods_images_and_volumes_are_read_and_removed() {
    let mut seen = [0, 0, 0];
    for left in Left::all() {
        let (name, engine) = (&left.name, left.engine());
        let (images, bad) = engine.images().unwrap().list().unwrap();
        assert!(bad.is_empty(), "{name}: {bad:?}");
        let volumes = engine.list_volumes().unwrap();
        seen[1] += images.len();
        seen[2] += volumes.len();
        for volume in volumes {
            volume.unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        for pod in engine.pods(None).unwrap() {
            let view = pod.unwrap_or_else(|bad| panic!("{name}: {}", bad.error));
            for (container, files) in view.containers {
                files.unwrap_or_else(|e| panic!("{name}: {container}: {e}"));
            }
            seen[0] += 1;
            let paths = &view.paths;
            let pod = engine.pod(paths.namespace(), paths.name()).unwrap();
            let removed = block(pod.remove(RemoveOptions::FORCE));
            let outcome = removed.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(outcome.errors.is_empty(), "{name}: {outcome:?}");
        }
        assert!(engine.pods(None).unwrap().is_empty(), "{name}");
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn pods_of_other_managers_are_read_and_reaped() {
    let mut seen = 0;
    for left in Left::all() {
        let (name, run) = (&left.name, left.run());
        for pod in foreign::foreign(&run, None).unwrap() {
            let pod = pod.unwrap_or_else(|bad| panic!("{name}: {}", bad.error));
            for (container, files) in &pod.containers {
                let files = files.as_ref();
                files.unwrap_or_else(|e| panic!("{name}: {container}: {e}"));
                let found = recovery::find_container(&run, &pod.config.namespace, container);
                assert_eq!(found.unwrap().unwrap().pod, pod.config.id, "{name}");
            }
            seen += 1;
            let exits = recovery::reap(&run, &pod.config.namespace, &pod.config.id, false);
            let exits = exits.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(exits.len(), pod.containers.len(), "{name}");
        }
        assert!(foreign::foreign(&run, None).unwrap().is_empty(), "{name}");
    }
    assert!(seen > 0);
}
