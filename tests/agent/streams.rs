//! A stream of WAL never harms the server that sends it.

use std::time::Duration;

use highwater::{
    agent::wal::{Server, Tap, TapError},
    postgres::{Lsn, TimelineId},
};
use tokio::sync::watch;

use crate::{
    database::Database,
    running::{flushed, server_of, write},
};

async fn open(server: &Server, at: Lsn) -> Result<Tap, TapError> {
    let (_, silent) = watch::channel(None);
    Tap::open(server, TimelineId::FIRST, at, silent).await
}

/// How many sessions stream from the server.
async fn streams(database: &Database) -> i64 {
    let count = "SELECT count(*) FROM pg_stat_replication";
    let row = database.client().await.query_one(count, &[]).await.unwrap();
    row.get(0)
}

async fn log(database: &Database) -> String {
    std::fs::read_to_string(database.directory().join("log")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_keeps_nobody_waiting_and_goes_quietly() {
    let database = Database::start(1, "wal_sender_timeout = '4s'\nmax_wal_size = '1GB'");
    database.allow_replication().await;
    let from = Lsn::new(flushed(&database).await.get() & !((1 << 20) - 1));
    let from_server = server_of(&database).await;
    let mut tap = open(&from_server, from).await.unwrap();
    // More than waits here, for longer than the server waits for an answer.
    write(&database, 32).await;
    database.sql("SELECT pg_sleep(9)").await;
    assert_eq!(streams(&database).await, 1, "{}", log(&database).await);
    let end = flushed(&database).await;
    let mut at = from;
    while at < end {
        assert!(tap.is_at(TimelineId::FIRST, at));
        // Across messages and within them.
        let bytes = tap.take(100_000).await.unwrap();
        at = at.advance(bytes.len() as u64);
    }
    tap.close().await;
    assert_eq!(streams(&database).await, 0);
    let said = log(&database).await;
    assert!(!said.contains("unexpected EOF"), "{said}");

    // It would wait for a stream that is neither read nor ended.
    let tap = open(&from_server, from).await.unwrap();
    write(&database, 32).await;
    let begin = std::time::Instant::now();
    database.stop("fast");
    assert!(
        begin.elapsed() < Duration::from_secs(45),
        "{:?}",
        begin.elapsed()
    );
    drop(tap);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_at_the_address_is_noticed() {
    let database = Database::start(1, "");
    database.allow_replication().await;
    let at = flushed(&database).await;
    let known = server_of(&database).await;
    let mut stranger = known.clone();
    stranger.system_identifier = highwater::postgres::SystemIdentifier::new(1);
    let refused = open(&stranger, at).await.err();
    assert_eq!(refused.unwrap().reason(), "AnotherServer");
    let mut later = known;
    later.timeline = TimelineId::new(2).unwrap();
    let refused = open(&later, at).await.err();
    assert_eq!(refused.unwrap().reason(), "TimelineChanged");
}
