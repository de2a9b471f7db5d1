//! Tests with damaged state files: truncated, zeroed, of another kind, or not regular files.
//! The error names the file and the remedy, other pods are not affected, and the remedy works.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use super::records::definition::{ContainerDefinition, PodDefinition, Rootfs};
use super::{Engine, PodHandle, RemoveOptions};
use crate::error::{Error, Result};
use crate::state_dir::lock::Guarded;

/// Kinds of damage to a file.
#[derive(Debug, Clone)]
enum Damage {
    Text(Vec<u8>),
    Gone,
    Directory,
    Link(PathBuf),
    Fifo,
    Huge,
}

impl Damage {
    fn apply(&self, path: &Path) {
        clear(path);
        match self {
            Self::Text(text) => fs::write(path, text).unwrap(),
            Self::Gone => {}
            Self::Directory => fs::create_dir_all(path.join("x")).unwrap(),
            Self::Link(to) => symlink(to, path).unwrap(),
            Self::Fifo => {
                let mode = nix::sys::stat::Mode::S_IRUSR;
                nix::unistd::mkfifo(path, mode).unwrap();
            }
            Self::Huge => fs::File::create(path).unwrap().set_len(1 << 40).unwrap(),
        }
    }

    /// All kinds but truncation.
    fn kinds(whole: &[u8], elsewhere: &Path) -> Vec<Self> {
        let newer = String::from_utf8(whole.to_vec()).unwrap();
        let newer = newer.replacen("\"version\": 1", "\"version\": 2", 1);
        assert_ne!(newer.as_bytes(), whole);
        vec![
            Self::Text(vec![0; whole.len()]),
            Self::Text(newer.into_bytes()),
            Self::Text(br#"{"version": 7}"#.to_vec()),
            Self::Text(br#"{"version": 1}"#.to_vec()),
            Self::Text(b"[]".to_vec()),
            Self::Gone,
            Self::Directory,
            Self::Link(elsewhere.to_owned()),
            Self::Link("/nonexistent".into()),
            Self::Link("/dev/zero".into()),
            Self::Fifo,
            Self::Huge,
        ]
    }
}

fn clear(path: &Path) {
    match path.symlink_metadata() {
        Ok(data) if data.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

struct Lab {
    root: tempfile::TempDir,
    engine: Engine,
}

impl Lab {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let engine = Engine::below(root.path());
        let lab = Self { root, engine };
        lab.make("good");
        lab
    }

    /// A pod with containers `a` and `b`.
    fn make(&self, name: &str) -> PodHandle {
        let definition = PodDefinition::new("local", name);
        let pod = self.engine.create_pod(definition).unwrap();
        for container in ["a", "b"] {
            let root = Rootfs::Directory("/".into());
            let definition = ContainerDefinition::new(container, root, Spec::default());
            block(pod.create_container(&definition)).unwrap();
        }
        pod
    }

    /// The error of the pod `bad`. Also checks that the other pod works as before.
    fn problem(&self) -> Option<Error> {
        let mut problem = None;
        let mut good = 0;
        for pod in self.engine.pods(None).unwrap() {
            match pod {
                Ok(view) if view.paths.name() == "good" => {
                    good += 1;
                    assert!(view.containers.values().all(Result::is_ok));
                }
                Ok(view) => {
                    let containers = view.containers.into_values();
                    problem = containers.filter_map(Result::err).next();
                }
                Err(unreadable) => {
                    assert_eq!(unreadable.paths.name(), "bad");
                    problem = Some(unreadable.error);
                }
            }
        }
        assert_eq!(good, 1, "the other pod is listed");
        problem
    }

    fn pods(&self) -> usize {
        fs::read_dir(self.root.path().join("data/pods/local"))
            .unwrap()
            .count()
    }
}

fn block<T>(work: impl Future<Output = T>) -> T {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio.block_on(work)
}

#[track_caller]
fn remove_by_force(pod: &PodHandle, what: &str) {
    let removed = block(pod.remove(RemoveOptions::FORCE));
    let outcome = removed.unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(outcome.errors.is_empty(), "{what}: {outcome:?}");
}

#[track_caller]
fn names(problem: Option<Error>, file: &Path, what: &Damage) {
    let problem = problem.unwrap_or_else(|| panic!("{what:?} of {} is fine", file.display()));
    let said = problem.to_string();
    let name = file.to_str().unwrap();
    assert!(said.contains(name), "{what:?}: {said}");
    assert!(said.contains("rm --force"), "{what:?}: {said}");
}

#[test]
fn any_damage_to_a_pod_is_named_and_cured() {
    let lab = Lab::new();
    let mut bad = lab.make("bad");
    for file in [bad.paths().config(), bad.paths().state()] {
        let whole = fs::read(&file).unwrap();
        let cuts = (0..whole.len()).map(|n| Damage::Text(whole[..n].to_vec()));
        for cut in cuts {
            cut.apply(&file);
            names(lab.problem(), &file, &cut);
        }
        fs::write(&file, &whole).unwrap();
        assert!(lab.problem().is_none());
        let elsewhere = lab.engine.pod("local", "good").unwrap().paths().config();
        for damage in Damage::kinds(&whole, &elsewhere) {
            damage.apply(&file);
            names(lab.problem(), &file, &damage);
            let refused = block(bad.remove(RemoveOptions::default()));
            names(refused.err(), &file, &damage);
            remove_by_force(&bad, &format!("{damage:?}"));
            assert_eq!(lab.pods(), 1, "{damage:?} leaves nothing");
            bad = lab.make("bad");
        }
    }
}

#[test]
fn any_damage_to_a_container_is_named_and_cured() {
    let lab = Lab::new();
    let bad = lab.make("bad");
    let paths = bad.paths().container("a").unwrap();
    let remove = |force| block(bad.remove_containers(&["a".into()], force, None)).unwrap();
    for file in [paths.config(), paths.state()] {
        let whole = fs::read(&file).unwrap();
        let cuts = (0..whole.len()).map(|n| Damage::Text(whole[..n].to_vec()));
        for cut in cuts {
            cut.apply(&file);
            names(lab.problem(), &file, &cut);
        }
        fs::write(&file, &whole).unwrap();
        let elsewhere = bad.paths().container("b").unwrap().config();
        for damage in Damage::kinds(&whole, &elsewhere) {
            damage.apply(&file);
            names(lab.problem(), &file, &damage);
            assert!(bad.view().unwrap().container("b").is_ok());
            names(remove(false).errors.remove("a"), &file, &damage);
            assert!(remove(true).errors.is_empty(), "{damage:?}");
            let left = fs::read_dir(bad.paths().containers()).unwrap().count();
            assert_eq!(left, 1, "{damage:?} leaves nothing");
            let root = Rootfs::Directory("/".into());
            let again = ContainerDefinition::new("a", root, Spec::default());
            block(bad.create_container(&again)).unwrap();
        }
    }
}

#[test]
fn a_file_of_another_pod_or_container_is_not_taken_for_ones_own() {
    let lab = Lab::new();
    let bad = lab.make("bad");
    let good = lab.engine.pod("local", "good").unwrap();
    let a = bad.paths().container("a").unwrap().config();
    fs::copy(bad.paths().container("b").unwrap().config(), &a).unwrap();
    names(lab.problem(), &a, &Damage::Link("b".into()));
    let file = bad.paths().config();
    fs::copy(good.paths().config(), &file).unwrap();
    names(lab.problem(), &file, &Damage::Link("good".into()));
}

#[test]
fn damaged_locks_and_directories_are_named_and_cured() {
    let lab = Lab::new();
    for damage in [
        Damage::Gone,
        Damage::Directory,
        Damage::Link("/nonexistent".into()),
        Damage::Link("/etc/passwd".into()),
    ] {
        for file in ["lock", "owner"] {
            let bad = lab.make("bad");
            let path = bad.paths().path().join(file);
            damage.apply(&path);
            if file == "lock" || !matches!(damage, Damage::Gone) {
                names(lab.problem(), &path, &damage);
            }
            remove_by_force(&bad, &format!("{damage:?} {file}"));
            assert_eq!(lab.pods(), 1, "{damage:?} of {file} leaves nothing");
        }
    }
    for what in [Damage::Text(b"x".to_vec()), Damage::Fifo] {
        let bad = lab.make("bad");
        what.apply(&bad.paths().containers());
        names(lab.problem(), &bad.paths().containers(), &what);
        remove_by_force(&bad, &format!("{what:?}"));
        assert_eq!(lab.pods(), 1, "{what:?} leaves nothing");
        let bad = lab.make("bad");
        what.apply(bad.paths().path());
        names(lab.problem(), bad.paths().path(), &what);
        remove_by_force(&bad, &format!("{what:?}"));
        let bad = lab.make("bad");
        let a = bad.paths().containers().join("a");
        what.apply(&a);
        names(lab.problem(), &a, &what);
        remove_by_force(&bad, &format!("{what:?}"));
        assert_eq!(lab.pods(), 1, "{what:?} leaves nothing");
    }
}

#[test]
fn what_an_owner_wrote_of_itself_may_be_damaged() {
    let lab = Lab::new();
    let bad = lab.make("bad");
    for text in ["", "{", "\0\0\0\0", "{\"pid\": \"x\"}"] {
        fs::write(bad.paths().owner(), text).unwrap();
        let view = bad.view().unwrap();
        assert_eq!(view.owner, None, "nobody holds the lock");
    }
}

/// A container that cannot be read may use any image and any volume.
#[test]
fn a_definition_that_cannot_be_read_is_an_error_beside_the_others() {
    let lab = Lab::new();
    let good = lab.engine.pod("local", "good").unwrap();
    let [a, b] = ["a", "b"].map(|name| good.paths().container(name).unwrap().config());
    let read = || {
        let (found, errors) = lab.engine.definitions().unwrap();
        let names: Vec<String> = found.into_iter().map(|(_, one)| one.name).collect();
        (
            names.concat(),
            errors.len(),
            lab.engine.all_definitions().is_ok(),
        )
    };
    assert_eq!(read(), ("ab".to_owned(), 0, true));
    fs::write(&a, "").unwrap();
    assert_eq!(read(), ("b".to_owned(), 1, false));
    fs::remove_file(&b).unwrap();
    assert_eq!(read(), (String::new(), 2, false));
    // Their directories are gone, and so are they.
    for file in [a, b] {
        fs::remove_dir_all(file.parent().unwrap()).unwrap();
    }
    assert_eq!(read(), (String::new(), 0, true));
}
