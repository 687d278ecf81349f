//! Of several members the one that takes writes is backed up, and a clone disturbs neither.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{Database, Deployment, Writer, measure, story};

pub use highwater_e2e::harness::members::{allow_replication, join};

use super::setup::scenario;

#[tokio::test(flavor = "multi_thread")]
async fn the_member_that_takes_writes_is_backed_up() {
    scenario("members", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let shape = include_str!("../../manifests/postgres-members.yaml");
    let orders =
        Database::create_as(deployment, namespace, "orders", "highwater-btrfs", shape).await?;
    let standby = join(&orders).await?;
    let writer = Writer::start(&orders.address()?).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    let backup = story::first_backup(kubectl, namespace, "orders").await?;
    ensure!(
        backup["status"]["attempt"]["pod"] == "orders-0",
        "backed up: {}",
        backup["status"]["attempt"]["pod"]
    );
    let protection = kubectl.get(namespace, "pgx", "orders")?;
    let status = &protection.context("no protection")?["status"];
    // `join` lets replication connections in.
    ensure!(
        status["wal"]["transport"] == "streaming",
        "WAL comes by {}",
        status["wal"]
    );
    let members = status["members"].as_array().map_or(0, Vec::len);
    ensure!(
        status["primary"]["pod"] == "orders-0" && members == 2,
        "{} of {members} members takes writes",
        status["primary"]["pod"]
    );

    let least = writer.ledger.acknowledged();
    story::commits(&writer, 700).await?;
    let found = story::latest_holds(&orders, &writer.ledger, least).await?;
    println!("of two members: rows 1 to {found}, {least} are owed");
    // A copy of a standby that streams from the source would be seen there.
    let streaming =
        "SELECT count(*) FROM pg_stat_replication WHERE application_name <> 'highwater'";
    let client = orders.connect().await?;
    let streaming: i64 = client.query_one(streaming, &[]).await?.get(0);
    ensure!(streaming == 1, "{streaming} stream from the primary");
    let recovers = "SELECT pg_is_in_recovery()";
    let recovers: bool = standby.query_one(recovers, &[]).await?.get(0);
    ensure!(recovers, "the standby was promoted");
    writer.stop().await?;
    tells_its_numbers(&orders)
}

/// What the documentation tells an admin to watch is there.
fn tells_its_numbers(orders: &Database) -> Result<()> {
    let told = measure::metrics(&orders.kubectl, &orders.namespace, measure::AGENTS)?.join("\n");
    for name in [
        "highwater_wal_lag_bytes",
        "highwater_wal_lag_seconds",
        "highwater_wal_segments_total",
        "highwater_database_connected 1",
        "highwater_backup_session_seconds",
    ] {
        let there = told.lines().any(|line| line.starts_with(name));
        ensure!(there, "the agent does not tell {name}");
    }
    Ok(())
}
