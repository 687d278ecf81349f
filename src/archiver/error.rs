//! Why WAL was not archived, and what PostgreSQL is told.

use std::{io, path::PathBuf};

use super::{config::ConfigError, home::HomeError};
use crate::{
    archive::{LineageId, OpenError, PushError},
    postgres::{HistoryError, Lsn, SegmentName, SystemIdentifier, wal::Invalid, wal::ScanError},
    recovery::restored,
};

/// Why a file was not archived. PostgreSQL asks again after every exit code from 1 to 125; above that its archiver starts
/// anew, which no failure here is worth.
#[derive(Debug, thiserror::Error)]
pub enum PushFailure {
    /// Its name is not one that PostgreSQL archives.
    #[error("failed to archive {0}: no file of WAL has such a name")]
    Name(String),
    /// The configuration cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The archive's settings make no sense.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No lineage can be chosen, or the archive does not say which there are.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The file cannot be read.
    #[error("failed to read {}: {cause}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It is no segment of this size, or not the one that its name says.
    #[error(transparent)]
    NotTheSegment(#[from] ScanError),
    /// No segment is that long.
    #[error("failed to archive {name}: {length} bytes are not the size of a segment")]
    Length {
        /// The file.
        name: String,
        /// How many bytes it has.
        length: u64,
    },
    /// Its records cannot be read to its end.
    #[error(
        "failed to archive {name}: the WAL is damaged at {at}: {why}; no recovery can pass this point: take a base backup; to archive the segment as it is, set damagedWal to Archive"
    )]
    Damaged {
        /// The segment.
        name: SegmentName,
        /// Where.
        at: Lsn,
        /// How.
        why: Invalid,
    },
    /// It is no history file of its timeline.
    #[error("failed to archive {name}: {cause}")]
    History {
        /// The file.
        name: String,
        /// Why not.
        cause: HistoryError,
    },
    /// It was written by another cluster than the data directory, or than the lineage is for.
    #[error(
        "failed to archive {name}: it is WAL of cluster {found}, {keeper} is of cluster {want}: give each cluster an archiveName of its own"
    )]
    OtherCluster {
        /// The file.
        name: String,
        /// Who wrote it.
        found: SystemIdentifier,
        /// Lineage or data directory.
        keeper: String,
        /// Whose that is.
        want: SystemIdentifier,
    },
    /// The data directory was restored from this lineage.
    #[error(
        "failed to archive {name}: this data directory was restored from lineage {lineage} of {archive_name}, and a copy must not archive where its original does: give it an archiveName of its own; if it takes the original's place, remove {} from the data directory",
        restored::NAME
    )]
    Copy {
        /// The file.
        name: String,
        /// The database in the archive.
        archive_name: String,
        /// The lineage.
        lineage: LineageId,
    },
    /// The size of segments was changed (`pg_resetwal --wal-segsize`).
    #[error(
        "failed to archive {name}: its segments have {found} bytes, those of the lineage {want}: give the archive another lineage or archiveName"
    )]
    OtherSize {
        /// The file.
        name: String,
        /// Bytes of a segment.
        found: u64,
        /// The same in the lineage.
        want: u64,
    },
    /// The archive holds other content, or does not take it.
    #[error(transparent)]
    Push(#[from] PushError),
    /// It is durable, and does not count without the one before it.
    #[error("failed to archive {0}: a segment before it was not archived")]
    Before(SegmentName),
    /// No threads, no memory.
    #[error("failed to start the runtime: {0}")]
    Runtime(io::Error),
    /// A bug of ours.
    #[error("failed to archive: this program panicked")]
    Panicked,
}

impl PushFailure {
    /// For PostgreSQL and for people: what the documentation of the command says of each.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Push(PushError::Conflict { .. }) => 10,
            Self::OtherCluster { .. } | Self::Home(HomeError::OtherCluster { .. }) => 11,
            Self::NotTheSegment(ScanError::OtherCluster { .. }) => 11,
            Self::NotTheSegment(_) | Self::Length { .. } => 12,
            Self::Damaged { .. } | Self::History { .. } | Self::OtherSize { .. } => 12,
            Self::Home(
                HomeError::Several { .. } | HomeError::None { .. } | HomeError::Newer { .. },
            ) => 13,
            Self::Copy { .. } => 14,
            Self::Name(_) => 2,
            Self::Config(_) | Self::Open(_) => 3,
            Self::Home(HomeError::Read(_) | HomeError::Create(_) | HomeError::Unknown) => 1,
            Self::Push(_) | Self::Read { .. } | Self::Before(_) | Self::Runtime(_) => 1,
            Self::Panicked => 101,
        }
    }
}
