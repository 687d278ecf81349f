//! Snapshots that do not belong together, or that no backup label goes with.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use highwater::api::names;
use highwater_e2e::harness::{
    Database, Faults, Writer, by_hand::Parts, condition, has, integrity, snapshot_folder, story,
    until,
};
use serde_json::{Value, json};

use super::{Ground, LIMIT, ROWS, seen};

/// The claim with PGDATA, and the one with the ledger.
const DATA: &str = "data-orders-0";
const FAST: &str = "fast-orders-0";
/// How long after its word the driver cuts, in milliseconds.
const APART: u64 = 40_000;

/// A backup as it may be: the tablespace is cut long before PGDATA, with rows and a checkpoint between. WAL from the
/// label's start on makes that whole, and nothing else does.
pub async fn apart(orders: &Database, writer: &Writer) -> Result<Value> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let volume = format!("{namespace}/{DATA}");
    let busy = json!({"volume": volume, "errorBeforeCut": {"code": "Aborted"}});
    let busy = Faults::set(&busy)?;
    orders.annotate("highwater.dev/backup-now", "apart")?;
    let backup = names::annotation_backup("orders", "apart");
    until("the tablespace's cut", LIMIT, || {
        let contents = kubectl.snapshot_contents(namespace)?;
        let cut = |content: &Value| {
            let of = content["spec"]["volumeSnapshotRef"]["name"].as_str();
            let of = of.unwrap_or_default();
            let ours = of.starts_with(&backup) && of.ends_with(FAST);
            ours && content["status"]["creationTime"].is_number()
        };
        Ok(contents.iter().any(cut).then_some(()))
    })
    .await?;
    story::commits(writer, ROWS).await?;
    orders.connect().await?.batch_execute("CHECKPOINT").await?;
    let now = kubectl.get(namespace, "pgb", &backup)?;
    let now = now.context("no PgBackup")?;
    ensure!(
        has(&now, "Session", "True") && !has(&now, "Cut", "True"),
        "PGDATA was cut before the checkpoint: {}",
        now["status"]
    );
    drop(busy);
    let completed = ("Completed", "True");
    condition(kubectl, namespace, ("pgb", &backup), completed, LIMIT).await
}

/// A backup whose tablespace was cut after its end.
pub struct Late {
    name: String,
    /// Where the cut comes.
    cut: PathBuf,
    /// A time after the backup's end and before the cut, and the last row of then.
    target: (String, i64),
}

/// The driver lies of the tablespace alone: pg_control, which would tell it, is cut in time.
pub async fn late(orders: &Database, writer: &Writer) -> Result<Late> {
    let (kubectl, namespace) = (&orders.kubectl, orders.namespace.as_str());
    let volume = format!("{namespace}/{FAST}");
    let lie = json!({"volume": volume, "okBeforeCut": true, "delayBeforeCut": APART});
    let lie = Faults::set(&lie)?;
    orders.annotate("highwater.dev/backup-now", "late")?;
    let name = names::annotation_backup("orders", "late");
    let about = ("pgb", name.as_str());
    let stopped = condition(kubectl, namespace, about, ("Stopped", "True"), LIMIT).await?;
    let cut = snapshot_folder(&stopped, FAST)?;
    let client = orders.connect().await?;
    let target = story::between_commits(writer, &client).await?;
    story::commits(writer, ROWS).await?;
    client.batch_execute("CHECKPOINT").await?;
    ensure!(
        !cut.exists(),
        "it was cut before the checkpoint: this proves nothing"
    );
    condition(kubectl, namespace, about, ("Completed", "True"), LIMIT).await?;
    drop(lie);
    Ok(Late { name, cut, target })
}

/// By hand: the right way restores, and each wrong one is seen.
pub async fn judged(ground: &Ground, apart: &Value, old: &Value) -> Result<()> {
    let wal = ground.plain_wal("whole")?;
    let (data, fast) = (snapshot_folder(apart, DATA)?, snapshot_folder(apart, FAST)?);
    let right = ground.parts(&data, &fast, &wal);
    let rows = ground.judge("right", &right).await??;
    println!("cut apart in one backup mode, with its label: rows 1 to {rows}");

    let without = Parts {
        label: None,
        ..right
    };
    let judged = ground.judge("no-label", &without).await?;
    seen("the backup label is missing", judged)?;
    let earlier = snapshot_folder(old, FAST)?;
    let mixed = ground.parts(&data, &earlier, &wal);
    let judged = ground.judge("mixed", &mixed).await?;
    seen("the tablespace is of an earlier backup", judged)?;
    let partial = Parts {
        fast: None,
        ..right
    };
    let judged = ground.judge("partial", &partial).await?;
    seen("the tablespace's volume is missing", judged)
}

/// The restore completes, as nobody can know.
pub async fn late_is_seen(ground: &Ground, late: &Late) -> Result<()> {
    let Late { name, cut, target } = late;
    until("the late cut", LIMIT, || Ok(cut.exists().then_some(()))).await?;
    let (kubectl, namespace) = (&ground.orders.kubectl, ground.orders.namespace.as_str());
    let (source, target) = (format!("{{backup: {name}}}"), target);
    let time = format!("{{time: \"{}\"}}", target.0);
    story::request_restore(kubectl, namespace, ("late", &source), "late", &time)?;
    story::completed(kubectl, namespace, "late").await?;
    let restored = Database::existing(kubectl, namespace, "late");
    let client = restored.connect().await?;
    let owed = (target.1, target.1);
    let judged = integrity::judge(&client, &restored.address()?, owed).await;
    seen("the tablespace was cut after the backup's end", judged)
}
