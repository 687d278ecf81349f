//! A driver that answers with an error, and cuts all the same.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use highwater::{
    api::{PgBackup, annotations},
    csi::{VolumeSnapshot, VolumeSnapshotContent},
};
use highwater_e2e::{devcluster::DRIVER, flow::Lifeline};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::{
    ALONE,
    agent::Agent,
    fixture::{Fixture, VOLUMES, is_completed, start},
    wait::until,
};

/// The driver's folder and fault switches; off when it goes.
struct Driver {
    state: PathBuf,
}

impl Driver {
    fn new() -> Result<Self> {
        let kubeconfig = std::env::var_os("KUBECONFIG").context("KUBECONFIG is not set")?;
        let kubeconfig = PathBuf::from(kubeconfig);
        let state = kubeconfig.parent().context("no folder")?.to_owned();
        Ok(Self { state })
    }

    fn control(&self) -> PathBuf {
        self.state.join("csi-faults.json")
    }

    /// Replaced at once: the driver reads it at any time.
    fn fail(&self, faults: &serde_json::Value) -> Result<()> {
        let next = self.control().with_extension("next");
        fs::write(&next, json!({"faults": faults}).to_string())?;
        fs::rename(next, self.control())?;
        Ok(())
    }

    /// Whether the storage has a snapshot that was made for this VolumeSnapshot.
    fn has_cut(&self, volume_snapshot: &str) -> Result<bool> {
        let named = format!("{volume_snapshot:?}");
        let records = self.state.join("pool").join(DRIVER).join("state/snapshots");
        for record in fs::read_dir(records)? {
            // A record may go between the two.
            let text = fs::read_to_string(record?.path()).unwrap_or_default();
            if text.contains(&named) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(fs::remove_file(self.control()));
    }
}

/// The snapshot of the first attempt that has an error.
async fn errored(fixture: &Fixture) -> Result<Option<String>> {
    let all = fixture.api::<VolumeSnapshot>();
    let first = format!("{}=1", annotations::ATTEMPT_LABEL);
    let found = all.list(&ListParams::default().labels(&first)).await?;
    let has_error = |snapshot: &&VolumeSnapshot| {
        let status = snapshot.status.as_ref();
        status.is_some_and(|status| status.error.is_some())
    };
    Ok(found
        .items
        .iter()
        .find(has_error)
        .map(ResourceExt::name_any))
}

/// The sidecar does not look at a content again that it made while that was being deleted, until its resync (15 minutes)
/// or a change of the content.
async fn remind(fixture: &Fixture, backup: &PgBackup, volume_snapshot: &str) -> Result<()> {
    let contents = fixture.snapshots(backup).await?.1;
    let made = contents.iter().find(|content| {
        let handle = content
            .status
            .as_ref()
            .and_then(|s| s.snapshot_handle.as_ref());
        let of = content.spec.volume_snapshot_ref.name.as_deref();
        of == Some(volume_snapshot)
            && handle.is_some()
            && content.metadata.deletion_timestamp.is_some()
            && !content.annotations().contains_key("reminded")
    });
    if let Some(made) = made {
        let api = Api::<VolumeSnapshotContent>::all(fixture.client.clone());
        let patch = json!({"metadata": {"annotations": {"reminded": "true"}}});
        api.patch(
            &made.name_any(),
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_errored_snapshot_that_cuts_later_is_swept() -> Result<()> {
    let _alone = ALONE.lock().await;
    let fixture = Fixture::new("flow-late").await?;
    let driver = Driver::new()?;
    driver.fail(&json!([{
        "snapshot": "flow-late/late-*-1-data-*",
        "errorBeforeCut": {"code": "Aborted"}, "cutAfterError": 5000,
    }]))?;
    let controller = start(&Lifeline::endless().client().await?);
    fixture.ask_for_backup("late", "orders").await?;
    let api: Api<PgBackup> = fixture.api();
    let patient = Agent::default();
    let late = until("a snapshot of the first attempt fails", || async {
        patient.pass(&fixture, &api.get("late").await?).await?;
        errored(&fixture).await
    })
    .await?;
    let hasty = Agent { lose: 1 };
    until("the second attempt begins", || async {
        let backup = api.get("late").await?;
        hasty.pass(&fixture, &backup).await?;
        let attempt = backup.status.and_then(|status| status.attempt);
        Ok(attempt.filter(|a| a.number == 2).map(drop))
    })
    .await?;
    ensure!(!driver.has_cut(&late)?, "it was cut too early to tell");
    until("the snapshot is cut although it failed", || async {
        hasty.pass(&fixture, &api.get("late").await?).await?;
        Ok(driver.has_cut(&late)?.then_some(()))
    })
    .await?;
    // Only a driver that answers can be told to delete.
    driver.fail(&json!([]))?;
    let backup = until("the backup completes", || async {
        let backup = api.get("late").await?;
        hasty.pass(&fixture, &backup).await?;
        Ok(is_completed(&backup).then_some(backup))
    })
    .await?;
    until("the late snapshot is gone from the storage", || async {
        remind(&fixture, &backup, &late).await?;
        let left = fixture.snapshots(&backup).await?;
        let swept = left.0.len() == VOLUMES && left.1.len() == VOLUMES;
        Ok((swept && !driver.has_cut(&late)?).then_some(()))
    })
    .await?;
    fixture.require_complete(&backup).await?;
    for volume in &backup.status.as_ref().context("no status")?.volumes {
        ensure!(driver.has_cut(&volume.volume_snapshot)?);
    }
    fixture.delete_backup("late").await?;
    fixture.gone("late").await?;
    controller.abort();
    fixture.require_nothing_left(&backup).await
}
