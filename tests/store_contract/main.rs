//! What an archive promises, on every kind of store: in memory, in a directory, in a real S3 server, and where requests
//! fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod encryption;
mod faults;
mod faulty;
mod refusals;
mod rest;
mod server;
mod stock;
mod suite;

use std::sync::Arc;

use highwater::{
    api::PgArchiveSpec,
    archive::{Archive, MountedSecrets, store},
};
use object_store::{ObjectStore, memory::InMemory};

fn directory_spec() -> PgArchiveSpec {
    serde_json::from_value(serde_json::json!({
        "prefix": "prod/",
        "directory": { "persistentVolumeClaim": "archive" },
    }))
    .unwrap()
}

fn archive(store: Arc<dyn ObjectStore>) -> Archive {
    Archive::new(store, &directory_spec(), "shop-orders").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    suite::all(&archive(store.clone()), &*store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directory() {
    let place = tempfile::tempdir().unwrap();
    let mounted = MountedSecrets {
        credentials: None,
        ca_file: None,
        directory: place.path().to_owned(),
    };
    let store = store::open(&directory_spec(), &mounted).unwrap();
    suite::all(&archive(store.clone()), &*store).await;
    suite::zstd_reads(place.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3() {
    let server = server::Server::start();
    let store = server.store();
    let archive = Archive::new(store.clone(), &server.spec(server::BUCKET), "shop-orders").unwrap();
    suite::all(&archive, &*store).await;
}
