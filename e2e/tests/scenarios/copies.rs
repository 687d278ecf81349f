//! Clones that are protected are databases of their own, and a namespace that goes does not take the backups with it.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{Database, Deployment, Kubectl, Ledger, has, story, until};
use serde_json::Value;

use super::setup::scenario;

/// How long a namespace may take to go: agents and databases stop in it.
const GOING: Duration = Duration::from_secs(180);
/// Of one base: each ends recovery on timeline 2, with another history of the same name.
const CLONES: [i64; 3] = [1, 2, 3];
/// Rows that each gets of its own, below 0.
const OWN: i64 = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn protected_clones_ship_beside_their_source_and_a_namespace_goes_without_its_backups() {
    scenario("copies", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let (orders, writer, _) = story::protected(deployment, namespace).await?;
    story::commits(&writer, 200).await?;
    let names = CLONES.map(|number| (format!("to-{number}"), format!("clone-{number}")));
    for (name, clone) in &names {
        let source = (name.as_str(), "{protection: orders}");
        story::request_restore(kubectl, namespace, source, clone, "{latest: {}}")?;
    }
    for (name, _) in &names {
        story::completed(kubectl, namespace, name).await?;
    }
    protect_the_clones(&orders).await?;

    let least = writer.ledger.acknowledged();
    story::commits(&writer, 700).await?;
    let from = ("second", "orders");
    story::restore(kubectl, namespace, from, "again", "{latest: {}}").await?;
    let again = Database::existing(kubectl, namespace, "again");
    let found = Ledger::check(&again.connect().await?, least, writer.ledger.sent()).await?;
    println!("the source beside its protected clones: rows 1 to {found}, {least} are owed");
    writer.stop().await?;
    a_clone_restores_to_its_own(&orders).await?;
    the_namespace_goes(kubectl, namespace).await
}

/// The timeline 2 of each is written to, shipped and backed up, in a lineage of its own.
async fn protect_the_clones(orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    for number in CLONES {
        let clone = Database::existing(kubectl, namespace, &format!("clone-{number}"));
        let rows = (-number * OWN, -number * OWN + OWN - 1);
        let insert = format!(
            "INSERT INTO ledger SELECT generate_series({}, {})",
            rows.0, rows.1
        );
        clone.connect().await?.batch_execute(&insert).await?;
        clone.annotate("highwater.dev/policy", "gold")?;
    }
    let mut lineages = BTreeSet::from([lineage(kubectl, namespace, "orders")?]);
    for number in CLONES {
        let name = format!("clone-{number}");
        let first = until("the clone's backup", story::LIMIT, || {
            let backups = kubectl.list(namespace, "pgb")?;
            let its = |backup: &&Value| {
                backup["spec"]["protection"] == *name && has(backup, "Completed", "True")
            };
            Ok(backups.iter().find(its).cloned())
        })
        .await?;
        let its = first["status"]["session"]["lineage"].as_str();
        let its = its.context("no lineage")?.to_owned();
        ensure!(lineages.insert(its), "{name} ships to one of {lineages:?}");
    }
    Ok(())
}

fn lineage(kubectl: &Kubectl, namespace: &str, protection: &str) -> Result<String> {
    let found = kubectl.get(namespace, "pgx", protection)?;
    let found = found.context("no protection")?;
    let lineage = found["status"]["lineage"].as_str().context("no lineage")?;
    Ok(lineage.to_owned())
}

/// With the rows that it alone has.
async fn a_clone_restores_to_its_own(orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let from = ("of-a-clone", "clone-2");
    story::restore(kubectl, namespace, from, "second", "{latest: {}}").await?;
    let client = Database::existing(kubectl, namespace, "second")
        .connect()
        .await?;
    let ask = "SELECT count(*), min(n)::int8, max(n)::int8 FROM ledger WHERE n < 0";
    let row = client.query_one(ask, &[]).await?;
    let found: (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    ensure!(found == (OWN, -2 * OWN, -OWN - 1), "{found:?}");
    Ok(())
}

/// No credentials are left to ask the bucket with: the namespace goes all the same, and what it backed up stays.
async fn the_namespace_goes(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let before = retained(kubectl, namespace)?;
    let clones_and_source = CLONES.len() + 1;
    ensure!(
        before.len() == clones_and_source,
        "{} contents are retained",
        before.len()
    );
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
