//! What the CSI driver may do.

use anyhow::{Context, Result, ensure};
use highwater_e2e::harness::{Database, Watching, has, said, snapshot_folder, story, until};
use serde_json::{Value, json};

use super::{Case, FIRST, LIMIT, row, scenario, seconds_in_backup_mode};

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_that_takes_longer_than_the_sidecar_waits() {
    let fault = json!({"delayBeforeCut": 8000});
    row("cut-late", json!({}), fault, async |mut case| {
        let ended = case.completes(1..=1).await?;
        is_told(&case.orders, &ended).await?;
        let seconds = seconds_in_backup_mode(&ended)?;
        ensure!(seconds >= 8.0, "{seconds} s in backup mode");
        Ok(())
    })
    .await;
}

/// What `kubectl describe` shows of a backup: each step, in the order in which it came.
const STORY: [&str; 8] = [
    "Resolved",
    "InBackupMode",
    "Cut",
    "Stopped",
    "Archived",
    "Ready",
    "Catalogued",
    "Completed",
];

async fn is_told(orders: &Database, backup: &Value) -> Result<()> {
    let uid = &backup["metadata"]["uid"];
    until("the backup's story", LIMIT, || {
        let events = orders
            .kubectl
            .list(&orders.namespace, "events.events.k8s.io")?;
        let of = |event: &&Value| event["regarding"]["uid"] == *uid;
        let told: Vec<_> = events.iter().filter(of).map(|it| &it["reason"]).collect();
        let whole = STORY.iter().all(|step| told.iter().any(|it| **it == *step));
        Ok(whole.then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_is_busy_five_times() {
    let fault = json!({"errorBeforeCut": {"code": "Aborted", "times": 5}});
    row("cut-aborted", json!({}), fault, async |mut case| {
        case.completes(1..=1).await.map(drop)
    })
    .await;
}

/// What the first attempt asked for is cut when the second is done, and counts for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_after_an_error_and_after_the_attempt_was_given_up() {
    let fault = json!({
        "snapshot": FIRST, "errorBeforeCut": {"code": "Internal"}, "cutAfterError": 15_000,
    });
    row("cut-void", json!({"cut": "6s"}), fault, async |mut case| {
        case.completes(2..=2).await.map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_beside_the_cut() {
    let fault = json!({"errorAfterCut": {"code": "Internal", "times": 2}});
    row("cut-and-error", json!({}), fault, async |mut case| {
        case.completes(1..=1).await.map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_that_the_driver_forgets() {
    row(
        "cut-forgotten",
        json!({}),
        json!({"lostCuts": 2}),
        async |mut case| case.completes(1..=1).await.map(drop),
    )
    .await;
}

/// As on a cloud's disks: backup mode ends at the cut, not when the snapshot is uploaded.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_ready_long_after_its_cut() {
    let fault = json!({"delayToReady": 40_000});
    row("ready-late", json!({}), fault, async |mut case| {
        let ended = case.completes(1..=1).await?;
        let seconds = seconds_in_backup_mode(&ended)?;
        ensure!(seconds < 20.0, "{seconds} s in backup mode");
        Ok(())
    })
    .await;
}

/// For a driver that says when it cut before it has.
#[tokio::test(flavor = "multi_thread")]
async fn backup_mode_that_lasts_until_the_snapshot_is_ready() {
    scenario("release-ready", async |deployment, namespace| {
        let policy = json!({"spec": {"snapshot": {"releaseAt": "Ready"}}});
        deployment
            .kubectl
            .patch(&namespace, ("pgp", "gold"), &policy)?;
        let fault = json!({"delayToReady": 10_000});
        let (mut case, _fault) = Case::begin(&deployment, &namespace, json!({}), fault).await?;
        let ended = case.completes(1..=1).await?;
        let seconds = seconds_in_backup_mode(&ended)?;
        ensure!(seconds >= 10.0, "{seconds} s in backup mode");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_never_ready() {
    let deadlines = json!({"ready": "12s", "backup": "10s"});
    row(
        "ready-never",
        deadlines,
        json!({"neverReady": true}),
        async |mut case| {
            let reason = ["ReadyDeadlineExceeded"];
            case.fails(&reason, "the readiness of every snapshot").await
        },
    )
    .await;
}

/// Without a time nobody knows whether it was cut.
#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_does_not_say_when_it_cut() {
    let deadlines = json!({"cut": "6s", "backup": "20s"});
    row(
        "cut-no-time",
        deadlines,
        json!({"creationTime": "zero"}),
        async |mut case| {
            let reasons = ["CutDeadlineExceeded", "BackupDeadlineExceeded"];
            case.fails(&reasons, "cut").await?;
            let states = case.watching.events()?;
            ensure!(
                !states.iter().any(|it| has(it, "Cut", "True")),
                "it was believed"
            );
            Ok(())
        },
    )
    .await;
}

/// A rogue driver says that it cut and does so later. The backup completes, as nobody can know; the restore can, where a
/// checkpoint came between, and starts nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_after_the_driver_said_that_it_was_made() {
    let fault = json!({"okBeforeCut": true, "delayBeforeCut": 15_000});
    row("cut-lie", json!({}), fault, async |mut case| {
        let stopped = |it: &Value| has(it, "Stopped", "True");
        case.state("the end of backup mode", stopped).await?;
        case.orders
            .connect()
            .await?
            .batch_execute("CHECKPOINT")
            .await?;
        let ended = case.end().await?;
        ensure!(has(&ended, "Completed", "True"), "{}", ended["status"]);
        let cut = snapshot_folder(&ended, "data-orders-0")?;
        until("the late cut", LIMIT, || Ok(cut.exists().then_some(()))).await?;
        let (kubectl, namespace) = case.place();
        let source = ("lie", "{protection: orders}");
        story::request_restore(kubectl, namespace, source, "clone", "{latest: {}}")?;
        let lies = |restore: &Value| {
            let said = said(restore, "Recovered");
            said.is_some_and(|said| said["reason"] == "CutOutsideBackupMode")
        };
        let mut watching = Watching::one(kubectl, namespace, "pgr", "lie")?;
        let told = watching.wait("the driver's lie", LIMIT, lies).await?;
        println!(
            "{}",
            said(&told, "Recovered").context("no Recovered")?["message"]
        );
        Ok(())
    })
    .await;
}
