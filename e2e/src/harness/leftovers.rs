//! What a backup must never leave behind.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::Value;
use tokio_postgres::Client;

use super::{Database, Kubectl, story::LIMIT};

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
    wait(async || left(database).await).await
}

/// The part of [`none`] that one member can tell.
///
/// # Errors
/// Something stays.
pub async fn in_database(client: &Client) -> Result<()> {
    wait(async || left_in(client).await).await
}

/// The part of [`none`] that the API server can tell.
///
/// # Errors
/// Something stays.
pub async fn snapshots(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    wait(async || left_of_snapshots(kubectl, namespace)).await
}

async fn wait(left: impl AsyncFn() -> Result<Vec<String>>) -> Result<()> {
    let begin = Instant::now();
    loop {
        let left = left().await?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(begin.elapsed() < LIMIT, "left behind: {}", left.join(", "));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What is there now, or is not and should be.
///
/// # Errors
/// Database or cluster cannot be asked.
pub async fn left(database: &Database) -> Result<Vec<String>> {
    let mut left = left_in(&database.connect().await?).await?;
    left.extend(left_of_snapshots(&database.kubectl, &database.namespace)?);
    Ok(left)
}

async fn left_in(client: &Client) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for (what, ask, most) in [
        ("sessions in backup mode", SESSIONS, 0),
        ("replication slots", SLOTS, 1),
    ] {
        let found: i64 = client.query_one(ask, &[]).await?.get(0);
        if found > most {
            left.push(format!("{what}: {found}"));
        }
    }
    Ok(left)
}

fn left_of_snapshots(kubectl: &Kubectl, namespace: &str) -> Result<Vec<String>> {
    let mut left = Vec::new();
    let backups = kubectl.list(namespace, "pgb")?;
    let expected: BTreeSet<_> = backups.iter().flat_map(counted).collect();
    let names = |objects: &[Value], path: &str| -> BTreeSet<String> {
        let name = |it: &Value| it.pointer(path)?.as_str().map(str::to_owned);
        objects.iter().filter_map(name).collect()
    };
    let snapshots = kubectl.list(namespace, "volumesnapshots")?;
    let contents = kubectl.snapshot_contents(namespace)?;
    for (what, there) in [
        ("VolumeSnapshot", names(&snapshots, "/metadata/name")),
        (
            "VolumeSnapshotContent of",
            names(&contents, "/spec/volumeSnapshotRef/name"),
        ),
    ] {
        left.extend(there.difference(&expected).map(|it| format!("{what} {it}")));
        let missing = expected.difference(&there);
        left.extend(missing.map(|it| format!("no {what} {it}")));
    }
    if contents.len() > expected.len() {
        left.push(format!("contents: {}", contents.len()));
    }
    Ok(left)
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
