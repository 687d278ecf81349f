//! What changes under a protected database: its password, its pod and that one's address; and an agent that ends in order,
//! with all WAL archived, and cannot run again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};
use highwater_e2e::harness::{
    Database, Deployment, PASSWORD, Watching, Writer, bucket, condition, measure, said, story,
    until,
};
use serde_json::{Value, json};

use super::{archives, failover, setup::scenario};

/// Within it an agent that cannot run is told.
const TOLD: Duration = Duration::from_secs(120);
/// The kubelet brings a Secret that changed into a pod within its sync period and the lifetime of its cache.
const LIMIT: Duration = Duration::from_secs(240);
const PODS: &str = "app.kubernetes.io/component";

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_and_a_new_address_are_followed_and_an_agent_that_cannot_run_is_told() {
    scenario("changes", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let orders = Database::create(deployment, namespace, "orders", "highwater-btrfs").await?;
    let client = orders.connect().await?;
    let role = format!("CREATE ROLE backup SUPERUSER LOGIN PASSWORD '{PASSWORD}'");
    client.batch_execute(&role).await?;
    login(&orders, PASSWORD)?;
    orders.annotate("highwater.dev/credentials", "backup")?;
    orders.annotate("highwater.dev/policy", "gold")?;
    story::first_backup(kubectl, namespace, "orders").await?;

    let before = orders.address()?;
    let rotated = format!("{PASSWORD}-rotated");
    let role = format!("ALTER ROLE backup PASSWORD '{rotated}'");
    client.batch_execute(&role).await?;
    login(&orders, &rotated)?;
    kubectl.run(&["-n", namespace, "delete", "pod", "orders-0"])?;
    orders.wait_ready().await?;
    let after = orders.address()?;
    ensure!(before != after, "the pod has the address {after} again");
    let writer = Writer::start(&after).await?;
    story::commits(&writer, 200).await?;
    let moved = writer.ledger.acknowledged();
    archives::archived(&orders, &orders.connect().await?).await?;
    println!("rows 1 to {moved} are archived from {after}, with the new password");

    cannot_run(deployment, &orders).await?;
    story::commits(&writer, 200).await?;
    let owed = writer.ledger.acknowledged();
    archives::archived(&orders, &orders.connect().await?).await?;
    let found = story::latest_holds(&orders, &writer.ledger, owed).await?;
    println!("after all of it: rows 1 to {found}, {owed} are owed");
    writer.stop().await.map(drop)
}

/// The Secret with which the agent connects.
fn login(orders: &Database, password: &str) -> Result<()> {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "backup", "namespace": orders.namespace},
        "stringData": {"username": "backup", "password": password},
    });
    orders.kubectl.apply(&secret.to_string())?;
    Ok(())
}

/// The end of WAL that nothing archives by itself: the tail interval is too long, and the segment is not full.
async fn unshipped(orders: &Database) -> Result<Lsn> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let policy = json!({"spec": {"wal": {"tailInterval": "1h"}}});
    kubectl.patch(namespace, ("pgp", "gold"), &policy)?;
    let client = orders.connect().await?;
    let begin = Instant::now();
    loop {
        let ask = "SELECT pg_current_wal_flush_lsn()::text";
        let end: String = client.query_one(ask, &[]).await?.get(0);
        let end: Lsn = end.parse()?;
        // Longer than the interval was before, and than the kubelet and a watch take.
        tokio::time::sleep(Duration::from_secs(8)).await;
        if !is_archived(orders, end)? {
            return Ok(end);
        }
        ensure!(begin.elapsed() < LIMIT, "tails are shipped all the time");
    }
}

/// Whether the bucket has a segment, or a tail of one, that reaches to `end`.
fn is_archived(orders: &Database, end: Lsn) -> Result<bool> {
    let size = SegmentSize::DEFAULT;
    let segment = SegmentName::containing(TimelineId::FIRST, end, size);
    let tails = format!("tail/00000001/{segment}/");
    let reaches = |key: &String| {
        let to = key.strip_prefix(&tails)?.split(['-', '.']).nth(1)?;
        Some(u64::from_str_radix(to, 16).ok()? >= size.offset(end))
    };
    let objects = bucket::objects(&orders.kubectl, &bucket::lineage(orders)?)?;
    let is_whole = |key: &String| key.starts_with(&format!("wal/00000001/{segment}."));
    Ok(objects
        .keys()
        .any(|key| is_whole(key) || reaches(key) == Some(true)))
}

/// The namespace has no room for the agent's pod.
async fn cannot_run(deployment: &Deployment, orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let quota = json!({
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "full", "namespace": namespace},
        "spec": {"hard": {"pods": "1"}},
    });
    kubectl.apply(&quota.to_string())?;
    let counts = |quota: &Value| quota["status"]["used"]["pods"].is_string();
    Watching::one(kubectl, namespace, "resourcequota", "full")?
        .wait("the quota counts", LIMIT, counts)
        .await?;
    let agent = failover::agent(orders)?;
    let unshipped = unshipped(orders).await?;
    let begin = Instant::now();
    kubectl.run(&["-n", namespace, "delete", "pod", &agent])?;
    ensure!(
        is_archived(orders, unshipped)?,
        "the agent ended without the tail up to {unshipped}"
    );
    let about = ("pgx", "orders");
    let told = condition(kubectl, namespace, about, ("Active", "False"), TOLD).await?;
    let took = begin.elapsed();
    let active = said(&told, "Active").context("it says nothing")?;
    ensure!(active["reason"] == "AgentNotRunning", "{active}");
    println!("told after {} s: {}", took.as_secs(), active["message"]);
    let controller = format!("{PODS}=controller");
    let metrics = measure::metrics(kubectl, &deployment.system, &controller)?.join("\n");
    let ours = format!("namespace=\"{namespace}\"");
    let running = metrics
        .lines()
        .find(|line| line.starts_with("highwater_agent_running{") && line.contains(&ours));
    let running = running.context("the controller does not tell highwater_agent_running")?;
    ensure!(running.ends_with(" 0"), "{running}");

    kubectl.run(&["-n", namespace, "delete", "resourcequota", "full"])?;
    // Its controller tries again less and less often, and at once after a change.
    let label = format!("{PODS}=agent");
    let touch = ["annotate", "replicaset", "-l", &label, "quota=gone"];
    until("the agent's ReplicaSet", LIMIT, || {
        kubectl.run(&[&["-n", namespace], &touch[..]].concat())?;
        Ok(Some(()))
    })
    .await?;
    condition(kubectl, namespace, about, ("Active", "True"), LIMIT).await?;
    let policy = json!({"spec": {"wal": {"tailInterval": "5s"}}});
    kubectl.patch(namespace, ("pgp", "gold"), &policy)
}
