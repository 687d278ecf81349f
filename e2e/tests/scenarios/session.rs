//! Backup mode ends by itself, and what ends it early costs an attempt, not the backup.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{
    Database, Deployment, Faults, Kubectl, Watching, condition, has, said, story, until,
};
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::{failover, setup::scenario_alone};

/// The policy's ceiling.
const CEILING: Duration = Duration::from_secs(15);
/// How long the agent may take to notice and to say so.
const LATE: Duration = Duration::from_secs(9);
/// When the driver cuts, in milliseconds after it was asked: too late for everybody, and nobody can stop it.
const TOO_LATE: u64 = 30_000;
/// The agent's session in backup mode.
const SESSIONS: &str = "FROM pg_stat_activity WHERE application_name = 'highwater-backup'";

#[tokio::test(flavor = "multi_thread")]
async fn backup_mode_ends_by_itself_and_a_lost_session_costs_an_attempt() {
    scenario_alone("session", async |deployment, namespace| {
        tell(&deployment, &namespace).await
    })
    .await;
}

async fn tell(deployment: &Deployment, namespace: &str) -> Result<()> {
    let kubectl = &deployment.kubectl;
    let ceiling = format!("{}s", CEILING.as_secs());
    let policy = json!({"spec": {"deadlines": {"backupMode": ceiling}}});
    kubectl.patch(namespace, ("pgp", "gold"), &policy)?;
    let (orders, writer, _) = story::protected(deployment, namespace).await?;
    terminated(&orders).await?;
    too_long(&orders).await?;
    writer.stop().await?;
    unprotected(&orders).await
}

/// One annotation less: agent and slot go, backups stay.
async fn unprotected(orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let before = kubectl.list(namespace, "pgb")?.len();
    orders.annotate("highwater.dev/policy", "")?;
    let protection = ("pgx", "orders");
    let dropped = ("SlotsDropped", "True");
    condition(kubectl, namespace, protection, dropped, story::LIMIT).await?;
    let ended = condition(
        kubectl,
        namespace,
        protection,
        ("Active", "False"),
        story::LIMIT,
    )
    .await?;
    ensure!(
        reason(&ended, "Active") == Some("Unprotected"),
        "{}",
        ended["status"]["conditions"]
    );
    until("the agent gone", story::LIMIT, || {
        let agents = kubectl.list(namespace, "deployments")?;
        Ok(agents.is_empty().then_some(()))
    })
    .await?;
    let client = orders.connect().await?;
    let slots = "SELECT count(*) FROM pg_replication_slots";
    let slots: i64 = client.query_one(slots, &[]).await?.get(0);
    let after = kubectl.list(namespace, "pgb")?.len();
    ensure!(
        slots == 0 && before == after,
        "{slots} slots, {before} backups became {after}"
    );
    only_snapshots_that_count(kubectl, namespace, before).await
}

/// Somebody terminates the session while the snapshot is being cut.
async fn terminated(orders: &Database) -> Result<()> {
    let faults = cut_too_late(&orders.namespace)?;
    let (mut watching, name) = in_backup_mode(orders, "terminated").await?;
    drop(faults);
    let client = orders.connect().await?;
    let ended = format!("SELECT count(pg_terminate_backend(pid)) {SESSIONS}");
    let ended: i64 = client.query_one(&ended, &[]).await?.get(0);
    ensure!(ended == 1, "{ended} sessions in backup mode");
    second_attempt(&mut watching, &name, "SessionLost").await?;
    only_snapshots_that_count(&orders.kubectl, &orders.namespace, 2).await
}

/// Nobody cuts, and no controller is there: the agent itself leaves backup mode, at the ceiling and not before.
async fn too_long(orders: &Database) -> Result<()> {
    let (kubectl, namespace) = (&orders.kubectl, &orders.namespace);
    let client = orders.connect().await?;
    let faults = cut_too_late(namespace)?;
    let begin = Instant::now();
    let (mut watching, name) = in_backup_mode(orders, "too-long").await?;
    scale_controller(kubectl, 0)?;
    let ended = ends_by_itself(&client, &mut watching, &name, begin).await;
    drop(faults);
    // Whoever comes next needs one, however this ended.
    scale_controller(kubectl, 2)?;
    ended?;
    second_attempt(&mut watching, &name, "BackupModeTooLong").await?;
    only_snapshots_that_count(kubectl, namespace, 3).await
}

/// At the ceiling, by what the agent says and by its sessions.
async fn ends_by_itself(
    client: &Client,
    watching: &mut Watching,
    name: &str,
    begin: Instant,
) -> Result<()> {
    let ask = format!("SELECT count(*) {SESSIONS}");
    let open: i64 = client.query_one(&ask, &[]).await?.get(0);
    ensure!(open == 1, "{open} sessions in backup mode");
    let ended = watching
        .wait("the end of backup mode", CEILING + LATE, |backup| {
            backup["metadata"]["name"] == *name && has(backup, "Session", "False")
        })
        .await?;
    let took = begin.elapsed();
    ensure!(
        reason(&ended, "Session") == Some("BackupModeTooLong"),
        "{}",
        ended["status"]["conditions"]
    );
    ensure!(
        took >= CEILING,
        "backup mode ended after {took:?}, before the ceiling"
    );
    let none = format!("SELECT count(*) = 0 {SESSIONS}");
    failover::until_async("no session in backup mode", client, &none).await?;
    println!("backup mode ended by itself after {took:.1?}, the ceiling is {CEILING:?}");
    Ok(())
}

fn cut_too_late(namespace: &str) -> Result<Faults> {
    let volume = format!("{namespace}/data-orders-0");
    Faults::set(&json!({"volume": volume, "delayBeforeCut": TOO_LATE}))
}

/// Asks for a backup and waits until it is in backup mode, with its snapshot made and not cut.
async fn in_backup_mode(orders: &Database, value: &str) -> Result<(Watching, String)> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let mut watching = Watching::start(kubectl, namespace, &["pgb"])?;
    orders.annotate("highwater.dev/backup-now", value)?;
    let begun = watching
        .wait("backup mode", story::LIMIT, |backup| {
            has(backup, "Session", "True") && !has(backup, "Stopped", "True")
        })
        .await?;
    let name = begun["metadata"]["name"].as_str().context("no name")?;
    until("its snapshot", story::LIMIT, || {
        let snapshots = kubectl.list(namespace, "volumesnapshots")?;
        let ours = |snapshot: &Value| {
            let of = snapshot["metadata"]["name"].as_str().unwrap_or_default();
            of.starts_with(name)
        };
        Ok(snapshots.iter().any(ours).then_some(()))
    })
    .await?;
    Ok((watching, name.to_owned()))
}

/// The first attempt is void for `why`, and the second completes the backup.
async fn second_attempt(watching: &mut Watching, name: &str, why: &str) -> Result<()> {
    let ended = watching
        .wait("the backup's end", story::LIMIT, |backup| {
            backup["metadata"]["name"] == *name
                && (has(backup, "Completed", "True") || has(backup, "Completed", "False"))
        })
        .await?;
    let attempt = &ended["status"]["attempt"]["number"];
    println!("{name}: {why}, then attempt {attempt} completed it");
    ensure!(
        has(&ended, "Completed", "True") && *attempt == 2,
        "attempt {attempt}: {}",
        ended["status"]["conditions"]
    );
    Ok(())
}

fn reason<'a>(object: &'a Value, condition: &str) -> Option<&'a str> {
    said(object, condition)?["reason"].as_str()
}

/// What was cut for a void attempt goes, however late it was cut.
async fn only_snapshots_that_count(kubectl: &Kubectl, namespace: &str, count: usize) -> Result<()> {
    until("only the snapshots that count", story::LIMIT, || {
        let left = kubectl.snapshot_contents(namespace)?.len();
        let snapshots = kubectl.list(namespace, "volumesnapshots")?.len();
        Ok((left == count && snapshots == count).then_some(()))
    })
    .await
}

fn scale_controller(kubectl: &Kubectl, replicas: u8) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    let scale = ["scale", "deployment", "highwater", &replicas];
    kubectl.run(&[&["-n", "highwater-system"], &scale[..]].concat())?;
    Ok(())
}
