//! Whether the snapshot that holds pg_control was cut while its backup was in backup mode, as the driver said. Pure.
//!
//! `pg_backup_start` returns after its checkpoint is in pg_control, and a checkpoint after `pg_backup_stop` lies behind the
//! stop LSN: a copy whose pg_control says anything else was cut at another time, and no replay makes it whole. A cut after
//! the stop without a checkpoint between cannot be told this way; of a standby it can, where a page was written meanwhile:
//! pg_control then says that more must be replayed.
//!
//! A copy of a standby has no record of its end in WAL: PostgreSQL calls it whole where its pg_control says so, and cannot
//! check that. So a target before the end that the agent saw is refused here, too.

use jiff::Timestamp;

use crate::{
    api::RestorePlan,
    postgres::{BackupFrom, BackupLabel, BackupLabelError, ClusterState, ControlFile, Lsn},
};

/// A driver that did not cut when it said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// An old snapshot.
    #[error(
        "the snapshot was cut before backup mode began: its last checkpoint is at {found}, backup mode began with the one at {began}; do not use the CSI driver's snapshots before that is understood, and restore from another backup"
    )]
    Before {
        /// What pg_control says.
        found: Lsn,
        /// What the backup label says.
        began: Lsn,
    },
    /// A late one.
    #[error(
        "the snapshot was cut after backup mode ended: its last checkpoint is at {found}, the backup ended at {ended}; do not use the CSI driver's snapshots before that is understood, and restore from another backup"
    )]
    After {
        /// What pg_control says.
        found: Lsn,
        /// What `pg_backup_stop` returned.
        ended: Lsn,
    },
    /// A late one of a standby.
    #[error(
        "the snapshot was cut after backup mode ended on the standby: it says that replay must reach {found}, the backup ended at {ended}; do not use the CSI driver's snapshots before that is understood, and restore from another backup"
    )]
    AfterReplay {
        /// What pg_control says.
        found: Lsn,
        /// What `pg_backup_stop` returned.
        ended: Lsn,
    },
    /// The backup is of a standby, the snapshot of something else.
    #[error(
        "the backup is of a standby, and pg_control in its snapshot says {0:?}: it was promoted or stopped when it was cut; restore from another backup"
    )]
    NoStandby(ClusterState),
    /// PostgreSQL would take the copy for whole before it is.
    #[error(
        "the backup is of a standby and is whole from {ended} on, the restore ends before: restore to a later target, or from an earlier backup"
    )]
    TargetBeforeEnd {
        /// What `pg_backup_stop` returned, and when.
        ended: String,
    },
    /// The archive's label is none.
    #[error(transparent)]
    Label(#[from] BackupLabelError),
}

impl CutError {
    /// For the condition.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Before { .. } | Self::After { .. } | Self::AfterReplay { .. } => {
                "CutOutsideBackupMode"
            }
            Self::NoStandby(_) => "StandbyPromoted",
            Self::TargetBeforeEnd { .. } => "TargetBeforeWindow",
            Self::Label(_) => "ArchiveCorrupt",
        }
    }
}

/// Compares what the copy's pg_control says with what the backup's label and stop LSN say.
///
/// # Errors
/// It was cut before or after, or the label cannot be read.
pub fn within(control: &ControlFile, label: &[u8], stop: Lsn) -> Result<(), CutError> {
    let label = BackupLabel::parse(&String::from_utf8_lossy(label))?;
    let (found, began, ended) = (control.checkpoint, label.checkpoint_lsn, stop);
    match found {
        found if found < began => Err(CutError::Before { found, began }),
        found if found >= ended => Err(CutError::After { found, ended }),
        _ => match label.from {
            BackupFrom::Primary => Ok(()),
            BackupFrom::Standby => within_standby(control, stop),
        },
    }
}

fn within_standby(control: &ControlFile, ended: Lsn) -> Result<(), CutError> {
    let found = control.min_recovery_point;
    match control.state {
        ClusterState::InArchiveRecovery if found > ended => {
            Err(CutError::AfterReplay { found, ended })
        }
        ClusterState::InArchiveRecovery => Ok(()),
        state @ (ClusterState::StartingUp
        | ClusterState::ShutDown
        | ClusterState::ShutDownInRecovery
        | ClusterState::ShuttingDown
        | ClusterState::InCrashRecovery
        | ClusterState::InProduction) => Err(CutError::NoStandby(state)),
    }
}

/// Whether the plan ends where the backup is whole, as far as PostgreSQL cannot tell that by itself. `at`: the primary's clock
/// when the backup ended, which a target time is compared with.
///
/// # Errors
/// It ends before, or the label cannot be read.
pub fn reaches(
    plan: &RestorePlan,
    label: &[u8],
    (stop, at): (Lsn, Timestamp),
) -> Result<(), CutError> {
    let label = BackupLabel::parse(&String::from_utf8_lossy(label))?;
    let target = plan.stop_at.as_ref();
    let early = plan.wal_to < stop
        || target.is_some_and(|it| it.lsn.is_some_and(|lsn| lsn < stop))
        || target.is_some_and(|it| it.time.as_ref().is_some_and(|time| time.0 < at));
    match label.from {
        BackupFrom::Standby if early => Err(CutError::TargetBeforeEnd {
            ended: format!("{stop} ({at})"),
        }),
        BackupFrom::Standby | BackupFrom::Primary => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::{SegmentSize, TimelineId};

    const LABEL: &[u8] = b"START WAL LOCATION: 0/3000028 (file 000000010000000000000003)\n\
        CHECKPOINT LOCATION: 0/3000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-11-20 12:00:00 UTC\nLABEL: nightly\nSTART TIMELINE: 1\n";

    fn control(state: ClusterState, checkpoint: u64, min_recovery_point: u64) -> ControlFile {
        ControlFile {
            system_identifier: "7391000000000000001".parse().unwrap(),
            major: 15,
            state,
            checkpoint: Lsn::new(checkpoint),
            redo: Lsn::new(checkpoint),
            checkpoint_timeline: TimelineId::FIRST,
            min_recovery_point: Lsn::new(min_recovery_point),
            backup_end_required: false,
            segment_size: SegmentSize::DEFAULT,
            data_checksums: true,
        }
    }

    /// The same of a standby.
    fn of_standby() -> Vec<u8> {
        let label = String::from_utf8(LABEL.to_vec()).unwrap();
        label.replace("primary", "standby").into_bytes()
    }

    const STOP: Lsn = Lsn::new(0x0300_0138);

    #[test]
    fn only_a_checkpoint_of_backup_mode_is_one_of_the_backup() {
        let control = |checkpoint| control(ClusterState::InProduction, checkpoint, 0);
        let judged = |checkpoint| within(&control(checkpoint), LABEL, STOP);
        assert_eq!(judged(0x0300_0060), Ok(()));
        assert_eq!(judged(0x0300_0100), Ok(()), "one of its own");
        let old = judged(0x0200_0060).unwrap_err();
        assert!(matches!(old, CutError::Before { .. }), "{old}");
        for late in [0x0300_0138, 0x0400_0028] {
            let late = judged(late).unwrap_err();
            assert!(matches!(late, CutError::After { .. }), "{late}");
        }
        let none = within(&control(1), b"", STOP).unwrap_err();
        assert_eq!(none.reason(), "ArchiveCorrupt");
    }

    #[test]
    fn of_a_standby_pg_control_says_so_and_how_far_it_was() {
        use ClusterState::{InArchiveRecovery, InProduction, ShutDownInRecovery};
        for (what, state, checkpoint, minimum, expected) in [
            (
                "cut in time",
                InArchiveRecovery,
                0x0300_0060,
                0x0300_0138,
                None,
            ),
            (
                "an old snapshot",
                InArchiveRecovery,
                0x0200_0060,
                0x0300_0138,
                Some("CutOutsideBackupMode"),
            ),
            (
                "cut later",
                InArchiveRecovery,
                0x0300_0060,
                0x0300_0139,
                Some("CutOutsideBackupMode"),
            ),
            (
                "promoted",
                InProduction,
                0x0300_0060,
                0,
                Some("StandbyPromoted"),
            ),
            (
                "stopped",
                ShutDownInRecovery,
                0x0300_0060,
                0x0300_0138,
                Some("StandbyPromoted"),
            ),
        ] {
            let judged = within(&control(state, checkpoint, minimum), &of_standby(), STOP);
            assert_eq!(judged.err().map(|error| error.reason()), expected, "{what}");
        }
    }

    #[test]
    fn a_target_before_the_end_of_a_standbys_backup_is_refused() {
        let at = Timestamp::UNIX_EPOCH;
        let plan = |wal_to, stop_at: serde_json::Value| -> RestorePlan {
            serde_json::from_value(serde_json::json!({
                "summary": "", "backup": "b", "backupKey": "k", "archive": "main", "archiveName": "a",
                "lineage": "k3v9q2abcd", "timeline": 1, "walFrom": "0/3000028", "walTo": wal_to,
                "stopAt": stop_at, "bytes": 1,
            }))
            .unwrap()
        };
        let (none, lsn) = (
            serde_json::Value::Null,
            |lsn: &str| serde_json::json!({"lsn": lsn, "inclusive": true}),
        );
        let time = |time: &str| serde_json::json!({"time": time, "inclusive": true});
        for (what, plan, early) in [
            ("to the end", plan("0/3000138", none.clone()), false),
            ("WAL ends before", plan("0/3000137", none), true),
            ("to an LSN", plan("0/4000000", lsn("0/3000138")), false),
            ("to an early LSN", plan("0/4000000", lsn("0/3000137")), true),
            (
                "to a time",
                plan("0/4000000", time("1970-01-01T00:00:00.000000Z")),
                false,
            ),
            (
                "to an early time",
                plan("0/4000000", time("1969-12-31T23:59:59.000000Z")),
                true,
            ),
        ] {
            let of = |label: &[u8]| {
                reaches(&plan, label, (STOP, at))
                    .err()
                    .map(|it| it.reason())
            };
            assert_eq!(
                of(&of_standby()),
                early.then_some("TargetBeforeWindow"),
                "{what}"
            );
            assert_eq!(
                of(LABEL),
                None,
                "{what}: PostgreSQL knows the end of a primary's"
            );
        }
    }
}
