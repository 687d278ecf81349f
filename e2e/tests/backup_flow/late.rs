//! A driver that answers with an error, and cuts all the same.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use highwater::{
    api::{PgBackup, annotations},
    csi::VolumeSnapshot,
};
use highwater_e2e::{
    devcluster::DRIVER,
    flow::Lifeline,
    harness::{Faults, kubeconfig},
};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::json;

use super::{
    ALONE,
    agent::Agent,
    fixture::{Fixture, VOLUMES, is_completed, start},
    wait::until,
};

/// Whether the storage has a snapshot that was made for this VolumeSnapshot.
fn has_cut(volume_snapshot: &str) -> Result<bool> {
    let named = format!("{volume_snapshot:?}");
    let pool = kubeconfig()?.with_file_name("pool");
    for record in fs::read_dir(pool.join(DRIVER).join("state/snapshots"))? {
        // A record may go between the two.
        let text = fs::read_to_string(record?.path()).unwrap_or_default();
        if text.contains(&named) {
            return Ok(true);
        }
    }
    Ok(false)
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

#[tokio::test]
async fn an_errored_snapshot_that_cuts_later_is_swept() -> Result<()> {
    let _alone = ALONE.lock().await;
    let fixture = Fixture::new("flow-late").await?;
    let faults = Faults::set(&json!({
        "snapshot": "flow-late/late-*-1-data-*",
        "errorBeforeCut": {"code": "Aborted"}, "cutAfterError": 15_000,
    }))?;
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
    ensure!(!has_cut(&late)?, "it was cut too early to tell");
    until("the snapshot is cut although it failed", || async {
        hasty.pass(&fixture, &api.get("late").await?).await?;
        Ok(has_cut(&late)?.then_some(()))
    })
    .await?;
    // Only a driver that answers can be told to delete.
    drop(faults);
    let backup = until("the backup completes", || async {
        let backup = api.get("late").await?;
        hasty.pass(&fixture, &backup).await?;
        Ok(is_completed(&backup).then_some(backup))
    })
    .await?;
    until("the late snapshot is gone from the storage", || async {
        let left = fixture.snapshots(&backup).await?;
        let swept = left.0.len() == VOLUMES && left.1.len() == VOLUMES;
        Ok((swept && !has_cut(&late)?).then_some(()))
    })
    .await?;
    fixture.require_complete(&backup).await?;
    for volume in &backup.status.as_ref().context("no status")?.volumes {
        ensure!(has_cut(&volume.volume_snapshot)?);
    }
    fixture.delete_to_the_end("late").await?;
    controller.abort();
    fixture.require_nothing_left(&backup).await
}
