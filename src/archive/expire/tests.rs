//! Whoever dies at whichever object: the next try finishes, what stays restores, and nothing that went is told as lost.

use std::sync::Arc;

use object_store::{ObjectStoreExt, memory::InMemory};
use serde_json::json;

use super::*;
use crate::archive::{
    Archive, ClockPair, Contents, GROUP, IndexEntry, TailName, examples::*, plan::plan, window,
};

/// So many segments: roll-ups of the first two groups, entries of the third.
const LAST: u64 = 2 * GROUP + 8;
/// The first that is kept, in the second group.
const FIRST_KEPT: u64 = GROUP + 10;

fn spec() -> crate::api::PgArchiveSpec {
    serde_json::from_value(json!({"directory": {"persistentVolumeClaim": "wal"}})).unwrap()
}

fn open(store: &Arc<InMemory>) -> Lineage {
    let archive = Archive::new(store.clone(), &spec(), "orders").unwrap();
    archive.lineage(identity().lineage)
}

async fn put(lineage: &Lineage, number: u64) {
    let name = segment(1, number);
    let key = lineage.layout.segment(name, lineage.encoder.encoding());
    let put = lineage.create(&key, "hash", b"stored".to_vec().into());
    put.await.unwrap();
    let entry = IndexEntry {
        sha256_valid: Some("hash".into()),
        last_commit: Some(at(number as f64 + 0.5)),
        ..IndexEntry::of(name, SIZE, b"stored")
    };
    let key = lineage.layout.index_entry(name);
    lineage.create_json(&key, &entry).await.unwrap();
}

/// Timeline 1 with a backup in the second group.
async fn filled() -> Arc<InMemory> {
    let store = Arc::new(InMemory::new());
    let lineage = open(&store);
    lineage.create_identity(&identity()).await.unwrap();
    for number in 0..LAST {
        put(&lineage, number).await;
    }
    lineage.roll_up(segment(1, LAST), SIZE).await.unwrap();
    let begin = FIRST_KEPT as f64;
    let backup = manifest("kept", 1, begin + 0.1, begin + 0.5);
    lineage.put_manifest("kept-1", &backup).await.unwrap();
    let clock = ClockPair {
        lsn: lsn(LAST as f64),
        at: at(LAST as f64),
        timeline: timeline(1),
    };
    let key = lineage.layout.clock(timeline(1));
    lineage.overwrite_json(&key, &clock).await.unwrap();
    store
}

/// Left behind by a writer that died: the whole segment has replaced it.
async fn with_tail(store: Arc<InMemory>, number: u64) -> Arc<InMemory> {
    let lineage = open(&store);
    let part = TailName {
        segment: segment(1, number),
        from: 0,
        to: 4,
        epoch: "e".into(),
    };
    let key = lineage.layout.tail(&part, lineage.encoder.encoding());
    let put = lineage.create(&key, "hash", b"part".to_vec().into());
    put.await.unwrap();
    store
}

async fn copy(store: &InMemory) -> Arc<InMemory> {
    Arc::new(store.fork())
}

fn needed(name: SegmentName) -> bool {
    name >= segment(1, FIRST_KEPT)
}

async fn written_down(lineage: &Lineage) -> Expired {
    let contents = lineage.contents().await.unwrap();
    let times = (at(600.0), at(600.0));
    let expired = contents.expired.next(&contents, needed, times);
    lineage.put_expired(&expired).await.unwrap();
    expired
}

fn due(expired: &Expired) -> Due<'_> {
    Due {
        expired,
        needed: &needed,
        since: at(600.0),
        size: SIZE,
    }
}

async fn sweep(lineage: &Lineage) -> Deleted {
    let expired = written_down(lineage).await;
    let doomed = lineage.doomed(&due(&expired)).await.unwrap();
    let mut deleted = Deleted::default();
    let stop = CancellationToken::new();
    let done = lineage.delete_doomed(doomed, &stop, &mut deleted).await;
    done.unwrap();
    deleted
}

async fn keys(store: &Arc<InMemory>) -> Vec<String> {
    let lineage = open(store);
    let all = lineage.list(&lineage.layout.root()).await.unwrap();
    all.iter().map(|it| it.location.to_string()).collect()
}

/// What is kept is there, can be planned with, and nothing is told as lost.
fn sound(contents: &Contents) {
    let missing = (FIRST_KEPT..LAST).find(|it| !contents.segments.contains_key(&segment(1, *it)));
    assert_eq!(missing, None);
    let window = window::window(contents);
    assert!(
        window.timelines.iter().all(|it| it.gaps.is_empty()),
        "{window:?}"
    );
    assert_eq!(window.from.unwrap().0, at(FIRST_KEPT as f64 + 0.5));
    let request = crate::archive::Request {
        backup: None,
        target: None,
        archive: "a".into(),
        archive_name: "n".into(),
        can_decrypt: false,
        ended: Vec::new(),
    };
    plan(&request, contents).unwrap();
}

#[tokio::test]
async fn whoever_dies_while_wal_is_deleted_the_next_finishes() {
    let before = with_tail(filled().await, 5).await;
    let all = copy(&before).await;
    let deleted = sweep(&open(&all)).await;
    assert_eq!(deleted.segments, FIRST_KEPT);
    assert_eq!(deleted.bytes, FIRST_KEPT * 6 + 4);
    sound(&open(&all).contents().await.unwrap());
    let expected = keys(&all).await;
    let left = |kind: &str| expected.iter().filter(|key| key.contains(kind)).count() as u64;
    // The roll-up of the second group speaks of what is there, too.
    assert_eq!(
        (left("/wal/"), left("/rollup/"), left("/tail/")),
        (LAST - FIRST_KEPT, 1, 0)
    );
    let expired = written_down(&open(&before)).await;
    let doomed = open(&before).doomed(&due(&expired)).await.unwrap();
    let in_order = doomed.wal.iter().map(|(_, it)| it.location.clone());
    let in_order: Vec<Path> = in_order.chain(doomed.known).collect();
    assert!(in_order.len() as u64 > FIRST_KEPT);
    for died_after in (0..in_order.len()).step_by(7).chain([in_order.len() - 1]) {
        let store = copy(&before).await;
        let lineage = open(&store);
        for key in &in_order[..died_after] {
            store.delete(key).await.unwrap();
        }
        sound(&lineage.contents().await.unwrap());
        sweep(&lineage).await;
        assert_eq!(keys(&store).await, expected, "after {died_after}");
    }
}

/// The process that deletes does not remember what is gone.
#[tokio::test]
async fn what_is_deleted_is_not_remembered() {
    let store = filled().await;
    let lineage = open(&store);
    for number in LAST..LAST + GROUP * 3 {
        put(&lineage, number).await;
    }
    lineage.contents().await.unwrap();
    sweep(&lineage).await;
    let again = lineage.contents_again().await.unwrap();
    assert_eq!(again.segments.keys().next(), Some(&segment(1, FIRST_KEPT)));
}

/// Control: without the record what is gone between two backups counts as lost.
#[tokio::test]
async fn without_the_record_what_went_is_lost() {
    let store = filled().await;
    let lineage = open(&store);
    let first = manifest("first", 1, 1.1, 1.5);
    lineage.put_manifest("first-1", &first).await.unwrap();
    let gone: Vec<Path> = (3..FIRST_KEPT)
        .map(|it| {
            lineage
                .layout
                .segment(segment(1, it), lineage.encoder.encoding())
        })
        .collect();
    lineage.delete(gone).await.unwrap();
    let contents = lineage.contents().await.unwrap();
    let told = window::window(&contents);
    assert_eq!(told.timelines[0].gaps.len(), 1);
    assert_eq!(told.from.unwrap().0, at(1.5));
}

/// What is gone counts as lost then.
#[tokio::test]
async fn a_record_that_cannot_be_read_keeps_nobody_from_restoring() {
    let store = filled().await;
    sweep(&open(&store)).await;
    let lineage = open(&store);
    let key = lineage.layout.expired();
    lineage
        .objects
        .overwrite(&key, b"{".to_vec().into())
        .await
        .unwrap();
    let contents = lineage.contents().await.unwrap();
    assert_eq!(contents.expired, Expired::default());
    assert!(contents.segments.len() as u64 == LAST - FIRST_KEPT);
}
