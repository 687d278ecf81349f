//! Choosing what a restore does: base backup, timeline, end. Pure: everything is checked before anything is made.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::{
    Contents, Piece,
    error::KEY_MISSING,
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
    /// Whether there is a key for encrypted WAL.
    pub can_decrypt: bool,
}

/// Why a target cannot be reached, and what can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No finished backup has its WAL.
    #[error(
        "there is no backup to restore from: no completed backup of lineage {lineage} that still has its PgBackup has all of its WAL in the archive"
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
    /// PostgreSQL cannot follow a timeline without its history file.
    #[error(
        "the archive holds no history of timeline {timeline}, which its newest WAL is of: restore from a named backup of an older timeline, or archive {timeline:08X}.history"
    )]
    HistoryMissing {
        /// The timeline.
        timeline: TimelineId,
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
    /// The archive goes on after a hole, and no backup was taken behind it.
    #[error(
        "target {target} lies behind missing WAL: {from} to {to} is not in the archive; the nearest point before is LSN {from}; {window}"
    )]
    Gap {
        /// The target.
        target: String,
        /// The first missing position.
        from: Lsn,
        /// The first position that is there again.
        to: Lsn,
        /// What can be recovered.
        window: String,
    },
    /// WAL of the plan is encrypted.
    #[error(
        "WAL from {from} on is encrypted, and the restore names no key for it: create a new PgRestore with spec.decryption, the Secret and key of a file with the age identity"
    )]
    KeyMissing {
        /// Where the first encrypted piece begins.
        from: Lsn,
    },
}

impl Refusal {
    /// For condition, event and metric.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoBackup { .. } => "NoBackup",
            Self::BackupUnusable { .. } => "BackupUnusable",
            Self::HistoryMissing { .. } => "HistoryMissing",
            Self::BeforeWindow { .. } => "TargetBeforeWindow",
            Self::AfterWindow { .. } => "TargetAfterWindow",
            Self::Gap { .. } => "WalMissing",
            Self::KeyMissing { .. } => KEY_MISSING,
        }
    }
}

/// Plans a restore.
///
/// # Errors
/// The target cannot be reached; the refusal says what can.
pub fn plan(request: &Request, contents: &Contents) -> Result<RestorePlan, Refusal> {
    let line = Line::choose(request, contents)?;
    let target = request.target.clone().unwrap_or_default();
    let inclusive = target.inclusive.unwrap_or(true);
    let chosen = match (&target.time, target.lsn) {
        (Some(time), _) => line.to_time(time.0, inclusive),
        (None, Some(lsn)) => line.to_lsn(lsn, inclusive),
        (None, None) => line.to_latest(),
    }?;
    match chosen.encrypted_from() {
        Some(from) if !request.can_decrypt => Err(Refusal::KeyMissing { from }),
        Some(_) | None => Ok(chosen.into_plan(request, contents, line.timeline)),
    }
}

/// A timeline to follow and the backups that it can begin with, the one that stopped last at the end: at least one.
struct Line<'a> {
    contents: &'a Contents,
    timeline: TimelineId,
    bases: Vec<Base<'a>>,
}

impl<'a> Line<'a> {
    /// A named backup decides: the newest timeline that goes on from it.
    fn choose(request: &Request, contents: &'a Contents) -> Result<Self, Refusal> {
        let lineage = || contents.identity.lineage.to_string();
        let line = |timeline, bases| Self {
            contents,
            timeline,
            bases,
        };
        let Some(wanted) = &request.backup else {
            let timeline = newest_timeline(contents);
            let bases = bases(contents, timeline);
            return match (contents.has_history(timeline), bases.is_empty()) {
                (false, _) => Err(Refusal::HistoryMissing { timeline }),
                (true, true) => Err(Refusal::NoBackup { lineage: lineage() }),
                (true, false) => Ok(line(timeline, bases)),
            };
        };
        let followed = contents.timelines().into_iter().rev();
        for timeline in followed.filter(|timeline| contents.has_history(*timeline)) {
            let mut found = bases(contents, timeline);
            found.retain(|base| base.manifest.uid == *wanted);
            if !found.is_empty() {
                return Ok(line(timeline, found));
            }
        }
        Err(Refusal::BackupUnusable {
            backup: wanted.clone(),
            lineage: lineage(),
        })
    }

    fn to_latest(&self) -> Result<Chosen<'a>, Refusal> {
        let base = self.newest("latest", |_| true)?;
        let end = base.end();
        if let Some(gap) = self.gap_after(end, "latest") {
            return Err(gap);
        }
        let covered = base.covered(self.contents, self.timeline);
        let summary = format!("to the end of the archive, {end} ({covered}),");
        Ok(base.up_to_its_end(summary))
    }

    fn to_time(&self, time: Timestamp, inclusive: bool) -> Result<Chosen<'a>, Refusal> {
        let target = time.to_string();
        let base = self.newest(&target, |base| base.manifest.stopped_at <= time)?;
        // Recovery stops at the first commit after the target (or at it, if exclusive): what holds that one is the last
        // that it needs.
        let past = |commit: Timestamp| commit > time || (!inclusive && commit == time);
        let stop_at = StopAt {
            time: Some(MicroTime(time)),
            lsn: None,
            inclusive,
        };
        let after_stop = || base.pieces_from(base.manifest.stop_lsn);
        let commits = |piece: &&Piece| piece.records?.last_commit.filter(|at| past(*at));
        let stopper = after_stop().find(|piece| commits(piece).is_some());
        if let Some(wal_to) = stopper.map(|piece| piece.to) {
            return Ok(base.stopping(wal_to, stop_at, format!("to {target}")));
        }
        if base.covered(self.contents, self.timeline) < time {
            let gap = self.gap_after(base.end(), &target);
            return Err(gap.unwrap_or_else(|| self.after_window(target)));
        }
        if after_stop().any(|piece| piece.records.is_none()) {
            // Some commit may come after the target. If none does, PostgreSQL says so: better than one too many.
            let end = base.end();
            return Ok(base.stopping(end, stop_at, format!("to {target}")));
        }
        // PostgreSQL would call it an error that no commit comes after the target; it is the end of what there is.
        let end = base.end();
        Ok(base.up_to_its_end(format!(
            "to {target}: nothing was committed after it, so to the end of the archive, {end},"
        )))
    }

    fn to_lsn(&self, lsn: Lsn, inclusive: bool) -> Result<Chosen<'a>, Refusal> {
        let target = lsn.to_string();
        let base = self.newest(&target, |base| base.manifest.stop_lsn <= lsn)?;
        if base.end() < lsn {
            let gap = self.gap_after(base.end(), &target);
            return Err(gap.unwrap_or_else(|| self.after_window(target)));
        }
        let stop_at = StopAt {
            time: None,
            lsn: Some(lsn),
            inclusive,
        };
        // Recovery stops at the first record that begins at the target or after it.
        let begins = |piece: &&Piece| piece.records?.last_record.filter(|begin| *begin >= lsn);
        let summary = format!("to LSN {target}");
        let from_target = || base.pieces_from(lsn);
        let stopper = from_target().find(|piece| begins(piece).is_some());
        if let Some(wal_to) = stopper.map(|piece| piece.to) {
            return Ok(base.stopping(wal_to, stop_at, summary));
        }
        let end = base.end();
        let unread = from_target().any(|piece| piece.records.is_none());
        let last = base.pieces.last();
        if unread || last.is_some_and(|piece| self.contents.goes_on(piece)) {
            return Ok(base.stopping(end, stop_at, summary));
        }
        Ok(base.up_to_its_end(format!(
            "{summary}: no record begins after it, so to the end of the archive, {end},"
        )))
    }

    /// The newest base that fits; otherwise the target lies before the first.
    fn newest(&self, target: &str, fits: impl Fn(&Base<'a>) -> bool) -> Result<Base<'a>, Refusal> {
        let found = self.bases.iter().rev().find(|base| fits(base));
        found.cloned().ok_or_else(|| Refusal::BeforeWindow {
            target: target.to_owned(),
            window: self.window(),
        })
    }

    /// Missing WAL after `end`, if the archive goes on behind it.
    fn gap_after(&self, end: Lsn, target: &str) -> Option<Refusal> {
        let mut pieces = self.contents.pieces(self.timeline).into_iter();
        let next = pieces.find(|piece| piece.from > end)?;
        Some(Refusal::Gap {
            target: target.to_owned(),
            from: end,
            to: next.from,
            window: self.window(),
        })
    }

    fn after_window(&self, target: String) -> Refusal {
        Refusal::AfterWindow {
            target,
            window: self.window(),
        }
    }

    fn window(&self) -> String {
        let Some((first, last)) = self.bases.first().zip(self.bases.last()) else {
            return "nothing can be recovered".into();
        };
        format!(
            "recoverable is {} to {} (LSN {} to {}) on timeline {}",
            first.manifest.stopped_at,
            last.covered(self.contents, self.timeline),
            first.manifest.stop_lsn,
            last.end(),
            self.timeline,
        )
    }
}

/// A base and an end that were found to do.
struct Chosen<'a> {
    base: Base<'a>,
    wal_to: Lsn,
    stop_at: Option<StopAt>,
    summary: String,
}

impl<'a> Base<'a> {
    fn pieces_from(&self, lsn: Lsn) -> impl Iterator<Item = &Piece> {
        self.pieces.iter().filter(move |piece| piece.to > lsn)
    }

    fn stopping(self, wal_to: Lsn, stop_at: StopAt, summary: String) -> Chosen<'a> {
        Chosen {
            base: self,
            wal_to,
            stop_at: Some(stop_at),
            summary,
        }
    }

    fn up_to_its_end(self, summary: String) -> Chosen<'a> {
        Chosen {
            wal_to: self.end(),
            base: self,
            stop_at: None,
            summary,
        }
    }
}

impl Chosen<'_> {
    /// Where the first piece begins that is needed and encrypted.
    fn encrypted_from(&self) -> Option<Lsn> {
        let mut needed = self.base.pieces.iter();
        needed
            .find(|piece| piece.encrypted && piece.from < self.wal_to)
            .map(|piece| piece.from)
    }

    fn into_plan(self, request: &Request, contents: &Contents, newest: TimelineId) -> RestorePlan {
        let manifest = self.base.manifest;
        let bytes = self.wal_to.bytes_since(manifest.start_lsn);
        // The timeline of the last byte: what came after the target is not followed.
        let timeline = contents.timeline_before(newest, self.wal_to);
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

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
