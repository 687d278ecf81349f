//! Whether the snapshot that holds pg_control was cut while its backup was in backup mode, as the driver said. Pure.
//!
//! `pg_backup_start` returns after its checkpoint is in pg_control, and a checkpoint after `pg_backup_stop` lies behind the
//! stop LSN: a copy whose pg_control says anything else was cut at another time, and no replay makes it whole. A cut after
//! the stop without a checkpoint between cannot be told this way.

use crate::postgres::{BackupLabel, BackupLabelError, ControlFile, Lsn};

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
    /// The archive's label is none.
    #[error(transparent)]
    Label(#[from] BackupLabelError),
}

impl CutError {
    /// For the condition.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Before { .. } | Self::After { .. } => "CutOutsideBackupMode",
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
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::{ClusterState, SegmentSize, TimelineId};

    const LABEL: &[u8] = b"START WAL LOCATION: 0/3000028 (file 000000010000000000000003)\n\
        CHECKPOINT LOCATION: 0/3000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-11-20 12:00:00 UTC\nLABEL: nightly\nSTART TIMELINE: 1\n";

    #[test]
    fn only_a_checkpoint_of_backup_mode_is_one_of_the_backup() {
        let control = |checkpoint| ControlFile {
            system_identifier: "7391000000000000001".parse().unwrap(),
            major: 15,
            state: ClusterState::InProduction,
            checkpoint: Lsn::new(checkpoint),
            redo: Lsn::new(checkpoint),
            checkpoint_timeline: TimelineId::FIRST,
            min_recovery_point: Lsn::new(0),
            backup_end_required: false,
            segment_size: SegmentSize::DEFAULT,
            data_checksums: true,
        };
        let stop = Lsn::new(0x0300_0138);
        let judged = |checkpoint| within(&control(checkpoint), LABEL, stop);
        assert_eq!(judged(0x0300_0060), Ok(()));
        assert_eq!(judged(0x0300_0100), Ok(()), "one of its own");
        let old = judged(0x0200_0060).unwrap_err();
        assert!(matches!(old, CutError::Before { .. }), "{old}");
        for late in [0x0300_0138, 0x0400_0028] {
            let late = judged(late).unwrap_err();
            assert!(matches!(late, CutError::After { .. }), "{late}");
        }
        let none = within(&control(1), b"", stop).unwrap_err();
        assert_eq!(none.reason(), "ArchiveCorrupt");
    }
}
