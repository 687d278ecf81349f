//! What ends shipping.

use super::{archiver::ArchiverOff, segment::Damage, tap::TapError};
use crate::{
    archive::{PushError, ReadError},
    postgres::{
        HistoryError, SegmentName, TimelineId, session::QueryError, wal::ScanError,
        wal_reader::WalReadError,
    },
};

/// What ends shipping.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A query failed.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// WAL could not be read.
    #[error(transparent)]
    Read(#[from] WalReadError),
    /// The stream failed.
    #[error(transparent)]
    Stream(#[from] TapError),
    /// The connection ended.
    #[error("the connection to PostgreSQL ended")]
    SessionLost,
    /// The server writes another timeline than before.
    #[error("PostgreSQL writes timeline {0} now")]
    TimelineChanged(TimelineId),
    /// The segment that PostgreSQL writes cannot be read.
    #[error("failed to read WAL segment {0}, which PostgreSQL writes")]
    Unreadable(SegmentName),
    /// What was read is not the segment that it should be.
    #[error(transparent)]
    Foreign(#[from] ScanError),
    /// The segment is damaged.
    #[error(transparent)]
    Damaged(Damage),
    /// The server's history file makes no sense.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The archive holds a segment of the same name with other content.
    #[error("{0}")]
    Conflict(String),
    /// The archive refused.
    #[error(transparent)]
    Push(PushError),
    /// The archive could not be read.
    #[error(transparent)]
    Archive(#[from] ReadError),
    /// PostgreSQL is to archive by itself, and does not.
    #[error(transparent)]
    ArchiverOff(#[from] ArchiverOff),
}

impl From<PushError> for Error {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Conflict { .. } => Self::Conflict(error.to_string()),
            other => Self::Push(other),
        }
    }
}

impl Error {
    /// For conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Query(error) => error.reason(),
            Self::Read(WalReadError::Query(error)) => error.reason(),
            Self::Read(WalReadError::InRecovery) => "NotPrimary",
            Self::Read(WalReadError::Removed(_) | WalReadError::Recycled(..)) => "WalMissing",
            Self::Stream(error) => error.reason(),
            Self::SessionLost => "SessionLost",
            Self::TimelineChanged(_) => "TimelineChanged",
            Self::Unreadable(_) => "WalUnreadable",
            Self::Foreign(ScanError::NotWal { .. }) => "WalUnsupported",
            Self::Foreign(_) => "WalForeign",
            Self::Damaged(_) => "WalDamaged",
            Self::History(_) => "HistoryInvalid",
            Self::Conflict(_) => "WalConflict",
            Self::Push(error) => error.reason(),
            Self::Archive(error) => error.reason(),
            Self::ArchiverOff(error) => error.reason(),
        }
    }

    /// Whether the archive holds another history.
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }

    /// Whether the archive is the cause, and not the database.
    pub const fn is_archive(&self) -> bool {
        matches!(self, Self::Conflict(_) | Self::Push(_) | Self::Archive(_))
    }

    /// Whether WAL does not come although the session is sound.
    pub const fn is_archiving(&self) -> bool {
        self.is_archive() || matches!(self, Self::ArchiverOff(_))
    }
}
