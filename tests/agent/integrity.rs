//! What the archive is given is what PostgreSQL can replay, or it says how far.

use std::{os::unix::fs::FileExt, time::Duration};

use highwater::{
    agent::wal::{GapCause, Notice},
    archive::window::window,
    postgres::{Lsn, SegmentName, SystemIdentifier, TimelineId, server, slot},
};

use crate::{
    database::Database,
    running::{Bucket, LIMIT, Running, SLOT, flushed, write},
};

const NEVER: Duration = Duration::from_secs(3600);

/// A byte that rots on the server's disk before it is shipped: replay would end there, so the archive says that it is a
/// gap, and that a new backup is needed behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_counts_as_far_as_it_can_be_replayed() {
    let database = Database::start(1, "");
    let bucket = Bucket::new();
    let client = database.client().await;
    let facts = server::facts(&client).await.unwrap();
    let lineage = bucket.lineage(&facts).await;
    slot::create(&client, SLOT).await.unwrap();
    write(&database, 6).await;
    let end = flushed(&database).await;
    let size = database.segment_size;
    let damaged = SegmentName::containing(
        TimelineId::FIRST,
        Lsn::new(end.get() - 3 * size.get()),
        size,
    );
    let at = size.get() / 2;
    flip(&database, damaged, at);

    let mut shipper = Running::start(&database, &lineage, NEVER).await;
    shipper.ship(end).await;
    shipper.end().await.unwrap();
    let contents = lineage.contents().await.unwrap();
    let ranges = contents.ranges(TimelineId::FIRST);
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    let broken = ranges.range(0).last().unwrap().to;
    assert!(
        broken > damaged.start(size) && broken.bytes_since(damaged.start(size)) <= at,
        "{broken} in {damaged}"
    );
    assert_eq!(ranges.range(1)[0].from, damaged.end(size));
    assert_eq!(
        window(&contents).backup_needed_from,
        Some(damaged.end(size))
    );
}

/// Turns one bit of a file of `pg_wal`.
fn flip(database: &Database, name: SegmentName, at: u64) {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(database.wal().join(name.to_string()))
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// In the segment that is being written: it ends shipping, and nothing behind it counts as archived. A reading that was at
/// fault heals.
#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_unfinished_segment_is_told() {
    let database = Database::start(1, "");
    let bucket = Bucket::new();
    let facts = server::facts(&database.client().await).await.unwrap();
    let lineage = bucket.lineage(&facts).await;
    database
        .sql("SELECT pg_switch_wal(); CREATE TABLE public.t AS SELECT n FROM generate_series(1, 2000) n")
        .await;
    let end = flushed(&database).await;
    let size = database.segment_size;
    let name = SegmentName::containing(TimelineId::FIRST, Lsn::new(end.get() - 1), size);
    let at = size.offset(end) / 2;
    flip(&database, name, at);
    let often = Duration::from_millis(50);
    let shipper = Running::start(&database, &lineage, often).await;
    let ended = tokio::time::timeout(LIMIT, shipper.task).await.unwrap();
    assert_eq!(ended.unwrap().unwrap_err().reason(), "WalDamaged");
    let contents = lineage.contents().await.unwrap();
    let broken = name.start(size).advance(at);
    let known = contents.clocks.iter().map(|pair| pair.lsn);
    let tails = contents.tails.values().map(|tail| tail.end);
    assert!(known.chain(tails).all(|lsn| lsn <= broken), "{contents:?}");
    flip(&database, name, at);
    let mut shipper = Running::start(&database, &lineage, often).await;
    shipper.ship(end).await;
    shipper.end().await.unwrap();
}

/// What the primary has removed is fetched from a member that still has it; where none has, it is a gap, and said.
#[tokio::test(flavor = "multi_thread")]
async fn removed_wal_is_fetched_from_another_member_or_a_gap_is_told() {
    let database = Database::start(1, "");
    let client = database.client().await;
    let facts = server::facts(&client).await.unwrap();
    slot::create(&client, SLOT).await.unwrap();
    drop(client);
    write(&database, 6).await;
    database.stop("fast");
    let (other, alone) = (database.copy(""), database.copy(""));
    for server in [&database, &other, &alone] {
        server.boot();
    }
    let end = flushed(&database).await;
    let size = database.segment_size;
    let removed = SegmentName::containing(
        TimelineId::FIRST,
        Lsn::new(end.get() - 3 * size.get()),
        size,
    );
    for server in [&database, &alone] {
        std::fs::remove_file(server.wal().join(removed.to_string())).unwrap();
    }

    let bucket = Bucket::new();
    let lineage = bucket.lineage(&facts).await;
    let mut shipper = Running::start_among(&[&other], &database, &lineage, NEVER).await;
    shipper.ship(end).await;
    assert!(shipper.notices.try_recv().is_err(), "a gap was told");
    shipper.end().await.unwrap();
    let contents = lineage.contents().await.unwrap();
    assert_eq!(contents.ranges(TimelineId::FIRST).len(), 1);
    let fetched = lineage
        .fetch_segment(removed, size, removed.end(size))
        .await;
    assert!(
        fetched.unwrap() == other.segment(removed),
        "{removed} differs"
    );

    let bucket = Bucket::new();
    let lineage = bucket.lineage(&facts).await;
    let mut shipper = Running::start_among(&[], &alone, &lineage, NEVER).await;
    shipper.ship(flushed(&alone).await).await;
    let gap = Notice::Gap {
        from: removed.start(size),
        to: removed.end(size),
        cause: GapCause::Removed,
    };
    assert_eq!(shipper.notices.try_recv(), Ok(gap));
    shipper.end().await.unwrap();
}

/// The address may be another cluster's by now: nothing of it may come into this archive.
#[tokio::test(flavor = "multi_thread")]
async fn the_wal_of_another_cluster_is_refused() {
    let database = Database::start(1, "");
    let bucket = Bucket::new();
    let mut facts = server::facts(&database.client().await).await.unwrap();
    facts.system_identifier = SystemIdentifier::new(1);
    let lineage = bucket.lineage(&facts).await;
    let shipper = Running::start_as(facts, &database, &lineage, NEVER).await;
    write(&database, 3).await;
    let ended = tokio::time::timeout(LIMIT, shipper.task).await.unwrap();
    let error = ended.unwrap().unwrap_err();
    assert_eq!(error.reason(), "WalForeign", "{error}");
    let contents = lineage.contents().await.unwrap();
    assert!(contents.segments.is_empty() && contents.tails.is_empty());
}
