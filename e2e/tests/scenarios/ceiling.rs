//! The bucket is gone for long: WAL waits in PostgreSQL up to the slot's ceiling, then the database goes first; what is lost to
//! the archive is on record, and a new backup closes the gap by itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Kubectl, Watching, Writer, condition, story, until,
};
use serde_json::Value;

use super::setup::scenario;

const LIMIT: Duration = Duration::from_secs(180);

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
    let patch = |kind: &str, name: &str, patch: &str| {
        kubectl.run(&[
            "-n",
            namespace,
            "patch",
            kind,
            name,
            "--type=merge",
            "-p",
            patch,
        ])
    };
    patch(
        "pgp",
        "gold",
        r#"{"spec": {"wal": {"slotCeiling": "64Mi"}}}"#,
    )?;
    let writer = Writer::start(&orders.address()?).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    story::first_backup(kubectl, namespace, "orders").await?;
    let archive = kubectl
        .get(namespace, "pga", "main")?
        .context("no archive")?;
    let endpoint = archive["spec"]["s3"]["endpoint"]
        .as_str()
        .context("no endpoint")?;

    let to = |endpoint: &str| format!(r#"{{"spec": {{"s3": {{"endpoint": "{endpoint}"}}}}}}"#);
    let nobody = endpoint.replace(":7070", ":1");
    ensure!(nobody != endpoint, "the endpoint is {endpoint}");
    patch("pga", "main", &to(&nobody))?;
    let about = ("pgx", "orders");
    condition(kubectl, namespace, about, ("WalArchiving", "False"), LIMIT).await?;
    over_the_ceiling(&orders, &writer).await?;
    ensure!(
        writer.ended().is_none(),
        "the database stopped: {:?}",
        writer.ended()
    );

    patch("pga", "main", &to(endpoint))?;
    closed(&orders).await?;
    let least = writer.ledger.acknowledged();
    story::commits(&writer, 100).await?;
    let found = story::latest_holds(&orders, &writer.ledger, least).await?;
    println!("behind the gap: rows 1 to {found}, {least} are owed");
    writer.stop().await?;
    Ok(())
}

/// Writes to half of the ceiling, over it, and until PostgreSQL has removed what the slot held.
async fn over_the_ceiling(orders: &Database, writer: &Writer) -> Result<()> {
    let about = (&orders.kubectl, orders.namespace.as_str());
    let client = orders.connect().await?;
    fill(writer, &client, 3).await?;
    within(about, "HalfOfCeiling").await?;
    fill(writer, &client, 2).await?;
    within(about, "SlotCeilingReached").await?;
    for _ in 0..3 {
        fill(writer, &client, 1).await?;
        client.batch_execute("CHECKPOINT").await?;
    }
    Ok(())
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
        let conditions = protection["status"]["conditions"].as_array();
        conditions.is_some_and(|all| {
            let of_slot = |condition: &Value| condition["type"] == "SlotWithinCeiling";
            let condition = all.iter().find(|condition| of_slot(condition));
            condition.is_some_and(|condition| condition["reason"] == reason)
        })
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
    until("the events", LIMIT, || {
        let events = kubectl.list(namespace, "events.events.k8s.io")?;
        let told = |reason: &str| events.iter().any(|event| event["reason"] == reason);
        Ok((told("SlotCeilingReached") && told("WalGap")).then_some(()))
    })
    .await
}
