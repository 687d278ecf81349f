//! Why an attempt, or a backup, came to nothing.

use super::door::Rejection;
use crate::api::DurationText;

/// Why an attempt, or the backup, is given up.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Setback {
    /// The session ended between start and stop, or never began.
    #[error("backup mode was lost: {0}")]
    SessionLost(String),
    /// A snapshot is not the one that was written down.
    #[error("a snapshot was lost: {0}")]
    SnapshotLost(String),
    /// The address of a standby may be another server's.
    #[error(
        "pod {0}, the standby, was replaced before its volumes were snapshotted: look at its events"
    )]
    StandbyReplaced(String),
    /// The stop came before every cut was written down: the snapshots may hold pages of after the backup's end.
    #[error("backup mode ended before every snapshot was seen cut")]
    StoppedBeforeCut,
    /// `deadlines.cut`.
    #[error(
        "not every snapshot was cut within {within}{trouble}: look at the events of the VolumeSnapshots and at the driver's log"
    )]
    CutTooLate {
        /// The deadline.
        within: DurationText,
        /// What the driver says.
        trouble: String,
    },
    /// The agent ends backup mode at `deadlines.backupMode`, but did not say so.
    #[error("the agent did not end backup mode within {0}: look at the agent's log")]
    AgentSilent(DurationText),
    /// `deadlines.ready`.
    #[error("{what} was still missing {within} after the cut{trouble}")]
    NotReadyInTime {
        /// What was missing.
        what: &'static str,
        /// The deadline.
        within: DurationText,
        /// What the driver says.
        trouble: String,
    },
    /// `deadlines.backup`, while a snapshot, or a session, was awaited.
    #[error(
        "the backup was not cut within {within} of its creation; the last attempt waited for {what}{trouble}"
    )]
    BackupTooLate {
        /// What was missing.
        what: &'static str,
        /// The deadline.
        within: DurationText,
        /// What the driver says.
        trouble: String,
    },
    /// `deadlines.backup`, between two attempts.
    #[error(
        "the backup was not cut within {within} of its creation; it waited for its next attempt, and said last: {why}"
    )]
    AttemptsFailed {
        /// The deadline.
        within: DurationText,
        /// What `Accepted` said last.
        why: String,
    },
    /// `deadlines.backup`, before an attempt could begin; or what will never change.
    #[error("{0}")]
    Rejected(Rejection),
}

impl Setback {
    /// For conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::SessionLost(_) => "SessionLost",
            Self::SnapshotLost(_) => "SnapshotLost",
            Self::StandbyReplaced(_) => "StandbyReplaced",
            Self::StoppedBeforeCut => "StoppedBeforeCut",
            Self::CutTooLate { .. } => "CutDeadlineExceeded",
            Self::AgentSilent(_) => "AgentSilent",
            Self::NotReadyInTime { .. } => "ReadyDeadlineExceeded",
            Self::BackupTooLate { .. } | Self::AttemptsFailed { .. } => "BackupDeadlineExceeded",
            Self::Rejected(rejection) => rejection.reason(),
        }
    }
}
