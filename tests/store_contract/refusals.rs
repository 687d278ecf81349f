//! What a store's refusals are called.

use std::fs;

use highwater::{
    api::PgArchiveSpec,
    archive::{Archive, MountedSecrets, OpenError, ReadError, store},
    clock::SystemClock,
    retry::Policy,
};
use serde_json::json;

use crate::{
    directory_spec,
    gcs::{self, Gcs},
    http::Message,
    proxy::{Fault, Proxy},
    server::{self, BUCKET, KEY_ID, SECRET, Server},
    servers::{ACCOUNT, Azurite},
    sign::base64,
    suite::{MIB, fetch, lineage_id},
};

type Keys<'a> = &'a [(&'a str, &'a str)];

const fn s3(key_id: &'static str, secret: &'static str) -> [(&'static str, &'static str); 2] {
    [
        ("AWS_ACCESS_KEY_ID", key_id),
        ("AWS_SECRET_ACCESS_KEY", secret),
    ]
}

/// The reason and the sentence.
async fn refused(spec: &PgArchiveSpec, keys: Keys<'_>) -> (&'static str, String) {
    let store = server::open_with(spec, keys);
    let archive = Archive::new(store, spec, "shop-orders")
        .unwrap()
        .with_policy(Policy::ONCE);
    let error = archive.probe(&SystemClock).await.unwrap_err();
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
        for secret in secrets(keys) {
            assert!(!said.contains(&secret), "{said}");
        }
        assert!(!said.contains('\n'), "one line: {said}");
    }
    (error.reason(), text)
}

/// What no text may hold: of a shared access signature its end, which is the signature.
fn secrets(keys: Keys) -> Vec<String> {
    let hidden = |(key, value): &(&str, &str)| match *key {
        "AWS_ACCESS_KEY_ID" | "AZURE_STORAGE_ACCOUNT_NAME" => None,
        "AZURE_STORAGE_SAS_TOKEN" => Some(value.rsplit('=').next().unwrap().to_owned()),
        "key.json" => Some("PRIVATE KEY".to_owned()),
        _ => Some((*value).to_owned()),
    };
    keys.iter().filter_map(hidden).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_has_its_reason() {
    let server = Server::start();
    let good = server.spec(BUCKET);
    let (reason, text) = refused(&good, &s3(KEY_ID, "not-the-secret")).await;
    assert_eq!(reason, "AccessDenied", "{text}");
    assert!(text.contains("credentials Secret"), "{text}");
    let (reason, text) = refused(&good, &s3("unknown-key-id", SECRET)).await;
    assert_eq!(reason, "AccessDenied", "{text}");
    assert!(text.contains("credentials Secret"), "{text}");
    let (reason, text) = refused(&server.spec("no-such-bucket"), &s3(KEY_ID, SECRET)).await;
    assert_eq!(reason, "BucketNotFound", "{text}");
    assert!(text.contains("create the bucket"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azures_have_theirs() {
    let server = Azurite::start();
    let (name, key) = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY");
    let (right, other) = (Azurite::key(), base64(b"the key of another account"));
    let good = server.spec(ACCOUNT, BUCKET);
    let (reason, text) = refused(&good, &[(name, ACCOUNT), (key, &other)]).await;
    assert_eq!(reason, "AccessDenied", "{text}");
    let missing = server.spec(ACCOUNT, "no-such-container");
    let (reason, text) = refused(&missing, &[(name, ACCOUNT), (key, &right)]).await;
    assert_eq!(reason, "BucketNotFound", "{text}");
    assert!(text.contains("container"), "{text}");
    let signature = Azurite::sas().replace("sig=", "sig=AAAA");
    let sas = [
        (name, ACCOUNT),
        ("AZURE_STORAGE_SAS_TOKEN", signature.as_str()),
    ];
    let (reason, text) = refused(&good, &sas).await;
    assert_eq!(reason, "AccessDenied", "{text}");
    let unknown = server.spec("unknownaccount", BUCKET);
    let (reason, text) = refused(&unknown, &[(name, "unknownaccount"), (key, &right)]).await;
    assert_eq!(reason, "BucketNotFound", "{text}");
    assert!(text.contains("account"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn googles_have_theirs() {
    let server = Gcs::start().await;
    let stranger = gcs::key("stranger@contract.example");
    let (reason, text) = refused(&server.spec(BUCKET), &[("key.json", &stranger)]).await;
    assert_eq!(reason, "AccessDenied", "{text}");
    let key = gcs::key(gcs::ACCOUNT);
    let (reason, text) = refused(&server.spec("no-such-bucket"), &[("key.json", &key)]).await;
    assert_eq!(reason, "BucketNotFound", "{text}");
}

/// What no server here says: the answers as the clouds document them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_clouds_say() {
    let proxy = Proxy::start(server::free_port()).await;
    let here = format!("http://127.0.0.1:{}", proxy.port);
    let s3_keys = s3(KEY_ID, SECRET);
    let azure_keys = [("AZURE_STORAGE_ACCOUNT_KEY", "YWJj")];
    let google = gcs::key(gcs::ACCOUNT);
    let google_keys = [("key.json", google.as_str())];
    let s3 = json!({"s3": {"bucket": BUCKET, "endpoint": here, "allowHttp": true}});
    let azure = json!({"azure": {"container": BUCKET, "account": "backups", "endpoint": here, "allowHttp": true}});
    let gcs = json!({"gcs": {"bucket": BUCKET, "endpoint": here, "allowHttp": true}});
    let cases: [(_, Keys, _, _, _, _); 9] = [
        (
            &s3,
            &s3_keys,
            "403 Forbidden",
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
            "ClockSkewed",
        ),
        (
            &s3,
            &s3_keys,
            "400 Bad Request",
            "ExpiredToken",
            "The provided token has expired.",
            "AccessDenied",
        ),
        (
            &s3,
            &s3_keys,
            "503 Slow Down",
            "SlowDown",
            "Reduce your request rate.",
            "ArchiveUnavailable",
        ),
        (
            &azure,
            &azure_keys,
            "403 Forbidden",
            "AuthenticationFailed",
            "Server failed to authenticate the request.\nRequestId:9c1\nTime:2026-11-20T12:00:00Z",
            "AccessDenied",
        ),
        (
            &azure,
            &azure_keys,
            "403 Forbidden",
            "AuthorizationFailure",
            "This request is not authorized to perform this operation.\nRequestId:9c1",
            "AccessDenied",
        ),
        (
            &azure,
            &azure_keys,
            "404 Not Found",
            "ContainerNotFound",
            "The specified container does not exist.\nRequestId:9c1",
            "BucketNotFound",
        ),
        (
            &azure,
            &azure_keys,
            "503 Service Unavailable",
            "ServerBusy",
            "The server is busy.\nRequestId:9c1",
            "ArchiveUnavailable",
        ),
        (
            &gcs,
            &google_keys,
            "404 Not Found",
            "NoSuchBucket",
            "The specified bucket does not exist.",
            "BucketNotFound",
        ),
        (
            &gcs,
            &google_keys,
            "403 Forbidden",
            "AccessDenied",
            "Access denied.",
            "AccessDenied",
        ),
    ];
    for (spec, keys, status, code, message, expected) in cases {
        let body = format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        );
        let canned = Message::new(&format!("HTTP/1.1 {status}"), &body);
        proxy.once("PUT", "", Fault::Canned(canned));
        let spec: PgArchiveSpec = serde_json::from_value(spec.clone()).unwrap();
        let (reason, text) = refused(&spec, keys).await;
        assert_eq!(reason, expected, "{text}");
        assert!(text.contains(code) && !text.contains("RequestId"), "{text}");
        assert!(proxy.all_met());
    }
}

#[tokio::test]
async fn nobody_answers() {
    let port = server::free_port();
    let (reason, text) = refused(&server::spec(port, BUCKET), &s3(KEY_ID, SECRET)).await;
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
    let spec = |text| serde_json::from_value::<PgArchiveSpec>(text).unwrap();
    let (s3, gcs) = (
        server::spec(1, BUCKET),
        spec(json!({"gcs": {"bucket": BUCKET}})),
    );
    let azure = spec(json!({"azure": {"container": BUCKET}}));
    let opened = |spec: &PgArchiveSpec, keys: Keys| -> OpenError {
        let secret = tempfile::tempdir().unwrap();
        for (key, value) in keys {
            fs::write(secret.path().join(key), value).unwrap();
        }
        let error = store::open(spec, &mounted(Some(secret.path().to_owned()))).unwrap_err();
        for secret in secrets(keys) {
            assert!(!format!("{error} {error:?}").contains(&secret), "{error}");
        }
        error
    };
    let (name, key) = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY");
    let cases: [(_, Keys, _); 9] = [
        (&s3, &[], "no key AWS_ACCESS_KEY_ID"),
        (
            &s3,
            &[("AWS_ACCESS_KEY_ID", "a")],
            "no key AWS_SECRET_ACCESS_KEY",
        ),
        (&gcs, &[], "no key key.json"),
        (
            &gcs,
            &[("key.json", "PRIVATE KEY")],
            "key.json of the credentials Secret of the PgArchive is not the JSON key",
        ),
        (
            &gcs,
            &[(
                "key.json",
                "{\"private_key\": \"PRIVATE KEY\", \"private_key_id\": \"1\", \"client_email\": \"a\"}",
            )],
            "is not the JSON key",
        ),
        (
            &azure,
            &[(key, "YWJj")],
            "no key AZURE_STORAGE_ACCOUNT_NAME",
        ),
        (
            &azure,
            &[(name, ACCOUNT)],
            "no key AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
        ),
        (
            &azure,
            &[(name, ACCOUNT), (key, "no base64!")],
            "AZURE_STORAGE_ACCOUNT_KEY of the credentials Secret of the PgArchive is not an access key",
        ),
        (
            &azure,
            &[(name, ACCOUNT), ("AZURE_STORAGE_SAS_TOKEN", "nothing")],
            "AZURE_STORAGE_SAS_TOKEN of the credentials Secret of the PgArchive is not a shared access signature",
        ),
    ];
    for (spec, keys, expected) in cases {
        let error = opened(spec, keys);
        assert_eq!(error.reason(), "CredentialsUnreadable", "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let not_mounted = store::open(&directory_spec(), &mounted(None)).unwrap_err();
    assert_eq!(not_mounted.reason(), "InvalidArchive");
}
