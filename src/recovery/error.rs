//! Why a recovery failed.

use std::path::PathBuf;

use super::{
    checks::CheckError, cut::CutError, directory::DirectoryError, fetch::FetchFailure,
    program::ProgramError, promoted::PromotedError,
};
use crate::postgres::{Lsn, SystemIdentifier};

/// Why a recovery failed.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The data directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The snapshot.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// PostgreSQL's programs.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The promoted database.
    #[error(transparent)]
    Promoted(#[from] PromotedError),
    /// A drill's check.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// Fetch ended recovery.
    #[error("{}", .0.message)]
    Fetch(FetchFailure),
    /// PostgreSQL ended by itself.
    #[error("PostgreSQL ended before the restore's target ({status}); its last lines: {}", log.join("; "))]
    Exited {
        /// How.
        status: String,
        /// The end of its log.
        log: Vec<String>,
    },
    /// Not the database that the backup is of.
    #[error(
        "the restored volumes hold the database with system identifier {found}, the backup is of {expected}"
    )]
    OtherCluster {
        /// What pg_control says.
        found: SystemIdentifier,
        /// What the manifest says.
        expected: SystemIdentifier,
    },
    /// It took something for the end of the log that is not. What it was promoted with lacks commits.
    #[error(
        "PostgreSQL ended recovery after WAL up to {reached} was handed out, and the restore needs it up to {expected}: the database is promoted too early and not to be used; restore again"
    )]
    EndedEarly {
        /// Up to where WAL was handed out.
        reached: Lsn,
        /// The plan's end.
        expected: Lsn,
    },
    /// PostgreSQL was stopped, but not in order.
    #[error("PostgreSQL was stopped, but pg_control says {0:?}")]
    NotShutDown(String),
    /// The working directory.
    #[error("failed to write {}: {cause}", path.display())]
    Work {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// We were told to stop. Another try goes on from here.
    #[error("the recovery was told to stop")]
    Terminated,
}

impl JobError {
    /// For the condition.
    pub fn reason(&self) -> &str {
        match self {
            Self::Directory(error) => error.reason(),
            Self::Cut(error) => error.reason(),
            Self::Program(ProgramError::NotFound { .. }) => "PostgresNotFound",
            Self::Program(_) | Self::Promoted(_) | Self::Exited { .. } | Self::NotShutDown(_) => {
                "PostgresFailed"
            }
            Self::Check(error) => error.reason(),
            Self::Fetch(failure) => &failure.reason,
            Self::OtherCluster { .. } => "OtherCluster",
            Self::EndedEarly { .. } => "EndedEarly",
            Self::Work { .. } => "DiskFailed",
            Self::Terminated => "Terminated",
        }
    }
}
