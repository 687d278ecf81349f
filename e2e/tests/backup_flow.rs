//! The backup controller in this process, against real snapshot sidecars; an agent that only keeps to the handshake.
//! Run with `devcluster enter -- cargo test --workspace --test backup_flow`, in a cluster without Highwater.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "backup_flow/agent.rs"]
mod agent;
#[path = "backup_flow/at_once.rs"]
mod at_once;
#[path = "backup_flow/fixture.rs"]
mod fixture;
#[path = "backup_flow/late.rs"]
mod late;
#[path = "backup_flow/oracle.rs"]
mod oracle;
#[path = "backup_flow/scope.rs"]
mod scope;
#[path = "backup_flow/wait.rs"]
mod wait;

use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use highwater::{
    api::{PgBackup, conditions},
    csi::{VolumeSnapshot, VolumeSnapshotContent},
};
use highwater_e2e::flow::{Death, Lifeline};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use agent::Agent;
use fixture::{Fixture, VOLUMES, is_completed, start};
use wait::until;

/// A controller works on every namespace: one test at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// From creation to deletion, with a controller that dies at one of its writes and is started again. Whether it died.
async fn life(fixture: &Fixture, name: &str, lifeline: &Lifeline) -> Result<bool> {
    let first = start(&lifeline.client().await?);
    let survivor = Lifeline::endless();
    let second = async {
        lifeline.death().await;
        first.abort();
        Ok::<_, anyhow::Error>(start(&survivor.client().await?))
    };
    let told = async {
        fixture.ask_for_backup(name, "orders").await?;
        let backup = fixture
            .play(name, "the backup completes", is_completed)
            .await?;
        fixture.require_complete(&backup).await?;
        let number = backup
            .status
            .as_ref()
            .and_then(|s| s.attempt.as_ref())
            .map(|a| a.number);
        ensure!(
            number == Some(1),
            "attempt {number:?}: a controller's death cost an attempt"
        );
        fixture.delete_to_the_end(name).await?;
        fixture.require_nothing_left(&backup).await
    };
    tokio::pin!(told);
    let second = tokio::select! {
        result = &mut told => {
            first.abort();
            return result.map(|()| false);
        }
        second = second => second?,
    };
    let result = told.await;
    second.abort();
    result.map(|()| true)
}

/// Every place of a life to die at, until a life ends before its controller does. To die before write n + 1 is sent leaves
/// the cluster as to die before the answer to write n; `make sweep` does both.
#[tokio::test]
async fn a_controller_that_dies_anywhere_leaves_a_backup_that_completes() -> Result<()> {
    let _alone = ALONE.lock().await;
    let fixture = Fixture::new("flow-sweep").await?;
    let mut deaths = vec![("late", Death::BeforeAnswer)];
    if std::env::var_os("HIGHWATER_SWEEP").is_some() {
        deaths.push(("early", Death::BeforeSending));
    }
    for (word, death) in deaths {
        for number in 1.. {
            let lifeline = Lifeline::ending_at(number, death);
            let name = format!("dies-{number}-{word}");
            let begin = Instant::now();
            let died = life(&fixture, &name, &lifeline)
                .await
                .with_context(|| format!("{death:?} {number}: {:#?}", lifeline.writes()))?;
            println!("{death:?} {number}: {} ms", begin.elapsed().as_millis());
            if !died {
                // Finalizer, turn, attempt, snapshots, progress, Retain, Completed, and all back.
                ensure!(
                    number > 15,
                    "only {number} writes: {:#?}",
                    lifeline.writes()
                );
                break;
            }
        }
    }
    Ok(())
}

/// The class keeps what a person deletes before the controller, which died, could write down that it was there.
#[tokio::test]
async fn a_snapshot_deleted_before_it_was_written_down_goes_with_its_backup() -> Result<()> {
    let _alone = ALONE.lock().await;
    let fixture = Fixture::new("flow-forgotten").await?;
    fixture.retain_by_class().await?;
    let lifeline = Lifeline::ending_at_creation("volumesnapshots", Death::BeforeAnswer);
    let first = start(&lifeline.client().await?);
    fixture.ask_for_backup("forgotten", "orders").await?;
    let has_contents = async |backup: &PgBackup| {
        let (snapshots, contents) = fixture.snapshots(backup).await?;
        anyhow::Ok(!snapshots.is_empty() && snapshots.len() == contents.len())
    };
    let agent = Agent::default();
    let backup = until("the snapshots have contents", || async {
        let backup = fixture.api::<PgBackup>().get("forgotten").await?;
        agent.pass(&fixture, &backup).await?;
        Ok(has_contents(&backup).await?.then_some(backup))
    })
    .await?;
    lifeline.death().await;
    first.abort();
    let volumes = &backup.status.as_ref().context("no status")?.volumes;
    ensure!(
        volumes.iter().all(|v| v.volume_snapshot_uid.is_none()),
        "it was written down: {:#?}",
        lifeline.writes()
    );
    let (snapshots, contents) = fixture.snapshots(&backup).await?;
    for snapshot in &snapshots {
        fixture
            .api::<VolumeSnapshot>()
            .delete(&snapshot.name_any(), &DeleteParams::default())
            .await?;
    }
    until("the snapshots are gone", || async {
        Ok(fixture.snapshots(&backup).await?.0.is_empty().then_some(()))
    })
    .await?;
    let left = fixture.snapshots(&backup).await?.1.len();
    ensure!(
        left == contents.len(),
        "the class did not keep them: {left} contents"
    );
    let second = start(&Lifeline::endless().client().await?);
    fixture
        .play("forgotten", "the backup completes", is_completed)
        .await?;
    fixture.delete_to_the_end("forgotten").await?;
    second.abort();
    fixture.require_nothing_left(&backup).await
}

/// The oracle against a cluster in which something is wrong.
#[tokio::test]
async fn the_oracle_sees_what_is_wrong() -> Result<()> {
    let _alone = ALONE.lock().await;
    let fixture = Fixture::new("flow-oracle").await?;
    let controller = start(&Lifeline::endless().client().await?);
    fixture.ask_for_backup("whole", "orders").await?;
    let backup = fixture
        .play("whole", "the backup completes", is_completed)
        .await?;
    controller.abort();
    fixture.require_complete(&backup).await?;
    let refused = |result: Result<()>, by: &str| match result {
        Err(error) if format!("{error:#}").contains(by) => Ok(()),
        other => bail!("want {by:?}, got {other:?}"),
    };
    refused(fixture.require_nothing_left(&backup).await, "left behind")?;
    refused(
        fixture.require_no_snapshots_of(&backup, 1).await,
        "before the session",
    )?;
    fixture.require_no_snapshots_of(&backup, 2).await?;

    let contents = fixture.snapshots(&backup).await?.1;
    let first = contents.first().context("no content")?.name_any();
    let api = Api::<VolumeSnapshotContent>::all(fixture.client.clone());
    let patch = json!({"spec": {"deletionPolicy": "Delete"}});
    api.patch(&first, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    refused(fixture.require_complete(&backup).await, "not retained")?;

    // A snapshot of an attempt that nobody wrote down.
    let snapshot = &fixture.snapshots(&backup).await?.0[0];
    let name = snapshot.name_any().replace("-1-", "-2-");
    let stray = VolumeSnapshot::new(&name, snapshot.spec.clone());
    fixture
        .api::<VolumeSnapshot>()
        .create(&PostParams::default(), &stray)
        .await?;
    refused(fixture.require_complete(&backup).await, "3 VolumeSnapshots")?;

    let controller = start(&Lifeline::endless().client().await?);
    fixture
        .api::<VolumeSnapshot>()
        .delete(&stray.name_any(), &DeleteParams::default())
        .await?;
    fixture.delete_to_the_end("whole").await?;
    controller.abort();
    Ok(())
}

#[tokio::test]
async fn a_completed_backup_is_not_written_to_again() -> Result<()> {
    let _alone = ALONE.lock().await;
    let fixture = Fixture::new("flow-again").await?;
    let first = start(&Lifeline::endless().client().await?);
    fixture.ask_for_backup("once", "orders").await?;
    let backup = fixture
        .play("once", "the backup completes", is_completed)
        .await?;
    first.abort();
    let second = Lifeline::endless();
    let controller = start(&second.client().await?);
    // When this one is answered, the first passes over all others are done too.
    fixture.ask_for_backup("canary", "nobody").await?;
    let refused = |b: &PgBackup| {
        b.status
            .as_ref()
            .is_some_and(|s| conditions::is_false(&s.conditions, conditions::ACCEPTED))
    };
    let canary = fixture
        .play("canary", "the canary is refused", refused)
        .await?;
    let accepted = conditions::find(
        &canary.status.as_ref().unwrap().conditions,
        conditions::ACCEPTED,
    )
    .unwrap();
    ensure!(accepted.reason == "ProtectionNotFound", "{accepted:?}");
    let ours: Vec<_> = second
        .writes()
        .into_iter()
        .filter(|w| !w.contains("canary"))
        .collect();
    ensure!(ours.is_empty(), "{ours:?}");
    let again = fixture.api::<PgBackup>().get("once").await?;
    ensure!(again.metadata.resource_version == backup.metadata.resource_version);
    controller.abort();
    Ok(())
}

#[tokio::test]
async fn a_lost_session_costs_an_attempt_and_its_snapshots() -> Result<()> {
    let _alone = ALONE.lock().await;
    let fixture = Fixture::new("flow-lost").await?;
    let controller = start(&Lifeline::endless().client().await?);
    fixture.ask_for_backup("twice", "orders").await?;
    let agent = Agent { lose: 1 };
    let backup = until("the backup completes", || async {
        let backup = fixture.api::<PgBackup>().get("twice").await?;
        agent.pass(&fixture, &backup).await?;
        Ok(is_completed(&backup).then_some(backup))
    })
    .await?;
    let status = backup.status.as_ref().context("no status")?;
    ensure!(status.attempt.as_ref().map(|a| a.number) == Some(2));
    until("only the second attempt's snapshots are left", || async {
        Ok((fixture.snapshots(&backup).await?.0.len() == VOLUMES).then_some(()))
    })
    .await?;
    fixture.require_complete(&backup).await?;
    controller.abort();
    Ok(())
}
