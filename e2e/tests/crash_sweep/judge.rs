//! The two ends of a backup, and what neither leaves behind.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use highwater::{
    api::{PgBackup, PgBackupStatus, conditions},
    csi::VolumeSnapshotContent,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::events::v1::Event;
use kube::{ResourceExt, api::ListParams};

use super::{
    archive,
    journal::{BackupMode, backup_modes, was_tried},
    restored,
    site::Site,
    wait::until,
};

/// How a backup ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Completed,
    /// With the reason.
    Failed(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("Completed"),
            Self::Failed(reason) => write!(f, "Failed: {reason}"),
        }
    }
}

/// What may have come of what broke.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Attempts of a completed backup.
    pub attempts: u32,
    /// Sessions of which nobody learnt that they were in backup mode.
    pub unheard: usize,
    /// For a backup; after it, the backup may fail.
    pub seconds: u64,
    pub may_fail: bool,
}

/// The end, if it is a right one.
pub async fn judge(site: &Site, backup: &PgBackup, expected: Expected) -> Result<End> {
    let status = backup.status.as_ref().context("no status")?;
    let completed = conditions::find(&status.conditions, conditions::COMPLETED);
    let completed = completed.context("it is not decided")?;
    ensure!(completed.status != "Unknown", "it is not decided");
    let end = match completed.status == "True" {
        true => {
            require_completed(site, backup, status, expected).await?;
            End::Completed
        }
        false => {
            require_truth(site, backup, &completed.reason, expected)?;
            ensure!(!completed.message.is_empty(), "no word of why");
            until_holds("no snapshot of a failed backup is left", || {
                site.fixture.require_nothing_left(backup)
            })
            .await?;
            End::Failed(completed.reason.clone())
        }
    };
    until_holds("PostgreSQL is as it was", || async { at_rest(site) }).await?;
    Ok(end)
}

/// As [`until`], with what was wrong at last.
pub async fn until_holds<F>(what: &str, mut holds: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    until(what, || {
        let held = holds();
        async move { held.await.map(Some) }
    })
    .await
}

async fn require_completed(
    site: &Site,
    backup: &PgBackup,
    status: &PgBackupStatus,
    Expected {
        attempts,
        unheard,
        seconds: _,
        may_fail: _,
    }: Expected,
) -> Result<()> {
    // A void attempt's snapshots go beside the next one.
    until_holds("one snapshot of each volume is left", || {
        site.fixture.require_complete(backup)
    })
    .await?;
    archive::require_restorable(site, backup).await?;
    // Once: it takes seconds.
    if let Some(owed) = site.no_more_owed(&backup.name_any()) {
        let rows = restored::require_rows(site, backup, owed).await;
        rows.context("what is restored")?;
    }
    let number = status.attempt.as_ref().context("no attempt")?.number;
    ensure!(number <= attempts, "attempt {number}");
    let modes = modes(site);
    let most = usize::try_from(number)? + unheard;
    ensure!(modes.len() <= most, "{} times in backup mode", modes.len());
    let cuts = cuts(&site.fixture.snapshots(backup).await?.1)?;
    ensure!(
        modes.iter().any(|mode| mode.holds(&cuts)),
        "cut at {cuts:?}, in backup mode {modes:?}"
    );
    Ok(())
}

fn modes(site: &Site) -> Vec<BackupMode> {
    let life = site.life();
    let modes = life.wires.iter().map(|it| backup_modes(&it.statements()));
    modes.flatten().collect()
}

/// By the clock of the driver, which is this machine's.
fn cuts(contents: &[VolumeSnapshotContent]) -> Result<Vec<Timestamp>> {
    let cut = |content: &VolumeSnapshotContent| {
        let at = content.status.as_ref().and_then(|it| it.creation_time);
        let at = at.context("a content without a time")?;
        Ok(Timestamp::from_nanosecond(at.into())?)
    };
    contents.iter().map(cut).collect()
}

/// What is said of a failure happened.
fn require_truth(site: &Site, backup: &PgBackup, reason: &str, expected: Expected) -> Result<()> {
    ensure!(expected.may_fail, "failed with {reason} before its time");
    let created = backup.metadata.creation_timestamp.as_ref();
    let created = created.context("no time of creation")?.0;
    let status = backup.status.as_ref().context("no status")?;
    let failed = conditions::find(&status.conditions, conditions::COMPLETED);
    let failed = failed.context("no condition")?.last_transition_time.0;
    let deadline = created + SignedDuration::from_secs(i64::try_from(expected.seconds)?);
    ensure!(failed >= deadline, "failed before its deadline: {reason}");
    let tried = || {
        let life = site.life();
        life.wires.iter().any(|it| was_tried(&it.statements()))
    };
    match reason {
        "SessionLost" => ensure!(tried(), "no session was there to be lost"),
        "BackupDeadlineExceeded" => {}
        // The door did not open until the deadline.
        "NotConnected" | "WalNotArchived" => {
            ensure!(!tried(), "{reason}, and yet a session was opened");
        }
        _ => anyhow::bail!("an unknown reason: {reason}"),
    }
    Ok(())
}

/// No session in backup mode is left, and no slot but the one.
pub fn at_rest(site: &Site) -> Result<()> {
    let ask = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'highwater-backup'), \
        (SELECT string_agg(slot_name, ', ') FROM pg_replication_slots)";
    let said = tokio::task::block_in_place(|| site.database.sql(ask))?;
    let (sessions, slots) = said.split_once('|').context("no answer")?;
    ensure!(sessions == "0", "{sessions} sessions in backup mode");
    ensure!(
        slots == site.slot,
        "slots {slots:?}, but {:?} is ours",
        site.slot
    );
    Ok(())
}

/// Nothing was told twice of this backup.
pub async fn require_told_once(site: &Site, backup: &PgBackup) -> Result<()> {
    let events = site.fixture.api::<Event>();
    let events = events.list(&ListParams::default()).await?.items;
    let uid = backup.uid();
    let ours = events.iter().filter(|event| {
        let about = event.regarding.as_ref();
        about.and_then(|it| it.uid.as_ref()) == uid.as_ref()
    });
    let mut told = Vec::new();
    for event in ours {
        let again = event.series.as_ref().map(|it| it.count);
        let what = (&event.reporting_controller, &event.reason, &event.note);
        ensure!(
            again.is_none() && !told.contains(&what),
            "told twice: {what:?} {again:?}"
        );
        told.push(what);
    }
    ensure!(!told.is_empty(), "nothing was told");
    Ok(())
}
