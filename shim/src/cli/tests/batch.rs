//! Changes of a pod in one call.

use protos::management as api;

use crate::cli::testing::{Answers, Scene};

#[test]
fn changes_are_made_in_one_batch() {
    let scene = Scene::with_a_pod();
    let done = |error: &str| {
        let result = api::Result {
            container: "a".into(),
            error: error.into(),
            ..Default::default()
        };
        let results = api::Results {
            results: vec![result],
            ..Default::default()
        };
        api::BatchAnswer {
            results: Some(results).into(),
            ..Default::default()
        }
    };
    let batch = api::BatchResponse {
        answers: vec![done(""), done("not so"), done("")],
        ..Default::default()
    };
    let owner = scene.owner_that(Answers {
        batch,
        ..Answers::default()
    });
    let changes = "# three changes\n\n  stop a\nkill=TERM b\npause\n";
    std::fs::write(scene.path("changes"), changes).unwrap();
    let said = scene.run(&["pod", "batch", "p", "DIR/changes"]);
    assert_eq!((said.code, said.out.as_str()), (125, "stop a\npause\n"));
    assert!(said.err.contains("not so"), "{}", said.err);
    let asked = r#"batch operations {stop {containers: "a"}} operations {kill {containers: "b" signal: 15}} operations {pause {}}"#;
    assert_eq!(owner.asked(), [asked]);

    std::fs::write(scene.path("changes"), "stop a\nnonsense\n").unwrap();
    let refused = scene.refuses(125, "pod batch p DIR/changes");
    assert!(refused.contains("nonsense"), "{refused}");
    assert!(owner.asked().is_empty(), "all lines are read first");
}
