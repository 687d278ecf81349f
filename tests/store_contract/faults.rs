//! What holds while requests fail.

use std::{sync::Arc, time::Duration};

use highwater::{
    archive::{Archive, Lineage, PushOutcome, ReadError},
    clock::SystemClock,
    postgres::TimelineId,
    retry::Policy,
};

use crate::{
    archive,
    faulty::{Fault, Faulty},
    suite::{MIB, content, fetch, identity, lineage_id, push, segment},
};

const QUICK: Policy = Policy {
    first: Duration::from_millis(1),
    longest: Duration::from_millis(5),
    give_up_after: Duration::from_millis(100),
};

/// For what must not be given up.
const PATIENT: Policy = Policy {
    give_up_after: Duration::from_secs(10),
    ..QUICK
};

async fn begun() -> (Arc<Faulty>, Archive, Lineage) {
    begun_with(QUICK).await
}

async fn begun_with(policy: Policy) -> (Arc<Faulty>, Archive, Lineage) {
    let store = Faulty::new();
    let archive = archive(store.clone()).with_policy(policy);
    let lineage = archive.lineage(lineage_id("0123456789"));
    lineage.create_identity(&identity(&lineage)).await.unwrap();
    push(&lineage, 2, 0).await.unwrap();
    (store, archive, lineage)
}

#[tokio::test]
async fn a_failed_request_is_tried_again() {
    let (store, _, lineage) = begun_with(PATIENT).await;
    store.set(Fault::Flaky);
    assert_eq!(push(&lineage, 3, 0).await.unwrap(), PushOutcome::Created);
    lineage
        .push_tail(segment(4), 0, &content(4, 0)[..100], "run", None)
        .await
        .unwrap();
    assert_eq!(fetch(&lineage, 3, MIB).await.unwrap(), content(3, 0));
    assert_eq!(lineage.contents().await.unwrap().segments.len(), 2);
}

#[tokio::test]
async fn a_lost_answer_ends_in_a_comparison() {
    let (store, archive, lineage) = begun_with(PATIENT).await;
    store.set(Fault::LosesAnswers);
    let pushed = push(&lineage, 3, 0).await.unwrap();
    assert_eq!(pushed, PushOutcome::AlreadyThere);
    // The same with no second try.
    let once = archive.with_policy(Policy::ONCE);
    let lineage = once.lineage(lineage_id("0123456789"));
    let pushed = push(&lineage, 4, 0).await.unwrap();
    assert_eq!(pushed, PushOutcome::AlreadyThere);
    // What was put under our hands is another's: no success.
    store.set(Fault::None);
    push(&lineage, 5, 1).await.unwrap();
    store.set(Fault::LosesAnswers);
    let refused = push(&lineage, 5, 0).await.unwrap_err();
    assert_eq!(refused.reason(), "ContentConflict");
}

#[tokio::test]
async fn who_is_refused_for_the_sake_of_what_never_comes_tries_again() {
    let (store, archive, lineage) = begun_with(PATIENT).await;
    store.set(Fault::Busy);
    assert_eq!(push(&lineage, 3, 0).await.unwrap(), PushOutcome::Created);
    assert_eq!(fetch(&lineage, 3, MIB).await.unwrap(), content(3, 0));
    // With no second try it is told, and not as a success.
    let once = archive.with_policy(Policy::ONCE);
    let refused = push(&once.lineage(lineage_id("0123456789")), 4, 0).await;
    let refused = refused.unwrap_err();
    assert_ne!(refused.reason(), "ContentConflict", "{refused}");
}

#[tokio::test]
async fn an_outage_is_never_not_found() {
    let (store, archive, known) = begun().await;
    for fault in [Fault::Down, Fault::NoBucket] {
        store.set(fault);
        for lineage in [&known, &archive.lineage(lineage_id("9999999999"))] {
            let errors = [
                fetch(lineage, 2, MIB).await.map(drop),
                fetch(lineage, 7, MIB).await.map(drop),
                lineage.identity().await.map(drop),
                lineage.contents().await.map(drop),
                lineage
                    .fetch_history(TimelineId::new(2).unwrap())
                    .await
                    .map(drop),
                lineage.backup_file("b", "backup_label").await.map(drop),
            ];
            for error in errors {
                let error = error.unwrap_err();
                assert!(
                    matches!(error, ReadError::Unavailable { .. }),
                    "{fault:?}: {error}"
                );
            }
        }
        let refused = push(&known, 3, 0).await.unwrap_err();
        assert_ne!(refused.reason(), "ContentConflict");
        let probed = archive.probe(&SystemClock).await.unwrap_err();
        let expected = match fault {
            Fault::NoBucket => "BucketNotFound",
            _ => "ArchiveUnavailable",
        };
        assert_eq!(probed.reason(), expected, "{probed}");
    }
    store.set(Fault::None);
    assert_eq!(push(&known, 3, 0).await.unwrap(), PushOutcome::Created);
}

#[tokio::test]
async fn few_requests_do() {
    let (store, archive, lineage) = begun().await;
    store.count();
    for number in 3..13 {
        push(&lineage, number, 0).await.unwrap();
    }
    assert_eq!(
        store.count(),
        (20, 0, 0),
        "a segment is two puts and no list"
    );
    for end in [1000, 2000, 3000] {
        let plain = content(13, 0);
        let push = lineage.push_tail(segment(13), end as u64 - 1000, &plain[..end], "run", None);
        push.await.unwrap();
    }
    assert_eq!(store.count(), (3, 0, 0), "a tail is one put");
    lineage.contents().await.unwrap();
    store.count();
    let again = archive.lineage(lineage.id().clone());
    again.contents().await.unwrap();
    // The identity object, which is never taken on trust, and two lists.
    assert_eq!(store.count(), (0, 1, 2), "what never changes is read once");
}
