//! The same scene under runc and under the runtime under test.

use crate::bed::Bed;
use crate::dist;
use crate::scene::Scene;

/// Plays `play` under runc, then under the runtime under test, each in a bed
/// of its own, and panics with both sides where they were seen to differ.
#[track_caller]
pub fn compare(play: impl Fn(&Scene)) {
    let oracle = watch(dist::RUNC, &play);
    let subject = watch(&dist::subject(), &play);
    let mut differences = Vec::new();
    for ((what, expected), (other, found)) in oracle.iter().zip(&subject) {
        assert_eq!(what, other, "the scene took another course under {}", dist::subject());
        if expected != found {
            differences.push(format!("{what}\n  runc: {expected}\n  {}: {found}", dist::subject()));
        }
    }
    assert_eq!(oracle.len(), subject.len(), "the scene ended early under one runtime");
    assert!(differences.is_empty(), "seen to differ:\n{}", differences.join("\n"));
}

fn watch(runtime: &str, play: &impl Fn(&Scene)) -> Vec<(String, String)> {
    let bed = Bed::new();
    let scene = Scene::new(&bed, runtime);
    eprintln!("under {runtime}");
    play(&scene);
    scene.seen()
}
