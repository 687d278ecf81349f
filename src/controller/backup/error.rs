//! What a pass over a backup fails with.

use crate::{
    controller::{Class, PassError},
    kubernetes::RequestError,
};

/// What a pass fails with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A read failed.
    #[error("failed to read {kind} {name}")]
    Read {
        /// The kind.
        kind: String,
        /// The object; empty for a list.
        name: String,
        /// Why.
        source: RequestError,
    },
    /// A write failed.
    #[error("failed to {verb} {kind} {name}")]
    Write {
        /// What was tried.
        verb: &'static str,
        /// The kind.
        kind: String,
        /// The object.
        name: String,
        /// Why.
        source: RequestError,
    },
    /// Somebody else made an object of a name that is ours.
    #[error(
        "failed to create snapshot {name} for PgBackup {backup}: another one ({uid}) has that name; delete it"
    )]
    NameTaken {
        /// The snapshot's name.
        name: String,
        /// The UID of the one that is there.
        uid: String,
        /// The PgBackup.
        backup: String,
    },
    /// The backup has gone on since it was read.
    #[error(
        "failed to take the turn of PgBackup {name}: a later attempt of it has begun; if its status was set back, delete it and create another one"
    )]
    Late {
        /// The PgBackup.
        name: String,
    },
    /// The API server took the turn and does not have it.
    #[error(
        "failed to take the turn in the status of PgProtection {name}: the API server does not keep it; apply the CRDs of this version"
    )]
    TurnNotKept {
        /// The PgProtection.
        name: String,
    },
    /// The status could not be applied.
    #[error("failed to apply the status of PgBackup {name}")]
    Report {
        /// The PgBackup.
        name: String,
        /// Why.
        source: RequestError,
    },
}

impl Error {
    /// What the watches told is old, and may be for minutes.
    pub fn is_outdated(&self) -> bool {
        self.is_overtaken() || matches!(self, Self::Late { .. })
    }

    /// The object changed between read and write: the pass is repeated at once, with nobody told.
    pub fn is_overtaken(&self) -> bool {
        match self {
            Self::Report { source, .. } | Self::Write { source, .. } => source.is_conflict(),
            // Whoever has set the status back by hand has it so for ever.
            Self::Late { .. }
            | Self::Read { .. }
            | Self::NameTaken { .. }
            | Self::TurnNotKept { .. } => false,
        }
    }
}

impl PassError for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Read { source, .. }
            | Self::Write { source, .. }
            | Self::Report { source, .. } => source.reason(),
            Self::NameTaken { .. } => "NameTaken",
            Self::Late { .. } => "Conflict",
            Self::TurnNotKept { .. } => "TurnNotKept",
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::Read { source, .. }
            | Self::Write { source, .. }
            | Self::Report { source, .. } => source.class(),
            Self::NameTaken { .. } => Class::Terminal,
            Self::Late { .. } | Self::TurnNotKept { .. } => Class::Transient,
        }
    }
}
