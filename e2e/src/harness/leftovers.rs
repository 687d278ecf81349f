//! What a backup must never leave behind.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use highwater::api::annotations;
use serde_json::Value;
use tokio_postgres::Client;

use super::{Database, Kubectl, story::LIMIT};

/// The agent's session in backup mode.
const SESSIONS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'highwater-backup'";
const GROUPS: &str = "volumegroupsnapshots.groupsnapshot.storage.k8s.io";
const GROUP_CONTENTS: &str = "volumegroupsnapshotcontents.groupsnapshot.storage.k8s.io";
const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots";

/// Waits until nothing is there of attempts that do not count: no session in backup mode, no slot but the one that holds
/// WAL, no VolumeSnapshot, group or content of a backup but those in the status of a completed one, and no claim with the
/// label of a group.
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
    let backups = kubectl.list(namespace, "pgb")?;
    let snapshots: BTreeSet<_> = backups.iter().flat_map(counted).collect();
    let groups: BTreeSet<_> = backups.iter().filter_map(counted_group).collect();
    let mut group_contents = kubectl.list(namespace, GROUP_CONTENTS)?;
    group_contents.retain(|it| it["spec"]["volumeGroupSnapshotRef"]["namespace"] == namespace);
    let mut left = Vec::new();
    for (kind, there, name, expected) in [
        (
            "VolumeSnapshot",
            kubectl.list(namespace, "volumesnapshots")?,
            "/metadata/name",
            &snapshots,
        ),
        (
            "VolumeSnapshotContent of",
            kubectl.snapshot_contents(namespace)?,
            "/spec/volumeSnapshotRef/name",
            &snapshots,
        ),
        (
            "VolumeGroupSnapshot",
            kubectl.list(namespace, GROUPS)?,
            "/metadata/name",
            &groups,
        ),
        (
            "VolumeGroupSnapshotContent of",
            group_contents,
            "/spec/volumeGroupSnapshotRef/name",
            &groups,
        ),
    ] {
        left.extend(compare(kind, &there, name, expected));
    }
    let claims = kubectl.list(namespace, "pvc")?;
    let labelled =
        |claim: &&Value| !claim["metadata"]["labels"][annotations::GROUP_LABEL].is_null();
    let labelled = claims.iter().filter(labelled);
    left.extend(labelled.map(|claim| format!("group label on {}", claim["metadata"]["name"])));
    Ok(left)
}

/// Those that are there and not expected, or expected and not there.
fn compare(kind: &str, there: &[Value], name: &str, expected: &BTreeSet<String>) -> Vec<String> {
    let named = |it: &Value| it.pointer(name)?.as_str().map(str::to_owned);
    let names: BTreeSet<String> = there.iter().filter_map(named).collect();
    let more = names.difference(expected).map(|it| format!("{kind} {it}"));
    let missing = expected.difference(&names);
    let mut found: Vec<_> = more
        .chain(missing.map(|it| format!("no {kind} {it}")))
        .collect();
    if there.len() > names.len() {
        found.push(format!("two of {kind}"));
    }
    found
}

/// The VolumeGroupSnapshot that a completed backup was made by.
fn counted_group(backup: &Value) -> Option<String> {
    let status = &backup["status"];
    let group = &status["group"];
    let counts =
        super::has(backup, "Completed", "True") && group["attempt"] == status["attempt"]["number"];
    let name = group["volumeGroupSnapshot"].as_str().filter(|_| counts)?;
    Some(name.to_owned())
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
