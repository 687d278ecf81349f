//! PostgreSQL archives by itself, with our program in its pod: the agent backs it up and says what is archived, and a copy does
//! not archive where its original does.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{Database, Deployment, Watching, Writer, condition, story, until};
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::setup::scenario;

const LIMIT: Duration = Duration::from_secs(180);
const ARCHIVED: &str = "SELECT archived_count FROM pg_catalog.pg_stat_archiver";

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_archives_by_itself() {
    scenario("archives", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let shape = include_str!("../../manifests/postgres-archives.yaml");
    let shape = shape.replace("${HIGHWATER_IMAGE}", &deployment.images.highwater);
    let orders =
        Database::create_as(deployment, namespace, "orders", "highwater-btrfs", &shape).await?;
    let policy = json!({"spec": {"wal": {"transport": "archive_command"}}});
    kubectl.patch(namespace, ("pgp", "gold"), &policy)?;
    let writer = Writer::start(&orders.address()?).await?;
    orders.annotate("highwater.dev/policy", "gold")?;

    // Its configuration is not there yet.
    let about = ("pgx", "orders");
    let protection = condition(kubectl, namespace, about, ("WalArchiving", "False"), LIMIT).await?;
    let client = orders.connect().await?;
    configure(&orders, &client, &protection).await?;
    story::first_backup(kubectl, namespace, "orders").await?;
    let protection = kubectl.get(namespace, "pgx", "orders")?;
    let wal = &protection.context("no protection")?["status"]["wal"];
    ensure!(wal["transport"] == "archive_command", "WAL comes by {wal}");
    let slots: i64 = client
        .query_one("SELECT count(*) FROM pg_replication_slots", &[])
        .await?
        .get(0);
    ensure!(slots == 0, "{slots} slots hold WAL");

    story::commits(&writer, 200).await?;
    let owed = writer.ledger.acknowledged();
    archived(&orders, &client).await?;
    let found = story::latest_holds(&orders, &writer.ledger, owed).await?;
    println!("archived by PostgreSQL: rows 1 to {found}, {owed} are owed");
    writer.stop().await?;
    copy_is_refused(&orders).await
}

/// Writes what `archive_command` needs, as whoever runs the database does.
async fn configure(orders: &Database, client: &Client, protection: &Value) -> Result<()> {
    let name = protection["status"]["archiveName"].as_str();
    let archive = orders.kubectl.get(&orders.namespace, "pga", "main")?;
    let config = json!({
        "archive": {"s3": archive.context("no archive")?["spec"]["s3"]},
        "archiveName": name.context("status says no archiveName")?,
        "credentials": "/bucket",
    });
    // JSON is YAML, and holds no quotation mark that SQL knows.
    let write = format!("COPY (SELECT '{config}') TO PROGRAM 'cat > wal.yaml'");
    client.batch_execute(&write).await?;
    Ok(())
}

/// Waits until status says that what is committed by now is archived.
pub async fn archived(orders: &Database, client: &Client) -> Result<()> {
    let switched = "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_switch_wal(), '0/0')::bigint";
    let switched: i64 = client.query_one(switched, &[]).await?.get(0);
    let beyond = |protection: &Value| {
        let through = protection["status"]["wal"]["archivedThrough"].as_str();
        let through = through.and_then(|lsn| lsn.parse::<highwater::postgres::Lsn>().ok());
        through.is_some_and(|lsn| i64::try_from(lsn.get()).is_ok_and(|lsn| lsn >= switched))
    };
    Watching::one(&orders.kubectl, &orders.namespace, "pgx", "orders")?
        .wait("what was written is archived", LIMIT, beyond)
        .await
        .map(drop)
}

/// The restored database has the original's command, and is given its configuration, too.
async fn copy_is_refused(orders: &Database) -> Result<()> {
    let clone = Database::existing(&orders.kubectl, &orders.namespace, "clone");
    let client = clone.connect().await?;
    let protection = orders.kubectl.get(&orders.namespace, "pgx", "orders")?;
    configure(&clone, &client, &protection.context("no protection")?).await?;
    client.batch_execute("SELECT pg_switch_wal()").await?;
    let logs = ["-n", &orders.namespace, "logs", "clone-0", "--tail=200"];
    until("the copy's push is refused as a copy's", LIMIT, || {
        let said = orders.kubectl.run(&logs)?;
        let refused = said.contains("a copy must not archive where its original does");
        Ok(refused.then_some(()))
    })
    .await?;
    let archived: i64 = client.query_one(ARCHIVED, &[]).await?.get(0);
    ensure!(archived == 0, "the copy has archived {archived} files");
    let protection = orders.kubectl.get(&orders.namespace, "pgx", "orders")?;
    let window = &protection.context("no protection")?["status"]["recoverable"];
    let timelines = window["timelines"].as_array().map_or(0, Vec::len);
    ensure!(timelines == 1, "recoverable: {window}");
    Ok(())
}
