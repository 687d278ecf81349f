//! What a real server's refusals are called.

use std::net::TcpListener;

use highwater::{
    api::PgArchiveSpec,
    archive::{Archive, MountedSecrets, ReadError, store},
    retry::Policy,
};

use crate::{
    directory_spec,
    server::{self, BUCKET, KEY_ID, SECRET, Server},
    suite::{MIB, fetch, lineage_id},
};

/// The reason and the sentence.
async fn refused(spec: &PgArchiveSpec, key_id: &str, secret: &str) -> (&'static str, String) {
    let store = server::open(spec, key_id, secret);
    let archive = Archive::new(store, spec, "shop-orders")
        .unwrap()
        .with_policy(Policy::ONCE);
    let error = archive.probe().await.unwrap_err();
    // Whatever the server says: nothing that is read there is believed to be missing.
    let lineage = archive.lineage(lineage_id("0123456789"));
    let identity = lineage.identity().await.unwrap_err();
    assert!(
        matches!(identity, ReadError::Unavailable { .. }),
        "{identity}"
    );
    let segment = fetch(&lineage, 2, MIB).await.unwrap_err();
    assert!(
        matches!(segment, ReadError::Unavailable { .. }),
        "{segment}"
    );
    let text = error.to_string();
    for said in [&text, &identity.to_string(), &segment.to_string()] {
        assert!(!said.contains(SECRET), "{said}");
    }
    (error.reason(), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_has_its_reason() {
    let server = Server::start();
    let good = server.spec(BUCKET);
    let (reason, text) = refused(&good, KEY_ID, "not-the-secret").await;
    assert_eq!(reason, "AccessDenied", "{text}");
    assert!(text.contains("credentials Secret"), "{text}");
    let (reason, text) = refused(&good, "unknown-key-id", SECRET).await;
    assert_eq!(reason, "AccessDenied", "{text}");
    assert!(text.contains("credentials Secret"), "{text}");
    let (reason, text) = refused(&server.spec("no-such-bucket"), KEY_ID, SECRET).await;
    assert_eq!(reason, "BucketNotFound", "{text}");
    assert!(text.contains("create the bucket"), "{text}");
}

#[tokio::test]
async fn nobody_answers() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let (reason, text) = refused(&server::spec(port, BUCKET), KEY_ID, SECRET).await;
    assert_eq!(reason, "EndpointUnreachable", "{text}");
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let place = tempfile::tempdir().unwrap();
    let mounted = |credentials| MountedSecrets {
        credentials,
        ca_file: None,
        directory: place.path().join("no-such-directory"),
    };
    let s3 = server::spec(1, BUCKET);
    let no_key = store::open(&s3, &mounted(Some(place.path().to_owned()))).unwrap_err();
    assert_eq!(no_key.reason(), "CredentialsUnreadable");
    assert!(no_key.to_string().contains("AWS_ACCESS_KEY_ID"), "{no_key}");
    let not_mounted = store::open(&directory_spec(), &mounted(None)).unwrap_err();
    assert_eq!(not_mounted.reason(), "InvalidArchive");
}
