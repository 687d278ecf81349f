//! A namespace that is lost with everything in it: its database comes back in another one from nothing but the bucket, if a
//! cluster admin says so.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Kubectl, Ledger, PASSWORD, condition, fill, has, said, secrets, story,
    until,
};
use serde_json::Value;

use super::setup::scenario;

/// How long a namespace may take to go: agents and databases stop in it.
const GOING: Duration = Duration::from_secs(180);
/// Where it comes back.
const NEW: &str = "e2e-lost-found";

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_namespace_comes_back_from_the_bucket_alone() {
    scenario("lost", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, lost: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let (orders, writer, _) = story::protected(deployment, lost).await?;
    story::commits(&writer, 200).await?;
    let least = writer.ledger.acknowledged();
    archived(&orders).await?;
    let ledger = writer.ledger.clone();
    writer.stop().await?;
    lose(kubectl, lost).await?;

    deployment.namespace(NEW)?;
    stateful_set_without_pods(deployment, NEW)?;
    let name = format!("{lost}-orders");
    plan_alone(kubectl, &name).await?;
    not_without_a_word(kubectl, &name).await?;
    let allow = "highwater.dev/import-from=main";
    kubectl.run(&["annotate", "namespace", NEW, allow])?;
    let source = format!("{{archive: {{archive: main, name: {name}}}}}");
    let from = ("found", source.as_str());
    story::request_restore(kubectl, NEW, from, "found", "{latest: {}}")?;
    story::completed(kubectl, NEW, "found").await?;

    let found = Database::existing(kubectl, NEW, "found");
    let rows = Ledger::check(&found.connect().await?, least, ledger.sent()).await?;
    println!("from the bucket alone: rows 1 to {rows}, {least} are owed");
    until("only the result left", story::LIMIT, || {
        let left = kubectl.list(NEW, "pods,serviceaccounts,rolebindings")?;
        let names = left.iter().filter_map(|it| it["metadata"]["name"].as_str());
        let mut ours = names.filter(|name| name.starts_with("found-") && *name != "found-0");
        Ok(ours.next().is_none().then_some(()))
    })
    .await?;
    secrets::none_told(kubectl, NEW, &deployment.system)?;
    kubectl.run(&["delete", "namespace", NEW, "--wait=false"])?;
    Ok(())
}

fn request(kubectl: &Kubectl, name: &str, archive_name: &str, rest: &str) -> Result<()> {
    let source = format!("{{archive: {{archive: main, name: {archive_name}}}}}");
    story::request(kubectl, NEW, (name, &source), rest)
}

/// Waits until all that the database has flushed by now is in the archive.
pub async fn archived(orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let client = orders.connect().await?;
    let flushed = "SELECT pg_current_wal_flush_lsn()::text";
    let lsn: String = client.query_one(flushed, &[]).await?.get(0);
    let mut tried = 0;
    until("all of it in the archive", story::LIMIT, || {
        let name = format!("covered-{tried}");
        let found = kubectl.get(namespace, "pgr", &name)?;
        let is = |status: &str| {
            found
                .as_ref()
                .is_some_and(|it| has(it, "Completed", status))
        };
        if found.is_none() || is("False") {
            tried += 1;
            let asked = (format!("covered-{tried}"), "{protection: orders}");
            let rest = format!("target: {{lsn: {lsn}, inclusive: false}}, planOnly: true");
            story::request(kubectl, namespace, (&asked.0, asked.1), &rest)?;
        }
        Ok(is("True").then_some(()))
    })
    .await
}

/// Everything that the cluster knows of the database goes: objects with the namespace, and what outlives it.
async fn lose(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    kubectl.run(&["delete", "namespace", namespace, "--wait=false"])?;
    until("the namespace gone", GOING, || {
        let left = kubectl.run(&["get", "namespace", namespace, "--ignore-not-found"])?;
        Ok(left.trim().is_empty().then_some(()))
    })
    .await?;
    let contents = kubectl.snapshot_contents(namespace)?;
    ensure!(!contents.is_empty(), "no content outlived its namespace");
    for content in contents {
        let name = content["metadata"]["name"].as_str().context("no name")?;
        kubectl.run(&["delete", "volumesnapshotcontent", name])?;
    }
    Ok(())
}

/// As whoever keeps manifests has it: what it brings and the backup has not are literal values of variables.
pub fn stateful_set_without_pods(deployment: &Deployment, namespace: &str) -> Result<()> {
    let shape = include_str!("../../manifests/postgres.yaml").replace("replicas: 1", "replicas: 0");
    let images = &deployment.images;
    let values = [
        ("NAME", "orders"),
        ("NAMESPACE", namespace),
        ("PASSWORD", PASSWORD),
        ("POSTGRES_IMAGE", images.postgres.as_str()),
        ("PULL_POLICY", &images.pull_policy),
        ("STORAGE_CLASS", "highwater-btrfs"),
    ];
    deployment.kubectl.apply(&fill(&shape, &values)?)?;
    Ok(())
}

/// What is in the bucket who has its credentials may know, and what is not there is said.
async fn plan_alone(kubectl: &Kubectl, archive_name: &str) -> Result<()> {
    request(kubectl, "shown", archive_name, "planOnly: true")?;
    let shown = story::completed(kubectl, NEW, "shown").await?;
    let reason = &said(&shown, "Completed").context("not decided")?["reason"];
    ensure!(reason == "PlanOnly", "{shown}");
    request(kubectl, "unknown", "no-such-database", "planOnly: true")?;
    let unknown = decided(kubectl, "unknown").await?;
    let reason = &said(&unknown, "Completed").context("not decided")?["reason"];
    ensure!(reason == "NothingArchived", "{unknown}");
    Ok(())
}

/// Who may write a bucket could name any snapshot in it.
async fn not_without_a_word(kubectl: &Kubectl, archive_name: &str) -> Result<()> {
    let into = "into: {volumes: {namePrefix: taken}}";
    request(kubectl, "taken", archive_name, into)?;
    let taken = decided(kubectl, "taken").await?;
    let said = said(&taken, "Completed").context("not decided")?;
    ensure!(said["reason"] == "ImportNotAllowed", "{said}");
    let message = said["message"].as_str().unwrap_or_default();
    let line = format!("kubectl annotate namespace {NEW} highwater.dev/import-from=main");
    ensure!(message.contains(&line), "{message}");
    let made = kubectl.snapshot_contents(NEW)?;
    ensure!(made.is_empty(), "imported all the same: {made:?}");
    Ok(())
}

async fn decided(kubectl: &Kubectl, name: &str) -> Result<Value> {
    let refused = ("Completed", "False");
    let restore = condition(kubectl, NEW, ("pgr", name), refused, story::LIMIT).await?;
    ensure!(has(&restore, "Completed", "False"), "{restore}");
    Ok(restore)
}
