//! Volumes from their creation to their removal.

use serde_json::json;

use crate::cli::testing::Scene;

#[test]
fn volumes_are_made_listed_and_removed() {
    let scene = Scene::new();
    assert_eq!(scene.says("volume create --label a=1 v"), "v\n");
    assert_eq!(scene.says("volume create w"), "w\n");
    let made_up = scene.says("volume create");
    assert_eq!(made_up.trim().len(), 64, "{made_up}");
    assert_eq!(scene.says(&format!("volume rm {made_up}")), made_up);
    scene.refuses(125, "volume create v");
    scene.says("create --name c --rootfs DIR/rootfs --volume v:/data true");

    assert_eq!(scene.says("volume ls --quiet"), "v\nw\n");
    let table = scene.says("volume ls");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["VOLUME", "CREATED", "ANONYMOUS", "USED", "BY"]);
    assert_eq!((rows[1][0], &rows[1][4..]), ("v", &["false", "c/c"][..]));
    assert_eq!((rows[2][0], &rows[2][4..]), ("w", &["false"][..]));
    let shown = scene.shows("volume inspect v");
    let expected = json!([{
        "name": "v", "labels": { "a": "1" }, "anonymous": false, "filled": false,
        "users": ["c/c"], "path": "DIR/data/volumes/v/_data",
        "created": shown[0]["created"],
    }]);
    assert_eq!(shown, expected);
    assert_eq!(scene.shows("volume ls --format json")[0], expected[0]);
    let gone = scene.refuses(125, "volume inspect x");
    assert!(gone.contains("volume \"x\" not found"), "{gone}");

    let used = scene.refuses(2, "volume rm v");
    assert!(used.contains('c'), "{used}");
    assert_eq!(scene.says("volume prune"), "w\n");
    assert_eq!(scene.says("volume rm --force v"), "v\n");
    assert_eq!(scene.says("ls --all --quiet"), "");
    assert_eq!(scene.says("volume ls --quiet"), "");
}
