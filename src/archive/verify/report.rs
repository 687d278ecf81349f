//! What a verification says at its end.

use jiff::Timestamp;
use serde::Serialize;

use super::super::LineageId;
use crate::{
    api::{Fork, Gap, RecoveryWindow},
    postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId},
};

/// One lineage, as it lies in the archive.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LineageReport {
    /// Which.
    pub lineage: LineageId,
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// PostgreSQL's major version when the lineage began.
    pub major_version: i32,
    /// Bytes of a segment.
    pub segment_size: SegmentSize,
    /// Objects of each kind.
    pub kinds: Vec<KindReport>,
    /// Bytes of all objects, as they lie there.
    pub stored_bytes: u64,
    /// Bytes of WAL in them.
    pub wal_bytes: u64,
    /// Segments and unfinished segments whose content was not checked, as it is encrypted and no key was given.
    pub not_decrypted: u64,
    /// The latest commit time in its WAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_commit: Option<Timestamp>,
    /// From when to when it can be recovered, by what was found sound.
    pub recoverable: RecoveryWindow,
    /// Its timelines.
    pub timelines: Vec<TimelineReport>,
    /// Its backups that are not deleted and whose manifest can be read.
    pub backups: Vec<BackupReport>,
}

/// The objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KindReport {
    /// The folder's name in the lineage.
    pub kind: &'static str,
    /// How many there are.
    pub objects: u64,
    /// Their bytes, as they lie there.
    pub stored_bytes: u64,
}

/// One timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TimelineReport {
    /// Its number.
    pub id: TimelineId,
    /// Where it left which timeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub began: Option<Fork>,
    /// Its first WAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Lsn>,
    /// The end of its WAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Lsn>,
    /// Its whole segments.
    pub segments: u64,
    /// Bytes of its segments and tails, as they lie there.
    pub stored_bytes: u64,
    /// Bytes of WAL in them.
    pub wal_bytes: u64,
    /// What is missing on the way to its end, on the timelines that it came of too.
    pub gaps: Vec<Gap>,
    /// WAL behind the last place where a newer timeline left it: no restore to latest reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abandoned: Option<Gap>,
    /// The latest commit time in its WAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_commit: Option<Timestamp>,
}

/// One backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupReport {
    /// The PgBackup's name.
    pub name: String,
    /// Its folder.
    pub folder: String,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Replay begins here.
    pub start_lsn: Lsn,
    /// A restore is consistent from here.
    pub stop_lsn: Lsn,
    /// When it stopped.
    pub stopped_at: Timestamp,
    /// Whether its WAL from start to stop was found sound, and its files.
    pub usable: bool,
}
