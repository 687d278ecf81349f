//! What holds on every store.

use std::{collections::BTreeMap, path::Path as FilePath, process::Command};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use highwater::{
    api::RecoveryWindow,
    archive::{
        Archive, BACKUP_LABEL, ClockPair, FORMAT, Identity, IndexEntry, Lineage, LineageId, LogEnd,
        MOST_TAILS, Manifest, PushError, PushOutcome, ReadError, backup_key, end_of_log, sha256,
        window::window,
    },
    clock::SystemClock,
    postgres::{Lsn, SegmentName, SegmentSize, SystemIdentifier, TimelineId},
};
use jiff::Timestamp;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};

use crate::rest;

pub const SIZE: SegmentSize = match SegmentSize::new(1 << 20) {
    Ok(size) => size,
    Err(_) => panic!(),
};
pub const MIB: usize = 1 << 20;

pub fn lineage_id(text: &str) -> LineageId {
    text.parse().unwrap()
}

pub fn segment(number: u64) -> SegmentName {
    SegmentName::containing(TimelineId::FIRST, Lsn::new(number * MIB as u64), SIZE)
}

/// Bytes that differ by segment and `kind`, and compress a little.
pub fn content(number: u64, kind: u8) -> Bytes {
    let byte = |at: usize| (at as u64 / 7 * (number + 3)) as u8 ^ kind;
    (0..MIB).map(byte).collect::<Vec<u8>>().into()
}

pub fn identity(lineage: &Lineage) -> Identity {
    Identity {
        format: FORMAT,
        lineage: lineage.id().clone(),
        system_identifier: SystemIdentifier::new(7_391_000_000_000_000_001),
        major_version: 15,
        segment_size: SIZE,
        created_at: "2026-11-20T12:00:00Z".parse().unwrap(),
    }
}

pub async fn push(lineage: &Lineage, number: u64, kind: u8) -> Result<PushOutcome, PushError> {
    let (name, plain) = (segment(number), content(number, kind));
    let entry = IndexEntry::of(name, SIZE, &plain);
    lineage.push_segment(name, plain, &entry).await
}

pub async fn fetch(lineage: &Lineage, number: u64, up_to: usize) -> Result<Vec<u8>, ReadError> {
    let up_to = Lsn::new(number * MIB as u64 + up_to as u64);
    lineage.fetch_segment(segment(number), SIZE, up_to).await
}

async fn keys(store: &dyn ObjectStore, lineage: &Lineage, below: &str) -> Vec<Path> {
    let folder = Path::from(format!("prod/shop-orders/{}/{below}", lineage.id()));
    let objects: Vec<_> = store.list(Some(&folder)).try_collect().await.unwrap();
    objects.into_iter().map(|object| object.location).collect()
}

pub fn is_conflict(result: Result<PushOutcome, PushError>, ours: &[u8], theirs: &[u8]) {
    let error = result.unwrap_err();
    assert_eq!(error.reason(), "ContentConflict");
    let text = error.to_string();
    for hash in [sha256(ours), sha256(theirs)] {
        assert!(text.contains(&hash), "{hash} in {text}");
    }
}

/// What a store can do by itself.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub create_only: bool,
    pub metadata: bool,
}

pub async fn all(archive: &Archive, store: &dyn ObjectStore, kind: Kind) {
    // Before anything was learnt and after: the findings do not depend on it.
    for _ in 0..2 {
        let found = archive.probe(&SystemClock).await.unwrap();
        assert_eq!(found.create_only, kind.create_only, "{found:?}");
        assert_eq!(found.metadata, kind.metadata, "{found:?}");
        assert_eq!(found.status().clock_skew_seconds, 0, "{found:?}");
        assert_eq!(archive.creates_only(), kind.create_only);
    }
    let lineage = archive.lineage(lineage_id("0123456789"));
    identities(archive, &lineage).await;
    segments(&lineage, store).await;
    match kind.create_only {
        true => one_writer_wins(&lineage).await,
        // Nobody can promise it there: see late.rs.
        false => drop(push(&lineage, 3, 1).await.unwrap()),
    }
    rest::the_unused_rest_may_differ(archive).await;
    tails(&lineage, store).await;
    others(&lineage).await;
    backups(&lineage).await;
    gaps(archive, &lineage, store).await;
    roll_ups(archive, store).await;
    no_key_is_a_folder(store).await;
}

async fn identities(archive: &Archive, lineage: &Lineage) {
    let absent = lineage.identity().await.unwrap_err();
    assert!(matches!(absent, ReadError::NotFound { .. }), "{absent}");
    let identity = identity(lineage);
    lineage.create_identity(&identity).await.unwrap();
    lineage.create_identity(&identity).await.unwrap();
    let other = Identity {
        system_identifier: SystemIdentifier::new(1),
        ..identity.clone()
    };
    let refused = lineage.create_identity(&other).await.unwrap_err();
    assert_eq!(refused.reason(), "ContentConflict");
    assert_eq!(lineage.identity().await.unwrap(), identity);
    let none = archive.lineage(lineage_id("9999999999")).contents().await;
    assert!(matches!(none, Err(ReadError::NotFound { .. })));
}

async fn segments(lineage: &Lineage, store: &dyn ObjectStore) {
    assert_eq!(push(lineage, 2, 0).await.unwrap(), PushOutcome::Created);
    assert_eq!(
        push(lineage, 2, 0).await.unwrap(),
        PushOutcome::AlreadyThere
    );
    is_conflict(push(lineage, 2, 1).await, &content(2, 1), &content(2, 0));
    assert_eq!(fetch(lineage, 2, MIB).await.unwrap(), content(2, 0));
    let cut = fetch(lineage, 2, 1000).await.unwrap();
    assert_eq!((&cut[..1000], cut.len()), (&content(2, 0)[..1000], MIB));
    assert!(cut[1000..].iter().all(|byte| *byte == 0));
    let absent = fetch(lineage, 1, MIB).await.unwrap_err();
    assert!(matches!(absent, ReadError::NotFound { .. }), "{absent}");

    // A crash between segment and index entry: it is found all the same, and the next push completes it.
    let [entry] = keys(store, lineage, "index").await.try_into().unwrap();
    store.delete(&entry).await.unwrap();
    let contents = lineage.contents().await.unwrap();
    assert_eq!(contents.segments[&segment(2)].records, None);
    assert_eq!(fetch(lineage, 2, MIB).await.unwrap(), content(2, 0));
    assert_eq!(
        push(lineage, 2, 0).await.unwrap(),
        PushOutcome::AlreadyThere
    );
    assert_eq!(keys(store, lineage, "index").await, [entry]);
}

async fn one_writer_wins(lineage: &Lineage) {
    let pushes = stream::iter(1u8..=8).map(async |kind| (kind, push(lineage, 3, kind).await));
    let results: BTreeMap<u8, _> = pushes.buffer_unordered(8).collect().await;
    let won: Vec<u8> = results
        .iter()
        .filter(|(_, result)| result.is_ok())
        .map(|(kind, _)| *kind)
        .collect();
    assert_eq!(won.len(), 1, "{results:?}");
    let mut lost = results.values().filter_map(|result| result.as_ref().err());
    assert!(
        lost.all(|error| error.reason() == "ContentConflict"),
        "{results:?}"
    );
    assert_eq!(fetch(lineage, 3, MIB).await.unwrap(), content(3, won[0]));
}

async fn tails(lineage: &Lineage, store: &dyn ObjectStore) {
    let plain = content(4, 0);
    let step = MIB / 50;
    for end in 1..=40 {
        let from = (end - 1) * step;
        let part = &plain[..end * step];
        lineage
            .push_tail(segment(4), from as u64, part, "run1", None)
            .await
            .unwrap();
        assert!(
            keys(store, lineage, "tail").await.len() <= MOST_TAILS,
            "{end}"
        );
    }
    // Another run begins anew, and overlaps.
    lineage
        .push_tail(segment(4), 0, &plain[..42 * step], "run2", None)
        .await
        .unwrap();
    let there = fetch(lineage, 4, 42 * step).await.unwrap();
    assert_eq!(there[..42 * step], plain[..42 * step]);
    let further = fetch(lineage, 4, 42 * step + 1).await.unwrap_err();
    assert!(matches!(further, ReadError::NotFound { .. }), "{further}");
    let contents = lineage.contents().await.unwrap();
    assert_eq!(
        contents.tails[&segment(4)].end,
        Lsn::new((4 * MIB + 42 * step) as u64)
    );

    // Another history than the tails': nothing is archived, and they stay.
    let refused = push(lineage, 4, 9).await.unwrap_err();
    assert_eq!(refused.reason(), "ContentConflict");
    assert!(
        keys(store, lineage, "wal")
            .await
            .iter()
            .all(|key| !key.as_ref().contains(&segment(4).to_string()))
    );
    assert_eq!(push(lineage, 4, 0).await.unwrap(), PushOutcome::Created);
    assert!(keys(store, lineage, "tail").await.is_empty());
    assert_eq!(fetch(lineage, 4, MIB).await.unwrap(), plain);
}

async fn others(lineage: &Lineage) {
    let (two, text) = (
        TimelineId::new(2).unwrap(),
        "1\t0/480000\tno recovery target specified\n",
    );
    let push = async |text: &'static str| lineage.push_history(two, Bytes::from(text)).await;
    assert_eq!(push(text).await.unwrap(), PushOutcome::Created);
    assert_eq!(push(text).await.unwrap(), PushOutcome::AlreadyThere);
    let other = "1\t0/470000\tno recovery target specified\n";
    is_conflict(push(other).await, other.as_bytes(), text.as_bytes());
    assert_eq!(lineage.fetch_history(two).await.unwrap(), text);
    let three = lineage.fetch_history(TimelineId::new(3).unwrap()).await;
    assert!(matches!(three, Err(ReadError::NotFound { .. })));
    for lsn in [1, 2] {
        let pair = ClockPair {
            lsn: Lsn::new(lsn),
            at: "2026-11-20T12:00:00Z".parse().unwrap(),
            timeline: TimelineId::FIRST,
        };
        lineage.write_clock(pair).await.unwrap();
        assert_eq!(lineage.contents().await.unwrap().clocks, [pair]);
    }
}

fn manifest(name: &str) -> Manifest {
    serde_json::from_value(serde_json::json!({
        "format": FORMAT,
        "name": name,
        "uid": format!("{name}-0000-uid"),
        "namespace": "shop",
        "statefulSetName": "orders",
        "lineage": "0123456789",
        "systemIdentifier": "7391000000000000001",
        "majorVersion": 15,
        "segmentSize": MIB,
        "timeline": 1,
        "startLsn": "0/210000",
        "stopLsn": "0/220000",
        "startedAt": "2026-11-20T12:00:00Z",
        "stoppedAt": "2026-11-20T12:00:01Z",
        "backupLabelSha256": sha256(b"label"),
        "dataDirectory": "/data",
        "user": "postgres",
        "database": "postgres",
        "settings": {},
        "volumes": [],
    }))
    .unwrap()
}

async fn backups(lineage: &Lineage) {
    let one = manifest("one");
    let (first, second) = (
        backup_key("one", &one.uid, 1),
        backup_key("one", &one.uid, 2),
    );
    let put = async |key: &str, text: &'static [u8]| {
        let put = lineage.put_backup_file(key, BACKUP_LABEL, Bytes::from_static(text));
        put.await.map(|()| PushOutcome::Created)
    };
    put(&first, b"label").await.unwrap();
    put(&first, b"label").await.unwrap();
    is_conflict(put(&first, b"other").await, b"other", b"label");
    put(&second, b"other").await.unwrap();
    assert_eq!(
        lineage.backup_file(&first, BACKUP_LABEL).await.unwrap(),
        "label"
    );
    assert!(
        lineage.contents().await.unwrap().backups.is_empty(),
        "a label alone is no backup"
    );
    let (key, hash) = lineage.put_manifest(&second, &one).await.unwrap();
    assert_eq!(hash.len(), 64);
    assert!(key.ends_with("/manifest.json"), "{key}");
    let contents = lineage.contents().await.unwrap();
    assert_eq!(contents.backups, [(second.clone(), one)]);
    let window: RecoveryWindow = window(&contents);
    assert_eq!(
        window.from.unwrap().0,
        "2026-11-20T12:00:01Z".parse().unwrap()
    );
    let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    for _ in 0..2 {
        lineage.bury_backup(&second, now).await.unwrap();
        assert!(lineage.contents().await.unwrap().backups.is_empty());
    }
}

/// A definite "no such object" in a hole is not the end of the log.
async fn gaps(archive: &Archive, lineage: &Lineage, store: &dyn ObjectStore) {
    for key in keys(store, lineage, "wal").await {
        if key.as_ref().contains(&segment(3).to_string()) {
            store.delete(&key).await.unwrap();
        }
    }
    let absent = fetch(lineage, 3, MIB).await.unwrap_err();
    assert!(matches!(absent, ReadError::NotFound { .. }), "{absent}");
    // What was known before does not hide what is gone now.
    for lineage in [lineage, &archive.lineage(lineage.id().clone())] {
        let contents = lineage.contents().await.unwrap();
        let ends = [2, 3, 4, 5].map(|number| end_of_log(&contents, segment(number), None));
        assert_eq!(
            ends,
            [LogEnd::Found, LogEnd::Gap, LogEnd::Found, LogEnd::End]
        );
        let window = window(&contents);
        assert_eq!(window.timelines[0].gaps.len(), 1, "{window:?}");
    }
}

async fn roll_ups(archive: &Archive, store: &dyn ObjectStore) {
    let lineage = archive.lineage(lineage_id("abcdefghjk"));
    lineage.create_identity(&identity(&lineage)).await.unwrap();
    // The last of one group and the first of the next but one: each group is rolled up once the next begins.
    for number in [250, 253, 254, 255, 256, 511, 512] {
        push(&lineage, number, 0).await.unwrap();
    }
    assert_eq!(keys(store, &lineage, "rollup").await.len(), 2);
    assert_eq!(keys(store, &lineage, "index").await.len(), 1);
    // One that comes late lies beside the roll-up; one that comes again says the same as it.
    push(&lineage, 251, 0).await.unwrap();
    push(&lineage, 253, 0).await.unwrap();
    lineage.roll_up(segment(512), SIZE).await.unwrap();
    let fresh = archive.lineage(lineage.id().clone());
    for lineage in [lineage, fresh] {
        let contents = lineage.contents().await.unwrap();
        let numbers: Vec<u64> = contents
            .segments
            .keys()
            .map(|name| name.start(SIZE).get() / MIB as u64)
            .collect();
        assert_eq!(numbers, [250, 251, 253, 254, 255, 256, 511, 512]);
        assert_eq!(fetch(&lineage, 250, MIB).await.unwrap(), content(250, 0));
    }
}

/// Some stores cannot hold `a` and `a/b`.
async fn no_key_is_a_folder(store: &dyn ObjectStore) {
    let objects: Vec<_> = store.list(None).try_collect().await.unwrap();
    let keys: Vec<String> = objects
        .into_iter()
        .map(|o| o.location.to_string())
        .collect();
    assert!(keys.len() > 20, "{keys:?}");
    for key in &keys {
        let folder = format!("{key}/");
        assert!(
            !keys.iter().any(|other| other.starts_with(&folder)),
            "{key}"
        );
    }
    assert!(
        !keys.iter().any(|key| key.contains("/probe/")),
        "probes are deleted"
    );
}

/// An admin without Highwater.
pub fn zstd_reads(place: &FilePath) {
    let path = format!(
        "prod/shop-orders/0123456789/wal/00000001/{}.zst",
        segment(2)
    );
    let read = Command::new("zstd")
        .arg("-dc")
        .arg(place.join(path))
        .output()
        .unwrap();
    assert!(
        read.status.success(),
        "{}",
        String::from_utf8_lossy(&read.stderr)
    );
    assert_eq!(read.stdout, content(2, 0));
}
