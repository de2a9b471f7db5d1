//! Generated names for pods and containers.

use rand::seq::IndexedRandom;

/// The number of tries for a free name: with 1,000 pods the first try succeeds three times out
/// of four.
pub const TRIES: usize = 64;

const ADJECTIVES: [&str; 64] = [
    "able", "agile", "amber", "apt", "bold", "brave", "brief", "bright", "brisk", "busy", "calm",
    "candid", "clear", "clever", "cool", "coral", "crisp", "deft", "eager", "early", "even",
    "exact", "fair", "fast", "fine", "firm", "fleet", "fond", "frank", "fresh", "gentle", "glad",
    "golden", "grand", "green", "hale", "handy", "happy", "hardy", "ideal", "jolly", "keen",
    "kind", "lively", "loyal", "lucid", "merry", "mild", "neat", "nimble", "noble", "patient",
    "plain", "proud", "quick", "quiet", "ready", "sharp", "sound", "steady", "swift", "tidy",
    "vivid", "warm",
];

const NOUNS: [&str; 64] = [
    "alder", "anchor", "aspen", "badger", "beacon", "beech", "birch", "bison", "brook", "cedar",
    "cliff", "comet", "condor", "coral", "crane", "creek", "cypress", "delta", "dune", "eagle",
    "elm", "falcon", "fern", "finch", "fjord", "fox", "glade", "grove", "harbor", "hawk", "hazel",
    "heron", "island", "jay", "juniper", "kestrel", "lagoon", "larch", "lark", "lynx", "maple",
    "marten", "meadow", "mesa", "oak", "orchid", "osprey", "otter", "owl", "panther", "pine",
    "plover", "raven", "reef", "ridge", "river", "robin", "sparrow", "spruce", "stork", "swan",
    "tern", "willow", "wren",
];

/// A readable name, such as `brave_otter`.
pub fn new_name() -> String {
    let mut rng = rand::rng();
    let pick = |words: &[&'static str], rng: &mut _| *words.choose(rng).unwrap_or(&"pod");
    format!("{}_{}", pick(&ADJECTIVES, &mut rng), pick(&NOUNS, &mut rng))
}

/// The name for a try: after some tries with a number.
pub fn name_for(turn: usize) -> String {
    match turn {
        0..8 => new_name(),
        _ => format!("{}{turn}", new_name()),
    }
}

#[cfg(test)]
pub(crate) fn all() -> impl Iterator<Item = String> {
    let of = |adjective: &'static str| NOUNS.iter().map(move |noun| format!("{adjective}_{noun}"));
    ADJECTIVES.into_iter().flat_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_good_file_names() {
        for _ in 0..100 {
            crate::check_id("name", &new_name()).unwrap();
        }
    }

    #[test]
    fn names_are_of_the_lists_and_numbered_after_some_tries() {
        let all: std::collections::BTreeSet<String> = all().collect();
        assert_eq!(all.len(), 64 * 64, "no word stands twice");
        for turn in 0..TRIES {
            let name = name_for(turn);
            let number = if turn < 8 {
                String::new()
            } else {
                turn.to_string()
            };
            let plain = name.strip_suffix(&number).unwrap();
            assert!(all.contains(plain), "{turn}: {name}");
        }
        let some: std::collections::BTreeSet<String> = (0..100).map(|_| new_name()).collect();
        assert!(some.len() > 50, "they differ: {some:?}");
    }
}
