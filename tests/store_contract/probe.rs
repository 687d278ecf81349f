//! What a store lacks is found out, and made up for.

use std::sync::Arc;

use highwater::{
    archive::{Archive, Findings, Lineage, PushOutcome, ReadError},
    clock::{Clock, SystemClock},
};
use jiff::{SignedDuration, Timestamp};

use crate::{
    archive,
    faulty::{Fault, Faulty},
    suite::{MIB, content, fetch, identity, is_conflict, lineage_id, push},
};

async fn tried(fault: Fault) -> (Arc<Faulty>, Archive, Findings, Lineage) {
    let store = Faulty::new();
    store.set(fault);
    let archive = archive(store.clone());
    let found = archive.probe(&SystemClock).await.unwrap();
    let lineage = archive.lineage(lineage_id("0123456789"));
    lineage.create_identity(&identity(&lineage)).await.unwrap();
    push(&lineage, 2, 0).await.unwrap();
    (store, archive, found, lineage)
}

async fn nothing_is_replaced(lineage: &Lineage) {
    assert_eq!(
        push(lineage, 2, 0).await.unwrap(),
        PushOutcome::AlreadyThere
    );
    is_conflict(push(lineage, 2, 1).await, &content(2, 1), &content(2, 0));
    assert_eq!(fetch(lineage, 2, MIB).await.unwrap(), content(2, 0));
}

#[tokio::test]
async fn a_store_that_overwrites() {
    let (_, archive, found, lineage) = tried(Fault::Overwrites).await;
    assert!(!found.create_only && found.metadata, "{found:?}");
    assert!(!archive.creates_only());
    nothing_is_replaced(&lineage).await;
}

#[tokio::test]
async fn a_store_that_looks_first_and_writes_then() {
    let (store, archive, found, lineage) = tried(Fault::LooksFirst).await;
    assert!(!found.create_only && found.metadata, "{found:?}");
    nothing_is_replaced(&lineage).await;
    // It was updated.
    store.set(Fault::None);
    assert!(archive.probe(&SystemClock).await.unwrap().create_only);
    assert!(archive.creates_only());
}

#[tokio::test]
async fn a_store_without_metadata_or_with_wrong_ones() {
    for fault in [Fault::ForgetsMetadata, Fault::MixesMetadata] {
        let (_, _, found, lineage) = tried(fault).await;
        assert!(found.create_only && !found.metadata, "{found:?}");
        nothing_is_replaced(&lineage).await;
    }
    // Where nobody tried the store, wrong metadata are an error and no content.
    let (store, _, _, lineage) = tried(Fault::MixesMetadata).await;
    store.set(Fault::None);
    let untried = archive(store).lineage(lineage.id().clone());
    let refused = fetch(&untried, 2, MIB).await.unwrap_err();
    assert!(matches!(refused, ReadError::Corrupt { .. }), "{refused}");
}

/// A clock that goes wrong by this much.
struct Wrong(SignedDuration);

impl Clock for Wrong {
    fn now(&self) -> Timestamp {
        SystemClock.now() + self.0
    }
}

#[tokio::test]
async fn clocks_that_differ() {
    let (_, archive, _, _) = tried(Fault::None).await;
    for (ours, shown) in [(0, 0), (30, 0), (-630, 600), (630, -600)] {
        let clock = Wrong(SignedDuration::from_secs(ours));
        let found = archive.probe(&clock).await.unwrap();
        assert_eq!(found.status().clock_skew_seconds, shown, "{found:?}");
    }
}
