//! What a backup must never leave behind.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::Value;
use tokio_postgres::Client;

use super::{Database, Kubectl, story::LIMIT, until};

/// The agent's session in backup mode.
const SESSIONS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'highwater-backup'";
const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots";

/// Waits until nothing is there of attempts that do not count: no session in backup mode, no slot but the one that holds
/// WAL, and no VolumeSnapshot or content of a backup but those in the status of a completed one.
///
/// # Errors
/// Something stays.
pub async fn none(database: &Database) -> Result<()> {
    in_database(&database.connect().await?).await?;
    let (kubectl, namespace) = (&database.kubectl, database.namespace.as_str());
    snapshots(kubectl, namespace).await
}

/// The part of [`none`] that one member can tell.
///
/// # Errors
/// Something stays.
pub async fn in_database(client: &Client) -> Result<()> {
    let [sessions, slots] = [SESSIONS, SLOTS];
    let begin = std::time::Instant::now();
    loop {
        let open: i64 = client.query_one(sessions, &[]).await?.get(0);
        if open == 0 {
            break;
        }
        ensure!(begin.elapsed() < LIMIT, "{open} sessions in backup mode");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let held: i64 = client.query_one(slots, &[]).await?.get(0);
    ensure!(held <= 1, "{held} replication slots");
    Ok(())
}

/// The part of [`none`] about VolumeSnapshots and contents.
///
/// # Errors
/// Something stays.
pub async fn snapshots(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    until("only the snapshots that count", LIMIT, || {
        let backups = kubectl.list(namespace, "pgb")?;
        let expected: BTreeSet<_> = backups.iter().flat_map(counted).collect();
        let snapshots = kubectl.list(namespace, "volumesnapshots")?;
        let there = snapshots
            .iter()
            .filter_map(|it| it["metadata"]["name"].as_str());
        let there: BTreeSet<_> = there.map(str::to_owned).collect();
        let contents = kubectl.snapshot_contents(namespace)?.len();
        Ok((there == expected && contents == expected.len()).then_some(()))
    })
    .await
}

/// The VolumeSnapshots of a backup that is completed.
fn counted(backup: &Value) -> Vec<String> {
    if !super::has(backup, "Completed", "True") {
        return Vec::new();
    }
    let volumes = backup["status"]["volumes"].as_array();
    let name = |volume: &Value| volume["volumeSnapshot"].as_str().map(str::to_owned);
    volumes.into_iter().flatten().filter_map(name).collect()
}
