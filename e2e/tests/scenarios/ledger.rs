//! The main job: one annotation, a backup under load, restores that hold every acknowledged commit and none too many.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, EndpointWatch, Kubectl, Ledger, Writer, bucket, condition, has,
    integrity, story, until,
};
use serde_json::Value;

use super::setup::scenario;

/// How old a commit may be that is lost with the database: the tail interval, and the time to the archive, of which a machine
/// that runs three scenarios at once needs more.
const TAIL: Duration = Duration::from_secs(5 + 5);

#[tokio::test(flavor = "multi_thread")]
async fn restores_hold_what_was_acknowledged_and_nothing_else() {
    scenario("ledger", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let orders = Database::create(deployment, namespace, "orders", "highwater-btrfs").await?;
    let clients = EndpointWatch::start(kubectl, namespace, "orders").await?;
    let address = orders.address()?;
    let mut pgbench = story::load(&address).await?;
    let writer = Writer::start(&address).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    let backup = story::first_backup(kubectl, namespace, "orders").await?;
    let backup = backup["metadata"]["name"]
        .as_str()
        .context("a backup has no name")?;
    for found in ["CreateOnly", "ClockInStep"] {
        let (about, found) = (("pga", "main"), (found, "True"));
        condition(kubectl, namespace, about, found, story::LIMIT).await?;
    }
    story::commits(&writer, 300).await?;

    to_before_the_delete(deployment, &orders, &writer).await?;

    // What was put back is owed, too.
    let put_back = writer.ledger.acknowledged();
    until("commits older than the tail", story::LIMIT, || {
        let before = Instant::now().checked_sub(TAIL).context("no such time")?;
        Ok((writer.ledger.acknowledged_by(before) > put_back).then_some(()))
    })
    .await?;
    story::still_loads(&mut pgbench)?;
    let killed = orders.destroy().await?;
    drop(pgbench);
    let ledger = writer.stop().await?;
    to_latest_of_what_is_gone(&orders, &ledger, killed).await?;
    a_new_database_starts_a_lineage(&orders, backup, &ledger, killed).await?;
    // Through all of it, three clones included.
    clients.only("orders-0")
}

/// A restore to a time between two acknowledged commits, checked to the last row and by PostgreSQL's own tools.
async fn to_before_the_delete(
    deployment: &Deployment,
    orders: &Database,
    writer: &Writer,
) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let client = orders.connect().await?;
    let (target, last) = story::between_commits(writer, &client).await?;
    story::commits(writer, 200).await?;
    client
        // In one statement: of two, the second also deletes what was committed in between.
        .batch_execute(
            "CREATE TABLE gone (LIKE ledger); WITH deleted AS \
             (DELETE FROM ledger WHERE n % 2 = 0 RETURNING *) INSERT INTO gone SELECT * FROM deleted",
        )
        .await?;
    let time = format!("{{time: \"{target}\"}}");
    let from = ("before-delete", "orders");
    story::restore(kubectl, namespace, from, "orders-restored", &time).await?;
    let restored = Database::existing(kubectl, namespace, "orders-restored");
    let found = Ledger::check(&restored.connect().await?, last, last).await?;
    println!("restored to {target}: rows 1 to {found}, {last} were acknowledged");
    integrity::amcheck(&restored).await?;
    let said = integrity::checksums(&restored, &deployment.images.postgres).await?;
    println!("{}", said.trim().replace('\n', ", "));
    client
        .batch_execute("INSERT INTO ledger SELECT * FROM gone; DROP TABLE gone")
        .await?;
    Ok(())
}

/// The database was killed and its volume deleted: only the archive is left.
async fn to_latest_of_what_is_gone(
    orders: &Database,
    ledger: &Ledger,
    killed: Instant,
) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let from = ("latest", "orders");
    story::restore(kubectl, namespace, from, "orders-latest", "{latest: {}}").await?;
    let latest = Database::existing(kubectl, namespace, "orders-latest");
    check_loss(&latest, ledger, killed).await?;
    integrity::amcheck(&latest).await
}

async fn check_loss(restored: &Database, ledger: &Ledger, killed: Instant) -> Result<()> {
    let owed = ledger.acknowledged_by(killed.checked_sub(TAIL).context("no such time")?);
    ensure!(owed > 0, "the writer had not begun: this proves nothing");
    let found = Ledger::check(&restored.connect().await?, owed, ledger.sent()).await?;
    println!(
        "{}: rows 1 to {found}; {owed} are owed, {} were acknowledged when the database was killed",
        restored.name,
        ledger.acknowledged()
    );
    Ok(())
}

/// The StatefulSet is left at 1: its image makes an empty database, which gets a lineage of its own; the old one is still
/// restored from by its backup.
async fn a_new_database_starts_a_lineage(
    orders: &Database,
    backup: &str,
    ledger: &Ledger,
    killed: Instant,
) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let old = lineage(kubectl, namespace)?;
    let folder = format!(
        "{namespace}-orders/{}",
        old.as_deref().context("no lineage")?
    );
    let before = bucket::objects(kubectl, &folder)?;
    orders.scale(1).await?;
    let new = until("a new lineage", story::LIMIT, || {
        Ok(lineage(kubectl, namespace)?.filter(|new| Some(new) != old.as_ref()))
    })
    .await?;
    until("the event LineageStarted", Duration::from_secs(10), || {
        let events = kubectl.list(namespace, "events.events.k8s.io")?;
        let told = |event: &Value| {
            let note = event["note"].as_str().unwrap_or_default();
            event["reason"] == "LineageStarted"
                && note.contains(&new)
                && note.contains("another cluster")
        };
        Ok(events.iter().any(told).then_some(()))
    })
    .await?;
    until("the first backup of the new lineage", story::LIMIT, || {
        let backups = kubectl.list(namespace, "pgb")?;
        let its = |backup: &Value| {
            backup["status"]["session"]["lineage"] == *new && has(backup, "Completed", "True")
        };
        Ok(backups.iter().any(its).then_some(()))
    })
    .await?;
    let source = format!("{{backup: {backup}}}");
    let name = "old-lineage";
    story::request_restore(
        kubectl,
        namespace,
        (name, &source),
        "orders-old",
        "{latest: {}}",
    )?;
    let restore = story::completed(kubectl, namespace, name).await?;
    ensure!(
        restore["status"]["plan"]["lineage"].as_str() == old.as_deref(),
        "restored from another lineage"
    );
    let restored = Database::existing(kubectl, namespace, "orders-old");
    check_loss(&restored, ledger, killed).await?;
    let after = bucket::objects(kubectl, &folder)?;
    ensure!(
        before == after,
        "the old lineage was touched: {before:#?} became {after:#?}"
    );
    Ok(())
}

/// The one in status.
pub fn lineage(kubectl: &Kubectl, namespace: &str) -> Result<Option<String>> {
    let protection = kubectl.get(namespace, "pgx", "orders")?;
    let lineage =
        protection.and_then(|found| found["status"]["lineage"].as_str().map(str::to_owned));
    Ok(lineage)
}
