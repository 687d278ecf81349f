//! Choosing what a restore does: base backup, timeline, end. Pure: everything is checked before anything is made.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::{
    Contents,
    window::{Base, bases, newest_timeline},
};
use crate::{
    api::{RestorePlan, RestoreTarget, StopAt},
    postgres::{Lsn, TimelineId},
};

/// What a restore asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Only this backup, by the UID of its PgBackup; otherwise the best one.
    pub backup: Option<String>,
    /// Where in time to stop; none is latest.
    pub target: Option<RestoreTarget>,
    /// The PgArchive's name, for the plan.
    pub archive: String,
    /// The database's name in the archive, for the plan.
    pub archive_name: String,
}

/// Why a target cannot be reached, and what can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No finished backup has its WAL.
    #[error(
        "there is no backup to restore from: no completed backup of lineage {lineage} has all of its WAL in the archive"
    )]
    NoBackup {
        /// The lineage.
        lineage: String,
    },
    /// The named backup is not in the catalog, or its WAL is not whole.
    #[error(
        "the backup with UID {backup} cannot be restored from: it is not in the catalog of lineage {lineage}, or its WAL is not whole"
    )]
    BackupUnusable {
        /// The backup's UID.
        backup: String,
        /// The lineage.
        lineage: String,
    },
    /// Before the end of the first backup.
    #[error("target {target} is before the first point that can be recovered: {window}")]
    BeforeWindow {
        /// The target.
        target: String,
        /// What can be recovered.
        window: String,
    },
    /// After the end of the archive.
    #[error("target {target} is after the last point that can be recovered: {window}")]
    AfterWindow {
        /// The target.
        target: String,
        /// What can be recovered.
        window: String,
    },
}

impl Refusal {
    /// For condition, event and metric.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoBackup { .. } => "NoBackup",
            Self::BackupUnusable { .. } => "BackupUnusable",
            Self::BeforeWindow { .. } => "TargetBeforeWindow",
            Self::AfterWindow { .. } => "TargetAfterWindow",
        }
    }
}

/// Plans a restore.
///
/// # Errors
/// The target cannot be reached; the refusal says what can.
pub fn plan(request: &Request, contents: &Contents) -> Result<RestorePlan, Refusal> {
    let lineage = || contents.identity.lineage.to_string();
    let (timeline, bases) = candidates(request, contents);
    if bases.is_empty() {
        return Err(match &request.backup {
            Some(backup) => Refusal::BackupUnusable {
                backup: backup.clone(),
                lineage: lineage(),
            },
            None => Refusal::NoBackup { lineage: lineage() },
        });
    }
    let target = request.target.clone().unwrap_or_default();
    let inclusive = target.inclusive.unwrap_or(true);
    let chosen = match (&target.time, target.lsn) {
        (Some(time), _) => to_time(time.0, inclusive, timeline, &bases, contents),
        (None, Some(lsn)) => to_lsn(lsn, inclusive, timeline, &bases, contents),
        (None, None) => to_latest(timeline, &bases, contents),
    }?;
    Ok(chosen.into_plan(request, contents, timeline))
}

/// The timeline to follow and the backups that it can begin with. A named backup decides: the newest timeline that goes on
/// from it.
fn candidates<'a>(request: &Request, contents: &'a Contents) -> (TimelineId, Vec<Base<'a>>) {
    let Some(wanted) = &request.backup else {
        let newest = newest_timeline(contents);
        return (newest, bases(contents, newest));
    };
    for timeline in contents.timelines().into_iter().rev() {
        let found: Vec<_> = bases(contents, timeline)
            .into_iter()
            .filter(|base| base.manifest.uid == *wanted)
            .collect();
        if !found.is_empty() {
            return (timeline, found);
        }
    }
    (newest_timeline(contents), Vec::new())
}

/// A base and an end that were found to do.
struct Chosen<'a> {
    base: Base<'a>,
    wal_to: Lsn,
    stop_at: Option<StopAt>,
    summary: String,
}

impl Chosen<'_> {
    fn into_plan(
        self,
        request: &Request,
        contents: &Contents,
        timeline: TimelineId,
    ) -> RestorePlan {
        let manifest = self.base.manifest;
        let bytes = self.wal_to.bytes_since(manifest.start_lsn);
        RestorePlan {
            summary: format!("{} on timeline {timeline}", self.summary),
            backup: manifest.name.clone(),
            backup_key: self.base.key.to_owned(),
            archive: request.archive.clone(),
            archive_name: request.archive_name.clone(),
            lineage: contents.identity.lineage.clone(),
            timeline,
            wal_from: manifest.start_lsn,
            wal_to: self.wal_to,
            stop_at: self.stop_at,
            bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        }
    }
}

fn to_latest<'a>(
    timeline: TimelineId,
    bases: &[Base<'a>],
    contents: &Contents,
) -> Result<Chosen<'a>, Refusal> {
    let base = newest(bases, |_| true).ok_or_else(|| Refusal::NoBackup {
        lineage: contents.identity.lineage.to_string(),
    })?;
    let (wal_to, covered) = (base.end(), base.covered(contents, timeline));
    Ok(Chosen {
        base,
        wal_to,
        stop_at: None,
        summary: format!("to the end of the archive, {wal_to} ({covered})"),
    })
}

fn to_time<'a>(
    time: Timestamp,
    inclusive: bool,
    timeline: TimelineId,
    bases: &[Base<'a>],
    contents: &Contents,
) -> Result<Chosen<'a>, Refusal> {
    let window = || say_window(bases, contents, timeline);
    let target = time.to_string();
    let Some(base) = newest(bases, |base| base.manifest.stopped_at <= time) else {
        return Err(Refusal::BeforeWindow {
            target,
            window: window(),
        });
    };
    // Recovery stops at the first commit after the target (or at it, if exclusive): what holds that one is the last it needs.
    let past = |commit: Timestamp| {
        if inclusive {
            commit > time
        } else {
            commit >= time
        }
    };
    let after_stop = base
        .pieces
        .iter()
        .filter(|piece| piece.to > base.manifest.stop_lsn);
    let stopper = after_stop
        .into_iter()
        .find(|piece| piece.last_commit.is_some_and(past));
    if let Some(piece) = stopper {
        let stop_at = StopAt {
            time: Some(MicroTime(time)),
            lsn: None,
            inclusive,
        };
        let wal_to = piece.to;
        return Ok(Chosen {
            base,
            wal_to,
            stop_at: Some(stop_at),
            summary: format!("to {target}"),
        });
    }
    if base.covered(contents, timeline) < time {
        return Err(Refusal::AfterWindow {
            target,
            window: window(),
        });
    }
    // PostgreSQL would call it an error that no commit comes after the target; it is the end of what there is.
    let wal_to = base.end();
    let summary = format!(
        "to {target}: nothing was committed after it, so to the end of the archive, {wal_to},"
    );
    Ok(Chosen {
        base,
        wal_to,
        stop_at: None,
        summary,
    })
}

fn to_lsn<'a>(
    lsn: Lsn,
    inclusive: bool,
    timeline: TimelineId,
    bases: &[Base<'a>],
    contents: &Contents,
) -> Result<Chosen<'a>, Refusal> {
    let window = || say_window(bases, contents, timeline);
    let target = lsn.to_string();
    let Some(base) = newest(bases, |base| base.manifest.stop_lsn <= lsn) else {
        return Err(Refusal::BeforeWindow {
            target,
            window: window(),
        });
    };
    if base.end() < lsn {
        return Err(Refusal::AfterWindow {
            target,
            window: window(),
        });
    }
    // Recovery stops at the first record that begins at the target or after it.
    let stopper = base
        .pieces
        .iter()
        .find(|piece| piece.last_record.is_some_and(|record| record >= lsn));
    if let Some(piece) = stopper {
        let stop_at = StopAt {
            time: None,
            lsn: Some(lsn),
            inclusive,
        };
        let wal_to = piece.to;
        return Ok(Chosen {
            base,
            wal_to,
            stop_at: Some(stop_at),
            summary: format!("to LSN {target}"),
        });
    }
    let wal_to = base.end();
    let summary = format!(
        "to LSN {target}: no record begins after it, so to the end of the archive, {wal_to},"
    );
    Ok(Chosen {
        base,
        wal_to,
        stop_at: None,
        summary,
    })
}

fn newest<'a>(bases: &[Base<'a>], fits: impl Fn(&Base<'a>) -> bool) -> Option<Base<'a>> {
    bases.iter().rev().find(|base| fits(base)).cloned()
}

fn say_window(bases: &[Base<'_>], contents: &Contents, timeline: TimelineId) -> String {
    let Some((first, last)) = bases.first().zip(bases.last()) else {
        return "nothing can be recovered".into();
    };
    format!(
        "recoverable is {} to {} (LSN {} to {}) on timeline {timeline}",
        first.manifest.stopped_at,
        last.covered(contents, timeline),
        first.manifest.stop_lsn,
        last.end(),
    )
}
