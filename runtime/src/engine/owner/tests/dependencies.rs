//! Containers that depend on others that do not run, or are not there.

use test_support::require;

use super::*;
use crate::error::DependencyError;

fn missing(outcome: &Outcome, container: &str, on: &str) {
    assert!(
        matches!(
            outcome.errors.get(container),
            Some(Error::Dependency(DependencyError::Missing { container: c, on: o }))
                if c == container && o == on
        ),
        "{outcome:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_others_need_outlives_its_end() {
    let goes = |container: &mut ContainerDefinition| {
        container.remove_at_exit = container.name == "db";
    };
    let lab = require!(Lab::with(&["db", "web<db"], no_change, goes).await);
    lab.start().await;
    lab.guest.end("db", "", 3);
    lab.until("db ends", |lab| {
        lab.owner.tracked("db").is_ok() && lab.now("db").exit_code == Some(3)
    })
    .await;
    // The end was handled before this operation got its turn.
    lab.owner.stop(&names(&["web"]), Some(0)).await.unwrap();
    assert_eq!(lab.status("db"), ContainerStatus::Exited);
    let outcome = lab.owner.start(&names(&["web"]), true).await.unwrap();
    assert_eq!(parts(outcome), (names(&["db", "web"]), vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_dependency_keeps_only_its_dependents_from_starting() {
    let lab = require!(Lab::new(&["db", "web<db", "app<web", "c"]).await);
    // As damage, or an earlier build, may have left it.
    lock(&lab.owner.containers).remove("db");
    std::fs::remove_dir_all(lab.owner.paths().container("db").unwrap().path()).unwrap();
    let outcome = lab.owner.start(&[], true).await.unwrap();
    missing(&outcome, "web", "db");
    let outcome = parts(outcome);
    assert_eq!(outcome.0, names(&["c"]));
    assert_eq!(outcome.2[0], wrong("app")[0]);
    let restarted = lab.owner.restart(&[], Some(0)).await.unwrap();
    missing(&restarted, "web", "db");
    assert_eq!(parts(restarted).0, names(&["c"]));
    for outcome in [
        lab.owner.stop(&[], Some(0)).await.unwrap(),
        lab.owner
            .remove(&names(&["web", "app"]), false, None)
            .await
            .unwrap(),
    ] {
        assert!(outcome.errors.is_empty(), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_dependency_is_named_with_the_remedy_which_works() {
    let lab = require!(Lab::new(&["db", "web<db", "c"]).await);
    let db = lab.owner.paths().container("db").unwrap();
    std::fs::write(db.state(), "").unwrap();
    lock(&lab.owner.containers).remove("db");
    let outcome = lab.owner.start(&[], true).await.unwrap();
    let said = outcome.errors["web"].to_string();
    assert!(said.contains("rm --force web/db"), "{said}");
    assert_eq!(parts(outcome).0, names(&["c"]));
    let outcome = lab.owner.remove(&names(&["db"]), true, None).await.unwrap();
    assert_eq!(parts(outcome).0, names(&["db"]));
    missing(
        &lab.owner.start(&names(&["web"]), true).await.unwrap(),
        "web",
        "db",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_refused_before_anything_is_stopped() {
    let lab = require!(Lab::started(&["db", "web<db", "app<web"]).await);
    lab.owner.stop(&names(&["db"]), Some(0)).await.unwrap();
    lab.guest.heard();
    let outcome = lab.owner.restart(&names(&["web"]), Some(0)).await.unwrap();
    assert_eq!(parts(outcome), (vec![], vec![], wrong("web")));
    assert_eq!(lab.guest.heard(), [""; 0]);
    assert_eq!(lab.status("web"), ContainerStatus::Running);
    // With its dependency it is restarted.
    let both = names(&["db", "web"]);
    let outcome = lab.owner.restart(&both, Some(0)).await.unwrap();
    assert_eq!(parts(outcome), (both, vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_to_go_goes_if_it_cannot_be_started() {
    let goes = |container: &mut ContainerDefinition| container.remove_at_exit = true;
    let lab = require!(Lab::with(&["a"], no_change, goes).await);
    lab.guest.refuse("create_container", Refusal::Command(127));
    let outcome = lab.owner.start(&[], false).await.unwrap();
    assert_eq!(
        parts(outcome).2,
        [("a".to_owned(), ErrorKind::InvalidArgument)]
    );
    assert!(lab.owner.tracked("a").is_err());
    assert!(!lab.owner.paths().container("a").unwrap().path().exists());
}
