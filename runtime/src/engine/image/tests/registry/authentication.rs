//! Registries that ask for a password or a token.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// An image, and how a registry asks for authentication.
struct Scene {
    bed: Bed,
    registry: Registry,
}

/// A registry that answers requests with this authorization alone; `token` answers requests for
/// a token.
async fn scene(
    challenge: impl Fn(&str) -> String + Send + Sync + 'static,
    expected: &'static str,
    token: impl Fn(&Request) -> Response + Send + Sync + 'static,
) -> Scene {
    let bed = Bed::new();
    let image = bed.layout.image(&[layer("a", "1")]);
    let dir = bed.layout.0.clone();
    let tags = [(
        "latest".to_owned(),
        image["digest"].as_str().unwrap().to_owned(),
    )];
    let address = Arc::new(Mutex::new(String::new()));
    let own = address.clone();
    let registry = Registry::start(move |request| {
        if request.path.starts_with("/token") {
            return token(request);
        }
        if request.authorization.as_deref() == Some(expected) {
            return content(&dir, &tags, &request.path);
        }
        let challenge = challenge(&lock(&own));
        Response::new(401, "").with("www-authenticate", challenge)
    })
    .await;
    lock(&address).clone_from(&registry.address);
    Scene { bed, registry }
}

impl Scene {
    async fn pull(&self, user: Option<(&str, &str)>) -> Result<HeldImage> {
        let credentials = user.map(|(user, password)| Credentials {
            user: user.to_owned(),
            password: password.to_owned(),
        });
        // A file without credentials: those of the machine are not for the tests.
        let auth_file = self.bed.root.path().join("auth.json");
        fs::write(&auth_file, "{}").unwrap();
        let options = RegistryOptions {
            credentials,
            auth_file: Some(auth_file),
            ..RegistryOptions::default()
        };
        let source = self.registry.source("app");
        let images = &self.bed.images;
        images.pull(&source, None, &options, silent()).await
    }
}

/// `user:pass` (RFC 7617, section 2).
const BASIC: &str = "Basic dXNlcjpwYXNz";

fn bearer(address: &str) -> String {
    format!("Bearer realm=\"http://{address}/token?x=y\",service=\"the registry\"")
}

fn registry_error<T: std::fmt::Debug>(result: Result<T>) -> RegistryError {
    match image_error(result) {
        ImageError::Registry { source, .. } => *source,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_password_is_sent_when_it_is_asked_for_and_from_then_on() {
    let basic = |_: &str| "Basic realm=\"x\"".to_owned();
    let none = |_: &Request| Response::new(500, "");
    let scene = scene(basic, BASIC, none).await;
    scene.pull(Some(("user", "pass"))).await.unwrap();
    let heard = scene.registry.heard();
    let sent: Vec<_> = heard
        .iter()
        .map(|heard| heard.authorization.as_deref())
        .collect();
    assert_eq!(sent, [None, Some(BASIC), Some(BASIC), Some(BASIC)]);

    for user in [None, Some(("user", "wrong"))] {
        // The layers are still there, and the documents are fetched each time.
        let refused = registry_error(scene.pull(user).await);
        let RegistryError::Unauthorized { url } = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(
            url,
            format!("http://{}/v2/app/manifests/latest", scene.registry.address)
        );
    }
}

#[tokio::test]
async fn a_token_is_fetched_for_the_repository_and_kept_while_it_is_valid() {
    // Fetched with the password, or without one; under either name.
    for (user, expected, key) in [
        (Some(("user", "pass")), Some(BASIC), "token"),
        (None, None, "access_token"),
    ] {
        let token = move |_: &Request| Response::new(200, json!({key: "T"}).to_string());
        let scene = scene(bearer, "Bearer T", token).await;
        scene.pull(user).await.unwrap();
        let heard = scene.registry.heard();
        let of_token = Request {
            path: "/token?x=y&scope=repository%3Aapp%3Apull&service=the+registry".into(),
            accept: "*/*".into(),
            authorization: expected.map(str::to_owned),
        };
        assert_eq!(heard[1], of_token);
        let later: Vec<_> = heard[2..]
            .iter()
            .map(|heard| heard.authorization.as_deref())
            .collect();
        assert_eq!(
            later,
            [Some("Bearer T"); 3],
            "manifest, configuration and layer"
        );
    }
}

#[tokio::test]
async fn a_token_that_has_expired_is_fetched_again() {
    let fetched = Arc::new(AtomicU64::new(0));
    let count = fetched.clone();
    let scene = scene(bearer, "Bearer T", move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Response::new(200, r#"{"token": "T", "expires_in": 0}"#)
    })
    .await;
    scene.pull(None).await.unwrap();
    assert_eq!(fetched.load(Ordering::Relaxed), 3, "for each request");
}

#[tokio::test]
async fn an_answer_without_a_usable_token_is_an_error_of_its_kind() {
    type IsError = fn(&RegistryError) -> bool;
    let large = |extra: usize| {
        let frame = r#"{"token":""}"#.len();
        json!({"token": "x".repeat((64 << 10) - frame + extra)}).to_string()
    };
    let cases: [(u16, String, IsError); 8] = [
        (401, String::new(), |e| {
            matches!(e, RegistryError::Unauthorized { .. })
        }),
        (403, String::new(), |e| {
            matches!(e, RegistryError::Unauthorized { .. })
        }),
        (
            500,
            String::new(),
            |e| matches!(e, RegistryError::Token(text) if text.contains("500")),
        ),
        (
            200,
            "{".into(),
            |e| matches!(e, RegistryError::Token(text) if text.contains("not JSON")),
        ),
        (
            200,
            "{}".into(),
            |e| matches!(e, RegistryError::Token(text) if text.contains("no token")),
        ),
        (
            200,
            r#"{"token": "a\nb"}"#.into(),
            |e| matches!(e, RegistryError::Token(text) if text.contains("header")),
        ),
        (200, large(1), |e| {
            matches!(e, RegistryError::TooLarge { limit: 65536, .. })
        }),
        // It is another token than the expected one.
        (200, large(0), |e| {
            !matches!(e, RegistryError::TooLarge { .. })
        }),
    ];
    for (status, body, is_error) in cases {
        let answer = Response::new(status, body.clone());
        let scene = scene(bearer, "Bearer T", move |_| answer.clone()).await;
        let error = registry_error(scene.pull(None).await);
        assert!(is_error(&error), "{status} {body:.40}: {error:?}");
    }
}

#[tokio::test]
async fn a_password_goes_to_no_address_that_could_give_it_away() {
    for realm in [
        "http://registry.example/token",
        "ftp://127.0.0.1/token",
        "https://user@127.0.0.1/token",
        "https://:secret@127.0.0.1/token",
        "nowhere",
    ] {
        let challenge = move |_: &str| format!("Bearer realm=\"{realm}\"");
        let none = |_: &Request| Response::new(500, "");
        let scene = scene(challenge, "Bearer T", none).await;
        let error = registry_error(scene.pull(Some(("user", "pass"))).await);
        assert!(
            matches!(&error, RegistryError::Realm { realm: named } if named == realm),
            "{realm}: {error:?}"
        );
        assert_eq!(scene.registry.heard().len(), 1, "{realm}");
    }
}

#[tokio::test]
async fn an_unknown_challenge_is_not_answered() {
    let challenge = |_: &str| "Negotiate".to_owned();
    let none = |_: &Request| Response::new(500, "");
    let scene = scene(challenge, "Bearer T", none).await;
    let error = registry_error(scene.pull(Some(("user", "pass"))).await);
    assert!(
        matches!(error, RegistryError::Unauthorized { .. }),
        "{error:?}"
    );
    assert_eq!(scene.registry.heard().len(), 1);
}
