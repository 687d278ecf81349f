//! What must hold, read from the API server; nothing is taken from what the controller says.

use anyhow::{Context as _, Result, ensure};
use highwater::{
    api::{PgBackup, annotations},
    csi::{DeletionPolicy, VolumeSnapshot, VolumeSnapshotContent},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::{
    fixture::{Fixture, VOLUMES},
    wait::{Violation, until},
};

impl Fixture {
    /// Everything that bears the backup's names, whatever is written down of it.
    pub async fn snapshots(
        &self,
        backup: &PgBackup,
    ) -> Result<(Vec<VolumeSnapshot>, Vec<VolumeSnapshotContent>)> {
        let uid = backup.uid().context("no UID")?;
        let prefix = format!("{}-{}-", backup.name_any(), &uid[..8]);
        let everything = ListParams::default();
        let mut snapshots = self.api::<VolumeSnapshot>().list(&everything).await?.items;
        snapshots.retain(|snapshot| snapshot.name_any().starts_with(&prefix));
        let contents = Api::<VolumeSnapshotContent>::all(self.client.clone());
        let mut contents = contents.list(&everything).await?.items;
        contents.retain(|content| {
            let of = &content.spec.volume_snapshot_ref;
            let named = of
                .name
                .as_ref()
                .is_some_and(|name| name.starts_with(&prefix));
            named && of.namespace.as_deref() == Some(&self.namespace)
        });
        Ok((snapshots, contents))
    }

    /// Before `pg_backup_start` returned, no snapshot of the attempt may be there.
    pub async fn require_no_snapshots_of(&self, backup: &PgBackup, attempt: u32) -> Result<()> {
        let attempt = attempt.to_string();
        let (snapshots, _) = self.snapshots(backup).await?;
        let early = snapshots
            .iter()
            .find(|s| s.labels().get(annotations::ATTEMPT_LABEL) == Some(&attempt));
        match early {
            None => Ok(()),
            Some(early) => Err(Violation(format!(
                "VolumeSnapshot {} was made before the session of its attempt",
                early.name_any()
            ))
            .into()),
        }
    }

    pub async fn require_nothing_left(&self, backup: &PgBackup) -> Result<()> {
        let (snapshots, contents) = self.snapshots(backup).await?;
        let contents: Vec<_> = contents.iter().map(ResourceExt::name_any).collect();
        ensure!(
            snapshots.is_empty() && contents.is_empty(),
            "left behind: {} VolumeSnapshots, contents {contents:?}",
            snapshots.len(),
        );
        Ok(())
    }

    /// Every snapshot is still known to the cluster, and stays with its content.
    pub async fn require_kept(&self, backup: &PgBackup) -> Result<()> {
        let contents = self.snapshots(backup).await?.1;
        ensure!(
            contents.len() == VOLUMES,
            "{} contents left",
            contents.len()
        );
        for content in &contents {
            ensure!(content.metadata.deletion_timestamp.is_none());
            ensure!(content.spec.deletion_policy == DeletionPolicy::Retain);
        }
        Ok(())
    }

    /// Removes what a test has kept.
    pub async fn discard(&self, backup: &PgBackup) -> Result<()> {
        let (snapshots, contents) = self.snapshots(backup).await?;
        let api = Api::<VolumeSnapshotContent>::all(self.client.clone());
        let patch = json!({"spec": {"deletionPolicy": "Delete"}});
        for content in &contents {
            let name = content.name_any();
            api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await?;
            api.delete(&name, &DeleteParams::default()).await?;
        }
        for snapshot in &snapshots {
            self.api::<VolumeSnapshot>()
                .delete(&snapshot.name_any(), &DeleteParams::default())
                .await?;
        }
        until("what was kept is gone", || async {
            Ok(self.require_nothing_left(backup).await.ok())
        })
        .await
    }

    /// One snapshot and one content for each volume, of the attempt that counts, ready, Retain, and nothing else.
    pub async fn require_complete(&self, backup: &PgBackup) -> Result<()> {
        let status = backup.status.as_ref().context("no status")?;
        let attempt = status
            .attempt
            .as_ref()
            .context("no attempt")?
            .number
            .to_string();
        ensure!(
            status.volumes.len() == VOLUMES && status.volumes.iter().all(|v| v.ready && v.retained),
            "not all volumes are ready and retained: {:?}",
            status.volumes
        );
        let (snapshots, contents) = self.snapshots(backup).await?;
        ensure!(
            snapshots.len() == VOLUMES && contents.len() == VOLUMES,
            "{} VolumeSnapshots and {} contents",
            snapshots.len(),
            contents.len()
        );
        for volume in &status.volumes {
            let uid = volume.volume_snapshot_uid.as_ref();
            let snapshot = snapshots
                .iter()
                .find(|s| s.metadata.uid.as_ref() == uid)
                .context("a volume's VolumeSnapshot is not there")?;
            ensure!(snapshot.labels().get(annotations::ATTEMPT_LABEL) == Some(&attempt));
            let content = contents
                .iter()
                .find(|c| c.spec.volume_snapshot_ref.uid.as_ref() == uid)
                .context("a volume's content is not there")?;
            ensure!(
                Some(content.name_any()) == volume.content,
                "another content is written down"
            );
            ensure!(
                content.spec.deletion_policy == DeletionPolicy::Retain,
                "a content of a completed backup is not retained"
            );
            let is = content
                .status
                .as_ref()
                .context("a content without a status")?;
            ensure!(is.ready_to_use == Some(true), "a content is not ready");
            ensure!(
                is.snapshot_handle == volume.handle,
                "another handle is written down"
            );
        }
        ensure!(!serde_json::to_string(status)?.contains("planted-secret"));
        Ok(())
    }
}
