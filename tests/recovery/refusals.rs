//! What does not belong together is not started.

use std::fs;

use highwater::{
    postgres::{Lsn, SystemIdentifier},
    recovery::{ArchiveError, base, job::JobError},
};
use serde_json::json;

use crate::{Restore, files, fixture};

#[tokio::test]
async fn another_label_than_the_manifests_is_refused() {
    let fixture = fixture().await;
    let restore = Restore::new("label", fixture.end, json!(null)).await;
    let fetch = &restore.job.fetch;
    let read = async || base(&fixture.spec, &fetch.mounted, &fetch.plan).await;
    let [label] = files(&fetch.mounted.directory, "backup_label")
        .try_into()
        .unwrap();
    let whole = fs::read(&label).unwrap();
    for at in [0, whole.len() / 2, whole.len() - 1] {
        read().await.unwrap();
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&label, changed).unwrap();
        let error = read().await.unwrap_err();
        assert_eq!(error.reason(), "ArchiveCorrupt", "{error}");
        assert!(matches!(error, ArchiveError::OtherContent(_)), "{error}");
        assert!(error.to_string().contains("backup_label"), "{error}");
        fs::write(&label, &whole).unwrap();
    }
}

#[tokio::test]
async fn another_clusters_volumes_are_refused() {
    let end = fixture().await.end;
    let mut restore = Restore::new("other", end, json!(null)).await;
    let right = restore.job.source.system_identifier;
    restore.job.source.system_identifier = SystemIdentifier::new(1);
    let error = restore.run().await.unwrap_err();
    assert!(
        matches!(error, JobError::OtherCluster { found, .. } if found == right),
        "{error}"
    );
    assert!(!restore.pgdata().join("postmaster.opts").exists());
    // It is only the identifier: with the right one the same directory is recovered.
    restore.job.source.system_identifier = right;
    restore.run().await.unwrap();
    assert_eq!(restore.rows().await.0, 5000);
}

/// A driver that cut after it said so, as pg_control shows by a checkpoint behind the backup's end.
#[tokio::test]
async fn a_snapshot_that_was_cut_at_another_time_is_refused() {
    let end = fixture().await.end;
    let mut restore = Restore::new("late", end, json!(null)).await;
    let right = std::mem::replace(&mut restore.job.source.stop_lsn, Lsn::new(1));
    let error = restore.run().await.unwrap_err();
    assert_eq!(error.reason(), "CutOutsideBackupMode", "{error}");
    assert!(!restore.pgdata().join("recovery.signal").exists());
    restore.job.source.stop_lsn = right;
    restore.run().await.unwrap();
    assert_eq!(restore.rows().await.0, 5000);
}

/// By its label the backup is of a standby: then pg_control must say that it is one, and the plan must reach the backup's end,
/// which PostgreSQL would not look for.
#[tokio::test]
async fn what_is_no_copy_of_a_standby_is_refused() {
    let end = fixture().await.end;
    let mut restore = Restore::new("promoted", end, json!(null)).await;
    let right = restore.job.texts.backup_label.clone();
    let label = String::from_utf8(right.clone()).unwrap();
    let label = label.replace("BACKUP FROM: primary", "BACKUP FROM: standby");
    restore.job.texts.backup_label = label.into_bytes();
    let error = restore.run().await.unwrap_err();
    assert_eq!(error.reason(), "StandbyPromoted", "{error}");
    let stop = restore.job.source.stop_lsn;
    let before = Lsn::new(stop.get() - 1);
    let reached = std::mem::replace(&mut restore.job.fetch.plan.wal_to, before);
    let error = restore.run().await.unwrap_err();
    assert_eq!(error.reason(), "TargetBeforeWindow", "{error}");
    assert!(!restore.pgdata().join("recovery.signal").exists());
    restore.job.fetch.plan.wal_to = reached;
    restore.job.texts.backup_label = right;
    restore.run().await.unwrap();
    assert_eq!(restore.rows().await.0, 5000);
}
