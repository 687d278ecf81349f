//! The primary dies while the agent is away: nothing that was acknowledged is missing after the failover.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_e2e::{
    devcluster::signal,
    harness::{Database, Deployment, Watching, Writer, crash, story, until},
};

pub use highwater_e2e::harness::until_async;

use serde_json::Value;
use tokio_postgres::Client;

use super::{archives, members, setup::scenario};

const LIMIT: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_leaves_no_gap() {
    scenario("failover", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let shape = include_str!("../../manifests/postgres-members.yaml");
    let orders =
        Database::create_as(deployment, namespace, "orders", "highwater-btrfs", shape).await?;
    // With a bound, standbys hold WAL for the archive too.
    let bound = "ALTER SYSTEM SET max_slot_wal_keep_size = '900MB'";
    orders.connect().await?.batch_execute(bound).await?;
    let standby = members::join(&orders).await?;
    let second = orders.address_of("orders-1")?;
    orders.annotate("highwater.dev/policy", "gold")?;
    story::first_backup(kubectl, namespace, "orders").await?;
    let holds = |protection: &Value| {
        let wal = &protection["status"]["wal"];
        wal["standbySlots"] == serde_json::json!(["orders-1"])
            && wal["maxSlotWalKeepSize"] == "900MB"
    };
    Watching::one(kubectl, namespace, "pgx", "orders")?
        .wait("orders-1 holds WAL too", LIMIT, holds)
        .await?;

    // What is acknowledged is on the standby; the agent streams too and must not count for that.
    let primary = orders.connect().await?;
    primary
        .batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        .await?;
    primary.batch_execute("SELECT pg_reload_conf()").await?;
    until_async("the standby is synchronous", &primary, SYNCHRONOUS).await?;

    let writer = Writer::start(&orders.address()?).await?;
    story::commits(&writer, 200).await?;
    let agent = crash::process(kubectl, namespace, &agent(&orders)?, "agent")?;
    signal(agent, "STOP")?;
    unshipped(&writer, &primary, &standby).await?;
    let least = fail_over(&orders, &writer, &standby).await?;
    signal(agent, "CONT")?;

    let writer = Writer::start(&second).await?;
    ensure!(
        writer.ledger.acknowledged() >= least,
        "the standby lost rows"
    );
    story::commits(&writer, 300).await?;
    let least = writer.ledger.acknowledged();
    follows(&orders).await?;
    archives::archived(&orders, &standby).await?;
    let found = story::latest_holds(&orders, &writer.ledger, least).await?;
    println!("across the failover: rows 1 to {found}, {least} are owed");
    writer.stop().await?;
    Ok(())
}

/// Whether one standby is waited for at each commit, and it is not the agent.
pub const SYNCHRONOUS: &str = "SELECT count(*) = 1 AND bool_and(application_name <> 'highwater') \
    FROM pg_stat_replication WHERE sync_state <> 'async'";

/// WAL of several segments that only slots keep: checkpoints would remove it otherwise.
async fn unshipped(writer: &Writer, primary: &Client, standby: &Client) -> Result<()> {
    for _ in 0..4 {
        story::commits(writer, 50).await?;
        primary.batch_execute("SELECT pg_switch_wal()").await?;
        primary.batch_execute("CHECKPOINT").await?;
        standby.batch_execute("CHECKPOINT").await?;
    }
    Ok(())
}

/// kill -9 of the primary and promotion of the standby; returns what was acknowledged.
pub async fn fail_over(orders: &Database, writer: &Writer, standby: &Client) -> Result<i64> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    crash::kill(kubectl, namespace, "orders-0", "postgres")?;
    until("the writer noticed", LIMIT, || {
        Ok(writer.ended().is_some().then_some(()))
    })
    .await?;
    let promoted: bool = standby.query_one("SELECT pg_promote()", &[]).await?.get(0);
    ensure!(promoted, "the standby was not promoted in time");
    // It waited for the standby that it is itself.
    standby
        .batch_execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        .await?;
    standby.batch_execute("SELECT pg_reload_conf()").await?;
    Ok(writer.ledger.acknowledged())
}

/// The agent is with the new primary, and the archive has no gap.
pub async fn follows(orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let with_the_new = |protection: &Value| {
        let status = &protection["status"];
        let timelines = status["recoverable"]["timelines"].as_array();
        status["primary"]["pod"] == "orders-1"
            && timelines.is_some_and(|all| all.iter().any(|timeline| timeline["id"] == 2))
    };
    let protection = Watching::one(kubectl, namespace, "pgx", "orders")?
        .wait("the archive has timeline 2", LIMIT, with_the_new)
        .await?;
    let timelines = protection["status"]["recoverable"]["timelines"]
        .as_array()
        .context("no timelines")?;
    for timeline in timelines {
        ensure!(timeline["gaps"].is_null(), "gaps: {timeline}");
    }
    Ok(())
}

/// The agent's pod.
pub fn agent(orders: &Database) -> Result<String> {
    let pods = orders.kubectl.list(&orders.namespace, "pod")?;
    let mut names = pods
        .iter()
        .filter_map(|pod| pod["metadata"]["name"].as_str());
    let name = names.find(|name| name.starts_with("orders-highwater"));
    Ok(name.context("no agent")?.to_owned())
}
