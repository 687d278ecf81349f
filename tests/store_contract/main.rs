//! What an archive promises, on every kind of store: in memory, in a directory, in real servers of S3 and Azure, in one that
//! speaks as Google's does, and where requests fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod ambiguous;
mod encryption;
mod faults;
mod faulty;
mod gcs;
mod http;
mod identity;
mod interleaved;
mod late;
mod patience;
mod power_cut;
mod probe;
mod program;
mod proxy;
mod refusals;
mod rest;
mod server;
mod servers;
mod sign;
mod stock;
mod suite;
mod tls;

use std::{path::Path, sync::Arc};

use highwater::{
    api::PgArchiveSpec,
    archive::{Archive, MountedSecrets, store},
};
use object_store::{ObjectStore, memory::InMemory};
use servers::Azurite;
use suite::Kind;

fn directory_spec() -> PgArchiveSpec {
    serde_json::from_value(serde_json::json!({
        "prefix": "prod/",
        "directory": { "persistentVolumeClaim": "archive" },
    }))
    .unwrap()
}

/// As the product opens a directory.
fn directory_store(folder: &Path) -> Arc<dyn ObjectStore> {
    let mounted = MountedSecrets {
        credentials: None,
        ca_file: None,
        directory: folder.to_owned(),
    };
    store::open(&directory_spec(), &mounted).unwrap()
}

fn archive(store: Arc<dyn ObjectStore>) -> Archive {
    Archive::new(store, &directory_spec(), "shop-orders").unwrap()
}

async fn keeps_its_promises(store: Arc<dyn ObjectStore>, kind: Kind) {
    suite::all(&archive(store.clone()), &*store, kind).await;
}

const FULL: Kind = Kind {
    create_only: true,
    metadata: true,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    keeps_its_promises(Arc::new(InMemory::new()), FULL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directory() {
    let place = tempfile::tempdir().unwrap();
    let store = directory_store(place.path());
    let kind = Kind {
        metadata: false,
        ..FULL
    };
    keeps_its_promises(store, kind).await;
    suite::zstd_reads(place.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3() {
    let server = server::Server::start();
    keeps_its_promises(server.store(), FULL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_without_a_hash_of_bodies() {
    let server = server::Server::start();
    let other = servers::moto();
    for mut spec in [
        server.spec(server::BUCKET),
        server::spec(other.port, server::BUCKET),
    ] {
        spec.s3.as_mut().unwrap().sign_payload = Some(false);
        let store = server::open(&spec, server::KEY_ID, server::SECRET);
        keeps_its_promises(store, FULL).await;
    }
}

/// Amazon's own way, with the bucket in the host name: `127.0.0.1` is the bucket `127` of `0.0.1`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_virtual_hosted() {
    let options = |port| vec!["--virtual-domain".to_owned(), format!("0.0.1:{port}")];
    let server = server::Server::start_with("http", options);
    std::fs::create_dir(server.data().join("127")).unwrap();
    let spec = serde_json::from_value(serde_json::json!({
        "s3": {
            "bucket": "127",
            "endpoint": format!("http://0.0.1:{}", server.port()),
            "allowHttp": true,
            "forcePathStyle": false,
        },
    }))
    .unwrap();
    let store = server::open(&spec, server::KEY_ID, server::SECRET);
    keeps_its_promises(store, FULL).await;
    let found = std::fs::read_dir(server.data().join("127/prod/shop-orders")).unwrap();
    assert!(found.count() > 0, "it lies in the bucket 127");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_of_another_make() {
    let server = servers::moto();
    let spec = server::spec(server.port, server::BUCKET);
    let store = server::open(&spec, server::KEY_ID, server::SECRET);
    keeps_its_promises(store, FULL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_that_overwrites() {
    let server = servers::rclone();
    let spec = server::spec(server.port, server::BUCKET);
    let store = server::open(&spec, server::KEY_ID, server::SECRET);
    let kind = Kind {
        create_only: false,
        ..FULL
    };
    keeps_its_promises(store, kind).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure() {
    let server = Azurite::start();
    let spec = server.spec(servers::ACCOUNT, server::BUCKET);
    let key = Azurite::key();
    let keys = [
        ("AZURE_STORAGE_ACCOUNT_NAME", servers::ACCOUNT),
        ("AZURE_STORAGE_ACCOUNT_KEY", &key),
    ];
    keeps_its_promises(server::open_with(&spec, &keys), FULL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_by_a_shared_access_signature() {
    let server = Azurite::start();
    let mut spec = server.spec(servers::ACCOUNT, server::BUCKET);
    spec.azure.as_mut().unwrap().account = Some(servers::ACCOUNT.to_owned());
    let keys = [("AZURE_STORAGE_SAS_TOKEN", Azurite::sas())];
    let keys = keys.each_ref().map(|(key, value)| (*key, value.as_str()));
    keeps_its_promises(server::open_with(&spec, &keys), FULL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gcs() {
    let server = gcs::Gcs::start().await;
    let key = gcs::key(gcs::ACCOUNT);
    let store = server::open_with(&server.spec(server::BUCKET), &[("key.json", &key)]);
    keeps_its_promises(store, FULL).await;
}
