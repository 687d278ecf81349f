//! A commit that waits for the archive is in it when it is acknowledged, and waits while the archive cannot be written.

use std::time::Duration;

use highwater::{
    agent::wal::Source,
    archive::Lineage,
    postgres::{Lsn, TimelineId, server},
};

use crate::{
    database::Database,
    running::{Bucket, LIMIT, Running, server_of},
};

const NEVER: Duration = Duration::from_secs(3600);

async fn start(database: &Database, lineage: &Lineage) -> Running {
    let source = Source::streaming(server_of(database).await, true);
    Running::start_with(source, database, lineage, NEVER).await
}

/// Waits until commits wait for the archive.
pub async fn is_synchronous(database: &Database) {
    let client = database.client().await;
    let state = "SELECT count(*) > 0 FROM pg_stat_replication \
        WHERE application_name = 'highwater' AND sync_state = 'sync'";
    let counts = async {
        while !client
            .query_one(state, &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(LIMIT, counts).await;
    assert!(waited.is_ok(), "it is no synchronous standby");
}

/// Commits a row; returns a position before the end of its commit record.
async fn commit(client: &highwater::postgres::session::Client) -> Lsn {
    client.batch_execute("BEGIN").await.unwrap();
    let row = client
        .query_one(
            "INSERT INTO public.ledger DEFAULT VALUES RETURNING pg_current_wal_insert_lsn()::text",
            &[],
        )
        .await;
    let at: String = row.unwrap().get(0);
    client.batch_execute("COMMIT").await.unwrap();
    at.parse().unwrap()
}

async fn archived(lineage: &Lineage) -> Lsn {
    let contents = lineage.contents().await.unwrap();
    let pieces = contents.pieces(TimelineId::FIRST);
    pieces.last().map_or(Lsn::new(0), |piece| piece.to)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_commit_is_in_the_archive() {
    let database = Database::start(1, "");
    database.allow_replication().await;
    database.sql("CREATE TABLE public.ledger (n serial)").await;
    let bucket = Bucket::new();
    let facts = server::facts(&database.client().await).await.unwrap();
    let lineage = bucket.lineage(&facts).await;
    let shipper = start(&database, &lineage).await;
    database
        .sql("ALTER SYSTEM SET synchronous_standby_names = 'highwater'; SELECT pg_reload_conf()")
        .await;
    is_synchronous(&database).await;
    let client = database.client().await;
    // Over the end of a segment, and over the merging of its parts.
    for count in 0..60 {
        if count == 40 {
            client
                .batch_execute("SELECT pg_switch_wal()")
                .await
                .unwrap();
        }
        let at = commit(&client).await;
        let archived = archived(&lineage).await;
        assert!(
            archived > at,
            "{at} was acknowledged, the archive ends at {archived}"
        );
    }

    // The archive cannot be written: commits wait, and nothing is acknowledged.
    bucket.close();
    let waiting = tokio::spawn(async move { commit(&client).await });
    let ended = tokio::time::timeout(LIMIT, shipper.task)
        .await
        .unwrap()
        .unwrap();
    assert!(ended.unwrap_err().is_archive());
    assert!(!waiting.is_finished(), "a commit did not wait");
    // A server without its synchronous standby waits too.
    assert!(
        tokio::time::timeout(Duration::from_secs(1), async {
            while !waiting.is_finished() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .is_err(),
        "a commit did not wait"
    );
    bucket.open();
    let shipper = start(&database, &lineage).await;
    let at = tokio::time::timeout(LIMIT, waiting).await.unwrap().unwrap();
    assert!(archived(&lineage).await > at);
    shipper.end().await.unwrap();
}
