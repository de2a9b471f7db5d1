//! Registries that refuse, or that answer with more or less than they should.

use super::*;
use crate::error::ErrorKind;

/// The error of a pull if each request is answered like this.
async fn refused(answer: Response) -> (RegistryError, String) {
    let bed = Bed::new();
    let registry = Registry::start(move |_| answer.clone()).await;
    match image_error(bed.pull(&registry.source("app"), None).await) {
        ImageError::Registry { source, image } => {
            assert_eq!(image, format!("{}/app:latest", registry.address));
            (*source, registry.address)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_refusal_has_its_codes_and_its_reason() {
    let two = r#"{"errors": [
        {"code": "DENIED", "message": "no\u001b way"}, {"code": "MANIFEST_UNKNOWN"}]}"#;
    let long = json!({"errors": [{"code": "DENIED", "message": "x".repeat(600)}]});
    let cut = "x".repeat(500);
    let cases: [(u16, String, &[&str], &str, ErrorKind); 7] = [
        (404, "not JSON".into(), &[], "", ErrorKind::NotFound),
        (403, String::new(), &[], "", ErrorKind::FailedPrecondition),
        (
            403,
            r#"{"errors": [{"code": "DENIED", "message": "no"}]}"#.into(),
            &["DENIED"],
            "no (DENIED)",
            ErrorKind::FailedPrecondition,
        ),
        (
            400,
            r#"{"errors": [{"code": "NAME_UNKNOWN"}]}"#.into(),
            &["NAME_UNKNOWN"],
            "NAME_UNKNOWN",
            ErrorKind::NotFound,
        ),
        (
            400,
            two.into(),
            &["DENIED", "MANIFEST_UNKNOWN"],
            "no. way (DENIED); MANIFEST_UNKNOWN",
            ErrorKind::NotFound,
        ),
        (
            500,
            long.to_string(),
            &["DENIED"],
            &cut,
            ErrorKind::FailedPrecondition,
        ),
        (
            500,
            json!({"errors": [], "more": "x".repeat(16 << 10)}).to_string(),
            &[],
            "",
            ErrorKind::FailedPrecondition,
        ),
    ];
    for (status, body, codes, message, kind) in cases {
        let (error, address) = refused(Response::new(status, body)).await;
        assert_eq!(error.kind(), kind, "{error:?}");
        let RegistryError::Refused {
            status: found,
            url,
            codes: found_codes,
            message: found_message,
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(found, status);
        assert_eq!(url, format!("http://{address}/v2/app/manifests/latest"));
        assert_eq!(
            (&found_codes[..], &*found_message),
            (
                &codes
                    .iter()
                    .map(|code| (*code).to_owned())
                    .collect::<Vec<_>>()[..],
                message
            )
        );
    }
    let (error, _) = refused(Response::new(401, "")).await;
    assert!(
        matches!(error, RegistryError::Unauthorized { .. }),
        "{error:?}"
    );
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
}

#[tokio::test]
async fn the_reason_of_a_refusal_is_read_up_to_its_limit() {
    const MOST: usize = 16 << 10;
    let reason = r#"{"errors": [{"code": "DENIED"}]}"#;
    for (length, is_read) in [(MOST - 1, true), (MOST, true), (MOST + 1, true)] {
        // What follows the limit is not read: spaces are missed by nobody.
        let body = format!("{reason}{}", " ".repeat(length - reason.len()));
        let (error, _) = refused(Response::new(403, body)).await;
        let found = matches!(&error, RegistryError::Refused { codes, .. } if codes == &["DENIED"]);
        assert_eq!(found, is_read, "{length}");
    }
    let late = format!("{}{reason}", " ".repeat(MOST - reason.len() + 1));
    let (error, _) = refused(Response::new(403, late)).await;
    assert!(
        matches!(&error, RegistryError::Refused { codes, .. } if codes.is_empty()),
        "{error:?}"
    );
}

/// A manifest of this length: JSON may be followed by spaces.
fn long_manifest(bed: &Bed, length: usize) -> Vec<u8> {
    let image = bed.layout.image(&[layer("a", "1")]);
    let path = bed.layout.path_of(image["digest"].as_str().unwrap());
    let mut text = fs::read(path).unwrap();
    text.resize(length, b' ');
    text
}

#[tokio::test]
async fn a_manifest_is_read_up_to_its_limit_announced_or_not() {
    const MOST: usize = 4 << 20;
    for announced in [true, false] {
        let bed = Bed::new();
        for (length, is_read) in [(MOST, true), (MOST + 1, false)] {
            let manifest = bed.layout.blob(MANIFEST, &long_manifest(&bed, length));
            let dir = bed.layout.0.clone();
            let digest = manifest["digest"].as_str().unwrap().to_owned();
            let tags = [("latest".to_owned(), digest)];
            let registry = Registry::start(move |request| Response {
                announced,
                ..content(&dir, &tags, &request.path)
            })
            .await;
            let pulled = bed.pull(&registry.source("app"), None).await;
            if is_read {
                pulled.unwrap();
                continue;
            }
            let error = image_error(pulled);
            let ImageError::Registry { source, .. } = &error else {
                panic!("{error:?}");
            };
            assert!(
                matches!(
                    **source,
                    RegistryError::TooLarge {
                        what: "a manifest",
                        limit: MOST
                    }
                ),
                "{source:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_blob_has_the_size_that_its_manifest_says() {
    for change in [-1isize, 1] {
        let bed = Bed::new();
        let content = layer("a", "1");
        let mut layer = bed.layout.blob(LAYER, &content);
        let size = layer["size"]
            .as_u64()
            .unwrap()
            .checked_add_signed(change as i64);
        layer["size"] = size.into();
        let config = bed
            .layout
            .document(CONFIG, &config(std::slice::from_ref(&content)));
        let image = bed.layout.manifest(&config, &[layer]);
        let registry = Registry::of(&bed.layout, &[("latest", &image)]).await;
        let error = image_error(bed.pull(&registry.source("app"), None).await);
        let ImageError::Size { digest, expected } = error else {
            panic!("{error:?}");
        };
        assert_eq!((digest, Some(expected)), (sha256(&content), size));
    }
}

#[tokio::test]
async fn a_configuration_that_is_too_large_is_not_fetched() {
    const MOST: u64 = 4 << 20;
    for (size, is_fetched) in [(MOST, true), (MOST + 1, false)] {
        let bed = Bed::new();
        let content = layer("a", "1");
        let mut config = bed
            .layout
            .document(CONFIG, &config(std::slice::from_ref(&content)));
        config["size"] = size.into();
        let image = bed
            .layout
            .manifest(&config, &[bed.layout.blob(LAYER, &content)]);
        let registry = Registry::of(&bed.layout, &[("latest", &image)]).await;
        let error = image_error(bed.pull(&registry.source("app"), None).await);
        assert_eq!(registry.paths().len(), 1 + usize::from(is_fetched));
        if is_fetched {
            // It has fewer bytes than that.
            assert!(matches!(error, ImageError::Size { .. }), "{error:?}");
        } else {
            assert!(
                matches!(error, ImageError::TooLarge { size: found, limit: MOST, .. } if found == size),
                "{error:?}"
            );
        }
    }
}

#[tokio::test]
async fn indexes_of_a_registry_are_followed_as_deep_as_the_limit() {
    let bed = Bed::new();
    let mut at = bed.layout.image(&[layer("a", "1")]);
    for depth in 0..=5 {
        let registry = Registry::of(&bed.layout, &[("latest", &at)]).await;
        let pulled = bed.pull(&registry.source("app"), None).await;
        assert_eq!(pulled.is_ok(), depth <= 4, "{depth}");
        if depth == 5 {
            let error = image_error(pulled);
            assert!(
                matches!(&error, ImageError::Document { problem, .. } if problem == "too many nested indexes"),
                "{error:?}"
            );
            assert_eq!(registry.paths().len(), 5);
        }
        at = bed.layout.document(INDEX, &index(&[at]));
    }
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_unavailable() {
    let bed = Bed::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let source = format!("{address}/app").parse().unwrap();
    let error = image_error(bed.pull(&source, None).await);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}
