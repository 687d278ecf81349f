//! The peer: what anybody would write who wants a snapshot of a database in backup mode, and nothing else. No Highwater.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{TryStreamExt, future::try_join_all, pin_mut};
use highwater::csi::{
    VolumeSnapshot, VolumeSnapshotContent, VolumeSnapshotSource, VolumeSnapshotSpec,
};
use highwater_e2e::harness::postgres;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams, WatchEvent, WatchParams},
};

use crate::place::Subject;

/// The longest that it may take.
const LIMIT: Duration = Duration::from_secs(180);

/// What it took, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bare {
    /// From the return of `pg_backup_start` to that of `pg_backup_stop`.
    pub session: f64,
    /// From before the VolumeSnapshots are sent until the creation time of each content was read.
    pub cut: f64,
}

/// Runs it for each database at once.
pub async fn run(client: &Client, subjects: &[Subject], round: u32) -> Result<Vec<Bare>> {
    let scripts = subjects.iter().map(async |subject| {
        let script = tokio::time::timeout(LIMIT, script(client, subject, round)).await;
        let name = &subject.database.name;
        script.with_context(|| format!("the bare script of {name} takes too long"))?
    });
    try_join_all(scripts).await
}

async fn script(client: &Client, subject: &Subject, round: u32) -> Result<Bare> {
    let namespace = &subject.database.namespace;
    let snapshots = Api::<VolumeSnapshot>::namespaced(client.clone(), namespace);
    let contents = Api::<VolumeSnapshotContent>::all(client.clone());
    let one = ListParams::default().limit(1);
    let now = contents.list_metadata(&one).await?;
    let now = now.metadata.resource_version;
    let now = now.context("a list has no version")?;
    let changes = contents.watch(&WatchParams::default(), &now).await?;
    pin_mut!(changes);
    let session = subject.database.connect().await?;

    let (start, stop) = calls(&postgres::major());
    session.query_one(start, &[]).await?;
    let started = Instant::now();
    let make = async |claim: &String| {
        let name = name(subject, claim, round);
        let snapshot = VolumeSnapshot::new(&name, of(claim));
        snapshots.create(&PostParams::default(), &snapshot).await
    };
    let made = try_join_all(subject.claims.iter().map(make)).await?;
    let mut open: BTreeSet<_> = made.iter().filter_map(ResourceExt::uid).collect();
    while !open.is_empty() {
        let change = changes.try_next().await?.context("a watch ended")?;
        if let WatchEvent::Added(content) | WatchEvent::Modified(content) = change
            && let Some(uid) = cut(&content)
        {
            open.remove(uid);
        }
    }
    let cut = started.elapsed().as_secs_f64();
    session.query_one(stop, &[]).await?;
    let session = started.elapsed().as_secs_f64();
    Ok(Bare { session, cut })
}

/// Takes away what it made, and waits until that is gone.
pub fn forget(subjects: &[Subject], round: u32) -> Result<()> {
    for subject in subjects {
        let names = subject.claims.iter().map(|it| name(subject, it, round));
        let names: Vec<_> = names.collect();
        let mut args = vec!["-n", &subject.database.namespace, "delete"];
        args.extend(["volumesnapshot", "--timeout=180s"]);
        args.extend(names.iter().map(String::as_str));
        subject.database.kubectl.run(&args)?;
    }
    Ok(())
}

fn name(subject: &Subject, claim: &str, round: u32) -> String {
    format!("bare-{}-{round}-{claim}", subject.database.name)
}

fn of(claim: &str) -> VolumeSnapshotSpec {
    VolumeSnapshotSpec {
        source: VolumeSnapshotSource {
            persistent_volume_claim_name: Some(claim.to_owned()),
            volume_snapshot_content_name: None,
        },
        volume_snapshot_class_name: None,
    }
}

/// The UID of the VolumeSnapshot that a content belongs to, once it is cut.
fn cut(content: &VolumeSnapshotContent) -> Option<&str> {
    let at = content.status.as_ref()?.creation_time?;
    let uid = content.spec.volume_snapshot_ref.uid.as_deref();
    uid.filter(|_| at > 0)
}

/// What begins and ends backup mode in this version.
fn calls(major: &str) -> (&'static str, &'static str) {
    match major {
        "14" => (
            "SELECT pg_start_backup('bare', true, false)",
            "SELECT pg_stop_backup(false, false)",
        ),
        _ => (
            "SELECT pg_backup_start('bare', true)",
            "SELECT pg_backup_stop(false)",
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_content_is_cut_when_it_says_when() {
        let content = |status: serde_json::Value| -> VolumeSnapshotContent {
            serde_json::from_value(json!({
                "metadata": {"name": "c"}, "status": status,
                "spec": {"volumeSnapshotRef": {"uid": "u"}, "driver": "d", "deletionPolicy": "Delete", "source": {}},
            }))
            .unwrap()
        };
        assert_eq!(cut(&content(json!({"creationTime": 1}))), Some("u"));
        assert_eq!(cut(&content(json!({"creationTime": 0}))), None);
        assert_eq!(cut(&content(json!({}))), None);
        assert_eq!(cut(&content(json!(null))), None);
    }
}
