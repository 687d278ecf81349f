//! In order, through crashes, and never over other content.

use std::time::Duration;

use highwater::{
    agent::{Progress, wal::Source},
    postgres::{SegmentSize, TimelineId, server, slot},
};
use tokio::sync::watch;

use crate::{
    database::Database,
    running::{Bucket, LIMIT, Running, SLOT, flushed, same_as_server, server_of, write},
};

#[tokio::test(flavor = "multi_thread")]
async fn ships_by_sql_in_order_through_a_crash_of_the_server() {
    ships_in_order_through_a_crash(async |_| Source::Sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ships_a_stream_in_order_through_a_crash_of_the_server() {
    ships_in_order_through_a_crash(async |database| {
        Source::streaming(server_of(database).await, false)
    })
    .await;
}

async fn ships_in_order_through_a_crash(source: impl AsyncFn(&Database) -> Source) {
    const NEVER: Duration = Duration::from_secs(3600);
    let database = Database::start(1, "");
    database.allow_replication().await;
    let bucket = Bucket::new();
    let facts = server::facts(&database.client().await).await.unwrap();
    let lineage = bucket.lineage(&facts).await;
    let mut shipper =
        Running::start_with(source(&database).await, &database, &lineage, NEVER).await;
    write(&database, 8).await;
    let first = flushed(&database).await;
    shipper.ship(first).await;
    let contents = same_as_server(&database, &lineage).await;
    assert!(contents.segments.len() >= 8, "{}", contents.segments.len());
    assert!(contents.segments.values().any(|segment| {
        segment
            .records
            .is_some_and(|records| records.last_commit.is_some())
    }));

    // The slot lets the server remove what is shipped, and no more.
    let held = slot::find(&database.client().await, SLOT)
        .await
        .unwrap()
        .unwrap();
    let restart = held.restart_lsn.unwrap();
    assert!(
        restart <= first && first.bytes_since(restart) <= SegmentSize::new(1 << 20).unwrap().get()
    );

    database.stop("immediate");
    let ended = tokio::time::timeout(LIMIT, shipper.task)
        .await
        .unwrap()
        .unwrap();
    assert!(!ended.unwrap_err().is_archive());
    database.boot();
    let mut shipper =
        Running::start_with(source(&database).await, &database, &lineage, NEVER).await;
    write(&database, 4).await;
    let second = flushed(&database).await;
    shipper.ship(second).await;
    same_as_server(&database, &lineage).await;

    // At the end of the process the tail goes too, though nobody asked.
    write(&database, 0).await;
    database.sql("CREATE TABLE public.last (n int)").await;
    let third = flushed(&database).await;
    shipper.end().await.unwrap();
    let contents = same_as_server(&database, &lineage).await;
    let pieces = contents.pieces(TimelineId::FIRST);
    assert!(
        pieces.last().unwrap().to >= third,
        "{pieces:?} ends before {third}"
    );
}

/// The largest that PostgreSQL can have (`initdb --wal-segsize`): one that is whole, and the tail of the next.
#[tokio::test(flavor = "multi_thread")]
async fn ships_segments_of_a_gigabyte_by_sql() {
    ships_segments_of_a_gigabyte(async |_| Source::Sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ships_a_stream_of_segments_of_a_gigabyte() {
    ships_segments_of_a_gigabyte(async |database| {
        Source::streaming(server_of(database).await, false)
    })
    .await;
}

async fn ships_segments_of_a_gigabyte(source: impl AsyncFn(&Database) -> Source) {
    let database = Database::start(1024, "");
    database.allow_replication().await;
    let bucket = Bucket::new();
    let facts = server::facts(&database.client().await).await.unwrap();
    let lineage = bucket.lineage(&facts).await;
    let source = source(&database).await;
    let mut shipper = Running::start_with(source, &database, &lineage, LIMIT * 60).await;
    write(&database, 8).await;
    database.sql("SELECT pg_switch_wal()").await;
    write(&database, 8).await;
    let end = flushed(&database).await;
    shipper.ship(end).await;
    let contents = same_as_server(&database, &lineage).await;
    let whole: Vec<_> = contents.segments.keys().collect();
    assert_eq!(whole.len(), 1, "{whole:?}");
    let last = contents.pieces(TimelineId::FIRST).last().unwrap().to;
    assert!(last >= end && last.bytes_since(whole[0].end(facts.segment_size)) >= 8 << 20);
    shipper.end().await.unwrap();
}

/// Of a tail that the agent cannot read it knows what it would find there.
#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_tail_says_what_its_records_say() {
    let database = Database::start(1, "");
    let facts = server::facts(&database.client().await).await.unwrap();
    database.sql("CREATE TABLE public.last (n int)").await;
    let end = flushed(&database).await;
    let key = age::x25519::Identity::generate().to_public().to_string();
    let mut found = Vec::new();
    for recipients in [vec![], vec![key]] {
        let bucket = Bucket::encrypted_to(&recipients);
        let lineage = bucket.lineage(&facts).await;
        let mut shipper = Running::start(&database, &lineage, LIMIT * 60).await;
        shipper.ship(end).await;
        shipper.end().await.unwrap();
        let tails = lineage.contents().await.unwrap().tails;
        let tail = tails.values().last().unwrap();
        assert_eq!(tail.encrypted, !recipients.is_empty());
        found.push(tail.records.unwrap().last_commit.unwrap());
    }
    assert_eq!(found[0], found[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_moves_on_while_the_database_is_idle() {
    let database = Database::start(1, "");
    let bucket = Bucket::new();
    let facts = server::facts(&database.client().await).await.unwrap();
    let lineage = bucket.lineage(&facts).await;
    let mut shipper = Running::start(&database, &lineage, Duration::from_millis(100)).await;
    let covered = async |progress: &mut watch::Receiver<Progress>, after| {
        let wait = progress.wait_for(|p| p.covered > after);
        let found = tokio::time::timeout(LIMIT, wait)
            .await
            .expect("no clock pair");
        found.unwrap().covered
    };
    let first = covered(&mut shipper.progress, None).await;
    shipper.demand.send_modify(|demand| demand.clock += 1);
    let second = covered(&mut shipper.progress, first).await;
    let contents = lineage.contents().await.unwrap();
    assert!(contents.clocks.iter().any(|pair| Some(pair.at) >= second));
    shipper.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_history_under_the_same_name_is_a_conflict_and_nothing_is_overwritten() {
    let database = Database::start(1, "");
    let bucket = Bucket::new();
    let facts = server::facts(&database.client().await).await.unwrap();
    let lineage = bucket.lineage(&facts).await;
    database.stop("fast");
    let other = database.copy("");
    database.boot();
    other.boot();
    let mut shipper = Running::start(&database, &lineage, Duration::from_secs(3600)).await;
    write(&database, 3).await;
    shipper.ship(flushed(&database).await).await;
    shipper.end().await.unwrap();
    let before = lineage.contents().await.unwrap().segments;

    let client = other.client().await;
    slot::create(&client, SLOT).await.unwrap();
    write(&other, 3).await;
    let shipper = Running::start(&other, &lineage, Duration::from_secs(3600)).await;
    let ended = tokio::time::timeout(LIMIT, shipper.task)
        .await
        .unwrap()
        .unwrap();
    let error = ended.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    assert!(error.to_string().contains("SHA-256"), "{error}");
    assert_eq!(lineage.contents().await.unwrap().segments, before);
}
