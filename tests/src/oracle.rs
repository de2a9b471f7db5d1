//! The same scene under runc and under the runtime under test.

use crate::bed::Bed;
use crate::dist;
use crate::scene::Scene;

/// How often the scene is played under runc. On a busy machine runc's shim drops output that it
/// has not copied within two seconds of the exit, so a single result may be wrong.
const ORACLES: usize = 3;

type Seen = Vec<(String, String)>;

/// Plays `play` under runc, then under the runtime under test, each in a bed of its own. Panics
/// and shows both observations where they differ.
#[track_caller]
pub fn compare(play: impl Fn(&Scene)) {
    let mut oracle = watch(dist::RUNC, &play);
    let subject = watch(&dist::subject(), &play);
    for turn in 1.. {
        let differences = differences(&oracle, &subject);
        if differences.is_empty() {
            return;
        }
        assert!(
            turn < ORACLES,
            "seen to differ:\n{}",
            differences.join("\n")
        );
        eprintln!(
            "seen to differ, runc is asked again:\n{}",
            differences.join("\n")
        );
        oracle = watch(dist::RUNC, &play);
    }
}

fn watch(runtime: &str, play: &impl Fn(&Scene)) -> Seen {
    let bed = Bed::new();
    let scene = Scene::new(&bed, runtime);
    eprintln!("under {runtime}");
    play(&scene);
    scene.seen()
}

fn differences(oracle: &Seen, subject: &Seen) -> Vec<String> {
    let names = |seen: &Seen| {
        seen.iter()
            .map(|(what, _)| what.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(oracle),
        names(subject),
        "the scene made other observations"
    );
    let pairs = oracle.iter().zip(subject);
    let differing = pairs.filter(|((_, expected), (_, found))| expected != found);
    differing
        .map(|((what, expected), (_, found))| {
            format!("{what}\n  runc: {expected}\n  {}: {found}", dist::subject())
        })
        .collect()
}
