//! Why a restore cannot be planned.

use crate::{
    archive::error::KEY_MISSING,
    postgres::{Lsn, SegmentName, TimelineId},
};

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
    /// No timeline of that number.
    #[error(
        "there is no timeline {timeline} in the archive that a restore can follow: there are {known}"
    )]
    TimelineUnknown {
        /// The one that is asked for.
        timeline: TimelineId,
        /// Those that there are.
        known: String,
    },
    /// No restore point of that name on the line.
    #[error(
        "the archive holds no restore point {name:?} on timeline {timeline} that a backup leads to; {known}{}; {window}",
        not_searched(.unsearched.as_ref())
    )]
    RestorePointNotFound {
        /// The name.
        name: String,
        /// The timeline that was looked at.
        timeline: TimelineId,
        /// The points that there are.
        known: String,
        /// A segment that may hold others.
        unsearched: Option<SegmentName>,
        /// What can be recovered.
        window: String,
    },
    /// The transaction neither commits nor is rolled back on the line.
    #[error(
        "transaction {xid} is neither committed nor rolled back in the archived WAL of timeline {timeline} that a backup leads to; {window}"
    )]
    TransactionNotFound {
        /// The transaction.
        xid: String,
        /// The timeline that was looked at.
        timeline: TimelineId,
        /// What can be recovered.
        window: String,
    },
    /// What was named is there more than once.
    #[error(
        "{target} is there {count} times: {places}; name one of them by spec.target.lsn, with inclusive: false"
    )]
    TargetAmbiguous {
        /// What was named.
        target: String,
        /// How often.
        count: usize,
        /// Where they are, the newest last.
        places: String,
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

fn not_searched(segment: Option<&SegmentName>) -> String {
    segment.map_or_else(String::new, |name| {
        format!("; segment {name} was not searched: it is encrypted and not full yet, or has no index entry")
    })
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
            Self::TimelineUnknown { .. } => "TimelineUnknown",
            Self::RestorePointNotFound { .. } => "RestorePointNotFound",
            Self::TransactionNotFound { .. } => "TransactionNotFound",
            Self::TargetAmbiguous { .. } => "TargetAmbiguous",
            Self::KeyMissing { .. } => KEY_MISSING,
        }
    }
}
