//! The bucket is away under load: WAL waits in PostgreSQL, the numbers say so, nothing is lost, and what has piled up goes
//! several segments at once.
//!
//! `HIGHWATER_OUTAGE_SECONDS` says how long it is away (default 10).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use highwater::{
    agent::wal::{Source, lag},
    postgres::{server, slot},
};

use crate::{
    database::Database,
    killed::{Busy, compare, number},
    proxy::Proxy,
    running::{PARALLEL, Running, SLOT, archive_behind, begin, flushed, server_of},
    server::Server,
};

const DELAY: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(120);
/// Seconds from which on the load is limited: WAL of half an hour must fit on a disk.
const LONG: u64 = 60;
/// Transactions per second, of 1 to 2 KB of WAL each.
const RATE: u64 = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn by_sql_an_outage_of_the_bucket_under_load_loses_nothing() {
    loses_nothing(async |_| Source::Sql).await;
}

/// The server sends on and on, and ends a stream whose client does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn by_streaming_an_outage_of_the_bucket_under_load_loses_nothing() {
    loses_nothing(async |database| Source::streaming(server_of(database).await, false)).await;
}

async fn loses_nothing(source: impl AsyncFn(&Database) -> Source) {
    let seconds = number("HIGHWATER_OUTAGE_SECONDS").unwrap_or(10);
    let patience = PATIENCE + Duration::from_secs(seconds);
    let settings = "wal_keep_size = '64GB'\nmax_wal_size = '256MB'";
    let (database, server) = (Arc::new(Database::start(1, settings)), Server::start());
    database.allow_replication().await;
    database.pgbench(&["-i", "-q", "-s", "2"]);
    let proxy = Proxy::start(server.port(), DELAY);
    let facts = server::facts(&database.client().await).await.unwrap();
    let lineage = begin(&archive_behind(proxy.port(), serde_json::json!({})), &facts).await;
    let held = slot::create(&database.client().await, SLOT)
        .await
        .unwrap()
        .restart_lsn;
    let owed = flushed(&database).await;
    let (source, tails) = (source(&database).await, Duration::from_secs(1));
    let mut shipper = Running::start_parallel(source, PARALLEL, &database, &lineage, tails).await;
    shipper.ship(owed).await;
    // As the agent does it.
    let (client, metrics) = (database.client().await, shipper.metrics.clone());
    let (progress, shown) = (shipper.progress.clone(), metrics.clone());
    let numbers = tokio::spawn(async move { lag::follow(&client, held, progress, &shown).await });

    let rate = (seconds > LONG).then_some(RATE);
    let busy = Busy::at_most(rate, database.clone());
    let before = shipper.progress.borrow().durable.unwrap();
    proxy.cut();
    let away = Instant::now();
    let mut grew = false;
    while away.elapsed() < Duration::from_secs(seconds)
        || metrics.lag_bytes.get() < 16 << 20
        || metrics.lag_seconds.get() < seconds as f64 * 0.7
        || !grew
    {
        assert!(
            away.elapsed() < patience,
            "too little load, or no number says so: {metrics:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
        grew |= metrics.lag_slope.get() > 0.0;
    }
    let (bytes, waited) = (metrics.lag_bytes.get(), metrics.lag_seconds.get());
    println!("{seconds} s away: {bytes} bytes and {waited:.1} s behind");
    let there = shipper.progress.borrow().durable.unwrap();
    assert!(
        there.bytes_since(before) < 4 << 20,
        "{there}: the bucket was there"
    );
    let restart = slot::find(&database.client().await, SLOT).await.unwrap();
    let restart = restart.unwrap().restart_lsn.unwrap();
    assert!(
        restart <= there,
        "the slot let go of {restart}, {there} is archived"
    );

    proxy.mend();
    let back = Instant::now();
    let (mut most, mut shrank) = (0, false);
    while metrics.lag_bytes.get() > bytes / 8 {
        assert!(
            back.elapsed() < PATIENCE,
            "{} bytes behind",
            metrics.lag_bytes.get()
        );
        most = most.max(proxy.waiting());
        tokio::time::sleep(Duration::from_millis(5)).await;
        shrank |= metrics.lag_slope.get() < 0.0;
    }
    println!(
        "drained in {:.1} s under load, up to {most} requests at once",
        back.elapsed().as_secs_f64()
    );
    assert!(most >= 2, "one at a time");
    busy.stop();
    let end = flushed(&database).await;
    shipper.ship(end).await;
    while metrics.lag_bytes.get() > 0 || metrics.lag_seconds.get() > 0.0 || !shrank {
        assert!(back.elapsed() < patience, "{metrics:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        shrank |= metrics.lag_slope.get() < 0.0;
    }
    numbers.abort();
    shipper.end().await.unwrap();
    let compared = compare(&database, &lineage, owed, end).await.unwrap();
    println!("{compared} segments compared");
    assert!(compared >= 16, "{compared}");
}
