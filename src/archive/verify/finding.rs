//! What verification finds wrong, what that means for restores, and what to do.

use serde::Serialize;

/// What is wrong with an object of an archive, or with what should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Problem {
    /// The identity object is missing, or not what was written.
    IdentityDamaged,
    /// A segment is not what was archived.
    SegmentDamaged,
    /// A segment is what was archived, and its WAL cannot be replayed.
    WalInvalid,
    /// One segment lies there twice, with different content.
    SegmentContradicted,
    /// An index entry speaks of a segment that is not there.
    SegmentMissing,
    /// Nothing is known of a segment.
    EntryMissing,
    /// An index entry or a roll-up cannot be read.
    EntryDamaged,
    /// An index entry says something else than the segment.
    EntryWrong,
    /// A part of an unfinished segment is missing, broken, or contradicts another.
    TailDamaged,
    /// A timeline history file cannot be read.
    HistoryDamaged,
    /// There is WAL of a timeline, and no history file.
    HistoryMissing,
    /// A history file says something else than the WAL or another history file.
    ForkWrong,
    /// WAL is missing between WAL that is there.
    Gap,
    /// A file of a backup is missing or not what was written.
    BackupDamaged,
    /// WAL that a backup needs is not there.
    BackupWithoutWal,
    /// A clock promises what is not there, or cannot be read.
    ClockWrong,
    /// What says which WAL nothing needs any more cannot be read.
    ExpiredWrong,
    /// A backup history file is not what was written.
    FileDamaged,
    /// None of the given keys opens an encrypted object.
    KeyDoesNotFit,
    /// No rule of the format names such an object.
    Orphan,
}

impl Problem {
    /// What it means for restores.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::IdentityDamaged => "nothing of this lineage can be restored",
            Self::SegmentDamaged | Self::WalInvalid => {
                "recovery stops before it: what lies behind is reached only from a backup behind it"
            }
            Self::SegmentContradicted => "which of them a restore reads is not certain",
            Self::SegmentMissing | Self::Gap => {
                "no restore crosses it: what lies behind is reached only from a backup behind it"
            }
            Self::EntryMissing => {
                "restores work, but no time in this segment is known to be covered"
            }
            Self::EntryDamaged => {
                "planning fails or knows nothing of these segments; their WAL itself is not touched"
            }
            Self::EntryWrong => {
                "planning may choose a wrong end for a target; the WAL itself is not touched"
            }
            Self::TailDamaged => "the newest WAL of this timeline is lost from there on",
            Self::HistoryDamaged | Self::HistoryMissing => "recovery cannot follow this timeline",
            Self::ForkWrong => "recovery may leave the older timeline at a wrong place",
            Self::BackupDamaged => "this backup cannot be restored from",
            Self::BackupWithoutWal => "this backup is not consistent and cannot be restored from",
            Self::ClockWrong => "the end of the recovery window may be wrong",
            Self::ExpiredWrong => "WAL that was deleted because nothing needs it counts as lost",
            Self::FileDamaged => "no restore needs it",
            Self::KeyDoesNotFit => "a restore with these keys stops before it",
            Self::Orphan => "no restore reads it",
        }
    }

    /// What to do.
    pub const fn action(self) -> &'static str {
        match self {
            Self::IdentityDamaged => {
                "bring the object back from a version or copy of the bucket; begin a new lineage with a base backup"
            }
            Self::SegmentDamaged | Self::WalInvalid => {
                "take a base backup now; if a server has the segment still in pg_wal, delete the object and archive it again, or bring an older version of the object back"
            }
            Self::SegmentContradicted => {
                "find out which is right with pg_waldump, delete the other"
            }
            Self::SegmentMissing | Self::Gap => {
                "take a base backup now; if a server has the segments still in pg_wal, archive them"
            }
            Self::EntryMissing => "archive the segment again if a server has it still in pg_wal",
            Self::EntryDamaged | Self::EntryWrong => {
                "bring the object back from a version of the bucket, or delete it and archive its segment again"
            }
            Self::TailDamaged => {
                "archive the whole segment; if its server is lost, take a base backup of the new primary"
            }
            Self::HistoryDamaged | Self::HistoryMissing => {
                "archive the .history file again: every server of this timeline has it in pg_wal"
            }
            Self::ForkWrong => {
                "compare with the .history file in pg_wal of a server; if two clusters write here, separate them"
            }
            Self::BackupDamaged | Self::BackupWithoutWal => {
                "take a new backup, then delete this one"
            }
            Self::ClockWrong => {
                "delete the object: the agent writes it anew; if WAL is gone, take a base backup"
            }
            Self::ExpiredWrong => {
                "bring the object back from a version of the bucket, or delete it: the agent writes it anew, and tells older holes as gaps"
            }
            Self::FileDamaged => "delete it, or copy it again from pg_wal",
            Self::KeyDoesNotFit => {
                "give a file with the keys of every generation; if the key is lost, take a base backup"
            }
            Self::Orphan => "find out who put it there; delete it if nobody needs it",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The kind.
    pub problem: Problem,
    /// The object's key, or the range that is missing.
    pub object: String,
    /// What is wrong.
    pub what: String,
    /// What it means for restores.
    pub meaning: &'static str,
    /// What to do.
    pub action: &'static str,
}

impl Finding {
    /// Of `object`.
    pub fn new(problem: Problem, object: impl ToString, what: impl Into<String>) -> Self {
        Self {
            problem,
            object: object.to_string(),
            what: what.into(),
            meaning: problem.meaning(),
            action: problem.action(),
        }
    }
}

/// Something that is not wrong, and that an admin may want to know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// The object's key, or what it is about.
    pub object: String,
    /// What there is to know.
    pub what: String,
}
