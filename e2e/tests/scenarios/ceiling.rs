//! The bucket is gone for long: WAL waits in PostgreSQL up to the slot's ceiling, then the database goes first; what is lost to
//! the archive is on record, and a new backup closes the gap by itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Kubectl, Watching, Writer, bucket, condition, crash, measure, said,
    story, until,
};
use serde_json::{Value, json};

use super::{archives, failover, setup::scenario};

const LIMIT: Duration = Duration::from_secs(180);
/// Bytes of the database's volume: as much WAL does not fit into it.
const CLAIM: i64 = 1 << 30;
/// Bytes that an agent may take for segments of 16 MiB.
const MEMORY: u64 = 64 << 20;
const WRITTEN: &str = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint";
const KEPT: &str = "SELECT sum(size)::bigint FROM pg_ls_waldir()";

#[tokio::test(flavor = "multi_thread")]
async fn a_long_outage_costs_the_archive_a_gap_and_the_database_nothing() {
    scenario("ceiling", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let orders = Database::create(deployment, namespace, "orders", "highwater-btrfs").await?;
    let policy = json!({"spec": {"wal": {"slotCeiling": "64Mi"}}});
    kubectl.patch(namespace, ("pgp", "gold"), &policy)?;
    let writer = Writer::start(&orders.address()?).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    story::first_backup(kubectl, namespace, "orders").await?;
    made_again(&orders).await?;
    let nobody_reads = format!("{}/notes.txt", bucket::lineage(&orders)?);
    let file = bucket::folder(kubectl)?.join(nobody_reads);
    std::fs::write(file, "by hand").context("failed to put an object that no restore reads")?;
    let archive = kubectl
        .get(namespace, "pga", "main")?
        .context("no archive")?;
    let endpoint = archive["spec"]["s3"]["endpoint"]
        .as_str()
        .context("no endpoint")?;

    let to = |endpoint: &str| {
        let archive = json!({"spec": {"s3": {"endpoint": endpoint}}});
        kubectl.patch(namespace, ("pga", "main"), &archive)
    };
    let nobody = endpoint.replace(":7070", ":1");
    ensure!(nobody != endpoint, "the endpoint is {endpoint}");
    to(&nobody)?;
    let about = ("pgx", "orders");
    condition(kubectl, namespace, about, ("WalArchiving", "False"), LIMIT).await?;
    over_the_ceiling(&orders, &writer).await?;
    ensure!(
        writer.ended().is_none(),
        "the database stopped: {:?}",
        writer.ended()
    );

    to(endpoint)?;
    closed(&orders).await?;
    what_the_agent_took(&orders).await?;
    let least = writer.ledger.acknowledged();
    archives::archived(&orders, &orders.connect().await?).await?;
    let found = story::latest_holds(&orders, &writer.ledger, least).await?;
    println!("behind the gap: rows 1 to {found}, {least} are owed");
    writer.stop().await?;
    Ok(())
}

/// Somebody drops the slot, and no segment is full that would have to be let go of: it is made again, and that is said.
async fn made_again(orders: &Database) -> Result<()> {
    let client = orders.connect().await?;
    let slot = "FROM pg_replication_slots WHERE slot_name LIKE 'highwater%'";
    let dropped = format!("SELECT pg_drop_replication_slot(slot_name) {slot}");
    let dropped = client.query(&dropped, &[]).await?.len();
    ensure!(dropped == 1, "{dropped} slots");
    let again = format!("SELECT count(*) = 1 {slot} AND restart_lsn IS NOT NULL");
    failover::until_async("the slot to be made again", &client, &again).await?;
    told(orders, &["SlotLost"]).await?;
    // It begins at the last checkpoint, and holds what is archived too until the next segment is.
    archives::archived(orders, &client).await?;
    let moved = format!("SELECT pg_current_wal_lsn() - restart_lsn < 16777216 {slot}");
    failover::until_async("the slot to be moved", &client, &moved).await
}

/// Writes to half of the ceiling, over it, and until PostgreSQL has removed what the slot held.
async fn over_the_ceiling(orders: &Database, writer: &Writer) -> Result<()> {
    let about = (&orders.kubectl, orders.namespace.as_str());
    let client = orders.connect().await?;
    fill(writer, &client, 3).await?;
    within(about, "HalfOfCeiling").await?;
    fill(writer, &client, 2).await?;
    within(about, "SlotCeilingReached").await?;
    let begin = number(&client, WRITTEN).await?;
    while number(&client, WRITTEN).await? - begin < CLAIM {
        fill(writer, &client, 4).await?;
        client.batch_execute("CHECKPOINT").await?;
    }
    let kept = number(&client, KEPT).await?;
    println!(
        "WAL for the whole claim was written, {} MB of it are kept",
        kept >> 20
    );
    ensure!(kept < CLAIM / 2, "pg_wal holds {kept} bytes");
    Ok(())
}

async fn number(client: &tokio_postgres::Client, ask: &str) -> Result<i64> {
    Ok(client.query_one(ask, &[]).await?.get(0))
}

/// So many segments.
async fn fill(writer: &Writer, client: &tokio_postgres::Client, segments: u32) -> Result<()> {
    for _ in 0..segments {
        story::commits(writer, 20).await?;
        client.batch_execute("SELECT pg_switch_wal()").await?;
    }
    Ok(())
}

async fn within((kubectl, namespace): (&Kubectl, &str), reason: &str) -> Result<()> {
    let says = |protection: &Value| {
        let condition = said(protection, "SlotWithinCeiling");
        condition.is_some_and(|condition| condition["reason"] == reason)
    };
    Watching::one(kubectl, namespace, "pgx", "orders")?
        .wait(&format!("SlotWithinCeiling {reason}"), LIMIT, says)
        .await
        .map(drop)
}

/// The gap is on record, and a backup that was made for it completes and closes it.
async fn closed(orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let backup = until("a backup for the gap", LIMIT, || {
        let backups = kubectl.list(namespace, "pgb")?;
        let its = backups
            .iter()
            .find(|backup| backup["spec"]["reason"] == "Gap");
        Ok(its.and_then(|backup| backup["metadata"]["name"].as_str().map(str::to_owned)))
    })
    .await?;
    let about = ("pgb", backup.as_str());
    condition(kubectl, namespace, about, ("Completed", "True"), LIMIT).await?;
    let closed = |protection: &Value| {
        let window = &protection["status"]["recoverable"];
        let gaps = window["timelines"][0]["gaps"].as_array();
        window["backupNeededFrom"].is_null() && gaps.is_some_and(|gaps| !gaps.is_empty())
    };
    Watching::one(kubectl, namespace, "pgx", "orders")?
        .wait("the gap on record, and behind a backup", LIMIT, closed)
        .await?;
    told(orders, &["SlotCeilingReached", "WalGap"]).await
}

/// With a backlog behind it: memory within what an agent may take, and the object that no restore reads is counted.
async fn what_the_agent_took(orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let agent = failover::agent(orders)?;
    let peak = crash::peak_memory(crash::process(kubectl, namespace, &agent, "agent")?)?;
    println!("the agent had {} MiB at its peak", peak >> 20);
    ensure!(peak <= MEMORY, "the agent had {peak} bytes");
    until(
        "the object that no restore reads to be counted",
        LIMIT,
        || {
            let told = measure::metrics(kubectl, namespace, measure::AGENTS)?.join("\n");
            let counted = told.contains("\nhighwater_archive_orphans 1\n");
            Ok(counted.then_some(()))
        },
    )
    .await
}

/// Each of these reasons in an event.
async fn told(orders: &Database, reasons: &[&str]) -> Result<()> {
    until(&format!("events {reasons:?}"), LIMIT, || {
        let events = orders
            .kubectl
            .list(&orders.namespace, "events.events.k8s.io")?;
        let told = |reason: &&str| events.iter().any(|event| event["reason"] == **reason);
        Ok(reasons.iter().all(told).then_some(()))
    })
    .await
}
