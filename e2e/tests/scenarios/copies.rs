//! A clone that is protected is a database of its own, and a namespace that goes does not take the backups with it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{Database, Deployment, Kubectl, Ledger, Writer, has, story, until};
use serde_json::Value;

use super::setup::scenario;

/// How long a namespace may take to go: agents and databases stop in it.
const GOING: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn a_protected_clone_ships_beside_its_source_and_a_namespace_goes_without_its_backups() {
    scenario("copies", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let orders = Database::create(deployment, namespace, "orders", "highwater-btrfs").await?;
    let writer = Writer::start(&orders.address()?).await?;
    orders.annotate("highwater.dev/policy", "gold")?;
    story::first_backup(kubectl, namespace, "orders").await?;
    story::commits(&writer, 200).await?;
    let from = ("first", "orders");
    story::restore(kubectl, namespace, from, "clone", "{latest: {}}").await?;
    protect_the_clone(&orders).await?;

    // The clone ended recovery on timeline 2, and so does this one, with another history of the same name.
    let least = writer.ledger.acknowledged();
    story::commits(&writer, 700).await?;
    let from = ("second", "orders");
    story::restore(kubectl, namespace, from, "again", "{latest: {}}").await?;
    let again = Database::existing(kubectl, namespace, "again");
    let found = Ledger::check(&again.connect().await?, least, writer.ledger.sent()).await?;
    println!("the source beside its protected clone: rows 1 to {found}, {least} are owed");
    writer.stop().await?;
    the_namespace_goes(kubectl, namespace).await
}

/// Its timeline 2 is written to, shipped and backed up, in a lineage of its own.
async fn protect_the_clone(orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let clone = Database::existing(kubectl, namespace, "clone");
    let client = clone.connect().await?;
    client
        .batch_execute("INSERT INTO ledger SELECT generate_series(-1000, -1)")
        .await?;
    clone.annotate("highwater.dev/policy", "gold")?;
    let first = until("the clone's backup", story::LIMIT, || {
        let backups = kubectl.list(namespace, "pgb")?;
        let its = |backup: &&Value| {
            backup["spec"]["protection"] == "clone" && has(backup, "Completed", "True")
        };
        Ok(backups.iter().find(its).cloned())
    })
    .await?;
    let lineages = (
        lineage(kubectl, namespace, "orders")?,
        first["status"]["session"]["lineage"].clone(),
    );
    ensure!(
        lineages.1.is_string() && lineages.0 != lineages.1,
        "source and clone ship to {lineages:?}"
    );
    Ok(())
}

fn lineage(kubectl: &Kubectl, namespace: &str, protection: &str) -> Result<Value> {
    let found = kubectl.get(namespace, "pgx", protection)?;
    Ok(found.context("no protection")?["status"]["lineage"].clone())
}

/// No credentials are left to ask the bucket with: the namespace goes all the same, and what it backed up stays.
async fn the_namespace_goes(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let before = retained(kubectl, namespace)?;
    ensure!(before.len() == 2, "{} contents are retained", before.len());
    kubectl.run(&["-n", namespace, "delete", "secret", "bucket"])?;
    kubectl.run(&["delete", "namespace", namespace, "--wait=false"])?;
    until("the namespace gone", GOING, || {
        let left = kubectl.run(&["get", "namespace", namespace, "--ignore-not-found"])?;
        Ok(left.trim().is_empty().then_some(()))
    })
    .await?;
    let after = retained(kubectl, namespace)?;
    ensure!(before == after, "{before:?} became {after:?}");
    Ok(())
}

/// The contents of a namespace's snapshots that outlive them.
fn retained(kubectl: &Kubectl, namespace: &str) -> Result<Vec<String>> {
    let contents = kubectl.snapshot_contents(namespace)?;
    let retained = contents.iter().filter(|content| {
        content["spec"]["deletionPolicy"] == "Retain"
            && content["metadata"]["deletionTimestamp"].is_null()
    });
    let names =
        retained.filter_map(|content| content["metadata"]["name"].as_str().map(str::to_owned));
    Ok(names.collect())
}
