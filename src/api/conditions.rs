//! Conditions: their types, their reasons, and how one is set.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// PgArchive, written by the controller: the store can be used.
pub const AVAILABLE: &str = "Available";
/// PgArchive, written by the controller: the store itself keeps two writers from overwriting each other.
pub const CREATE_ONLY: &str = "CreateOnly";
/// PgArchive, written by the controller: the store's clock and the agents' are less than five minutes apart.
pub const CLOCK_IN_STEP: &str = "ClockInStep";

/// PgProtection, written by the controller: an agent is deployed and backups may be taken.
pub const ACTIVE: &str = "Active";
/// PgProtection, written by the controller: backups are taken by schedule.
pub const SCHEDULED: &str = "Scheduled";
/// PgProtection, written by the controller: all that is committed is archived, and can be recovered.
pub const SAFE: &str = "Safe";
/// PgProtection, written by the controller: no backup is there that the policy's retention does not keep. Absent without it.
pub const WITHIN_RETENTION: &str = "WithinRetention";
/// PgProtection, written by the agent: it is connected to the primary.
pub const CONNECTED: &str = "Connected";
/// `WalArchiving` is `False`, and nothing is wrong: the next checkpoint has PostgreSQL's archiver go on.
pub const WAITS_FOR_CHECKPOINT: &str = "WaitsForCheckpoint";
/// PgProtection, written by the agent: WAL reaches the archive.
pub const WAL_ARCHIVING: &str = "WalArchiving";
/// `Connected` is `False`: the role may not do what Highwater needs.
pub const INSUFFICIENT_PRIVILEGES: &str = "InsufficientPrivileges";
/// Reason of [`CUT`]: a VolumeSnapshot could not be made.
pub const CREATE_FAILED: &str = "CreateFailed";
/// Reason of [`WAL_ARCHIVING`]: the policy wants a stream, and the server gives none.
pub const STREAMING_REFUSED: &str = "StreamingRefused";
/// `SlotWithinCeiling` is `False`: a slot holds back more than it may, and keeps it, as the policy says.
pub const SLOT_OVER_CEILING: &str = "SlotOverCeiling";
/// PgProtection, written by the agent: its replication slots hold back less than half of what they may.
pub const SLOT_WITHIN_CEILING: &str = "SlotWithinCeiling";
/// PgProtection, written by the agent: there is a backup with unbroken WAL after it.
pub const RECOVERABLE: &str = "Recoverable";
/// PgProtection, written by the agent: its replication slots are gone, the agent may be removed.
pub const SLOTS_DROPPED: &str = "SlotsDropped";

/// PgBackup, written by the controller: pod, volumes and classes are resolved and written down.
pub const ACCEPTED: &str = "Accepted";
/// PgBackup, written by the agent: `pg_backup_start` of this attempt returned, and its session lives.
pub const SESSION: &str = "Session";
/// PgBackup, written by the controller: every snapshot of this attempt is cut.
pub const CUT: &str = "Cut";
/// PgBackup, written by the agent: `pg_backup_stop` returned; backup label and tablespace map are in the archive.
pub const STOPPED: &str = "Stopped";
/// PgBackup, written by the agent: every byte from start to stop LSN is durable in the archive.
pub const WAL_ARCHIVED: &str = "WalArchived";
/// PgBackup, written by the controller: every snapshot is ready to use.
pub const READY: &str = "Ready";
/// PgBackup, written by the agent: the manifest is in the archive.
pub const CATALOGUED: &str = "Catalogued";
/// PgBackup, written by the controller: whoever deleted it wants its data gone, first the entry in the archive's catalog. Absent
/// where its namespace or CRD goes.
pub const DISCARDED: &str = "Discarded";
/// Reason of [`CATALOGUED`], which is `False` then: the archive's catalog has no entry of it any more, and gets none.
pub const UNCATALOGUED: &str = "Uncatalogued";
/// PgBackup, and the PgRestore that was the drill, written by the controller: `True` when a drill restored it and found nothing wrong, `False` when the last one did.
pub const VERIFIED: &str = "Verified";
/// PgBackup and PgRestore, written by the controller: `True` is done, `False` is failed for good, `Unknown` is under way.
pub const COMPLETED: &str = "Completed";

/// PgRestore, written by the agent: base backup, timeline and end are chosen and checked against the archive.
pub const PLANNED: &str = "Planned";
/// PgRestore, written by the controller: the PVCs are bound to volumes made from the snapshots.
pub const VOLUMES_READY: &str = "VolumesReady";
/// PgRestore, written by the recovery pod: WAL is replayed to the target and PostgreSQL was stopped cleanly.
pub const RECOVERED: &str = "Recovered";
/// PgRestore, written by the controller: the StatefulSet answers, or the PVCs are free to use.
pub const HANDED_OVER: &str = "HandedOver";

/// The value of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Not known, or not decided yet.
    Unknown,
}

impl Status {
    /// As the API has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Sets the condition `type_`, and moves its `lastTransitionTime` only if its status changes. The list stays sorted by
/// type, so that equal content is equal text.
pub fn upsert(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: Status,
    reason: &str,
    message: impl Into<String>,
    generation: Option<i64>,
    now: Timestamp,
) {
    let previous = conditions
        .iter()
        .find(|c| c.type_ == type_ && c.status == status.as_str());
    let condition = Condition {
        type_: type_.to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: previous.map_or(Time(truncate_to_seconds(now)), |c| {
            c.last_transition_time.clone()
        }),
    };
    conditions.retain(|c| c.type_ != type_);
    conditions.push(condition);
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
}

/// The condition of this type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Whether the condition of this type is there and `True`.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|c| c.status == Status::True.as_str())
}

/// Whether the condition of this type is there and `False`.
pub fn is_false(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|c| c.status == Status::False.as_str())
}

/// Only the conditions of these types: the part of the list that one writer owns.
pub fn owned(conditions: &[Condition], types: &[&str]) -> Vec<Condition> {
    conditions
        .iter()
        .filter(|c| types.contains(&c.type_.as_str()))
        .cloned()
        .collect()
}

/// `meta/v1.Time` holds whole seconds; a finer value would differ from what the API server returns.
fn truncate_to_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut conditions = Vec::new();
        upsert(
            &mut conditions,
            CUT,
            Status::Unknown,
            "Waiting",
            "",
            None,
            at(1),
        );
        upsert(
            &mut conditions,
            CUT,
            Status::Unknown,
            "StillWaiting",
            "0 of 2",
            None,
            at(2),
        );
        assert_eq!(conditions[0].last_transition_time, Time(at(1)));
        assert_eq!(conditions[0].reason, "StillWaiting");
        upsert(&mut conditions, CUT, Status::True, "Cut", "", None, at(3));
        assert_eq!(conditions[0].last_transition_time, Time(at(3)));
        assert_eq!(conditions.len(), 1);
    }
}
