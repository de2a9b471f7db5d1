//! Hostile registries, and one that issues tokens.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use harness::bed::Bed;
use harness::dist::subject_is_ours;
use harness::hostile::{Played, Reply, Request};
use harness::images::{busybox, layout, left, list, prune};
use harness::layout::text;
use harness::require;
use harness::run::Output;
use serde_json::json;

fn pull(bed: &Bed, registry: &Played, words: &[&str]) -> Output {
    let name = format!("{}/app:1", registry.address());
    bed.rust_kata(&[&["image", "pull"], words, &[&*name]].concat())
}

/// The most bytes in transit, in the sockets' buffers: the client has not read more.
const SOCKETS: u64 = 16 << 20;

#[test]
fn answers_without_end_are_not_kept() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let challenge = |request: &Request, address: &str, realm: &str| {
        let bearer = format!("Bearer realm=\"http://{address}{realm}\",service=\"s\"");
        match request.path.starts_with("/v2/") {
            true => Reply::new(401, "").with("WWW-Authenticate", &bearer),
            false => Reply::endless(if request.path.starts_with("/ok") {
                200
            } else {
                500
            }),
        }
    };
    type Answer = Box<dyn Fn(&Request, &str) -> Reply + Send + Sync>;
    let hostile: [(&str, Answer); 5] = [
        (
            "a manifest of the registry has more than 4194304 bytes",
            Box::new(|_, _| Reply::endless(200)),
        ),
        ("answered 404", Box::new(|_, _| Reply::endless(404))),
        (
            "a token of the registry has more than 65536 bytes",
            Box::new(move |request, address| challenge(request, address, "/ok")),
        ),
        (
            "cannot get a token for the registry: its server answered 500",
            Box::new(move |request, address| challenge(request, address, "/wrong")),
        ),
        (
            "more than 4194304 bytes",
            // Its length header is wrong, too.
            Box::new(|_, _| Reply::new(200, vec![b'{'; 5 << 20])),
        ),
    ];
    for (problem, answer) in hostile {
        let registry = Played::start(answer);
        let refused = pull(&bed, &registry, &[]).exits(125);
        assert!(refused.err().contains(problem), "{problem}: {refused:?}");
        assert!(
            registry.sent() < SOCKETS,
            "{problem}: {} bytes",
            registry.sent()
        );
    }
    assert_eq!(left(&bed), Vec::<PathBuf>::new());
}

#[test]
fn a_password_does_not_go_where_anybody_listens() {
    require!(subject_is_ours());
    let bed = Bed::new();
    for realm in [
        "http://registry.example/token",
        "ftp://127.0.0.1/token",
        "file:///etc/passwd",
        "https://user:word@registry.example/token",
        "token",
    ] {
        let bearer = format!("Bearer realm=\"{realm}\"");
        let registry =
            Played::start(move |_, _| Reply::new(401, "").with("WWW-Authenticate", &bearer));
        let refused = pull(&bed, &registry, &["--creds", "someone:secret"]).exits(125);
        let said = refused.err();
        assert!(said.contains("not an https address"), "{realm}: {said}");
        assert!(!said.contains("secret"), "{said}");
        // The credentials were not sent.
        assert!(registry.seen().iter().all(|r| r.authorization.is_none()));
    }
    // Another host that the registry redirects to does not get them, either.
    let other = Arc::new(Played::start(|_, _| Reply::new(404, "")));
    let basic = Played::start({
        let other = other.clone();
        move |request, _| match &request.authorization {
            None => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
            Some(_) => {
                Reply::new(307, "").with("Location", &format!("http://{}/v2/x", other.address()))
            }
        }
    });
    pull(&bed, &basic, &["--creds", "someone:secret"]).exits(125);
    let seen = other.seen();
    assert!(
        seen.len() == 1 && seen[0].authorization.is_none(),
        "{seen:?}"
    );
}

#[test]
fn an_image_comes_by_tokens_that_run_out() {
    require!(subject_is_ours());
    let bed = Bed::new();
    let layout = layout(&bed);
    let image = busybox(&layout, &json!({}));
    let manifest = fs::read(layout.blob_path(&image)).expect("it is there");
    let blobs = layout.dir().join("blobs/sha256");
    let issued = Arc::new(AtomicU64::new(0));
    let registry = Played::start({
        let issued = issued.clone();
        move |request, address| {
            if request.path.starts_with("/token?") {
                // base64 of someone:secret
                let known = request.authorization.as_deref() == Some("Basic c29tZW9uZTpzZWNyZXQ=");
                let scope = request.path.contains("scope=repository%3Aapp%3Apull");
                if !known || !scope || !request.path.contains("service=the+service") {
                    return Reply::new(401, "");
                }
                let number = issued.fetch_add(1, Ordering::Relaxed) + 1;
                // The first token expires before its use.
                let answer = json!({ "token": format!("t{number}"), "expires_in": 0 });
                return Reply::new(200, answer.to_string());
            }
            let valid = format!("Bearer t{}", issued.load(Ordering::Relaxed));
            if request.authorization.as_deref() != Some(&*valid) {
                let bearer =
                    format!("Bearer realm=\"http://{address}/token\",service=\"the service\"");
                return Reply::new(401, "").with("WWW-Authenticate", &bearer);
            }
            let digest = request.path.rsplit("sha256:").next().unwrap_or_default();
            match &*request.path {
                "/v2/app/manifests/1" => Reply::new(200, manifest.clone()),
                _ => match fs::read(blobs.join(digest)) {
                    Ok(blob) => Reply::new(200, blob),
                    Err(_) => Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#),
                },
            }
        }
    });
    let refused = pull(&bed, &registry, &["--creds", "someone:else"]).exits(125);
    assert!(refused.err().contains("not authorized"), "{refused:?}");
    pull(&bed, &registry, &["--creds", "someone:secret"]).ok();
    assert_eq!(
        text(&list(&bed)[0]["name"]),
        format!("{}/app:1", registry.address())
    );
    assert_eq!(
        issued.load(Ordering::Relaxed),
        3,
        "manifest, configuration, layer"
    );
    prune(&bed);
}
