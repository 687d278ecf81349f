//! What the JSON objects of an archive hold.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{LineageId, codec::sha256};
use crate::{
    api::Mount,
    postgres::{
        Lsn, SegmentName, SegmentSize, SystemIdentifier, TimelineId,
        wal::{self, SegmentScan},
    },
};

/// Whose archive this is: the first object of a lineage. No other absence is believed while it cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The version of the format, see [`super::FORMAT`].
    pub format: u32,
    /// The lineage, as in the key.
    pub lineage: LineageId,
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// PostgreSQL's major version when the lineage began.
    pub major_version: i32,
    /// The size of every segment.
    pub segment_size: SegmentSize,
    /// When the lineage began.
    pub created_at: Timestamp,
}

/// What is known of a whole segment, written when it was pushed, before any encryption.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexEntry {
    /// The segment.
    pub segment: SegmentName,
    /// The end of the last whole record in it, or its end.
    pub valid_end: Lsn,
    /// SHA-256 of the plain segment.
    pub sha256: String,
    /// The same of the bytes before `validEnd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256_valid: Option<String>,
    /// Where the last record that begins in it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_record: Option<Lsn>,
    /// The earliest commit or abort time in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_commit: Option<Timestamp>,
    /// The latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_commit: Option<Timestamp>,
    /// The lowest transaction id with a record in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_xid: Option<u32>,
    /// The highest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_xid: Option<u32>,
    /// Named restore points in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restore_points: Vec<RestorePoint>,
}

impl IndexEntry {
    /// The least that can be said of a segment: that it is there, whole, with this content.
    pub fn of(segment: SegmentName, size: SegmentSize, plain: &[u8]) -> Self {
        Self {
            segment,
            valid_end: segment.end(size),
            sha256: sha256(plain),
            sha256_valid: None,
            last_record: None,
            first_commit: None,
            last_commit: None,
            first_xid: None,
            last_xid: None,
            restore_points: Vec::new(),
        }
    }
}

impl IndexEntry {
    /// What is known of a whole segment whose records were read.
    pub fn scanned(
        segment: SegmentName,
        size: SegmentSize,
        plain: &[u8],
        scan: &SegmentScan,
    ) -> Self {
        let valid = valid_length(segment, size, plain, scan);
        let (sha256, sha256_valid) = hashes(plain, valid);
        Self::hashed(segment, scan, sha256, sha256_valid)
    }

    /// The same, of a segment whose hash is known already.
    pub fn scanned_as(
        segment: SegmentName,
        size: SegmentSize,
        plain: &[u8],
        scan: &SegmentScan,
        sha256: String,
    ) -> Self {
        let valid = valid_length(segment, size, plain, scan);
        let sha256_valid = match plain.get(..valid) {
            Some(valid) if valid.len() < plain.len() => super::sha256(valid),
            Some(_) | None => sha256.clone(),
        };
        Self::hashed(segment, scan, sha256, sha256_valid)
    }

    /// The same, of hashes that are known already.
    pub(super) fn hashed(
        segment: SegmentName,
        scan: &SegmentScan,
        sha256: String,
        sha256_valid: String,
    ) -> Self {
        Self {
            segment,
            valid_end: scan.valid_end,
            sha256,
            sha256_valid: Some(sha256_valid),
            last_record: scan.last_record_start,
            first_commit: scan.first_commit,
            last_commit: scan.last_commit,
            first_xid: scan.first_xid,
            last_xid: scan.last_xid,
            restore_points: scan.restore_points.iter().map(RestorePoint::from).collect(),
        }
    }
}

/// How much of `plain` is valid.
fn valid_length(
    segment: SegmentName,
    size: SegmentSize,
    plain: &[u8],
    scan: &SegmentScan,
) -> usize {
    let valid = scan.valid_end.bytes_since(segment.start(size));
    usize::try_from(valid).map_or(plain.len(), |valid| valid.min(plain.len()))
}

/// SHA-256 of all bytes and of the first `valid`, read once: hashing is a large part of what a push costs.
fn hashes(plain: &[u8], valid: usize) -> (String, String) {
    let (before, rest) = plain.split_at(valid);
    let mut digest = Sha256::new_with_prefix(before);
    let of_valid = hex::encode(digest.clone().finalize());
    if rest.is_empty() {
        return (of_valid.clone(), of_valid);
    }
    digest.update(rest);
    (hex::encode(digest.finalize()), of_valid)
}

/// What `pg_create_restore_point` wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestorePoint {
    /// Its name.
    pub name: String,
    /// The end of its record: what `pg_create_restore_point` returned.
    pub lsn: Lsn,
    /// When it was made.
    pub at: Timestamp,
}

impl From<&wal::RestorePoint> for RestorePoint {
    fn from(point: &wal::RestorePoint) -> Self {
        let wal::RestorePoint { name, lsn, at } = point;
        Self {
            name: name.clone(),
            lsn: *lsn,
            at: *at,
        }
    }
}

/// Everything that was flushed up to `lsn` had been flushed at `at`, by the database's clock: a time up to `at` is covered
/// by WAL up to `lsn`, whether or not anything was committed after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClockPair {
    /// The flushed end of the log. Durable in the archive when the pair is written.
    pub lsn: Lsn,
    /// The database's clock, read no later than the position.
    pub at: Timestamp,
    /// The timeline.
    pub timeline: TimelineId,
}

/// All that a restore needs of one backup, the Kubernetes cluster not being there any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The version of the format.
    pub format: u32,
    /// The PgBackup's name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// The protected StatefulSet.
    pub stateful_set_name: String,
    /// The lineage.
    pub lineage: LineageId,
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// PostgreSQL's major version.
    pub major_version: i32,
    /// The size of segments.
    pub segment_size: SegmentSize,
    /// The timeline of start and stop.
    pub timeline: TimelineId,
    /// Replay begins here.
    pub start_lsn: Lsn,
    /// A restore is consistent from here.
    pub stop_lsn: Lsn,
    /// When `pg_backup_start` returned, by the database's clock.
    pub started_at: Timestamp,
    /// When `pg_backup_stop` returned, by the database's clock.
    pub stopped_at: Timestamp,
    /// SHA-256 of the object `backup_label` beside the manifest.
    pub backup_label_sha256: String,
    /// SHA-256 of the object `tablespace_map`, if there are tablespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tablespace_map_sha256: Option<String>,
    /// PGDATA, as the container saw it.
    pub data_directory: String,
    /// Where `pg_wal` lay if it was a link out of PGDATA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_directory: Option<String>,
    /// Where tablespaces lay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tablespaces: Vec<String>,
    /// The role that took the backup: it exists in the restored database.
    pub user: String,
    /// The database it was connected to.
    pub database: String,
    /// Settings that a server must have to replay this WAL, by name.
    pub settings: std::collections::BTreeMap<String, String>,
    /// The volumes.
    pub volumes: Vec<ManifestVolume>,
    /// The StatefulSet's spec, without literal values of environment variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stateful_set: Option<serde_json::Value>,
}

/// One volume of a backup: driver and handle are all that an import needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestVolume {
    /// The claim.
    pub claim: String,
    /// The volume's name in the pod.
    pub volume: String,
    /// Where PostgreSQL's container mounted it.
    pub mounts: Vec<Mount>,
    /// The CSI driver.
    pub driver: String,
    /// The snapshot's handle.
    pub handle: String,
    /// The claim's capacity in bytes.
    pub capacity: i64,
    /// The least size of a volume made from it, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_size: Option<i64>,
    /// The claim's StorageClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// `Filesystem` or `Block`.
    pub volume_mode: String,
    /// When it was cut, by the driver's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_at: Option<Timestamp>,
}
